// tests/ring_test.cpp - the queue between processes: order, bounds, many at once, the dead.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <thread>

#include "another_member.hpp"
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
    for (u64 i = 1; i <= 8; ++i)
      EXPECT_TRUE(r.put(handle{round * 8 + i}));
    EXPECT_FALSE(r.put(handle{1}));
    EXPECT_EQ(r.count(), 8u);
    for (u64 i = 1; i <= 8; ++i)
      EXPECT_EQ(r.take(), handle{round * 8 + i});
    EXPECT_EQ(r.take(), null_handle);
  }
  handle in[12], out[12];
  for (u64 i = 0; i < 12; ++i)
    in[i] = handle{i + 1};
  EXPECT_EQ(r.put(in), 8u);
  EXPECT_EQ(r.take(out), 8u);
  EXPECT_EQ(out[7], handle{8});
  expect_sound(h);
  must(ring::release(h, "r"));
}

TEST_F(rings, refuse_bad_capacities_and_other_kinds) {
  heap h = heap_with(1 << 20);
  for (const u64 capacity : {0ul, 1ul, 3ul, 1ul << 25})
    EXPECT_EQ(refused(ring::create(h, "r", capacity)), errc::invalid_argument);
  must(h.reserve_zone("z", {.size_bytes = 100}));
  EXPECT_EQ(refused(ring::open(h, "z")), errc::wrong_kind);
  EXPECT_EQ(refused(ring::open(h, "nobody")), errc::no_such_zone);
  EXPECT_EQ(refused(ring::open(h, "")), errc::invalid_name);
  EXPECT_EQ(refused(ring::release(h, "z")), errc::wrong_kind);
  EXPECT_EQ(refused(ring::release(h, "nobody")), errc::no_such_zone);
  must(ring::create(h, "r", 8));
  EXPECT_EQ(refused(ring::create(h, "r", 8)), errc::zone_exists);
}

TEST_F(rings, say_no_once_they_are_released_and_reach_no_later_one) {
  heap h = heap_with(0, {}, "a");
  ring r = must(ring::create(h, "r", 8));
  EXPECT_TRUE(r.is_open());
  EXPECT_FALSE(ring().is_open());
  EXPECT_TRUE(r.put(handle{1}));
  EXPECT_TRUE(r.put(handle{2}));
  handle values[4];
  EXPECT_EQ(r.take_in_hand({values, 1}), 1u);
  child_process other([] {
    heap mine = must(attach_as_another("a"));
    must(ring::release(mine, "r"));
    must(ring::create(mine, "later", 8));  // where r lay
    must(ring::create(mine, "wider", 64));
    return 0;
  });
  EXPECT_EQ(other.wait_for_exit_code(), 0);
  ring later = must(ring::open(h, "later"));
  auto expect_no = [&] {
    EXPECT_FALSE(r.is_open());
    EXPECT_FALSE(r.put(handle{3}));
    EXPECT_EQ(r.take(), null_handle);
    EXPECT_EQ(r.take_in_hand(values), 0u);
    EXPECT_EQ(r.recover_in_hand(values), 0u);
    r.settle();
    EXPECT_EQ(r.count(), 0u);
    EXPECT_EQ(r.capacity(), 8u);
  };
  expect_no();
  EXPECT_EQ(later.count(), 0u);
  for (u64 i = 1; i <= 8; ++i)
    EXPECT_TRUE(later.put(handle{i}));
  EXPECT_FALSE(later.put(handle{9}));
  EXPECT_EQ(later.take_in_hand({values, 2}), 2u);
  expect_no();
  EXPECT_EQ(later.count(), 6u);
  EXPECT_EQ(must(ring::open(h, "wider")).count(), 0u);
  expect_sound(h);
  const u64 metadata = h.stats().metadata_bytes;
  for (int i = 0; i < 1000; ++i) {
    must(ring::release(h, "later"));
    later = must(ring::create(h, "later", 8));
    EXPECT_TRUE(later.put(handle{7}));
  }
  EXPECT_EQ(h.stats().metadata_bytes, metadata) << "the same table each time";
  expect_no();
  expect_sound(h);
}

