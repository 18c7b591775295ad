// tests/pool_test.cpp - objects of one size: caches, bulk, processes, the dead.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <set>
#include <thread>

#include "another_member.hpp"
#include "support.hpp"

namespace annex {
namespace {

using pools = in_own_directory;

TEST_F(pools, give_every_object_once_and_take_all_back) {
  heap h = heap_with(4 << 20);
  raw_pool p = must(raw_pool::create(h, "p", {.object_bytes = 200, .object_count = 1000}));
  EXPECT_EQ(p.object_count(), 1000u);
  EXPECT_EQ(p.object_bytes(), 256u);
  EXPECT_EQ(p.free_count(), 1000u);
  std::set<void*> objects;
  while (void* object = p.take()) {
    EXPECT_EQ(reinterpret_cast<u64>(object) % 64, 0u);
    EXPECT_TRUE(objects.insert(object).second);
  }
  EXPECT_EQ(objects.size(), 1000u);
  EXPECT_EQ(p.free_count(), 0u);
  EXPECT_EQ(refused(raw_pool::release(h, "p")), errc::blocks_live);
  for (void* object : objects)
    p.give(object);
  EXPECT_EQ(p.free_count(), 1000u);
  expect_sound(h);
  must(raw_pool::release(h, "p"));
  EXPECT_EQ(h.stats().free_bytes, 4u << 20);
  expect_sound(h);
}

TEST_F(pools, refuse_bad_options_and_other_kinds) {
  heap h = heap_with(1 << 20);
  for (const pool_options& o :
       {pool_options{.object_bytes = 0, .object_count = 1},
        pool_options{.object_bytes = 1, .object_count = 0},
        pool_options{.object_bytes = 1, .object_count = 1, .align_bytes = 3},
        pool_options{.object_bytes = 1, .object_count = 1, .cache_objects = 513},
        pool_options{.object_bytes = 1, .object_count = 1u << 31},
        pool_options{.object_bytes = ~std::size_t{0} / 2, .object_count = 1u << 30}})
    EXPECT_EQ(refused(raw_pool::create(h, "p", o)), errc::invalid_argument);
  must(h.reserve_zone("z", {.size_bytes = 100}));
  EXPECT_EQ(refused(raw_pool::open(h, "z")), errc::wrong_kind);
  EXPECT_EQ(refused(raw_pool::release(h, "z")), errc::wrong_kind);
  EXPECT_EQ(refused(raw_pool::open(h, "nobody")), errc::no_such_zone);
  EXPECT_EQ(refused(raw_pool::release(h, "nobody")), errc::no_such_zone);
  must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 10}));
  EXPECT_EQ(refused(h.find_zone("p")), errc::wrong_kind);
  EXPECT_EQ(refused(h.release_zone("p")), errc::wrong_kind);
  EXPECT_EQ(refused(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 10})),
            errc::zone_exists);
  EXPECT_EQ(refused(raw_pool::create(h, "q", {.object_bytes = 64, .object_count = 100000})),
            errc::out_of_memory);
}

TEST_F(pools, work_in_bulk_and_without_caches) {
  heap h = heap_with(4 << 20);
  for (const unsigned cache : {0u, 1u, 32u, 512u}) {
    raw_pool p = must(raw_pool::create(
        h, "p", {.object_bytes = 64, .object_count = 5000, .cache_objects = cache}));
    std::vector<void*> objects(6000);
    EXPECT_EQ(p.take_bulk(objects), 5000u);
    EXPECT_EQ(p.take_bulk(objects), 0u);
    objects.resize(5000);
    p.give_bulk(objects);
    EXPECT_EQ(p.free_count(), 5000u);
    expect_sound(h);
    must(raw_pool::release(h, "p"));
  }
}

TEST_F(pools, know_when_an_object_comes_back_twice_or_is_none) {
  heap h = heap_with(1 << 20, {.on_misuse = misuse_policy::refuse});
  raw_pool p = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 100}));
  void* object = p.take();
  p.give(object);
  p.give(object);
  EXPECT_EQ(h.stats().misuse_count, 1u);
  void* other = p.take();
  p.give(static_cast<char*>(other) + 8);
  p.give(&other);
  EXPECT_EQ(h.stats().misuse_count, 3u);
  void* const same[2] = {other, other};
  p.give_bulk(same);
  must(raw_pool::release(h, "p"));  // its caches come back: at the latest now
  EXPECT_EQ(h.stats().misuse_count, 4u);
  expect_sound(h);
}

