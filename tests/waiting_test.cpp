// tests/waiting_test.cpp - rings and pools that are waited on: no wake-up is lost, no death leaves
// a waiter asleep.
#include <poll.h>
#include <sys/epoll.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include "another_member.hpp"
#include "heap/local_heap.hpp"
#include "inside.hpp"
#include "named/ring_table.hpp"
#include "platform/waiting.hpp"
#include "support.hpp"

namespace annex {
namespace {

using waiting = in_own_directory;
using namespace std::chrono_literals;

constexpr auto long_time = 60s;  // never waited for: a test that needs it is broken

ring_table& table_of_ring(const segment& s) {
  for (u32 i = 0; i < limits::zone_buckets; ++i)
    for (chunk_ref ref = s.zone_buckets()[i]; ref != 0; ref = s.chunk<zone_record>(ref)->next)
      if (s.chunk<zone_record>(ref)->type == zone_type::ring)
        return *s.chunk<ring_table>(s.chunk<zone_record>(ref)->table);
  std::abort();
}

TEST_F(waiting, ends_at_the_deadline_with_what_was_there) {
  heap h = heap_with(1 << 20, {}, "a");
  auto r = must(ring::create(h, "r", 2));
  EXPECT_EQ(refused(r.take(0ns)), errc::deadline_passed);
  EXPECT_EQ(refused(r.take(-1s)), errc::deadline_passed);
  EXPECT_EQ(refused(r.take(20ms)), errc::deadline_passed);
  EXPECT_EQ(refused(r.wait_for_handle(1ms)), errc::deadline_passed);
  must(r.wait_for_room(0ns));
  must(r.put(handle{1}, 0ns));
  must(r.put(handle{2}, 0ns));
  EXPECT_EQ(refused(r.put(handle{3}, 20ms)), errc::deadline_passed);
  EXPECT_EQ(refused(r.wait_for_room(1ms)), errc::deadline_passed);
  must(r.wait_for_handle(std::chrono::nanoseconds::max()));
  EXPECT_EQ(must(r.take(0ns)), handle{1});
  EXPECT_EQ(must(r.take(long_time)), handle{2});
  auto p = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 1}));
  void* const object = must(p.take(0ns));
  EXPECT_EQ(refused(p.take(20ms)), errc::deadline_passed);
  EXPECT_EQ(refused(p.wait_for_object(1ms)), errc::deadline_passed);
  p.give(object);
  must(p.wait_for_object(long_time));
  EXPECT_EQ(must(p.take(long_time)), object);
  p.give(object);
  EXPECT_EQ(refused(ring().take(1s)), errc::no_such_zone);
  EXPECT_EQ(refused(raw_pool().take(1s)), errc::no_such_zone);
  EXPECT_EQ(refused(ring().watch_handles()), errc::no_such_zone);
  EXPECT_EQ(refused(raw_pool().watch_objects()), errc::no_such_zone);
  expect_sound(h);
}

TEST_F(waiting, hands_everything_over_between_threads_that_wait_for_each_other) {
  heap h = heap_with(1 << 20, {}, "a");
  auto there = must(ring::create(h, "there", 4)), back = must(ring::create(h, "back", 2));
  constexpr u64 rounds = 3000;
  std::thread echo([&] {
    for (u64 i = 0; i < rounds; ++i)
      must(back.put(must(there.take(long_time)), long_time));
  });
  std::thread putter([&] {
    for (u64 i = 1; i <= rounds; ++i)
      must(there.put(handle{i}, long_time));
  });
  for (u64 i = 1; i <= rounds; ++i)
    EXPECT_EQ(must(back.take(long_time)), handle{i});
  echo.join();
  putter.join();
  expect_sound(h);
}

