// tests/rules_test.cpp - each structure's rules by themselves: a line of the list finds what is
// broken in its structure, and no other line does.
#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <set>

#include "another_member.hpp"
#include "care/structures.hpp"
#include "heap/local_heap.hpp"
#include "named/pool_table.hpp"
#include "named/ring_table.hpp"
#include "shared/inspection.hpp"
#include "support.hpp"

namespace annex {
namespace {

using detail::inspection;
using detail::structure;
using detail::structures;

class rules : public in_own_directory {};

// ---- the list

std::ptrdiff_t place_of(std::string_view name) {
  const auto list = structures();
  const auto found = std::find_if(list.begin(), list.end(),
                                  [&](const structure& one) { return one.name == name; });
  EXPECT_NE(found, list.end()) << name;
  return found - list.begin();
}

TEST_F(rules, stand_in_the_list_once_for_each_structure) {
  std::set<std::string_view> names;
  for (const structure& one : structures()) {
    EXPECT_TRUE(names.insert(one.name).second) << one.name;
    EXPECT_TRUE(one.check != nullptr || one.find != nullptr) << one.name;
  }
}

TEST_F(rules, stand_behind_those_of_what_their_structure_lies_in) {
  const char* const in_order[] = {"arena", "region", "extent", "slab", "cache"};
  for (size_t i = 1; i < std::size(in_order); ++i)
    EXPECT_LT(place_of(in_order[i - 1]), place_of(in_order[i]));
  EXPECT_LT(place_of("extent"), place_of("zone"));
  EXPECT_LT(place_of("zone"), place_of("pool"));
  EXPECT_LT(place_of("zone"), place_of("ring"));
  // It compares sums of what all of them hold.
  EXPECT_EQ(place_of("member") + 1, std::ssize(structures()));
}

// ---- what a look keeps

TEST_F(rules, share_one_of_each_kind_of_notes) {
  struct seen {
    int count = 0;
  };
  struct lost {
    int count = 0;
  };
  detail::notebook notes;
  ++notes.of<seen>().count;
  ++notes.of<seen>().count;
  EXPECT_EQ(notes.of<seen>().count, 2);
  EXPECT_EQ(notes.of<lost>().count, 0);
}

// ---- one line of the list at a time

segment_header& header_of(const segment& s) {
  return s.header();
}
region_record& region_of(const segment& s) {
  return s.at<region_record>(header_of(s).regions_at)[1];
}
slab_record& slab_of(const segment& s) {
  const region_record& r = region_of(s);
  const auto* granules = s.chunk<granule_entry>(r.granules);
  const auto* extents = s.chunk<extent_entry>(r.extents);
  u32 at = 0;
  while (at < r.granule_count && granules[at].kind != granule_slab)
    at += extents[at].length;
  return *s.chunk<slab_record>(extents[at].record);
}
thread_cache& cache_of_slab(const segment& s) {
  return *s.chunk<thread_cache>(s.slot(slab_of(s).owner).cache);
}
zone_record& zone_of_type(const segment& s, zone_type type) {
  zone_record* found = nullptr;
  for_each_zone_bucket(s, [&](chunk_ref chain) {
    for (chunk_ref ref = chain; ref != 0; ref = s.chunk<zone_record>(ref)->next)
      if (s.chunk<zone_record>(ref)->type == type) found = s.chunk<zone_record>(ref);
  });
  return *found;
}

struct damage {
  const char* structure;
  const char* invariant;
  void (*apply)(const segment&);
};
const damage one_of_each[] = {
    {"arena", "A1", [](const segment& s) { header_of(s).arena.small_free[0] = 1; }},
    {"region", "R1", [](const segment& s) { header_of(s).next_region_id = 1; }},
    {"extent", "E5", [](const segment& s) { --region_of(s).free_granules; }},
    {"slab", "S1", [](const segment& s) { ++slab_of(s).free_count; }},
    {"cache", "C1", [](const segment& s) { ++cache_of_slab(s).magazines[1].divisor; }},
    {"zone", "Z6", [](const segment& s) { ++header_of(s).zone_generations_again; }},
    {"pool", "Z1",
     [](const segment& s) {
       ++s.chunk<pool_table>(zone_of_type(s, zone_type::pool).table)->in_bits.value;
     }},
    {"ring", "Z5",
     [](const segment& s) {
       s.chunk<ring_table>(zone_of_type(s, zone_type::ring).table)->slots()[0].value ^= 1;
     }},
    {"member", "M2", [](const segment& s) { ++s.member(1).extents_held; }},
};

/// What each line of the list says of a heap in which nothing moves. Empty: as it should be.
std::string check_line_by_line(const segment& s, const damage* expected) {
  const std::vector<bool> still(s.slots_used(), true);
  audit_report report;
  inspection in(s, still, still, true, false, &report);
  std::string wrong;
  for (const structure& one : structures()) {
    const size_t before = report.broken.size();
    if (one.check != nullptr) one.check(in);
    const bool is_expected =
        expected != nullptr && expected->structure == std::string_view(one.name);
    const bool is_found = report.broken.size() > before;
    if (is_found != is_expected)
      wrong += std::string(one.name) + ": " + (is_found ? report.broken.back() : "nothing") + "; ";
    else if (is_found && !report.broken.back().starts_with(expected->invariant))
      wrong += report.broken.back() + "; ";
  }
  return wrong;
}

/// In a child that ends at once: nobody uses the heap again.
int damage_and_check(const damage& d) {
  heap h = must(heap::create_private({.metadata_limit_bytes = 256 << 20}));
  mapped_memory m(1 << 20);
  must(h.add_memory(m.range()));
  for (int i = 0; i < 30; ++i)
    (void)h.allocate(64);
  (void)h.allocate(100'000);
  must(h.reserve_zone("z", {.size_bytes = 5000}));
  must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 100}));
  ring r = must(ring::create(h, "r", 8));
  EXPECT_TRUE(r.put(handle{1}));
  const segment& s = h.internal()->here.seg;
  std::string said = check_line_by_line(s, nullptr);
  d.apply(s);
  said += check_line_by_line(s, &d);
  if (!said.empty()) std::fprintf(stderr, "%s: %s\n", d.structure, said.c_str());
  ::_exit(said.empty() ? 0 : 1);
}

TEST_F(rules, find_what_is_broken_in_their_structure_and_in_no_other) {
  for (const damage& d : one_of_each) {
    child_process child([&] { return damage_and_check(d); });
    EXPECT_EQ(child.wait_for_exit_code(), 0) << d.structure;
  }
}

}  // namespace
}  // namespace annex
