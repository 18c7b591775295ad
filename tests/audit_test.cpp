// tests/audit_test.cpp - the audit finds what is broken: each invariant is broken on purpose, once.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>

#include "another_member.hpp"
#include "heap/local_heap.hpp"
#include "named/pool_table.hpp"
#include "named/ring_table.hpp"
#include "support.hpp"

namespace annex {
namespace {

enum class mend { possible, impossible };  // impossible: truth that no other word tells
struct damage {
  const char* invariant;
  const char* what;
  std::function<void(const segment&)> apply;
  mend by_repair = mend::possible;
};

region_record& region_of(const segment& s) {
  return s.at<region_record>(s.header().regions_at)[1];
}
slab_record* slab_of(const segment& s) {
  const region_record& r = region_of(s);
  const auto* g = s.chunk<granule_entry>(r.granules);
  const auto* e = s.chunk<extent_entry>(r.extents);
  for (u32 at = 0; at < r.granule_count; at += e[at].length)
    if (g[at].kind == granule_slab) return s.chunk<slab_record>(e[at].record);
  return nullptr;
}
thread_cache* cache(const segment& s) {
  for (u32 i = 0; i < s.header().thread_slots_used.value; ++i)
    if (s.slot(i).cache != 0) return s.chunk<thread_cache>(s.slot(i).cache);
  return nullptr;
}
u32 first_free(const segment& s) {
  const region_record& r = region_of(s);
  for (u32 bin : r.bins)
    if (bin != no_extent) return bin;
  return 0;
}
zone_record* zone_named(const segment& s, zone_type type) {
  for (u32 i = 0; i < limits::zone_buckets; ++i)  // all of them: the test knows no index
    for (chunk_ref ref = s.zone_buckets()[i]; ref != 0; ref = s.chunk<zone_record>(ref)->next)
      if (s.chunk<zone_record>(ref)->type == type) return s.chunk<zone_record>(ref);
  return nullptr;
}
extent_entry* extents_of(const segment& s) {
  return s.chunk<extent_entry>(region_of(s).extents);
}
granule_entry* granules_of(const segment& s) {
  return s.chunk<granule_entry>(region_of(s).granules);
}

u32 first_of_kind(const segment& s, u8 kind) {
  for (u32 at = 0; at < region_of(s).granule_count; at += extents_of(s)[at].length)
    if (granules_of(s)[at].kind == kind) return at;
  return 0;
}
u64 lowest_taken(const segment& s) {
  const u64 taken = ~slab_of(s)->free_words()[0] & slab_of(s)->valid_bits(0);
  return taken & -taken;
}
/// Of a block that is free: the last one of the slab.
u64 highest_bit(const segment& s) {
  return u64{1} << ((slab_of(s)->capacity - 1) % 64);
}
/// As if an earlier owner had left the blocks of the slab's first word that are in use.
holding_record* add_holding_of_live_blocks(const segment& s) {
  slab_record* slab = slab_of(s);
  const auto ref = static_cast<chunk_ref>(s.header().arena.small_top / 64);
  s.header().arena.small_top += 64;
  auto* holding = s.chunk<holding_record>(ref);
  *holding = {0, 1, slab->words, 0, 0};
  holding->seal = holding->right_seal(s.ref_of(slab));
  for (u32 w = 0; w < slab->words; ++w) {
    holding->bits()[w] = w == 0 ? lowest_taken(s) : 0;
    holding->gone_words()[w] = ~holding->bits()[w];
  }
  slab->holdings = ref;
  return holding;
}

const damage every_damage[] = {
    {"A1", "a free list that leads outside",
     [](const segment& s) { s.header().arena.small_free[3] = 0x7fffffff; }},
    {"A1", "a chunk in two places",
     [](const segment& s) { s.header().arena.small_free[5] = s.ref_of(slab_of(s)); }},
    {"A1", "a small run beyond the top",
     [](const segment& s) { s.header().arena.small_end = s.header().arena.top + 64; }},
    {"M1", "a member in an unknown state", [](const segment& s) { s.member(1).state.value = 9; }},
    {"R1", "a region that is not counted", [](const segment& s) { s.header().region_count = 7; }},
    {"R1", "a region in the wrong slot", [](const segment& s) { region_of(s).id.value = 5; }},
    {"R1", "a length that is not whole pages",
     [](const segment& s) { region_of(s).length_bytes += 100; }},
    {"R1", "an IOVA run that ends before it begins",
     [](const segment& s) { s.chunk<iova_run>(region_of(s).iova_runs)[1].offset = 0; }},
    {"R1", "free memory of a region that is not there",
     [](const segment& s) { s.header().free_regions[3] = 1; }},
    {"E1", "an extent of length 0",
     [](const segment& s) { extents_of(s)[first_free(s)].length = 0; }},
    {"E1", "an extent that is nothing",
     [](const segment& s) { granules_of(s)[first_free(s)].kind = granule_inside; }},
    {"E3", "a foot that names another extent",
     [](const segment& s) {
       extents_of(s)[first_free(s) + extents_of(s)[first_free(s)].length - 1].foot = 1;
     }},
    {"E3", "a bin that leads nowhere",
     [](const segment& s) { extents_of(s)[first_free(s)].next = 0; }},
    {"E4", "a bin that is not marked", [](const segment& s) { region_of(s).bin_groups = 0; }},
    {"E5", "a wrong count of free granules",
     [](const segment& s) { --region_of(s).free_granules; }},
    {"E5", "a wrong count of extents", [](const segment& s) { ++region_of(s).live_extents; }},
    {"S1", "a wrong count of free blocks", [](const segment& s) { ++slab_of(s)->free_count; }},
    {"S9", "a capacity that is not the one it was made with",
     [](const segment& s) { slab_of(s)->capacity.value -= 1; }},
    {"S1", "a class that does not exist", [](const segment& s) { slab_of(s)->size_class = 200; }},
    {"S3", "a granule of another owner",
     [](const segment& s) { granules_of(s)[slab_of(s)->granule].owner = 77; }},
    {"S3", "a stray kind inside an extent",
     [](const segment& s) { granules_of(s)[first_free(s) + 1].kind = granule_large; }},
    {"S4", "a slab in no list", [](const segment& s) { cache(s)->lanes[slab_of(s)->lane] = 0; }},
    {"S4", "an orphan list of a class that does not exist",
     [](const segment& s) { s.header().orphans[60] = 5; }},
    {"C1", "a magazine with too many entries",
     [](const segment& s) { cache(s)->magazines[1].count.value = 1000; }},
    {"C1", "a magazine with an address that is no block",
     [](const segment& s) { cache(s)->entries_of(4)[0] += 8; }},
    {"S2", "a block twice in a magazine",
     [](const segment& s) { cache(s)->entries_of(4)[1] = cache(s)->entries_of(4)[0]; }},
    {"Z1", "a zone count that is wrong", [](const segment& s) { s.header().zone_count = 9; }},
    {"Z1", "a zone without its extent",
     [](const segment& s) { zone_named(s, zone_type::plain)->granule += 1; }},
    {"Z1", "a zone with a pool's table",
     [](const segment& s) { zone_named(s, zone_type::plain)->table = 0x7fffffff; }},
    {"R1", "regions behind the last slot",
     [](const segment& s) { s.header().region_slots_used = 1; }},
    {"E2", "two free extents that touch",
     [](const segment& s) {
       const u32 at = first_free(s), length = extents_of(s)[at].length;
       extents_of(s)[at].length = 1;
       extents_of(s)[at + 1] = {length - 1, no_extent, no_extent, 0, 0, 0, 0};
       extents_of(s)[at + length - 1].foot = at + 1;
       granules_of(s)[at + 1] = granules_of(s)[at];
     }},
    {"A2", "metadata that belongs to nobody",
     [](const segment& s) { s.header().arena.small_top += 64; }},
    {"M2", "a wrong count of what a member holds",
     [](const segment& s) { ++s.member(1).extents_held; }},
    {"S4", "a lane that is not marked",
     [](const segment& s) {
       std::fill(std::begin(cache(s)->used_lanes), std::end(cache(s)->used_lanes), 0);
     }},
    {"S5", "a free block with a holder",
     [](const segment& s) {
       holding_record* holding = add_holding_of_live_blocks(s);
       holding->bits()[0] = slab_of(s)->valid_bits(0);
       holding->gone_words()[0] = ~holding->bits()[0];
     }},
    {"E6", "a mark of memory never given out that its complement denies",
     [](const segment& s) { region_of(s).first_clean -= 1; }},
    {"E7", "a large block of another length",
     [](const segment& s) { extents_of(s)[first_of_kind(s, granule_large)].length -= 1; }},
    {"E7", "a large block of another member",
     [](const segment& s) { ++extents_of(s)[first_of_kind(s, granule_large)].holder; }},
    {"E7", "a zone that is said to be a large block",
     [](const segment& s) { granules_of(s)[first_of_kind(s, granule_zone)].kind = granule_large; }},
    {"R2", "a region whose file lies elsewhere",
     [](const segment& s) { region_of(s).fd_offset ^= 4096; }},
    {"R2", "a region with another name of its file",
     [](const segment& s) { region_of(s).path[3] ^= 1; }},
    {"R2", "a run with another bus address",
     [](const segment& s) { s.chunk<iova_run>(region_of(s).iova_runs)[3].address += 4096; }},
    {"S6", "a mark of blocks never handed out that does not agree with itself",
     [](const segment& s) { slab_of(s)->clean_mark ^= 1; }},
    {"S6", "a mark below blocks that were handed out",
     [](const segment& s) { slab_of(s)->set_first_clean(1); }},
    {"S7", "a live block with its free bit set",
     [](const segment& s) { slab_of(s)->free_words()[0] |= lowest_taken(s); }},
    {"S7", "a live block that is not among the taken",
     [](const segment& s) { slab_of(s)->taken_words()[0] &= ~lowest_taken(s); }},
    {"S7", "a free block with its bit cleared",
     [](const segment& s) { slab_of(s)->free_words()[slab_of(s)->words - 1] &= ~highest_bit(s); }},
    {"S8", "a block that others freed, by one half of the word",
     [](const segment& s) { slab_of(s)->remote_words()[0].value |= lowest_taken(s) & 0xffffffff; }},
    {"S9", "a slab of another member", [](const segment& s) { slab_of(s)->member = 2; }},
    {"S10", "a holding of another member",
     [](const segment& s) { add_holding_of_live_blocks(s)->member = 2; }},
    {"S10", "a holding that has a block more",
     [](const segment& s) { add_holding_of_live_blocks(s)->bits()[0] |= highest_bit(s); }},
    {"M2", "somebody whose record is free",
     [](const segment& s) { s.member(1).state.value = member_free; }},
    {"M3", "a block on its way that its seal denies",
     [](const segment& s) { s.slot(cache(s)->slot).inflight_region_1 = 2; }},
    {"Z1", "a zone in the chain of another name",
     [](const segment& s) { ++zone_named(s, zone_type::plain)->name[0]; }},
    {"Z2", "a pool object in it and with a member",
     [](const segment& s) {
       auto* table = s.chunk<pool_table>(zone_named(s, zone_type::pool)->table);
       known_pool(table, table->object_bytes, table->object_count).holders(s.thread_limit())[7] = 1;
     }},
    {"Z4", "a zone of another size",
     [](const segment& s) { zone_named(s, zone_type::plain)->size_bytes -= 64; }},
    {"Z4", "a zone that is being filled, so they say",
     [](const segment& s) { zone_named(s, zone_type::plain)->state.value = zone_being_filled; }},
    {"Z1", "a zone that is neither being filled nor committed",
     [](const segment& s) { zone_named(s, zone_type::plain)->state.value ^= 1; }},
    {"Z6", "a zone of a generation that was never given out",
     [](const segment& s) {
       zone_record* z = zone_named(s, zone_type::plain);
       z->generation = 99;
       z->seal = seal_of_zone(*z);
     }},
    {"Z6", "a second count of zones that is another",
     [](const segment& s) { ++s.header().zone_generations_again; }},
    {"Z4", "a pool of other objects",
     [](const segment& s) {
       s.chunk<pool_table>(zone_named(s, zone_type::pool)->table)->cache_objects ^= 1;
     }},
    {"Z4", "a ring whose seal is another",
     [](const segment& s) { ++s.chunk<ring_table>(zone_named(s, zone_type::ring)->table)->seal; }},
    {"Z5", "a ring with a slot of another round",
     [](const segment& s) {
       s.chunk<ring_table>(zone_named(s, zone_type::ring)->table)->slots()[5].state +=
           u64{1} << position_shift;
     }},
    {"Z5", "a ring with another handle in a slot",
     [](const segment& s) {
       s.chunk<ring_table>(zone_named(s, zone_type::ring)->table)->slots()[1].value ^= 1 << 20;
     }},
    {"Z2", "a pool object that is nowhere",
     [](const segment& s) {
       auto* table = s.chunk<pool_table>(zone_named(s, zone_type::pool)->table);
       known_pool(table, table->object_bytes, table->object_count).bits()[0] &= ~u64{1};
       --table->in_bits.value;
     }},
    {"Z1", "a pool with a wrong count",
     [](const segment& s) {
       s.chunk<pool_table>(zone_named(s, zone_type::pool)->table)->in_bits.value = 3;
     }},
};

using audits = in_own_directory;

// A heap with something of everything in region 1.
void fill(heap& h, mapped_memory& m) {
  std::vector<iova> table;
  for (u64 i = 0; i < 256; ++i)
    table.push_back(iova{(i * 2 + 1) * 4096});
  memory_range r = m.range();
  r.page_iovas = table;
  must(h.add_memory(r));
  std::vector<void*> blocks;
  for (int i = 0; i < 30; ++i)
    blocks.push_back(h.allocate(64));
  for (int i = 0; i < 20; ++i)
    heap::free(blocks[static_cast<size_t>(i)]);
  (void)h.allocate(100'000);
  must(h.reserve_zone("z", {.size_bytes = 5000}));
  must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 100}));
  ring r8 = must(ring::create(h, "r", 8));
  for (u64 i = 1; i <= 3; ++i)
    ASSERT_TRUE(r8.put(handle{i}));
}