TEST_F(waiting, of_many_processes_for_a_ring_gives_each_item_to_one) {
  heap h = heap_with(1 << 20, {}, "a");
  auto r = must(ring::create(h, "r", 8));
  constexpr u64 items = 2000, takers = 4;
  auto* const sum = shared_words<std::atomic<u64>>();
  std::vector<std::unique_ptr<child_process>> all;
  for (u64 i = 0; i < takers; ++i)
    all.push_back(std::make_unique<child_process>([=] {
      heap mine = must(heap::attach("a"));
      auto own = must(ring::open(mine, "r"));
      for (;;) {
        const handle v = must(own.take(long_time));
        if (v == handle{items + 1}) return 0;
        *sum += static_cast<u64>(v);
      }
    }));
  for (u64 i = 1; i <= items; ++i)
    must(r.put(handle{i}, long_time));
  for (u64 i = 0; i < takers; ++i)
    must(r.put(handle{items + 1}, long_time));
  for (auto& one : all)
    EXPECT_EQ(one->wait_for_exit_code(), 0);
  EXPECT_EQ(sum->load(), items * (items + 1) / 2);
}

TEST_F(waiting, of_threads_and_processes_for_a_pool_passes_its_objects_around) {
  heap h = heap_with(1 << 20, {}, "a");
  auto p =
      must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 2, .cache_objects = 16}));
  std::vector<std::unique_ptr<child_process>> all;
  for (int i = 0; i < 3; ++i)
    all.push_back(std::make_unique<child_process>([] {
      heap mine = must(heap::attach("a"));
      auto own = must(raw_pool::open(mine, "p"));
      for (int round = 0; round < 100; ++round)
        own.give(must(own.take(long_time)));
      return 0;
    }));
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round < 100; ++round)
        p.give(must(p.take(long_time)));
    });
  for (std::thread& t : threads)
    t.join();
  for (auto& one : all)
    EXPECT_EQ(one->wait_for_exit_code(), 0);
  EXPECT_EQ(p.free_count(), 2u);
  expect_sound(h);
}

// The waiter is stopped at each point between its mark and its sleep, and what it waits for comes
// then.
TEST_F(waiting, that_is_stopped_before_it_sleeps_loses_no_wake_up) {
  heap h = heap_with(1 << 20, {}, "a");
  auto r = must(ring::create(h, "r", 8));
  opened_segment opened("a");
  shared_word<u32>& signal = table_of_ring(opened.view()).handle_signal;
  struct steps {
    std::atomic<int> at, go;
  };
  for (int stop_at = 1; stop_at <= 2; ++stop_at) {
    auto* const s = shared_words<steps>();
    child_process waiter([=] {
      heap mine = must(heap::attach("a"));
      auto own = must(ring::open(mine, "r"));
      opened_segment here("a");
      shared_word<u32>& word = table_of_ring(here.view()).handle_signal;
      auto stop = [=](int place) {
        s->at = place;
        if (place == stop_at) ::raise(SIGSTOP);
      };
      const u32 seen = begin_waiting(word);  // W1
      stop(1);
      const bool is_there = own.take() != null_handle;  // W3
      stop(2);
      if (stop_at == 1) return is_there ? 0 : 1;
      if (is_there) return 2;
      os::wait_on(&word.value, seen, 50'000'000'000);  // W4: not entered, the word has changed
      return own.take() != null_handle ? 0 : 3;
    });
    int status = 0;
    ASSERT_EQ(::waitpid(waiter.id(), &status, WUNTRACED), waiter.id());
    ASSERT_TRUE(WIFSTOPPED(status));
    EXPECT_EQ(s->at.load(), stop_at);
    EXPECT_NE(signal.load(std::memory_order_relaxed) & somebody_waits, 0u);
    EXPECT_TRUE(r.put(handle{5}));
    EXPECT_EQ(signal.load(std::memory_order_relaxed) & somebody_waits, 0u) << "told";
    waiter.kill_now(SIGCONT);
    EXPECT_EQ(waiter.wait_for_exit_code(), 0) << stop_at;
  }
}

TEST_F(waiting, by_a_process_stopped_at_any_moment_goes_on_when_it_is_continued) {
  heap h = heap_with(1 << 20, {}, "a");
  auto r = must(ring::create(h, "r", 8)), back = must(ring::create(h, "back", 8));
  child_process waiter([] {
    heap mine = must(heap::attach("a"));
    auto own = must(ring::open(mine, "r")), answers = must(ring::open(mine, "back"));
    for (handle v{}; v != handle{1000};)
      must(answers.put(v = must(own.take(long_time)), long_time));
    return 0;
  });
  std::mt19937 random(20260103);
  for (u64 i = 1; i <= 150; ++i) {
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
    waiter.kill_now(SIGSTOP);
    must(r.put(handle{i == 150 ? 1000 : i}, long_time));
    waiter.kill_now(SIGCONT);
    EXPECT_EQ(must(back.take(long_time)), handle{i == 150 ? 1000 : i});
  }
  EXPECT_EQ(waiter.wait_for_exit_code(), 0);
}

TEST_F(waiting, survives_waiters_that_are_killed) {
  heap h = heap_with(1 << 20, {}, "a");
  auto r = must(ring::create(h, "r", 8));
  auto p = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 4}));
  void* taken[4];
  for (void*& object : taken)
    object = must(p.take(0ns));
  std::mt19937 random(20260104);
  for (int round = 0; round < 30; ++round) {
    child_process waiter([round] {
      heap mine = must(heap::attach("a"));
      if (round % 2 == 0)
        (void)must(ring::open(mine, "r")).take(long_time);
      else
        (void)must(raw_pool::open(mine, "p")).take(long_time);
      return 0;
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 6000));
    waiter.kill_now();
    waiter.wait_for_exit_code();
  }
  for (void* object : taken)
    p.give(object);
  // Else the wait ends when it looks again, if the other thread is late: everybody else is dead.
  const heap another = must(attach_as_another("a"));
  std::thread later([&] {
    std::this_thread::sleep_for(5ms);
    r.put(handle{7});
  });
  EXPECT_EQ(must(r.take(long_time)), handle{7});
  later.join();
  expect_sound(h);
}

