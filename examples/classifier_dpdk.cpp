// examples/classifier_dpdk.cpp - counts a capture's packets by rule and by flow with DPDK's access
// list and hash table, both in an external heap. An ordinary DPDK program: it runs on stock DPDK
// and, without a recompile, under the drop-in. Its native twin is classifier.cpp.
//
//   classifier_dpdk [EAL options] -- capture.pcap
#include <rte_acl.h>
#include <rte_eal.h>
#include <rte_hash.h>
#include <rte_jhash.h>
#include <rte_malloc.h>

#include <sys/mman.h>

#include <cstddef>
#include <cstdio>

#include "five_tuple.hpp"

namespace {

constexpr std::size_t area_bytes = 64 << 20;
constexpr std::uint32_t field_count = 4;
RTE_ACL_RULE_DEF(acl_rule, field_count);

std::uint32_t hash_of(const void* key, std::uint32_t bytes, std::uint32_t seed) {
  return rte_jhash(key, bytes, seed);
}

rte_acl_ctx* make_access_list(int socket) {
  rte_acl_param parameters{};
  parameters.name = "access list";
  parameters.socket_id = socket;
  parameters.rule_size = RTE_ACL_RULE_SZ(field_count);
  parameters.max_rule_num = rule_count;
  rte_acl_ctx* const list = rte_acl_create(&parameters);
  if (list == nullptr) return nullptr;
  for (std::uint32_t i = 0; i < rule_count; ++i) {
    acl_rule r{};
    r.data.category_mask = 1;
    r.data.priority = static_cast<std::int32_t>(rule_count - i);
    r.data.userdata = i + 1;
    r.field[0].value.u8 = rules[i].protocol;
    r.field[0].mask_range.u8 = 0xff;
    r.field[1].value.u32 = static_cast<std::uint32_t>(rules[i].source[0]) << 24 |
                           static_cast<std::uint32_t>(rules[i].source[1]) << 16 |
                           static_cast<std::uint32_t>(rules[i].source[2]) << 8 | rules[i].source[3];
    r.field[1].mask_range.u32 = rules[i].source_bits;
    r.field[2].mask_range.u16 = 65535;  // any source port
    r.field[3].value.u16 = rules[i].low_port;
    r.field[3].mask_range.u16 = rules[i].high_port;
    if (rte_acl_add_rules(list, reinterpret_cast<rte_acl_rule*>(&r), 1) != 0) return nullptr;
  }
  rte_acl_config config{};
  config.num_categories = 1;
  config.num_fields = field_count;
  config.defs[0] = {RTE_ACL_FIELD_TYPE_BITMASK, 1, 0, 0, offsetof(five_tuple, protocol)};
  config.defs[1] = {RTE_ACL_FIELD_TYPE_MASK, 4, 1, 1, offsetof(five_tuple, source)};
  // Both ports: one word of input.
  config.defs[2] = {RTE_ACL_FIELD_TYPE_RANGE, 2, 2, 2, offsetof(five_tuple, source_port)};
  config.defs[3] = {RTE_ACL_FIELD_TYPE_RANGE, 2, 3, 2, offsetof(five_tuple, destination_port)};
  return rte_acl_build(list, &config) == 0 ? list : nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  const int used = rte_eal_init(argc, argv);
  if (used < 0 || argc - used != 2) {
    std::fprintf(stderr, "usage: classifier_dpdk [EAL options] -- capture.pcap\n");
    return 2;
  }
  void* const area =
      ::mmap(nullptr, area_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == MAP_FAILED || rte_malloc_heap_create("flows") != 0 ||
      rte_malloc_heap_memory_add("flows", area, area_bytes, nullptr, 0, 4096) != 0) {
    std::fprintf(stderr, "no external heap\n");
    return 1;
  }
  const int socket = rte_malloc_heap_get_socket("flows");
  rte_acl_ctx* const list = make_access_list(socket);
  rte_hash_parameters parameters{};
  parameters.name = "flows";
  parameters.entries = 65536;
  parameters.key_len = sizeof(five_tuple);
  parameters.hash_func = hash_of;
  parameters.socket_id = socket;
  rte_hash* const flows = rte_hash_create(&parameters);
  auto* const packets = static_cast<std::uint64_t*>(
      rte_zmalloc_socket("counters", (rule_count + 1) * sizeof(std::uint64_t), 0, socket));
  const auto is_there = [&](const void* p) {
    return p >= area && p < static_cast<char*>(area) + area_bytes;
  };
  if (list == nullptr || flows == nullptr || !is_there(list) || !is_there(flows) ||
      !is_there(packets)) {
    std::fprintf(stderr, "the classifier is not in the external heap\n");
    return 1;
  }
  const bool read = for_each_packet(argv[argc - 1], [&](const five_tuple& t) {
    rte_hash_add_key(flows, &t);
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(&t);
    std::uint32_t matched = 0;
    rte_acl_classify(list, &bytes, &matched, 1, 1);
    ++packets[matched == 0 ? rule_count : matched - 1];
  });
  if (!read) return 1;
  for (std::uint32_t i = 0; i < rule_count; ++i)
    std::printf("%s %llu\n", rules[i].name, static_cast<unsigned long long>(packets[i]));
  std::printf("unmatched %llu\nflows %d\n", static_cast<unsigned long long>(packets[rule_count]),
              rte_hash_count(flows));
  rte_free(packets);
  rte_hash_free(flows);
  rte_acl_free(list);
  const bool ended = rte_malloc_heap_memory_remove("flows", area, area_bytes) == 0 &&
                     rte_malloc_heap_destroy("flows") == 0;
  return rte_eal_cleanup() != 0 || !ended;
}
