// tests/zone_test.cpp - blocks under names.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "support.hpp"

namespace annex {
namespace {

using zones = in_own_directory;

TEST_F(zones, are_found_by_name_until_they_are_released) {
  heap h = heap_with(1 << 20);
  const zone made = must(h.reserve_zone("table", {.size_bytes = 1000, .zeroed = true}));
  ASSERT_NE(made.address, nullptr);
  EXPECT_EQ(made.size_bytes, 1000u);
  EXPECT_EQ(reinterpret_cast<u64>(made.address) % 64, 0u);
  EXPECT_EQ(made.bus_address, no_iova);
  const zone found = must(h.find_zone("table"));
  EXPECT_EQ(found.address, made.address);
  EXPECT_EQ(found.where, made.where);
  EXPECT_EQ(must(h.resolve(found.where)), made.address);
  EXPECT_EQ(refused(h.reserve_zone("table", {.size_bytes = 1})), errc::zone_exists);
  EXPECT_EQ(refused(h.find_zone("other")), errc::no_such_zone);
  must(h.release_zone("table"));
  EXPECT_EQ(refused(h.find_zone("table")), errc::no_such_zone);
  EXPECT_EQ(refused(h.release_zone("table")), errc::no_such_zone);
  EXPECT_EQ(refused(h.resolve(found.where)), errc::stale_handle);
  expect_sound(h);
}

TEST_F(zones, refuse_bad_names_and_arguments) {
  heap h = heap_with(1 << 20);
  const std::string longest(63, 'x'), too_long(64, 'x');
  for (const std::string& name : {std::string(), too_long, std::string("a\0b", 3)}) {
    EXPECT_EQ(refused(h.reserve_zone(name, {.size_bytes = 1})), errc::invalid_name);
    EXPECT_EQ(refused(h.find_zone(name)), errc::invalid_name);
    EXPECT_EQ(refused(h.release_zone(name)), errc::invalid_name);
  }
  must(h.reserve_zone(longest, {.size_bytes = 1}));
  must(h.reserve_zone("with spaces / and anything", {.size_bytes = 1}));
  EXPECT_EQ(refused(h.reserve_zone("z", {.size_bytes = 1, .align_bytes = 3})), errc::invalid_argument);
  EXPECT_EQ(refused(h.reserve_zone("z", {.size_bytes = 100, .boundary_bytes = 64})), errc::invalid_argument);
  EXPECT_EQ(refused(h.reserve_zone("z", {.size_bytes = std::size_t{1} << 60})), errc::invalid_argument);
  EXPECT_EQ(refused(h.reserve_zone("z", {.size_bytes = 2 << 20})), errc::out_of_memory);
  EXPECT_EQ(h.last_failure().why, explanation::cause::no_fit);
  expect_sound(h);
}

TEST_F(zones, keep_alignment_boundary_and_contiguity) {
  heap h = heap_with(0);
  mapped_memory m(16 << 20);
  std::vector<iova> table;
  for (u64 i = 0; i < m.size() / 4096; ++i) table.push_back(iova{0x80000000 + (i + i / 16) * 4096});
  memory_range r = m.range();
  r.page_iovas = table;
  must(h.add_memory(r));
  const zone aligned = must(h.reserve_zone("aligned", {.size_bytes = 100, .align_bytes = 1 << 20}));
  EXPECT_EQ(reinterpret_cast<u64>(aligned.address) % (1 << 20), 0u);
  const zone contiguous = must(h.reserve_zone("contiguous", {.size_bytes = 60000, .iova_contiguous = true}));
  EXPECT_GE(heap::locate(contiguous.address)->contiguous_bytes, 60000u);
  EXPECT_NE(contiguous.bus_address, no_iova);
  EXPECT_EQ(refused(h.reserve_zone("too long", {.size_bytes = 70000, .iova_contiguous = true})), errc::out_of_memory);
  const zone bounded = must(h.reserve_zone("bounded", {.size_bytes = 100000, .boundary_bytes = 131072}));
  EXPECT_EQ(reinterpret_cast<u64>(bounded.address) / 131072, (reinterpret_cast<u64>(bounded.address) + 99999) / 131072);
  expect_sound(h);
}

TEST_F(zones, of_size_zero_are_the_largest_there_is) {
  heap h = heap_with(4 << 20);
  void* first = h.allocate(1 << 20);
  const zone all = must(h.reserve_zone("all", {.size_bytes = 0}));
  EXPECT_EQ(all.size_bytes, 3u << 20);
  std::memset(all.address, 1, all.size_bytes);
  EXPECT_EQ(refused(h.reserve_zone("none", {.size_bytes = 0})), errc::out_of_memory);
  must(h.release_zone("all"));
  const zone bounded = must(h.reserve_zone("bounded", {.size_bytes = 0, .boundary_bytes = 65536}));
  EXPECT_EQ(bounded.size_bytes, 65536u);
  heap::free(first);
  expect_sound(h);
}

TEST_F(zones, a_thousand_are_walked_in_order) {
  heap h = heap_with(16 << 20);
  for (int i = 0; i < 1000; ++i) must(h.reserve_zone("zone" + std::to_string(1000 + i), {.size_bytes = 100}));
  std::vector<std::string> names;
  h.for_each_zone([&](const zone_summary& z) { names.push_back(z.name); });
  EXPECT_EQ(names.size(), 1000u);
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  expect_sound(h);
  for (const std::string& name : names) must(h.release_zone(name));
  EXPECT_EQ(h.stats().free_bytes, 16u << 20);
}

TEST_F(zones, cannot_be_freed_as_a_block) {
  heap h = heap_with(1 << 20, {.on_misuse = misuse_policy::refuse});
  const zone z = must(h.reserve_zone("z", {.size_bytes = 100}));
  heap::free(z.address);
  EXPECT_EQ(h.stats().misuse_count, 1u);
  EXPECT_EQ(must(h.find_zone("z")).address, z.address);
}

TEST_F(zones, the_largest_there_is_needs_no_growth_while_anything_is_free) {
  heap h = heap_with(4 << 20);
  int calls = 0;
  h.on_shortage([&](std::size_t) {
    ++calls;
    return h.bring_memory({.length_bytes = 1 << 20}).has_value();
  });
  for (int i = 0; i < 100; ++i) heap::free(h.allocate(1000));  // a cache keeps some
  const zone all = must(h.reserve_zone("all", {}));
  EXPECT_EQ(all.size_bytes, 4u << 20);
  EXPECT_EQ(calls, 0);
  const zone more = must(h.reserve_zone("more", {}));
  EXPECT_EQ(more.size_bytes, 1u << 20) << "nothing was free: it grew";
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace annex