TEST_F(waiting, is_told_when_every_other_process_is_dead) {
  heap h = heap_with(1 << 20, {}, "a");
  auto r = must(ring::create(h, "r", 2));
  auto p = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 1}));
  auto* const ready = shared_words<std::atomic<int>>();
  child_process putter([=] {
    heap mine = must(heap::attach("a"));
    auto own = must(ring::open(mine, "r"));
    auto pool = must(raw_pool::open(mine, "p"));
    (void)must(pool.take(0ns));
    must(own.put(handle{1}, 0ns));
    *ready = 1;
    ::pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return ready->load() != 0; }));
  EXPECT_EQ(must(r.take(long_time)), handle{1});
  std::thread killer([&] {
    std::this_thread::sleep_for(20ms);
    putter.kill_now();
  });
  EXPECT_EQ(refused(r.take(long_time)), errc::others_gone);
  EXPECT_EQ(refused(r.take(0ns)), errc::others_gone) << "at the deadline too";
  EXPECT_EQ(refused(p.take(long_time)), errc::others_gone);
  killer.join();
  putter.wait_for_exit_code();
  r.put(handle{2});
  EXPECT_EQ(must(r.take(long_time)), handle{2}) << "what is there is given";
  for (const member_summary& m : h.members())
    if (!m.alive) must(h.reap(m.id));
  EXPECT_NE(must(p.take(long_time)), nullptr) << "the dead one's object, reaped";
}