// Damages a heap and audits it. Empty: the audit named the invariant. In a child that ends at once:
// nobody uses the heap again.
std::string damage_and_audit(const damage& d) {
  heap h = must(heap::create_private({.metadata_limit_bytes = 256 << 20}));
  mapped_memory m(1 << 20);
  fill(h, m);
  std::string said;
  if (!must(h.audit()).holds()) said = "the heap was broken before";
  d.apply(h.internal()->here.seg);
  const audit_report report = must(h.audit());
  bool named = false;
  for (const std::string& sentence : report.broken)
    named |= sentence.starts_with(d.invariant);
  if (!named)
    said += report.holds() ? "nothing was found" : "found instead: " + report.broken.front();
  if (!said.empty()) std::fprintf(stderr, "%s: %s: %s\n", d.invariant, d.what, said.c_str());
  ::_exit(said.empty() ? 0 : 1);
}

TEST_F(audits, find_and_name_every_broken_invariant) {
  for (const damage& d : every_damage) {
    child_process child([&] { return damage_and_audit(d).empty() ? 0 : 1; });
    EXPECT_EQ(child.wait_for_exit_code(), 0) << d.invariant << ": " << d.what;
  }
}

// Every damage again, on a heap whose users are gone: repaired, attached, used.
TEST_F(audits, are_followed_by_a_repair_that_leaves_no_index_broken) {
  for (const damage& d : every_damage) {
    child_process user([&] {
      heap h = must(heap::create("a", {.metadata_limit_bytes = 256 << 20}));
      mapped_memory m(1 << 20);
      fill(h, m);
      must(h.bring_memory({.length_bytes = 1 << 20}));
      d.apply(h.internal()->here.seg);
      ::_exit(0);
      return 0;
    });
    ASSERT_EQ(user.wait_for_exit_code(), 0);
    const repair_report done = must(heap::repair("a"), d.what);
    if (d.by_repair == mend::impossible) {
      EXPECT_FALSE(done.after.holds()) << d.what;
      EXPECT_EQ(refused(attach_as_another("a")), errc::corrupt) << d.what;
    } else {
      for (const std::string& sentence : done.after.broken)
        ADD_FAILURE() << d.what << ": still " << sentence;
      // Counts that every recovery makes anew are no damage of a heap at rest.
      EXPECT_FALSE(!done.found.empty() && done.changed.empty() && done.uncertain.empty())
          << d.what << ": nothing was said to have changed";
      heap h = must(attach_as_another("a"), d.what);
      expect_sound(h);
      for (const member_summary& m : h.members())
        if (!m.alive) must(h.reap(m.id));
      void* block = h.allocate(100);
      EXPECT_NE(block, nullptr) << d.what;
      heap::free(block);
      must(h.release_zone("z"));
      must(raw_pool::release(h, "p"));
      must(ring::release(h, "r"));
      expect_sound(h);
      EXPECT_EQ(h.stats().live_blocks, 0u) << d.what;
      EXPECT_TRUE(must(attach_as_another("a")).audit().value().holds());
    }
    std::filesystem::remove_all(path());
    std::filesystem::create_directory(path());
    if (HasFailure()) FAIL() << d.invariant << ": " << d.what;
  }
}

TEST_F(audits, repair_wants_the_heap_alone_and_finds_nothing_in_a_sound_one) {
  heap h = heap_with(1 << 20, {}, "a");
  void* block = h.allocate(1000);
  EXPECT_EQ(refused(heap::repair("a")), errc::heap_in_use);
  EXPECT_EQ(refused(heap::repair("b")), errc::no_such_heap);
  EXPECT_EQ(refused(heap::repair("../a")), errc::invalid_name);
  heap::free(block);
  must(h.reserve_zone("z", {.size_bytes = 5000}));
  h = heap{};
  const repair_report done = must(heap::repair("a"));
  EXPECT_TRUE(done.found.empty());
  EXPECT_TRUE(done.after.holds());
  for (const std::string& sentence : done.changed)
    ADD_FAILURE() << sentence;
}

TEST_F(audits, are_best_effort_when_read_only) {
  heap h = heap_with(1 << 20, {}, "a");
  void* block = h.allocate(100);
  heap look = must(attach_as_another("a", {.read_only = true}));
  const audit_report report = must(look.audit());
  EXPECT_TRUE(report.holds());
  EXPECT_FALSE(report.exact);
  EXPECT_GT(report.checked, 2u);
  heap::free(block);
}

}  // namespace
}  // namespace annex
