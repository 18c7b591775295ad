// tests/dpdk/structures.cpp - every structure of the original series in an external heap: made
// there, used, and proved to be there by its address. One line each; exit 0 when all hold. The
// heap's memory is ordinary pages that DPDK never made.
//
//   structures [EAL options]
#include <rte_acl.h>
#include <rte_common.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_event_ring.h>
#include <rte_fbk_hash.h>
#include <rte_fib.h>
#include <rte_fib6.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_ip_frag.h>
#include <rte_jhash.h>
#include <rte_lpm.h>
#include <rte_lpm6.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_member.h>
#include <rte_mempool.h>
#include <rte_memzone.h>
#include <rte_pipeline.h>
#include <rte_port_ring.h>
#include <rte_port_source_sink.h>
#include <rte_reorder.h>
#include <rte_rib.h>
#include <rte_rib6.h>
#include <rte_ring.h>
#include <rte_sched.h>
#include <rte_stack.h>
#include <rte_table_acl.h>
#include <rte_table_array.h>
#include <rte_table_hash.h>
#include <rte_table_hash_cuckoo.h>
#include <rte_table_hash_func.h>
#include <rte_table_lpm.h>
#include <rte_table_lpm_ipv6.h>
#include <rte_table_stub.h>

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {

constexpr std::size_t area_bytes = 512u << 20;
char* area = nullptr;
int socket_id = -1;
int checks = 0, failures = 0;

bool is_there(const void* p) {
  return p >= area && p < area + area_bytes;
}

void check(const char* what, const void* where, bool works) {
  ++checks;
  const bool there = is_there(where), good = there && works;
  if (!good) ++failures;
  std::printf("%-28s %s%s\n", what, good ? "ok" : "FAILED",
              where == nullptr ? " (not made)"
              : !there         ? " (lies elsewhere)"
              : !works         ? " (does not work)"
                               : "");
}

std::uint32_t hash_of(const void* key, std::uint32_t bytes, std::uint32_t seed) {
  return rte_jhash(key, bytes, seed);
}
std::uint64_t table_hash(void* key, void* mask, std::uint32_t bytes, std::uint64_t seed) {
  std::uint8_t masked[64];
  for (std::uint32_t i = 0; i < bytes; ++i)
    masked[i] = static_cast<std::uint8_t>(static_cast<std::uint8_t*>(key)[i] &
                                          static_cast<std::uint8_t*>(mask)[i]);
  return rte_jhash(masked, bytes, static_cast<std::uint32_t>(seed));
}

void blocks() {
  auto* p = static_cast<char*>(rte_malloc_socket(nullptr, 1000, 0, socket_id));
  check("malloc", p, p != nullptr && reinterpret_cast<std::uintptr_t>(p) % 64 == 0);
  std::memset(p, 7, 1000);
  auto* q = static_cast<char*>(rte_realloc_socket(p, 100'000, 64, socket_id));
  check("realloc", q, q != nullptr && q[0] == 7 && q[999] == 7);
  rte_free(q);
  auto* inside = static_cast<char*>(rte_malloc_socket(nullptr, 128, 0, SOCKET_ID_ANY));
  std::memset(inside, 9, 128);
  auto* moved = static_cast<char*>(rte_realloc_socket(inside, 256, 64, socket_id));
  check("realloc into the heap", moved, moved != nullptr && moved[127] == 9);
  rte_free(moved);
  auto* z = static_cast<char*>(rte_zmalloc_socket(nullptr, 5000, 4096, socket_id));
  bool zero = z != nullptr && reinterpret_cast<std::uintptr_t>(z) % 4096 == 0;
  for (int i = 0; zero && i < 5000; ++i)
    zero = z[i] == 0;
  check("zmalloc, aligned", z, zero);
  rte_free(z);
}

void zones() {
  const rte_memzone* m = rte_memzone_reserve("zone", 1 << 20, socket_id, 0);
  check("memzone", m != nullptr ? m->addr : nullptr,
        m != nullptr && m->socket_id == socket_id && rte_memzone_lookup("zone") == m);
  const rte_memzone* c =
      rte_memzone_reserve("zone_contiguous", 256 << 10, socket_id, RTE_MEMZONE_IOVA_CONTIG);
  check("memzone, IOVA contiguous", c != nullptr ? c->addr : nullptr,
        c != nullptr && c->iova != RTE_BAD_IOVA);
  const rte_memzone* b = rte_memzone_reserve_bounded("zone_bounded", 1000, socket_id, 0, 256, 1024);
  check("memzone, bounded", b != nullptr ? b->addr : nullptr,
        b != nullptr && (b->addr_64 ^ (b->addr_64 + b->len - 1)) < 1024);
  for (const rte_memzone* zone : {m, c, b})
    if (zone != nullptr) rte_memzone_free(zone);
  check("memzone, freed", area, rte_memzone_lookup("zone") == nullptr);
}

void rings() {
  rte_ring* r = rte_ring_create("ring", 1024, socket_id, 0);
  void* out = nullptr;
  check("ring", r,
        r != nullptr && rte_ring_enqueue(r, &out) == 0 && rte_ring_dequeue(r, &out) == 0 &&
            out == &out);
  rte_ring_free(r);
  for (const std::uint32_t flags : {0u, std::uint32_t{RTE_STACK_F_LF}}) {
    rte_stack* s = rte_stack_create(flags != 0 ? "stack_lf" : "stack", 256, socket_id, flags);
    void* one = &out;
    check(flags != 0 ? "stack, lock-free" : "stack", s,
          s != nullptr && rte_stack_push(s, &one, 1) == 1 && rte_stack_pop(s, &one, 1) == 1);
    rte_stack_free(s);
  }
  rte_event_ring* e = rte_event_ring_create("events", 256, socket_id, 0);
  rte_event event{};
  check("event ring", e,
        e != nullptr && rte_event_ring_enqueue_burst(e, &event, 1, nullptr) == 1 &&
            rte_event_ring_dequeue_burst(e, &event, 1, nullptr) == 1);
  rte_event_ring_free(e);
}

void pools() {
  rte_mempool* p = rte_mempool_create("pool", 1000, 512, 32, 0, nullptr, nullptr, nullptr, nullptr,
                                      socket_id, 0);
  void* object = nullptr;
  check("mempool", p, p != nullptr && rte_mempool_get(p, &object) == 0 && is_there(object));
  if (object != nullptr) rte_mempool_put(p, object);
  rte_mempool_free(p);
  rte_mempool* scattered =
      rte_mempool_create("pool_scattered", 500, 1024, 0, 0, nullptr, nullptr, nullptr, nullptr,
                         socket_id, RTE_MEMPOOL_F_NO_IOVA_CONTIG);
  check("mempool, any IOVAs", scattered,
        scattered != nullptr && rte_mempool_get(scattered, &object) == 0 && is_there(object));
  if (object != nullptr && scattered != nullptr) rte_mempool_put(scattered, object);
  rte_mempool_free(scattered);
  for (const char* ops : {"ring_mp_mc", "stack", "lf_stack"}) {
    rte_mempool* m = rte_pktmbuf_pool_create_by_ops("mbufs", 2047, 64, 0, RTE_MBUF_DEFAULT_BUF_SIZE,
                                                    socket_id, ops);
    rte_mbuf* b = m != nullptr ? rte_pktmbuf_alloc(m) : nullptr;
    char name[40];
    std::snprintf(name, sizeof name, "mbuf pool, %s", ops);
    check(name, b != nullptr ? b->buf_addr : nullptr,
          b != nullptr && is_there(m) && rte_pktmbuf_append(b, 1000) != nullptr);
    rte_pktmbuf_free(b);
    rte_mempool_free(m);
  }
}

void lookups() {
  rte_hash_parameters hp{};
  hp.name = "hash";
  hp.entries = 1024;
  hp.key_len = 16;
  hp.hash_func = hash_of;
  hp.socket_id = socket_id;
  char key[16] = "a key";
  for (const std::uint8_t extra :
       {std::uint8_t{0},
        std::uint8_t{RTE_HASH_EXTRA_FLAGS_EXT_TABLE | RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF}}) {
    hp.extra_flag = extra;
    rte_hash* h = rte_hash_create(&hp);
    void* data = nullptr;
    check(extra != 0 ? "hash, extendable, lock-free" : "hash", h,
          h != nullptr && rte_hash_add_key_data(h, key, key) == 0 &&
              rte_hash_lookup_data(h, key, &data) >= 0 && data == key);
    rte_hash_free(h);
  }
  rte_fbk_hash_params fp{};
  fp.name = "fbk";
  fp.entries = 1024;
  fp.entries_per_bucket = 4;
  fp.socket_id = socket_id;
  rte_fbk_hash_table* f = rte_fbk_hash_create(&fp);
  check("four-byte-key hash", f,
        f != nullptr && rte_fbk_hash_add_key(f, 42, 7) >= 0 && rte_fbk_hash_lookup(f, 42) == 7);
  rte_fbk_hash_free(f);

  rte_lpm_config lc{};
  lc.max_rules = 256;
  lc.number_tbl8s = 64;
  rte_lpm* l = rte_lpm_create("lpm", socket_id, &lc);
  std::uint32_t hop = 0;
  check("lpm", l,
        l != nullptr && rte_lpm_add(l, RTE_IPV4(10, 1, 0, 0), 16, 5) == 0 &&
            rte_lpm_lookup(l, RTE_IPV4(10, 1, 2, 3), &hop) == 0 && hop == 5);
  rte_lpm_free(l);
  rte_lpm6_config l6{};
  l6.max_rules = 256;
  l6.number_tbl8s = 1024;
  rte_lpm6* six = rte_lpm6_create("lpm6", socket_id, &l6);
  std::uint8_t address[16] = {0x20, 0x01, 0x0d, 0xb8};
  check("lpm6", six,
        six != nullptr && rte_lpm6_add(six, address, 32, 9) == 0 &&
            rte_lpm6_lookup(six, address, &hop) == 0 && hop == 9);
  rte_lpm6_free(six);

  rte_rib_conf rc{};
  rc.max_nodes = 128;
  rte_rib* rib = rte_rib_create("rib", socket_id, &rc);
  check("rib", rib,
        rib != nullptr && rte_rib_insert(rib, RTE_IPV4(10, 0, 0, 0), 8) != nullptr &&
            rte_rib_lookup(rib, RTE_IPV4(10, 9, 9, 9)) != nullptr);
  rte_rib_free(rib);
  rte_rib6_conf rc6{};
  rc6.max_nodes = 128;
  rte_rib6* rib6 = rte_rib6_create("rib6", socket_id, &rc6);
  check("rib6", rib6,
        rib6 != nullptr && rte_rib6_insert(rib6, address, 32) != nullptr &&
            rte_rib6_lookup(rib6, address) != nullptr);
  rte_rib6_free(rib6);

  rte_fib_conf fc{};
  fc.type = RTE_FIB_DIR24_8;
  fc.max_routes = 128;
  fc.dir24_8.nh_sz = RTE_FIB_DIR24_8_4B;
  fc.dir24_8.num_tbl8 = 64;
  rte_fib* fib = rte_fib_create("fib", socket_id, &fc);
  std::uint32_t ip = RTE_IPV4(10, 1, 2, 3);
  std::uint64_t next = 0;
  check("fib", fib,
        fib != nullptr && rte_fib_add(fib, RTE_IPV4(10, 1, 0, 0), 16, 3) == 0 &&
            rte_fib_lookup_bulk(fib, &ip, &next, 1) == 0 && next == 3);
  rte_fib_free(fib);
  rte_fib6_conf fc6{};
  fc6.type = RTE_FIB6_TRIE;
  fc6.max_routes = 128;
  fc6.trie.nh_sz = RTE_FIB6_TRIE_4B;
  fc6.trie.num_tbl8 = 1024;
  rte_fib6* fib6 = rte_fib6_create("fib6", socket_id, &fc6);
  check("fib6", fib6,
        fib6 != nullptr && rte_fib6_add(fib6, address, 32, 4) == 0 &&
            rte_fib6_lookup_bulk(fib6, &address, &next, 1) == 0 && next == 4);
  rte_fib6_free(fib6);

  rte_member_parameters mp{};
  mp.name = "member";
  mp.socket_id = socket_id;
  mp.key_len = 16;
  mp.num_keys = 1000;
  mp.is_cache = 0;
  mp.type = RTE_MEMBER_TYPE_HT;
  mp.prim_hash_seed = 1;
  mp.sec_hash_seed = 2;
  for (const auto type : {RTE_MEMBER_TYPE_HT, RTE_MEMBER_TYPE_VBF}) {
    mp.type = type;
    mp.num_set = type == RTE_MEMBER_TYPE_VBF ? 8 : 0;
    mp.false_positive_rate = 0.03f;
    rte_member_setsum* m = rte_member_create(&mp);
    member_set_t set = 0;
    check(type == RTE_MEMBER_TYPE_HT ? "member, hash table" : "member, Bloom filters", m,
          m != nullptr && rte_member_add(m, key, 1) >= 0 && rte_member_lookup(m, key, &set) == 1 &&
              set == 1);
    rte_member_free(m);
  }
}

RTE_ACL_RULE_DEF(acl_rule, 2);

rte_acl_field_def acl_field(std::uint8_t index, std::uint32_t offset) {
  rte_acl_field_def f{};
  f.type = index == 0 ? RTE_ACL_FIELD_TYPE_BITMASK : RTE_ACL_FIELD_TYPE_MASK;
  f.size = index == 0 ? 1 : 4;
  f.field_index = index;
  f.input_index = index;
  f.offset = offset;
  return f;
}

void access_lists() {
  rte_acl_param ap{};
  ap.name = "acl";
  ap.socket_id = socket_id;
  ap.rule_size = RTE_ACL_RULE_SZ(2);
  ap.max_rule_num = 64;
  rte_acl_ctx* a = rte_acl_create(&ap);
  acl_rule rule{};
  rule.data.category_mask = 1;
  rule.data.priority = 1;
  rule.data.userdata = 77;
  rule.field[0].value.u8 = 6;
  rule.field[0].mask_range.u8 = 0xff;
  rule.field[1].value.u32 = RTE_IPV4(10, 0, 0, 0);
  rule.field[1].mask_range.u32 = 8;
  rte_acl_config config{};
  config.num_categories = 1;
  config.num_fields = 2;
  config.defs[0] = acl_field(0, 0);
  config.defs[1] = acl_field(1, 4);
  std::uint8_t packet[8] = {6, 0, 0, 0, 10, 1, 2, 3};
  const std::uint8_t* input[1] = {packet};
  std::uint32_t result = 0;
  const bool works = a != nullptr &&
                     rte_acl_add_rules(a, reinterpret_cast<rte_acl_rule*>(&rule), 1) == 0 &&
                     rte_acl_build(a, &config) == 0 &&
                     rte_acl_classify(a, input, &result, 1, 1) == 0 && result == 77;
  check("acl, built and classifying", a, works);
  rte_acl_free(a);
}

// ---- tables: made by their ops, one entry added and found through a packet's headroom -----------
constexpr std::uint32_t key_offset = sizeof(rte_mbuf) + 64;
struct entry {
  std::uint64_t head, value;
};
rte_mempool* packets = nullptr;

rte_mbuf* packet_with(const void* key, std::uint32_t bytes) {
  rte_mbuf* m = rte_pktmbuf_alloc(packets);
  std::memset(RTE_MBUF_METADATA_UINT8_PTR(m, sizeof(rte_mbuf)), 0, 128);
  std::memcpy(RTE_MBUF_METADATA_UINT8_PTR(m, key_offset), key, bytes);
  rte_pktmbuf_append(m, 64);
  return m;
}

void table(const char* name, rte_table_ops* ops, void* parameters, void* rule, const void* key,
           std::uint32_t key_bytes) {
  void* t = ops->f_create(parameters, socket_id, sizeof(entry));
  entry put{0, 0x1234};
  int found_before = 0;
  void* where = nullptr;
  bool works = t != nullptr &&
               (ops->f_add == nullptr || ops->f_add(t, rule, &put, &found_before, &where) == 0);
  if (works && ops->f_lookup != nullptr) {
    rte_mbuf* m = packet_with(key, key_bytes);
    std::uint64_t hits = 0;
    void* entries[64] = {};
    works = ops->f_lookup(t, &m, 1, &hits, entries) == 0 && hits == 1 &&
            static_cast<entry*>(entries[0])->value == 0x1234;
    rte_pktmbuf_free(m);
  }
  check(name, t, works);
  if (t != nullptr) ops->f_free(t);
}

void tables() {
  packets =
      rte_pktmbuf_pool_create("table_packets", 255, 0, 256, RTE_MBUF_DEFAULT_BUF_SIZE, socket_id);
  std::uint8_t key[64] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  std::uint8_t mask[64];
  std::memset(mask, 0xff, sizeof mask);

  rte_table_array_params array{16, key_offset};
  rte_table_array_key array_key{5};
  std::uint32_t position = 5;
  table("table array", &rte_table_array_ops, &array, &array_key, &position, 4);

  rte_table_lpm_params lpm{"table_lpm", 64, 16, 0, sizeof(entry), key_offset};
  rte_table_lpm_key lpm_key{RTE_IPV4(10, 0, 0, 0), 8};
  const std::uint32_t ip = rte_cpu_to_be_32(RTE_IPV4(10, 1, 2, 3));
  table("table lpm", &rte_table_lpm_ops, &lpm, &lpm_key, &ip, 4);

  rte_table_lpm_ipv6_params lpm6{"table_lpm6", 64, 256, sizeof(entry), key_offset};
  rte_table_lpm_ipv6_key lpm6_key{{1, 2}, 16};
  table("table lpm ipv6", &rte_table_lpm_ipv6_ops, &lpm6, &lpm6_key, key, 16);

  struct kind {
    const char* name;
    rte_table_ops* ops;
    std::uint32_t bytes;
  };
  for (const kind& k : {kind{"table hash key8 ext", &rte_table_hash_key8_ext_ops, 8},
                        {"table hash key8 lru", &rte_table_hash_key8_lru_ops, 8},
                        {"table hash key16 ext", &rte_table_hash_key16_ext_ops, 16},
                        {"table hash key16 lru", &rte_table_hash_key16_lru_ops, 16},
                        {"table hash key32 ext", &rte_table_hash_key32_ext_ops, 32},
                        {"table hash key32 lru", &rte_table_hash_key32_lru_ops, 32},
                        {"table hash ext", &rte_table_hash_ext_ops, 64},
                        {"table hash lru", &rte_table_hash_lru_ops, 64},
                        {"table hash cuckoo", nullptr, 16}}) {
    rte_table_hash_params hash{k.name, k.bytes, key_offset, mask, 256, 64, table_hash, 1};
    if (k.ops != nullptr) {
      table(k.name, k.ops, &hash, key, key, k.bytes);
    } else {
      rte_table_hash_cuckoo_params cuckoo{k.name, k.bytes, key_offset, mask, 256, 64, hash_of, 1};
      table(k.name, &rte_table_hash_cuckoo_ops, &cuckoo, key, key, k.bytes);
    }
  }

  rte_table_acl_params acl{};
  acl.name = "table_acl";
  acl.n_rules = 16;
  acl.n_rule_fields = 2;
  acl.field_format[0] = acl_field(0, 0);
  acl.field_format[1] = acl_field(1, 4);
  rte_table_acl_rule_add_params rule{};
  rule.priority = 1;
  rule.field_value[0].value.u8 = 6;
  rule.field_value[0].mask_range.u8 = 0xff;
  rule.field_value[1].value.u32 = RTE_IPV4(10, 0, 0, 0);
  rule.field_value[1].mask_range.u32 = 8;
  {
    void* t = rte_table_acl_ops.f_create(&acl, socket_id, sizeof(entry));
    entry put{0, 0x1234};
    int before = 0;
    void* where = nullptr;
    bool works = t != nullptr && rte_table_acl_ops.f_add(t, &rule, &put, &before, &where) == 0;
    if (works) {  // it looks at the packet itself
      rte_mbuf* m = rte_pktmbuf_alloc(packets);
      const std::uint8_t bytes[8] = {6, 0, 0, 0, 10, 1, 2, 3};
      std::memcpy(rte_pktmbuf_append(m, 64), bytes, sizeof bytes);
      std::uint64_t hits = 0;
      void* entries[64] = {};
      works = rte_table_acl_ops.f_lookup(t, &m, 1, &hits, entries) == 0 && hits == 1 &&
              static_cast<entry*>(entries[0])->value == 0x1234;
      rte_pktmbuf_free(m);
    }
    check("table acl", t, works);
    if (t != nullptr) rte_table_acl_ops.f_free(t);
  }
}

void pipeline() {
  rte_ring* in = rte_ring_create("in", 256, socket_id, RING_F_SP_ENQ | RING_F_SC_DEQ);
  rte_ring* out = rte_ring_create("out", 256, socket_id, RING_F_SP_ENQ | RING_F_SC_DEQ);
  rte_pipeline_params pp{};
  pp.name = "pipeline";
  pp.socket_id = socket_id;
  pp.offset_port_id = sizeof(rte_mbuf) + 8;
  rte_pipeline* p = rte_pipeline_create(&pp);
  rte_port_ring_reader_params reader{in};
  rte_port_ring_writer_params writer{};
  writer.ring = out;
  writer.tx_burst_sz = 32;
  rte_pipeline_port_in_params ip{};
  ip.ops = &rte_port_ring_reader_ops;
  ip.arg_create = &reader;
  ip.burst_size = 32;
  rte_pipeline_port_out_params op{};
  op.ops = &rte_port_ring_writer_ops;
  op.arg_create = &writer;
  std::uint8_t mask[16];
  std::memset(mask, 0xff, sizeof mask);
  rte_table_hash_params hash{"rules", 16, key_offset, mask, 2048, 1024, table_hash, 1};
  rte_pipeline_table_params tp{};
  tp.ops = &rte_table_hash_key16_ext_ops;
  tp.arg_create = &hash;
  std::uint32_t port_in = 0, port_out = 0, rules = 0;
  bool works = p != nullptr && rte_pipeline_port_in_create(p, &ip, &port_in) == 0 &&
               rte_pipeline_port_out_create(p, &op, &port_out) == 0 &&
               rte_pipeline_table_create(p, &tp, &rules) == 0 &&
               rte_pipeline_port_in_connect_to_table(p, port_in, rules) == 0;
  for (std::uint32_t i = 0; works && i < 1000; ++i) {
    std::uint32_t key[4] = {i, 0, 0, 0};
    rte_pipeline_table_entry e{}, *where = nullptr;
    e.action = RTE_PIPELINE_ACTION_PORT;
    e.port_id = port_out;
    int before = 0;
    works =
        rte_pipeline_table_entry_add(p, rules, key, &e, &before, &where) == 0 && is_there(where);
  }
  works = works && rte_pipeline_port_in_enable(p, port_in) == 0 && rte_pipeline_check(p) == 0;
  unsigned through = 0;
  for (std::uint32_t i = 0; works && i < 100; ++i) {
    std::uint32_t key[4] = {i * 20, 0, 0, 0};  // the second half has no rule and is dropped
    rte_mbuf* m = packet_with(key, sizeof key);
    rte_ring_enqueue(in, m);
    rte_pipeline_run(p);
    rte_pipeline_flush(p);
    void* arrived = nullptr;
    if (rte_ring_dequeue(out, &arrived) == 0) {
      ++through;
      rte_pktmbuf_free(static_cast<rte_mbuf*>(arrived));
    }
  }
  check("pipeline, 1000 rules", p, works && through == 50);
  if (p != nullptr) rte_pipeline_free(p);
  void* port = rte_port_ring_reader_ops.f_create(&reader, socket_id);
  check("port, ring reader", port, port != nullptr);
  if (port != nullptr) rte_port_ring_reader_ops.f_free(port);
  port = rte_port_ring_writer_ops.f_create(&writer, socket_id);
  check("port, ring writer", port, port != nullptr);
  if (port != nullptr) rte_port_ring_writer_ops.f_free(port);
  rte_port_source_params source{};
  source.mempool = packets;
  port = rte_port_source_ops.f_create(&source, socket_id);
  rte_mbuf* made[4] = {};
  check("port, source", port,
        port != nullptr && rte_port_source_ops.f_rx(port, made, 4) == 4 && is_there(made[0]));
  for (rte_mbuf* m : made)
    rte_pktmbuf_free(m);
  if (port != nullptr) rte_port_source_ops.f_free(port);
  rte_port_sink_params sink{};
  port = rte_port_sink_ops.f_create(&sink, socket_id);
  check("port, sink", port, port != nullptr);
  if (port != nullptr) rte_port_sink_ops.f_free(port);
  rte_ring_free(in);
  rte_ring_free(out);
}

void scheduling() {
  static rte_sched_pipe_params pipe_profile{};
  pipe_profile.tb_rate = 305175;
  pipe_profile.tb_size = 1000000;
  for (auto& rate : pipe_profile.tc_rate)
    rate = 305175;
  pipe_profile.tc_period = 40;
  pipe_profile.tc_ov_weight = 1;
  for (auto& weight : pipe_profile.wrr_weights)
    weight = 1;
  static rte_sched_subport_profile_params subport_profile{};
  subport_profile.tb_rate = 1250000000;
  subport_profile.tb_size = 1000000;
  for (auto& rate : subport_profile.tc_rate)
    rate = 1250000000;
  subport_profile.tc_period = 10;
  rte_sched_subport_params subport{};
  subport.n_pipes_per_subport_enabled = 1024;
  for (auto& size : subport.qsize)
    size = 32;
  subport.pipe_profiles = &pipe_profile;
  subport.n_pipe_profiles = 1;
  subport.n_max_pipe_profiles = 1;
  rte_sched_port_params pp{};
  pp.name = "sched";
  pp.socket = socket_id;
  pp.rate = 1250000000;
  pp.mtu = 1522;
  pp.frame_overhead = RTE_SCHED_FRAME_OVERHEAD_DEFAULT;
  pp.n_subports_per_port = 1;
  pp.subport_profiles = &subport_profile;
  pp.n_subport_profiles = 1;
  pp.n_max_subport_profiles = 1;
  pp.n_pipes_per_subport = 1024;
  rte_sched_port* s = rte_sched_port_config(&pp);
  bool works = s != nullptr && rte_sched_subport_config(s, 0, &subport, 0) == 0;
  for (std::uint32_t pipe = 0; works && pipe < 1024; ++pipe)
    works = rte_sched_pipe_config(s, 0, pipe, 0) == 0;
  rte_mbuf* batch[8] = {};
  if (works) {
    for (int i = 0; i < 8; ++i) {
      batch[i] = rte_pktmbuf_alloc(packets);
      rte_pktmbuf_append(batch[i], 100);
      rte_sched_port_pkt_write(s, batch[i], 0, static_cast<std::uint32_t>(i), 0, 0,
                               RTE_COLOR_GREEN);
    }
    works = rte_sched_port_enqueue(s, batch, 8) == 8;
    int out = 0;
    for (int tries = 0; tries < 100 && out < 8; ++tries) {
      out += rte_sched_port_dequeue(s, batch + out, static_cast<std::uint32_t>(8 - out));
      rte_delay_us_block(10);
    }
    works = works && out == 8;
    for (rte_mbuf* m : batch)
      rte_pktmbuf_free(m);
  }
  check("sched, 1024 pipes", s, works);
  if (s != nullptr) rte_sched_port_free(s);
}

void others() {
  rte_reorder_buffer* r = rte_reorder_create("reorder", socket_id, 64);
  check("reorder buffer", r, r != nullptr);
  rte_reorder_free(r);
  rte_ip_frag_tbl* f = rte_ip_frag_table_create(64, 4, 256, rte_get_tsc_hz(), socket_id);
  check("ip fragment table", f, f != nullptr);
  if (f != nullptr) rte_ip_frag_table_destroy(f);
}

void ethernet() {
  rte_ring* r = rte_ring_create("eth_ring", 256, socket_id, RING_F_SP_ENQ | RING_F_SC_DEQ);
  const int port = rte_eth_from_ring(r);
  rte_eth_conf conf{};
  bool works = port >= 0 &&
               rte_eth_dev_configure(static_cast<std::uint16_t>(port), 1, 1, &conf) == 0 &&
               rte_eth_rx_queue_setup(static_cast<std::uint16_t>(port), 0, 64,
                                      static_cast<unsigned>(socket_id), nullptr, packets) == 0 &&
               rte_eth_tx_queue_setup(static_cast<std::uint16_t>(port), 0, 64,
                                      static_cast<unsigned>(socket_id), nullptr) == 0 &&
               rte_eth_dev_start(static_cast<std::uint16_t>(port)) == 0;
  rte_mbuf* m = rte_pktmbuf_alloc(packets);
  rte_mbuf* back = nullptr;
  works = works && rte_eth_tx_burst(static_cast<std::uint16_t>(port), 0, &m, 1) == 1 &&
          rte_eth_rx_burst(static_cast<std::uint16_t>(port), 0, &back, 1) == 1 && back == m;
  check("ethdev on a ring", r, works);
  rte_pktmbuf_free(m);
  if (port >= 0) {
    rte_eth_dev_stop(static_cast<std::uint16_t>(port));
    rte_eth_dev_close(static_cast<std::uint16_t>(port));
  }
  rte_ring_free(r);
}

}  // namespace

int main(int argc, char** argv) {
  if (rte_eal_init(argc, argv) < 0) return 2;
  area = static_cast<char*>(
      ::mmap(nullptr, area_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const std::size_t page = 4096;
  std::vector<rte_iova_t> iovas(area_bytes / page);
  for (std::size_t i = 0; i < iovas.size(); ++i)
    iovas[i] = 0x1'0000'0000 + i * page;
  if (area == MAP_FAILED || rte_malloc_heap_create("outside") != 0 ||
      rte_malloc_heap_memory_add("outside", area, area_bytes, iovas.data(),
                                 static_cast<unsigned>(iovas.size()), page) != 0)
    return 2;
  socket_id = rte_malloc_heap_get_socket("outside");
  rte_malloc_socket_stats before{}, after{};
  rte_malloc_get_socket_stats(socket_id, &before);
  blocks();
  zones();
  rings();
  pools();
  lookups();
  access_lists();
  tables();
  pipeline();
  scheduling();
  others();
  ethernet();
  rte_mempool_free(packets);
  rte_malloc_get_socket_stats(socket_id, &after);
  check("all of it freed again", area,
        before.alloc_count == after.alloc_count &&
            before.heap_freesz_bytes == after.heap_freesz_bytes);
  check("memory removed", area,
        rte_malloc_heap_memory_remove("outside", area, area_bytes) == 0 &&
            rte_malloc_heap_destroy("outside") == 0);
  std::printf("%d of %d hold\n", checks - failures, checks);
  return rte_eal_cleanup() != 0 || failures != 0;
}