TEST_F(waiting, is_not_told_so_while_another_one_lives_or_none_ever_was) {
  heap h = heap_with(1 << 20, {}, "a");
  auto r = must(ring::create(h, "r", 2));
  EXPECT_EQ(refused(r.take(300ms)), errc::deadline_passed)
      << "nobody else ever had it: its own threads may put";
  auto* const ready = shared_words<std::atomic<int>>();
  child_process dies([=] {
    heap mine = must(heap::attach("a"));
    (void)must(ring::open(mine, "r"));
    ++*ready;
    ::pause();
    return 0;
  });
  child_process lives([=] {
    heap mine = must(heap::attach("a"));
    (void)must(ring::open(mine, "r"));
    ++*ready;
    ::pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return ready->load() == 2; }));
  dies.kill_now();
  dies.wait_for_exit_code();
  EXPECT_EQ(refused(r.take(300ms)), errc::deadline_passed);
  lives.kill_now();
  lives.wait_for_exit_code();
  EXPECT_EQ(refused(r.take(long_time)), errc::others_gone);
  auto anew = must(ring::open(h, "r"));
  EXPECT_EQ(refused(anew.take(150ms)), errc::deadline_passed)
      << "who comes after their death waits for others to come";
}

TEST_F(waiting, goes_on_although_who_puts_is_killed_before_it_wakes_anybody) {
  heap h = heap_with(1 << 20, {}, "a");
  auto r = must(ring::create(h, "r", 8));
  std::mt19937 random(20260105);
  child_process witness([] {  // so that others are not gone
    heap mine = must(heap::attach("a"));
    ::pause();
    return 0;
  });
  for (int round = 0; round < 30; ++round) {
    auto* const begun = shared_words<std::atomic<int>>();
    child_process putter([=] {
      heap mine = must(heap::attach("a"));
      auto own = must(ring::open(mine, "r"));
      *begun = 1;
      for (u64 i = 1;;)
        if (own.put(handle{i})) {
          ++i;
          ::usleep(50);
        }
      return 0;
    });
    ASSERT_TRUE(wait_until([&] { return begun->load() != 0; }));
    std::atomic<bool> is_dead{false};
    std::thread killer([&, pause = random() % 3000] {
      std::this_thread::sleep_for(std::chrono::microseconds(pause));
      putter.kill_now();
      putter.wait_for_exit_code();
      is_dead = true;
    });
    u64 last = 0;
    for (;;) {
      const bool was_dead = is_dead.load();
      const auto v = r.take(50ms);
      if (!v && !was_dead) continue;
      if (!v) {
        EXPECT_EQ(v.error().code, errc::deadline_passed);
        break;
      }
      EXPECT_EQ(static_cast<u64>(*v), last + 1) << "none is skipped";
      last = static_cast<u64>(*v);
    }
    killer.join();
    EXPECT_EQ(r.take(), null_handle) << "what was put before the death was found";
  }
}

TEST_F(waiting, ends_when_the_ring_or_pool_is_released) {
  heap h = heap_with(1 << 20, {}, "a");
  for (int round = 0; round < 10; ++round) {
    auto r = must(ring::create(h, "r", 2));
    auto p = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 1}));
    void* const object = p.take();
    std::thread ring_waiter([&] { EXPECT_EQ(refused(r.take(long_time)), errc::no_such_zone); });
    std::thread pool_waiter([&] {
      // It may have seen the object before the pool was gone.
      const auto ended = p.wait_for_object(long_time);
      EXPECT_TRUE(ended || ended.error().code == errc::no_such_zone);
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(round));
    must(ring::release(h, "r"));
    auto q = must(raw_pool::open(h, "p"));
    std::thread releaser([&] {
      q.give(object);
      while (!raw_pool::release(h, "p"))
        std::this_thread::yield();
    });
    releaser.join();
    ring_waiter.join();
    pool_waiter.join();
  }
  expect_alone_and_empty(h);
}

TEST_F(waiting, is_not_misled_by_a_signal_that_somebody_else_overwrites) {
  heap h = heap_with(1 << 20, {}, "a");
  auto r = must(ring::create(h, "r", 2));
  opened_segment opened("a");
  ring_table& table = table_of_ring(opened.view());
  std::atomic<bool> done{false};
  std::thread hostile([&] {
    std::mt19937 random(20260106);
    while (!done.load()) {
      table.handle_signal.store(static_cast<u32>(random()), std::memory_order_relaxed);
      table.opened.changes.store(static_cast<u32>(random()), std::memory_order_relaxed);
      std::this_thread::sleep_for(100us);
    }
  });
  for (int round = 0; round < 3; ++round) {
    const auto nothing = r.take(30ms);
    EXPECT_TRUE(!nothing && (nothing.error().code == errc::deadline_passed ||
                             nothing.error().code == errc::others_gone));
    r.put(handle{9});
    EXPECT_EQ(must(r.take(long_time)), handle{9});
  }
  done = true;
  hostile.join();
}

