// tests/ring_test.cpp - the queue between processes: order, bounds, many at once, the dead.
#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

#include "support.hpp"

namespace annex {
namespace {

using rings = in_own_directory;

TEST_F(rings, keep_order_and_know_full_and_empty) {
  heap h = heap_with(0);
  ring r = must(ring::create(h, "r", 8));
  EXPECT_EQ(r.capacity(), 8u);
  EXPECT_EQ(r.take(), null_handle);
  for (u64 round = 0; round < 100; ++round) {
    for (u64 i = 1; i <= 8; ++i) EXPECT_TRUE(r.put(handle{round * 8 + i}));
    EXPECT_FALSE(r.put(handle{1}));
    EXPECT_EQ(r.count(), 8u);
    for (u64 i = 1; i <= 8; ++i) EXPECT_EQ(r.take(), handle{round * 8 + i});
    EXPECT_EQ(r.take(), null_handle);
  }
  handle in[12], out[12];
  for (u64 i = 0; i < 12; ++i) in[i] = handle{i + 1};
  EXPECT_EQ(r.put(in), 8u);
  EXPECT_EQ(r.take(out), 8u);
  EXPECT_EQ(out[7], handle{8});
  expect_sound(h);
  must(ring::release(h, "r"));
}

TEST_F(rings, refuse_bad_capacities_and_other_kinds) {
  heap h = heap_with(1 << 20);
  for (const u64 capacity : {0ul, 1ul, 3ul, 1ul << 25}) EXPECT_EQ(refused(ring::create(h, "r", capacity)), errc::invalid_argument);
  must(h.reserve_zone("z", {.size_bytes = 100}));
  EXPECT_EQ(refused(ring::open(h, "z")), errc::wrong_kind);
  EXPECT_EQ(refused(ring::open(h, "nobody")), errc::no_such_zone);
  EXPECT_EQ(refused(ring::open(h, "")), errc::invalid_name);
  EXPECT_EQ(refused(ring::release(h, "z")), errc::wrong_kind);
  EXPECT_EQ(refused(ring::release(h, "nobody")), errc::no_such_zone);
  must(ring::create(h, "r", 8));
  EXPECT_EQ(refused(ring::create(h, "r", 8)), errc::zone_exists);
}

TEST_F(rings, lose_and_invent_nothing_among_threads) {
  heap h = heap_with(0);
  ring r = must(ring::create(h, "r", 64));
  constexpr u64 each = 100000;
  std::vector<std::thread> threads;
  std::unique_ptr<std::atomic<unsigned char>[]> seen(new std::atomic<unsigned char>[2 * each + 1]());
  std::atomic<u64> taken{0};
  for (u64 t = 0; t < 2; ++t)
    threads.emplace_back([&, t] {
      for (u64 i = 1; i <= each; ++i)
        while (!r.put(handle{t * each + i})) std::this_thread::yield();
    });
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&] {
      u64 last[2] = {};
      while (taken < 2 * each) {
        const u64 value = static_cast<u64>(r.take());
        if (value == 0) {
          std::this_thread::yield();
          continue;
        }
        ++taken;
        seen[value]++;
        const u64 producer = (value - 1) / each;
        EXPECT_GT(value, last[producer]) << "one producer's values come in order";
        last[producer] = value;
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_TRUE(std::all_of(seen.get() + 1, seen.get() + 2 * each + 1, [](const auto& n) { return n == 1; }));
}

TEST_F(rings, go_on_when_producers_and_consumers_are_killed) {
  heap h = heap_with(0, {}, "a");
  ring r = must(ring::create(h, "r", 256));
  for (int round = 0; round < 30; ++round) {
    auto work = [](bool put) {
      return [put] {
        heap mine = must(heap::attach("a"));
        ring ours = must(ring::open(mine, "r"));
        for (u64 i = 1;; ++i) put ? static_cast<void>(ours.put(handle{i})) : static_cast<void>(ours.take());
        return 0;
      };
    };
    child_process producer(work(true)), consumer(work(false));
    ::usleep(3000 + static_cast<useconds_t>(round) * 137);
    producer.kill_now();
    consumer.kill_now();
    producer.wait_for_exit_code();
    consumer.wait_for_exit_code();
    while (r.take() != null_handle) {}
    for (u64 i = 1; i <= 256; ++i) ASSERT_TRUE(r.put(handle{i})) << "round " << round;
    ASSERT_FALSE(r.put(handle{1}));
    for (u64 i = 1; i <= 256; ++i) ASSERT_EQ(r.take(), handle{i});
  }
  h.recover();
  EXPECT_EQ(h.members().size(), 1u);
  expect_sound(h);
}

TEST_F(rings, give_out_again_what_the_dead_had_in_hand) {
  heap h = heap_with(0, {}, "a");
  ring r = must(ring::create(h, "r", 64));
  for (u64 i = 1; i <= 40; ++i) r.put(handle{i});
  child_process child([] {
    heap mine = must(heap::attach("a"));
    ring ours = must(ring::open(mine, "r"));
    handle got[10];
    if (ours.take_in_hand(got) != 10) return 1;
    ours.settle();  // 1 to 10 are done with
    if (ours.take_in_hand(got) != 10) return 1;
    ::kill(::getpid(), SIGKILL);  // 11 to 20 are not
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
  handle again[64];
  ASSERT_EQ(r.recover_in_hand(again), 10u);
  for (u64 i = 0; i < 10; ++i) EXPECT_EQ(again[i], handle{11 + i});
  EXPECT_EQ(r.recover_in_hand(again), 0u) << "only once";
  r.settle();
  EXPECT_EQ(r.take(), handle{21});
  handle all[64];
  EXPECT_EQ(r.take_in_hand(all), 19u);
  r.settle();
}

}  // namespace
}  // namespace annex
