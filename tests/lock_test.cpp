// tests/lock_test.cpp - the heap lock among many: waiters take turns, and a word that lies is
// noticed.
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "another_member.hpp"
#include "heap/local_heap.hpp"
#include "support.hpp"

namespace annex {
namespace {

using locks = in_own_directory;
struct words {
  std::atomic<int> ready{0}, leave{0};
};

segment_header& header_of(const heap& h) {
  return h.internal()->here.seg.header();
}

u32 a_slot_of(const heap& h, u32 member) {
  const segment& s = h.internal()->here.seg;
  for (u32 i = 0; i < s.header().thread_slots_used.load(std::memory_order_relaxed); ++i)
    if (member_of_state(s.slot(i).state.load(std::memory_order_relaxed)) == member) return i;
  return no_owner;
}

double processor_seconds() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  return static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
         static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
}

TEST_F(locks, hundreds_of_waiters_cost_no_more_than_a_few_and_all_get_it) {
  constexpr int waiters = 400;
  auto* w = shared_words<words>();
  heap h = heap_with(512 << 20, {}, "a");
  child_process holder([w] {
    heap mine = must(attach_as_another("a"));
    w->ready = 1;
    wait_until([&] { return w->leave == 1; });
    ::_exit(0);
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return w->ready == 1; }));
  std::atomic<int> ready{0}, done{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < waiters; ++i)
    threads.emplace_back([&] {
      void* small = h.allocate(100);
      ++ready;
      go.wait(false);
      heap::free(h.allocate(300'000));
      heap::free(small);
      ++done;
    });
  ASSERT_TRUE(wait_until([&] { return ready == waiters; }));
  // As if the other process had it.
  header_of(h).lock.store(a_slot_of(h, 2) + 1, std::memory_order_relaxed);
  go = true;
  go.notify_all();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const double before = processor_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_LT(processor_seconds() - before, 0.25);
  EXPECT_EQ(done, 0);
  // Nobody is woken: as if the one that was had died.
  header_of(h).lock.store(0, std::memory_order_release);
  EXPECT_TRUE(wait_until([&] { return done == waiters; }));
  for (std::thread& t : threads)
    t.join();
  w->leave = 1;
  EXPECT_EQ(holder.wait_for_exit_code(), 0);
  EXPECT_EQ(h.stats().live_blocks, 0u);
  expect_sound(h);
}

TEST_F(locks, a_word_that_names_a_thread_of_this_process_which_does_not_have_it_is_taken_over) {
  heap h = heap_with(8 << 20);
  heap::free(h.allocate(100));
  const u32 slots = header_of(h).thread_slots_used.load(std::memory_order_relaxed);
  ASSERT_EQ(slots, 2u) << "one for threads without a cache, one of this thread";
  for (u32 slot = 0; slot < slots; ++slot) {
    header_of(h).lock.store(slot + 1, std::memory_order_relaxed);
    void* large = h.allocate(300'000);
    EXPECT_NE(large, nullptr);
    heap::free(large);
  }
  EXPECT_EQ(h.stats().lock_steals, 2u);
  expect_sound(h);
}

TEST_F(locks, threads_that_come_and_go_use_few_slots) {
  heap h = heap_with(64 << 20);
  for (int round = 0; round < 3; ++round) {
    std::vector<std::thread> threads;
    std::atomic<int> ready{0};
    for (int i = 0; i < 100; ++i)
      threads.emplace_back([&] {
        void* block = h.allocate(100);
        ++ready;
        wait_until([&] { return ready == 100; });
        heap::free(block);
      });
    for (std::thread& t : threads)
      t.join();
  }
  for (int i = 0; i < 300; ++i)
    std::thread([&] { heap::free(h.allocate(100)); }).join();
  EXPECT_LT(header_of(h).thread_slots_used.load(std::memory_order_relaxed), 102u + 64u);
  EXPECT_EQ(h.members().front().threads, 0u);
  expect_sound(h);
}

}  // namespace
}  // namespace annex