TEST_F(pools, know_an_object_that_two_threads_or_two_processes_give) {
  heap h = heap_with(1 << 20, {.on_misuse = misuse_policy::refuse}, "a");
  raw_pool p = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 100}));
  void* const object = p.take();
  p.give(object);
  std::thread([&] { p.give(object); }).join();  // its end puts it into the pool; ours is the second
  expect_sound(h);
  EXPECT_EQ(p.free_count(), 100u);
  void* const lent = p.take();
  EXPECT_EQ(lent, object) << "it is in the cache still, and in the pool";
  EXPECT_EQ(h.handle_of(lent), null_handle)
      << "as in the pool it has no handle: the child finds it beside a block";
  auto* const block = static_cast<char*>(h.allocate(64));
  const handle beside = h.handle_of(block);
  const auto distance = static_cast<char*>(lent) - block;
  std::vector<void*> all(200);
  child_process child([beside, distance] {
    heap mine = must(attach_as_another("a"));
    raw_pool theirs = must(raw_pool::open(mine, "p"));
    theirs.give(static_cast<char*>(must(mine.resolve(beside))) + distance);
    return mine.stats().misuse_count == 1 ? 0 : 1;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0) << "nobody holds it: said at once";
  EXPECT_EQ(p.take_bulk(all), 100u) << "every object is there once, the one given twice too";
  p.give_bulk({all.data(), 100});
  p.give(lent);
  must(raw_pool::release(h, "p"));
  EXPECT_EQ(h.stats().misuse_count, 2u);
  expect_sound(h);
}

TEST_F(pools, drop_a_second_give_that_another_member_has_taken_meanwhile) {
  heap h = heap_with(1 << 20, {.on_misuse = misuse_policy::refuse}, "a");
  raw_pool p =
      must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 8, .cache_objects = 4}));
  heap other = must(attach_as_another("a"));
  raw_pool theirs = must(raw_pool::open(other, "p"));
  void* const object = p.take();
  p.give(object);
  std::thread([&] { p.give(object); }).join();
  std::vector<void*> taken(8);
  EXPECT_EQ(theirs.take_bulk(taken), 8u);
  h.trim();
  EXPECT_EQ(p.take(), nullptr) << "all of them are the other's";
  EXPECT_EQ(h.stats().misuse_count, 1u);
  expect_sound(h);
  theirs.give_bulk(taken);
  must(raw_pool::release(h, "p"));
  EXPECT_EQ(h.stats().misuse_count, 1u);
}

TEST_F(pools, say_no_once_they_are_released_and_reach_no_later_one) {
  heap h = heap_with(1 << 20, {.on_misuse = misuse_policy::refuse}, "a");
  for (const bool cached : {false, true}) {
    raw_pool p = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 100}));
    EXPECT_TRUE(p.is_open());
    EXPECT_FALSE(raw_pool().is_open());
    EXPECT_EQ(raw_pool().take(), nullptr);
    void* const object = p.take();
    p.give(object);
    if (!cached) h.trim();
    child_process other([] {
      heap mine = must(attach_as_another("a"));
      must(raw_pool::release(mine, "p"));
      must(raw_pool::create(mine, "later", {.object_bytes = 64, .object_count = 100}));
      for (int i = 0; i < 60; ++i)
        must(mine.reserve_zone("z" + std::to_string(i), {.size_bytes = 64}));
      return 0;
    });
    EXPECT_EQ(other.wait_for_exit_code(), 0);
    raw_pool later = must(raw_pool::open(h, "later"));
    const u64 before = h.stats().misuse_count;
    void* objects[4] = {object, object, object, object};
    EXPECT_EQ(p.take(), nullptr);
    EXPECT_EQ(p.take_bulk(objects), 0u);
    EXPECT_FALSE(p.is_open());
    EXPECT_EQ(p.free_count(), 0u);
    p.give(object);
    EXPECT_EQ(h.stats().misuse_count, before + 1);
    void* const theirs = later.take();
    EXPECT_NE(theirs, nullptr);
    EXPECT_EQ(p.take(), nullptr) << "the other pool is the one this thread remembers";
    p.give(object);
    p.give_bulk(objects);
    EXPECT_EQ(h.stats().misuse_count, before + 6);
    later.give(theirs);
    EXPECT_EQ(later.free_count(), 100u);
    expect_sound(h);
    must(raw_pool::release(h, "later"));
    for (int i = 0; i < 60; ++i)
      must(h.release_zone("z" + std::to_string(i)));
  }
  EXPECT_EQ(h.stats().zone_count, 0u);
}

TEST_F(pools, released_under_busy_threads_never_hand_out_memory_of_others) {
  heap h = heap_with(4 << 20, {.on_misuse = misuse_policy::refuse});
  std::atomic<bool> ends{false};
  std::atomic<u64> strangers{0}, moved{0};
  std::mutex guard;
  auto make = [&] {
    return must(
        raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 64, .cache_objects = 8}));
  };
  raw_pool now = make();
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      while (!ends) {
        raw_pool mine;
        {
          std::lock_guard lock(guard);
          mine = now;
        }
        for (int i = 0; i < 300; ++i) {
          auto* object = static_cast<std::atomic<u64>*>(mine.take());
          if (object == nullptr) continue;
          strangers += object->fetch_add(1) != 0;  // nobody else has it, as long as we do
          ++moved;
          object->fetch_sub(1);
          mine.give(object);
        }
      }
    });
  int released = 0;
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(1000);
  while (std::chrono::steady_clock::now() < until) {
    std::lock_guard lock(guard);
    if (auto done = raw_pool::release(h, "p"); !done) {
      EXPECT_TRUE(done.error().code == errc::blocks_live || done.error().code == errc::heap_in_use)
          << done.error().message();
      continue;
    }
    ++released;
    std::memset(must(h.reserve_zone("z", {.size_bytes = 4096})).address, 0, 4096);  // in its place
    must(h.release_zone("z"));
    now = make();
  }
  ends = true;
  for (std::thread& t : threads)
    t.join();
  EXPECT_EQ(strangers, 0u);
  EXPECT_GT(moved, 0u);
  EXPECT_GT(released, 0);
  EXPECT_EQ(h.stats().misuse_count, 0u) << "no object was out when it was released";
  expect_sound(h);
}

