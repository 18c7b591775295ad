// tests/keeping_test.cpp - large blocks that a thread keeps when it frees them: handed out again
// without the heap lock, given back when anybody needs them, lost with nobody
// (cache/kept_extents.hpp).
#include <atomic>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "another_member.hpp"
#include "cache/kept_extents.hpp"
#include "heap/local_heap.hpp"
#include "inside.hpp"

namespace annex {
namespace {

constexpr std::size_t region_bytes = 64 << 20, block_bytes = 1 << 20;

using keeping_large = in_own_directory;

u64 lock_sequence(heap& h) {
  return h.internal()->here.seg.header().lock_sequence.load(std::memory_order_relaxed);
}
char* base_of(const heap& h) {
  void* base = nullptr;
  h.for_each_region([&](const region_summary& r) { base = r.base; });
  return static_cast<char*>(base);
}
std::size_t free_bytes(const heap& h) {
  return h.stats().free_bytes;
}

TEST_F(keeping_large, hands_the_block_out_again_without_the_heap_lock) {
  heap h = heap_with(region_bytes);
  void* const block = h.allocate(block_bytes);
  heap::free(block);
  const u64 before = lock_sequence(h);
  for (int i = 0; i < 100; ++i) {
    void* const again = h.allocate(block_bytes);
    EXPECT_EQ(again, block);
    std::memset(again, 7, block_bytes);
    heap::free(again);
  }
  EXPECT_EQ(lock_sequence(h), before);
  expect_sound(h);
}

TEST_F(keeping_large, is_seen_as_cached_and_not_as_live) {
  heap h = heap_with(region_bytes, {}, "a");
  const std::size_t all = free_bytes(h);
  heap::free(h.allocate(block_bytes));
  EXPECT_EQ(h.stats().live_blocks, 0u);
  EXPECT_EQ(h.stats().used_bytes, 0u);
  EXPECT_EQ(h.stats().cached_bytes, block_bytes);
  EXPECT_EQ(free_bytes(h), all - block_bytes);
  must(h.for_each_block([](const block_summary&) { ADD_FAILURE() << "nothing is live"; }));
  std::size_t cached = 0;
  h.for_each_map_piece([&](const map_piece& p) { cached += p.cached_bytes; });
  EXPECT_EQ(cached, block_bytes);
  ASSERT_EQ(h.members().size(), 1u);
  EXPECT_EQ(h.members()[0].cached_bytes, block_bytes);
  EXPECT_EQ(h.members()[0].held_blocks, 0u);
  const heap_snapshot seen = h.snapshot({});
  EXPECT_EQ(seen.stats.cached_bytes, block_bytes);
  EXPECT_EQ(seen.stats.live_blocks, 0u);
  h.trim();
  EXPECT_EQ(h.stats().cached_bytes, 0u);
  EXPECT_EQ(free_bytes(h), all);
  expect_sound(h);
}

TEST_F(keeping_large, keeps_nothing_that_is_much_of_its_region) {
  heap h = heap_with(region_bytes);
  const std::size_t all = free_bytes(h);
  heap::free(h.allocate(region_bytes / 32));
  EXPECT_EQ(free_bytes(h), all);
  std::vector<void*> blocks;
  for (int i = 0; i < 40; ++i)
    blocks.push_back(h.allocate(block_bytes));
  for (void* block : blocks)
    heap::free(block);
  EXPECT_GE(free_bytes(h), all - most_kept_extents * block_bytes);
  expect_sound(h);
}

TEST_F(keeping_large, gives_back_what_nobody_asks_for_any_more) {
  heap h = heap_with(region_bytes);
  std::vector<void*> blocks;
  for (int i = 0; i < 8; ++i)
    blocks.push_back(h.allocate(block_bytes));
  for (void* block : blocks)
    heap::free(block);
  EXPECT_EQ(h.stats().cached_bytes, 8 * block_bytes);
  for (int i = 0; i < 20; ++i)
    EXPECT_NE(h.allocate(100'000), nullptr);
  EXPECT_EQ(h.stats().cached_bytes, 0u);
  expect_sound(h);
}

TEST_F(keeping_large, a_block_that_fits_no_worse_than_an_eighth_serves) {
  heap h = heap_with(region_bytes);
  void* const block = h.allocate(block_bytes);
  heap::free(block);
  EXPECT_EQ(h.allocate(block_bytes - 64 * 1024), block);
  EXPECT_EQ(heap::usable_size(block), block_bytes);
  heap::free(block);
  EXPECT_EQ(heap::usable_size(h.allocate(block_bytes / 2)), block_bytes / 2);
  EXPECT_GT(heap::usable_size(h.allocate(block_bytes + 1)), block_bytes);
  expect_sound(h);
}

TEST_F(keeping_large, clears_what_is_asked_for_as_zeros) {
  heap h = heap_with(region_bytes);
  auto* const block = static_cast<char*>(h.allocate(block_bytes));
  std::memset(block, 7, block_bytes);
  heap::free(block);
  auto* const again = static_cast<char*>(
      h.allocate({.size_bytes = block_bytes - 5, .align_bytes = 64, .zeroed = true}));
  ASSERT_EQ(again, block);
  for (std::size_t i = 0; i < block_bytes - 5; ++i)
    ASSERT_EQ(again[i], 0) << i;
}

TEST_F(keeping_large, a_free_of_a_kept_block_is_a_mistake) {
  heap h = heap_with(region_bytes, {.on_misuse = misuse_policy::refuse});
  void* const block = h.allocate(block_bytes);
  heap::free(block);
  heap::free(block);
  EXPECT_EQ(h.stats().misuse_count, 1u);
  EXPECT_EQ(h.allocate(block_bytes), block);
  EXPECT_NE(h.allocate(block_bytes), block);
  expect_sound(h);
}

// One of them keeps it, or frees it under the lock; the other one is told.
TEST_F(keeping_large, of_two_who_free_a_block_at_once_one_does) {
  heap h = heap_with(region_bytes, {.on_misuse = misuse_policy::refuse}, "a");
  heap other = must(attach_as_another("a"));
  constexpr int rounds = 300;
  void* const warm = other.allocate(100);  // it has the region now
  const std::ptrdiff_t apart = base_of(other) - base_of(h);
  ASSERT_NE(apart, 0);
  std::atomic<char*> shared{nullptr};
  std::atomic<int> arrived{0};
  const auto meet = [&](int round) {
    ++arrived;
    while (arrived < 2 * round)
      std::this_thread::yield();
  };
  std::thread second([&] {
    for (int i = 0; i < rounds; ++i) {
      meet(2 * i + 1);
      heap::free(shared + apart);
      meet(2 * i + 2);
    }
  });
  for (int i = 0; i < rounds; ++i) {
    void* const block = h.allocate(block_bytes);
    shared = static_cast<char*>(block);
    meet(2 * i + 1);
    heap::free(block);
    meet(2 * i + 2);
  }
  second.join();
  EXPECT_EQ(h.stats().misuse_count, u64{rounds});
  heap::free(warm);
  expect_sound(h);
  h.trim();
  EXPECT_EQ(h.stats().live_blocks, 0u);
}

TEST_F(keeping_large, does_not_keep_what_has_a_handle) {
  heap h = heap_with(region_bytes);
  const std::size_t all = free_bytes(h);
  void* const block = h.allocate(block_bytes);
  const handle name = h.handle_of(block);
  heap::free(block);
  EXPECT_EQ(free_bytes(h), all);
  EXPECT_FALSE(h.resolve(name).has_value());
  void* const again = h.allocate(block_bytes);
  EXPECT_FALSE(h.resolve(name).has_value());
  heap::free(again);
  EXPECT_EQ(h.handle_of(again), null_handle) << "it is kept, and no block";
  EXPECT_EQ(h.handle_of(static_cast<char*>(again) + 5000), null_handle);
}

TEST_F(keeping_large, another_member_frees_it_to_the_region) {
  heap h = heap_with(region_bytes, {}, "a");
  const std::size_t all = free_bytes(h);
  void* const block = h.allocate(block_bytes);
  const handle name = h.handle_of(block);
  heap other = must(attach_as_another("a"));
  heap::free(must(other.resolve(name)));
  EXPECT_EQ(free_bytes(h), all);
  expect_sound(h);
}

TEST_F(keeping_large, is_recalled_when_somebody_else_needs_the_memory) {
  heap h = heap_with(region_bytes, {}, "a");
  std::vector<void*> blocks;
  for (int i = 0; i < 16; ++i)
    blocks.push_back(h.allocate(block_bytes));
  for (void* block : blocks)
    heap::free(block);
  EXPECT_EQ(h.stats().cached_bytes, 16 * block_bytes);
  std::thread([&] { EXPECT_NE(h.allocate(region_bytes - 2 * block_bytes), nullptr); }).join();
  expect_sound(h);
}

TEST_F(keeping_large, does_not_hinder_draining_and_removing) {
  heap h = heap_with(region_bytes);
  heap::free(h.allocate(block_bytes));
  must(h.drain_memory(region_id{1}, std::chrono::seconds(5)));
  EXPECT_EQ(h.stats().region_count, 0u);
  const region_id again = must(h.bring_memory({.length_bytes = region_bytes}));
  heap::free(h.allocate(block_bytes));
  must(h.remove_memory(again));
  expect_sound(h);
}

TEST_F(keeping_large, ends_with_the_thread) {
  heap h = heap_with(region_bytes);
  const std::size_t all = free_bytes(h);
  std::thread([&] { heap::free(h.allocate(block_bytes)); }).join();
  EXPECT_EQ(free_bytes(h), all);
  expect_sound(h);
}

TEST_F(keeping_large, comes_back_when_its_process_is_killed) {
  heap h = heap_with(region_bytes, {}, "a");
  const std::size_t all = free_bytes(h);
  child_process child([] {
    heap mine = must(attach_as_another("a"));
    std::vector<void*> blocks;
    for (int i = 0; i < 5; ++i)
      blocks.push_back(mine.allocate(block_bytes));
    for (void* block : blocks)
      heap::free(block);
    (void)mine.allocate(block_bytes);
    ::kill(::getpid(), SIGKILL);
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
  EXPECT_EQ(h.recover(), 1u);
  EXPECT_EQ(free_bytes(h), all - block_bytes) << "but what it still held";
  EXPECT_EQ(h.stats().cached_bytes, 0u);
  for (const member_summary& m : h.members())
    if (!m.alive) {
      EXPECT_EQ(m.held_blocks, 1u);
      EXPECT_EQ(must(h.reap(m.id)), 1u);
    }
  EXPECT_EQ(free_bytes(h), all);
  expect_sound(h);
}

// ---- hostile and damaged lists

kept_extents& only_list_of(heap& h) {
  const segment& s = h.internal()->here.seg;
  for (u32 slot = 0; slot < s.slots_used(); ++slot)
    if (s.slot(slot).cache != 0) return s.chunk<thread_cache>(s.slot(slot).cache)->kept;
  std::abort();
}

TEST_F(keeping_large, an_entry_that_leads_nowhere_is_dropped) {
  heap h = heap_with(region_bytes);
  void* const block = h.allocate(block_bytes);
  heap::free(block);
  kept_extents& kept = only_list_of(h);
  ASSERT_EQ(kept.count.value, 1u);
  std::mt19937_64 random(1);
  for (int i = 0; i < 2000; ++i) {
    const u64 slot = i % 2 == 0 ? kept.entries[0] >> 32 : random() & 0xffffffff;
    const u64 right = kept.entries[0];
    kept.entries[1] = slot << 32 | (random() >> (32 + random() % 32));
    if (kept.entries[1] == right) continue;
    kept.count.value = 2;
    ASSERT_EQ(h.allocate(block_bytes), block);
    heap::free(block);
    ASSERT_LE(kept.count.value, 2u);
    kept.entries[0] = right;
    kept.count.value = 1;
  }
  expect_sound(h);
}

TEST_F(keeping_large, a_block_that_its_keeper_does_not_list_is_found_by_the_audit) {
  child_process child([] {
    heap h = heap_with(region_bytes);
    heap::free(h.allocate(block_bytes));
    only_list_of(h).count.value = 0;
    const audit_report report = must(h.audit());
    ::_exit(report.broken.size() == 1 && report.broken[0].starts_with("C2:") ? 0 : 1);
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

TEST_F(keeping_large, is_free_after_a_repair) {
  child_process user([] {
    heap h = must(heap::create("a"));
    must(h.bring_memory({.length_bytes = region_bytes}));
    std::vector<void*> blocks;
    for (int i = 0; i < 6; ++i)
      blocks.push_back(h.allocate(block_bytes));
    for (const std::size_t i : {0u, 2u, 3u})
      heap::free(blocks[i]);
    ::_exit(0);
    return 0;
  });
  ASSERT_EQ(user.wait_for_exit_code(), 0);
  const repair_report done = must(heap::repair("a"));
  EXPECT_TRUE(done.found.empty());
  EXPECT_TRUE(done.after.holds());
  for (const std::string& sentence : done.changed)
    ADD_FAILURE() << sentence;
  heap h = must(attach_as_another("a"));
  EXPECT_EQ(h.stats().live_blocks, 3u);
  EXPECT_EQ(h.stats().cached_bytes, 0u);
  EXPECT_EQ(free_bytes(h), region_bytes - 3 * block_bytes);
  expect_sound(h);
}

// ---- against a simple reference

TEST_F(keeping_large, random_lives_of_several_threads_overlap_nowhere) {
  heap h = heap_with(region_bytes, {}, "a");
  std::atomic<bool> failed{false};
  const auto live = [&](unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::pair<u64*, u64>> mine;
    for (int i = 0; i < 20'000 && !failed; ++i) {
      if (mine.size() < 8 && random() % 2 == 0) {
        const std::size_t bytes = (1 + random() % 12) * 80'000;
        auto* const block = static_cast<u64*>(h.allocate(bytes));
        if (block == nullptr) continue;
        const u64 tag = u64{seed} << 32 | static_cast<u64>(i);
        block[0] = block[heap::usable_size(block) / 8 - 1] = tag;
        mine.emplace_back(block, tag);
      } else if (!mine.empty()) {
        const std::size_t at = random() % mine.size();
        auto [block, tag] = mine[at];
        if (block[0] != tag || block[heap::usable_size(block) / 8 - 1] != tag) failed = true;
        heap::free(block);
        mine[at] = mine.back();
        mine.pop_back();
      }
      if (random() % 4096 == 0) h.trim();
    }
    for (auto [block, tag] : mine)
      heap::free(block);
  };
  std::vector<std::thread> threads;
  for (unsigned seed = 1; seed <= 3; ++seed)
    threads.emplace_back(live, seed);
  for (int i = 0; i < 20; ++i)
    expect_sound(h);
  for (std::thread& t : threads)
    t.join();
  EXPECT_FALSE(failed);
  expect_alone_and_empty(h);
}

}  // namespace
}  // namespace annex