bool is_readable(const ready_event& e, int wait_ms) {
  pollfd p{e.fd(), POLLIN, 0};
  return ::poll(&p, 1, wait_ms) == 1;
}

TEST_F(waiting, by_event_loop_is_told_once_until_it_rearms) {
  heap h = heap_with(1 << 20, {}, "a");
  auto r = must(ring::create(h, "r", 2));
  ready_event handles = must(r.watch_handles()), room = must(r.watch_room());
  EXPECT_FALSE(is_readable(handles, 20));
  EXPECT_TRUE(is_readable(room, 10000));
  r.put(handle{1});
  r.put(handle{2});
  EXPECT_TRUE(is_readable(handles, 10000));
  room.rearm();
  EXPECT_FALSE(is_readable(room, 20));
  handles.rearm();
  EXPECT_TRUE(is_readable(handles, 10000)) << "something is there still";
  EXPECT_EQ(r.take(), handle{1});
  EXPECT_TRUE(is_readable(room, 10000));
  EXPECT_EQ(r.take(), handle{2});
  handles.rearm();
  EXPECT_FALSE(is_readable(handles, 20));
  auto p = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 1}));
  void* const object = p.take();
  ready_event objects = must(p.watch_objects());
  EXPECT_FALSE(is_readable(objects, 20));
  p.give(object);
  EXPECT_TRUE(is_readable(objects, 10000));
  ready_event moved = std::move(objects);
  EXPECT_EQ(objects.fd(), -1);
  EXPECT_TRUE(is_readable(moved, 0));
}

TEST_F(waiting, by_event_loop_takes_everything_that_other_processes_put) {
  heap h = heap_with(1 << 20, {}, "a");
  auto r = must(ring::create(h, "r", 8));
  constexpr u64 items = 500;
  child_process putter([] {
    heap mine = must(heap::attach("a"));
    auto own = must(ring::open(mine, "r"));
    for (u64 i = 1; i <= items; ++i)
      must(own.put(handle{i}, long_time));
    ::pause();
    return 0;
  });
  ready_event event = must(r.watch_handles());
  const int loop = ::epoll_create1(EPOLL_CLOEXEC);
  epoll_event interest{.events = EPOLLIN, .data = {.fd = event.fd()}};
  ASSERT_EQ(::epoll_ctl(loop, EPOLL_CTL_ADD, event.fd(), &interest), 0);
  for (u64 last = 0; last < items;) {
    epoll_event told{};
    ASSERT_EQ(::epoll_wait(loop, &told, 1, 30000), 1);
    for (handle v = r.take(); v != null_handle; v = r.take())
      EXPECT_EQ(static_cast<u64>(v), ++last);
    event.rearm();
  }
  putter.kill_now();
  putter.wait_for_exit_code();
  epoll_event told{};
  ASSERT_EQ(::epoll_wait(loop, &told, 1, 30000), 1) << "nobody is left: told too";
  EXPECT_EQ(refused(r.take(0ns)), errc::others_gone);
  ::close(loop);
}

TEST_F(waiting, by_event_is_dead_in_a_forked_child) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "threads in a child of threads";
#endif
  heap h = heap_with(1 << 20, {}, "a");
  auto r = must(ring::create(h, "r", 2));
  auto event = std::make_unique<ready_event>(must(r.watch_handles()));
  child_process child([&] {
    event->rearm();
    event.reset();
    auto own = must(r.watch_handles());
    r.put(handle{3});
    return is_readable(own, 10000) ? 0 : 1;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  EXPECT_TRUE(is_readable(*event, 10000));
}

}  // namespace
}  // namespace annex