TEST_F(pools, take_objects_back_from_a_thread_that_can_have_no_cache) {
  heap h = heap_with(1 << 20, {.thread_limit = 2});
  raw_pool p = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 100}));
  void* const object = p.take();
  std::thread([&] {
    EXPECT_EQ(p.take(), nullptr) << "both slots are taken";
    p.give(object);
  }).join();
  EXPECT_EQ(p.free_count(), 100u);
  expect_sound(h);
}

TEST_F(pools, of_a_checked_heap_find_every_second_give_at_once) {
  heap h = heap_with(1 << 20, {.on_misuse = misuse_policy::refuse, .checked = true});
  raw_pool p = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 100}));
  std::vector<void*> objects(10);
  ASSERT_EQ(p.take_bulk(objects), 10u);
  p.give_bulk(objects);
  EXPECT_EQ(h.stats().misuse_count, 0u);
  for (void* object : objects)
    p.give(object);
  EXPECT_EQ(h.stats().misuse_count, 10u);
  ASSERT_EQ(p.take_bulk(objects), 10u);
  void* const mixed[3] = {objects[0], objects[1], objects[0]};
  p.give_bulk(mixed);
  EXPECT_EQ(h.stats().misuse_count, 11u);
  expect_sound(h);
}

TEST_F(pools, know_their_objects_whatever_the_size) {
  heap h = heap_with(8 << 20, {.on_misuse = misuse_policy::refuse});
  for (const std::size_t bytes : {std::size_t{2}, std::size_t{48}, std::size_t{100},
                                  std::size_t{4096}, std::size_t{100'000}}) {
    raw_pool p = must(
        raw_pool::create(h, "p", {.object_bytes = bytes, .object_count = 33, .align_bytes = 2}));
    std::vector<void*> objects(33);
    ASSERT_EQ(p.take_bulk(objects), 33u) << bytes;
    EXPECT_EQ(p.take(), nullptr);
    const u64 before = h.stats().misuse_count;
    for (void* object : objects)
      p.give(static_cast<char*>(object) + bytes / 2);
    std::sort(objects.begin(), objects.end());
    p.give(static_cast<char*>(objects.front()) - bytes);
    p.give(static_cast<char*>(objects.back()) + bytes);
    EXPECT_EQ(h.stats().misuse_count, before + 35) << bytes;
    p.give_bulk(objects);
    EXPECT_EQ(p.free_count(), 33u);
    must(raw_pool::release(h, "p"));
    EXPECT_EQ(h.stats().misuse_count, before + 35) << bytes;
  }
  expect_sound(h);
}

TEST_F(pools, serve_threads_that_give_what_others_took) {
  heap h = heap_with(1 << 20);
  pool<std::pair<long, long>> p = must(pool<std::pair<long, long>>::create(h, "pairs", 2000));
  std::vector<std::thread> threads;
  std::atomic<std::pair<long, long>*> slots[256] = {};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50000; ++i) {
        auto* made = p.take(long{t}, long{i});
        if (made == nullptr) continue;
        if (auto* old = slots[(i * 7 + t) % 256].exchange(made)) p.give(old);
      }
    });
  for (std::thread& t : threads)
    t.join();
  for (auto& slot : slots)
    if (auto* left = slot.exchange(nullptr)) p.give(left);
  EXPECT_EQ(p.raw().free_count(), 2000u);
  expect_sound(h);
}

TEST_F(pools, get_back_what_a_killed_process_kept) {
  heap h = heap_with(4 << 20, {}, "a");
  raw_pool p = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 1000}));
  child_process child([] {
    heap mine = must(attach_as_another("a"));
    raw_pool pool = must(raw_pool::open(mine, "p"));
    std::vector<void*> objects(300);
    if (pool.take_bulk(objects) != 300) return 1;
    pool.give_bulk({objects.data(), 200});  // 200 in its cache, 100 in its hands
    ::kill(::getpid(), SIGKILL);
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
  std::vector<void*> objects(1000);
  EXPECT_EQ(p.take_bulk(objects), 900u) << "its cache comes back by itself";
  objects.resize(900);
  p.give_bulk(objects);
  member_id dead{};
  for (const member_summary& m : h.members())
    if (!m.alive) {
      dead = m.id;
      EXPECT_EQ(m.held_blocks, 100u);
    }
  EXPECT_EQ(must(h.reap(dead)), 100u);
  EXPECT_EQ(p.free_count(), 1000u);
  EXPECT_EQ(h.members().size(), 1u);
  expect_sound(h);
}

}  // namespace
}  // namespace annex