// Threads that put and take know nothing of the others, who release the ring under them and make
// another in its place.
TEST_F(rings, released_under_busy_threads_never_show_a_handle_of_another) {
  heap h = heap_with(0);
  std::atomic<int> round{0};
  std::atomic<bool> ends{false};
  ring now = must(ring::create(h, "r", 4));
  std::mutex guard;
  auto current = [&] {
    std::lock_guard lock(guard);
    return std::pair(now, round.load());
  };
  std::vector<std::thread> threads;
  std::atomic<u64> strangers{0}, moved{0};
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      while (!ends) {
        auto [mine, number] = current();
        for (int i = 0; i < 200; ++i) {
          if (t == 2 && i % 16 == 0) {
            handle values[2];
            const std::size_t n = mine.take_in_hand(values);
            for (std::size_t v = 0; v < n; ++v)
              strangers += static_cast<u64>(values[v]) != static_cast<u64>(number + 1);
            mine.settle();
          } else if (i % 2 == 0) {
            mine.put(handle{static_cast<u64>(number + 1)});
          } else if (const handle value = mine.take(); value != null_handle) {
            ++moved;
            strangers += static_cast<u64>(value) != static_cast<u64>(number + 1);
          }
        }
      }
    });
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(1000);
  while (std::chrono::steady_clock::now() < until) {
    std::lock_guard lock(guard);
    must(ring::release(h, "r"));
    now = must(ring::create(h, "r", 4));
    ++round;
  }
  ends = true;
  for (std::thread& t : threads)
    t.join();
  EXPECT_EQ(strangers, 0u);
  EXPECT_GT(moved, 0u);
  EXPECT_GT(round, 10);
  expect_sound(h);
}

TEST_F(rings, lose_and_invent_nothing_among_threads) {
  heap h = heap_with(0);
  ring r = must(ring::create(h, "r", 64));
  constexpr u64 each = 100000;
  std::vector<std::thread> threads;
  std::unique_ptr<std::atomic<unsigned char>[]> seen(
      new std::atomic<unsigned char>[2 * each + 1]());
  std::atomic<u64> taken{0};
  for (u64 t = 0; t < 2; ++t)
    threads.emplace_back([&, t] {
      for (u64 i = 1; i <= each; ++i)
        while (!r.put(handle{t * each + i}))
          std::this_thread::yield();
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
  for (std::thread& t : threads)
    t.join();
  EXPECT_TRUE(
      std::all_of(seen.get() + 1, seen.get() + 2 * each + 1, [](const auto& n) { return n == 1; }));
}

TEST_F(rings, go_on_when_producers_and_consumers_are_killed) {
  heap h = heap_with(0, {}, "a");
  ring r = must(ring::create(h, "r", 256));
  for (int round = 0; round < 30; ++round) {
    auto work = [](bool put) {
      return [put] {
        heap mine = must(attach_as_another("a"));
        ring ours = must(ring::open(mine, "r"));
        for (u64 i = 1;; ++i)
          put ? static_cast<void>(ours.put(handle{i})) : static_cast<void>(ours.take());
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
    for (u64 i = 1; i <= 256; ++i)
      ASSERT_TRUE(r.put(handle{i})) << "round " << round;
    ASSERT_FALSE(r.put(handle{1}));
    for (u64 i = 1; i <= 256; ++i)
      ASSERT_EQ(r.take(), handle{i});
  }
  h.recover();
  EXPECT_EQ(h.members().size(), 1u);
  expect_sound(h);
}

TEST_F(rings, give_out_again_what_the_dead_had_in_hand) {
  heap h = heap_with(0, {}, "a");
  ring r = must(ring::create(h, "r", 64));
  for (u64 i = 1; i <= 40; ++i)
    r.put(handle{i});
  child_process child([] {
    heap mine = must(attach_as_another("a"));
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
  for (u64 i = 0; i < 10; ++i)
    EXPECT_EQ(again[i], handle{11 + i});
  EXPECT_EQ(r.recover_in_hand(again), 0u) << "only once";
  r.settle();
  EXPECT_EQ(r.take(), handle{21});
  handle all[64];
  EXPECT_EQ(r.take_in_hand(all), 19u);
  r.settle();
}

}  // namespace
}  // namespace annex
