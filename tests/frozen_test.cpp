// tests/frozen_test.cpp - a thread of a heap whose cache somebody else said is held still.
#include <annex/pool.hpp>

#include "cache/thread_cache.hpp"
#include "heap/local_heap.hpp"
#include "support.hpp"

namespace annex {
namespace {

class frozen_caches : public in_own_directory {};

thread_cache& only_cache(const heap& h) {
  const segment& s = h.internal()->here.seg;
  for (u32 i = 0; i < s.header().thread_slots_used.value; ++i)
    if (s.slot(i).cache != 0) return *s.chunk<thread_cache>(s.slot(i).cache);
  ADD_FAILURE() << "no thread has a cache";
  std::abort();
}

// Only a holder of the heap lock holds a cache still. A word that says so while nobody does made
// its thread take the lock and look again for ever.
TEST_F(frozen_caches, that_nobody_holds_are_taken_back_by_their_threads) {
  constexpr u32 any_other_word = 0x40;
  heap h = heap_with(1 << 20, {}, "a");
  raw_pool pool = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 100}));
  heap::free(h.allocate(100));
  thread_cache& cache = only_cache(h);
  for (const u32 written : {u32{frozen_asked}, u32{frozen_held}, any_other_word, ~u32{0}}) {
    cache.frozen.store(written, std::memory_order_relaxed);
    void* block = h.allocate(100);
    ASSERT_NE(block, nullptr) << written;
    cache.frozen.store(written, std::memory_order_relaxed);
    heap::free(block);
    cache.frozen.store(written, std::memory_order_relaxed);
    void* object = pool.take();
    ASSERT_NE(object, nullptr) << written;
    cache.frozen.store(written, std::memory_order_relaxed);
    pool.give(object);
    EXPECT_EQ(cache.frozen.load(std::memory_order_relaxed), u32{frozen_no}) << written;
  }
  expect_sound(h);
  EXPECT_EQ(h.stats().live_blocks, 1u) << "the pool's zone";
}

}  // namespace
}  // namespace annex
