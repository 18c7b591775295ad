// tests/misuse_test.cpp - mistakes of the program: stopped with a report, or counted; never a damaged heap.
#include <algorithm>
#include <thread>

#include "support.hpp"

namespace annex {
namespace {

using misuse = in_own_directory;
using misuse_death = in_own_directory;

heap refusing(heap_options o = {}) {
  o.on_misuse = misuse_policy::refuse;
  return heap_with(4 << 20, o);
}

TEST_F(misuse, every_kind_is_refused_and_counted) {
  heap h = refusing();
  u64 count = 0;
  auto expect_refusal = [&](void* address, const char* what) {
    heap::free(address);
    EXPECT_EQ(h.stats().misuse_count, ++count) << what;
  };
  auto* small = static_cast<char*>(h.allocate(100));
  auto* large = static_cast<char*>(h.allocate(100000));
  expect_refusal(small + 8, "inside a small block");
  expect_refusal(large + 64, "inside a large block's first granule");
  expect_refusal(large + 8192, "inside a large block");
  expect_refusal(large + 150000, "free memory");
  heap::free(small);
  expect_refusal(small, "free(p); free(p)");
  heap::free(large);
  expect_refusal(large, "a large block twice");
  EXPECT_EQ(h.reallocate(small + 8, 10), nullptr);
  EXPECT_EQ(h.stats().misuse_count, ++count);
  expect_sound(h);
  EXPECT_EQ(heap::usable_size(small + 8), 0u);
  EXPECT_EQ(heap::usable_size(&count), 0u);
}

TEST_F(misuse, what_is_left_behind_a_slabs_last_block_is_no_block) {
  heap h = refusing();
  constexpr std::size_t bytes = 48;  // 4096 and 65536 are no multiples of it
  std::vector<char*> blocks;
  for (int i = 0; i < 5000; ++i) blocks.push_back(static_cast<char*>(h.allocate(bytes)));
  std::sort(blocks.begin(), blocks.end());
  u64 count = 0;
  for (std::size_t i = 0; i + 1 < blocks.size() && count < 10; ++i) {
    if (blocks[i + 1] - blocks[i] == bytes) continue;
    heap::free(blocks[i] + bytes);
    EXPECT_EQ(h.stats().misuse_count, ++count) << "a whole step behind the last block";
  }
  EXPECT_GT(count, 0u);
  for (char* block : blocks) heap::free(block);
  EXPECT_EQ(h.stats().misuse_count, count);
  expect_sound(h);
}

TEST_F(misuse, a_double_free_is_found_when_the_block_reaches_its_slab) {
  heap h = refusing();
  void* a = h.allocate(100);
  void* b = h.allocate(100);
  heap::free(a);
  heap::free(b);
  heap::free(a);  // not the last one freed: found later
  h.trim();
  h.trim();
  expect_sound(h);
  void* x = h.allocate(4 << 20);
  EXPECT_NE(x, nullptr);
}

TEST_F(misuse, a_double_free_by_another_thread_is_found_at_once) {
  heap h = refusing();
  void* a = h.allocate(100);
  std::thread([&] {
    heap::free(a);
    heap::free(a);
  }).join();
  EXPECT_EQ(h.stats().misuse_count, 1u);
  expect_sound(h);
}

TEST_F(misuse, a_checked_heap_finds_every_double_free_at_once) {
  heap h = refusing({.checked = true});
  std::vector<void*> blocks;
  for (int i = 0; i < 1000; ++i) blocks.push_back(h.allocate(100));
  for (void* block : blocks) heap::free(block);
  EXPECT_EQ(h.stats().misuse_count, 0u);
  for (void* block : blocks) heap::free(block);
  EXPECT_EQ(h.stats().misuse_count, 1000u);
  void* again = h.allocate(100);
  heap::free(again);
  std::thread([&] { heap::free(again); }).join();
  EXPECT_EQ(h.stats().misuse_count, 1001u);
  EXPECT_EQ(h.reallocate(again, 100), nullptr) << "it is free";
  EXPECT_EQ(h.stats().misuse_count, 1002u);
  expect_sound(h);
  h.trim();
  EXPECT_EQ(h.stats().free_bytes, 4u << 20);
}

TEST_F(misuse, a_checked_heap_works_like_any_other) {
  heap h = heap_with(8 << 20, {.checked = true});
  std::vector<void*> blocks;
  for (int i = 0; i < 20000; ++i) blocks.push_back(h.allocate(1 + static_cast<std::size_t>(i) % 300));
  EXPECT_EQ(h.stats().live_blocks, 20000u);
  EXPECT_EQ(h.stats().used_bytes + h.stats().cached_bytes + h.stats().free_bytes, 8u << 20);
  expect_sound(h);
  std::thread([&] { heap::free_bulk({blocks.data(), 10000}); }).join();
  heap::free_bulk({blocks.data() + 10000, 10000});
  h.trim();
  EXPECT_EQ(h.stats().free_bytes, 8u << 20);
  expect_sound(h);
}

TEST_F(misuse_death, the_default_stops_the_program_and_says_what_and_where) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        heap h = heap_with(1 << 20, {.metadata_limit_bytes = std::size_t{4} << 30});
        void* block = h.allocate(100);
        heap::free(block);
        heap::free(block);
      },
      "freed twice");
  EXPECT_DEATH(
      {
        heap h = heap_with(1 << 20, {}, "named");
        heap::free(static_cast<char*>(h.allocate(100)) + 1);
      },
      "inside a block.*\n.*heap named, region 1, offset .*member 1");
  int on_the_stack = 0;
  EXPECT_DEATH(heap::free(&on_the_stack), "in no region of any heap");
}

TEST_F(misuse, overruns_of_user_memory_cannot_hurt_the_heap) {
  heap h = heap_with(1 << 20);
  std::vector<char*> blocks;
  for (int i = 0; i < 500; ++i) blocks.push_back(static_cast<char*>(h.allocate(1000)));
  char* base = nullptr;
  h.for_each_region([&](const region_summary& r) { base = static_cast<char*>(r.base); });
  for (std::size_t i = 0; i < 1 << 20; ++i) base[i] = static_cast<char>(i * 31);  // all of it, live or free
  expect_sound(h);
  for (char* block : blocks) heap::free(block);
  for (std::size_t i = 0; i < 1 << 20; ++i) base[i] = static_cast<char>(i * 17);
  h.trim();
  expect_sound(h);
  EXPECT_EQ(h.stats().free_bytes, 1u << 20);
}

}  // namespace
}  // namespace annex
