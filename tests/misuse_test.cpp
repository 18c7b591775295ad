// tests/misuse_test.cpp - mistakes of the program: stopped with a report, or counted; never a
// damaged heap.
#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>

#include "another_member.hpp"
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
  for (int i = 0; i < 5000; ++i)
    blocks.push_back(static_cast<char*>(h.allocate(bytes)));
  std::sort(blocks.begin(), blocks.end());
  u64 count = 0;
  for (std::size_t i = 0; i + 1 < blocks.size() && count < 10; ++i) {
    if (blocks[i + 1] - blocks[i] == bytes) continue;
    heap::free(blocks[i] + bytes);
    EXPECT_EQ(h.stats().misuse_count, ++count) << "a whole step behind the last block";
  }
  EXPECT_GT(count, 0u);
  for (char* block : blocks)
    heap::free(block);
  EXPECT_EQ(h.stats().misuse_count, count);
  expect_sound(h);
}

// The first of two blocks is freed again while the cache keeps it: nobody looks before it leaves.
void free_again(heap& h) {
  void* a = h.allocate(100);
  void* b = h.allocate(100);
  heap::free(a);
  heap::free(b);
  heap::free(a);
}

TEST_F(misuse, a_double_free_is_found_wherever_the_block_leaves_its_cache) {
  struct leaving {
    const char* name;
    std::function<void(heap&)> run;
  };
  const leaving ways[] = {
      {"trim", [](heap& h) { free_again(h), h.trim(); }},
      {"the end of a thread", [](heap& h) { std::thread([&] { free_again(h); }).join(); }},
      {"overflow",
       [](heap& h) {
         free_again(h);
         std::vector<void*> blocks(1000);
         for (void*& block : blocks)
           block = h.allocate(100);
         heap::free_bulk(blocks);
       }},
      {"recall, when memory is short",
       [](heap& h) {
         free_again(h);
         std::vector<void*> blocks;
         while (void* block = h.allocate(60'000))
           blocks.push_back(block);
         heap::free_bulk(blocks);
       }},
      {"draining",
       [](heap& h) {
         free_again(h), (void)h.drain_memory(region_id{1}, std::chrono::milliseconds(5));
       }},
      {"refused removal", [](heap& h) { free_again(h), (void)h.remove_memory(region_id{1}); }},
      {"detaching",
       [](heap& h) {
         heap other = must(attach_as_another(h.name()));
         free_again(other);
         must(other.detach_memory(region_id{1}));
       }},
      {"closing",
       [](heap& h) {
         heap other = must(attach_as_another(h.name()));
         free_again(other);
       }},
      {"two other threads",
       [](heap& h) {
         void* block = h.allocate(100);
         for (int i = 0; i < 2; ++i)
           std::thread([&] { heap::free(block); }).join();
       }},
      {"the owner and another thread",
       [](heap& h) {
         void* block = h.allocate(100);
         heap::free(block);
         std::thread([&] { heap::free(block); }).join();
         h.trim();
       }},
      {"another thread and the owner",
       [](heap& h) {
         void* block = h.allocate(100);
         std::thread([&] { heap::free(block); }).join();
         heap::free(block);
         h.trim();
       }},
  };
  for (const leaving& way : ways) {
    heap h = heap_with(4 << 20, {.on_misuse = misuse_policy::refuse}, "a");
    void* held = h.allocate(100);
    way.run(h);
    EXPECT_EQ(h.stats().misuse_count, 1u) << way.name;
    expect_sound(h);
    heap::free(held);
    h.trim();
    EXPECT_EQ(h.stats().misuse_count, 1u) << way.name;
    EXPECT_EQ(h.stats().free_bytes, 4u << 20) << way.name;
    expect_sound(h);
    h = heap{};
    must(heap::destroy("a"));
  }
}

TEST_F(misuse, a_block_freed_twice_that_outlives_its_slab_in_the_cache_hurts_nobody) {
  heap h = heap_with(4 << 20, {.on_misuse = misuse_policy::refuse}, "a");
  child_process child([] {
    heap mine = must(attach_as_another("a"));
    std::vector<void*> blocks(600);
    for (void*& block : blocks)
      block = mine.allocate(100);
    heap::free(blocks[0]);
    heap::free_bulk(std::span(blocks).subspan(1));
    // Some have left the cache long ago.
    for (int i = 0; i < 40; ++i)
      heap::free(blocks[static_cast<std::size_t>(i) * 7]);
    ::kill(::getpid(), SIGKILL);
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
  EXPECT_EQ(h.recover(), 1u);
  EXPECT_GT(h.stats().misuse_count, 0u);
  expect_sound(h);
  h.trim();
  EXPECT_EQ(h.stats().live_blocks, 0u);
  EXPECT_EQ(h.stats().free_bytes, 4u << 20);
}

TEST_F(misuse, who_comes_first_after_a_program_that_freed_twice_can_attach) {
  for (const bool in_pool : {false, true}) {
    child_process child([in_pool] {
      heap mine = heap_with(4 << 20, {}, "a");
      if (in_pool) {
        raw_pool p = must(raw_pool::create(mine, "p", {.object_bytes = 64, .object_count = 100}));
        void* objects[2] = {p.take(), p.take()};
        for (int i = 0; i < 3; ++i)
          p.give(objects[i % 2]);
        EXPECT_EQ(p.free_count(), 100u);
      } else {
        free_again(mine);
      }
      ::_exit(0);  // nothing is closed
      return 0;
    });
    EXPECT_EQ(child.wait_for_exit_code(), 0);
    heap h = must(attach_as_another("a", {.verify = true}));
    EXPECT_EQ(h.stats().misuse_count, 1u)
        << "the program that did it is gone, and nobody is stopped for it";
    expect_sound(h);
    if (in_pool) {
      raw_pool p = must(raw_pool::open(h, "p"));
      std::vector<void*> objects(200);
      EXPECT_EQ(p.take_bulk(objects), 100u);
      std::sort(objects.begin(), objects.begin() + 100);
      EXPECT_EQ(std::adjacent_find(objects.begin(), objects.begin() + 100), objects.begin() + 100);
      p.give_bulk({objects.data(), 100});
      must(raw_pool::release(h, "p"));
    }
    h = heap{};
    for (const heap_summary& left : must(heap::list()))
      EXPECT_EQ(left.name, "a");
    must(heap::destroy("a"));
  }
}

TEST_F(misuse, of_another_process_found_by_this_one_is_counted_and_stops_nobody) {
  heap h = heap_with(4 << 20, {}, "a");  // the default: stop
  struct words {
    std::atomic<int> ready{0}, leave{0};
  };
  auto* w = shared_words<words>();
  child_process child([w] {
    heap mine = must(attach_as_another("a"));
    free_again(mine);
    w->ready = 1;
    wait_until([&] { return w->leave == 1; });
    ::_exit(0);
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return w->ready == 1; }));
  while (h.allocate(60'000) != nullptr) {}  // recalls every cache
  EXPECT_EQ(h.stats().misuse_count, 1u);
  w->leave = 1;
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  expect_sound(h);
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

TEST_F(misuse, a_free_where_nothing_can_be_freed_gets_an_answer) {
  heap h = heap_with(1 << 20, {.on_misuse = misuse_policy::refuse}, "a");
  void* const small = h.allocate(100);
  void* const large = h.allocate(100'000);
  const handle places[2] = {h.handle_of(small), h.handle_of(large)};
  ::testing::internal::CaptureStderr();
  {
    heap reader = must(attach_as_another("a", {.read_only = true}));
    for (const handle place : places)
      heap::free(must(reader.resolve(place)));
    reader.trim();
    EXPECT_EQ(reader.recover(), 0u);
  }
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("read-only"), std::string::npos) << said;
  EXPECT_EQ(said.find("read-only"), said.find("read-only", 0));
  EXPECT_EQ(h.stats().live_blocks, 2u);
  heap::free(small);
  heap::free(large);
  EXPECT_EQ(h.stats().misuse_count, 0u);
  expect_sound(h);
}

TEST_F(misuse, a_forked_child_of_a_private_heap_frees_nothing_of_its_parents) {
  heap h = heap_with(1 << 20);
  void* const block = h.allocate(100);
  raw_pool p = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 10}));
  void* const object = p.take();
  child_process child([&] {
    heap::free(block);
    p.give(object);
    if (h.allocate(100) != nullptr || p.take() != nullptr || p.free_count() != 0) return 1;
    if (refused(raw_pool::open(h, "p")) != errc::forked_away ||
        refused(ring::open(h, "r")) != errc::forked_away)
      return 2;
    if (refused(h.detach_memory(region_id{1})) != errc::forked_away ||
        refused(h.cancel_drain(region_id{1})) != errc::forked_away)
      return 3;
    return ::testing::Test::HasFailure() ? 4 : 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  EXPECT_EQ(h.stats().misuse_count, 0u);
  EXPECT_EQ(p.free_count(), 9u);
  p.give(object);
  heap::free(block);
  expect_sound(h);
}

TEST_F(misuse, a_checked_heap_finds_every_double_free_at_once) {
  heap h = refusing({.checked = true});
  std::vector<void*> blocks;
  for (int i = 0; i < 1000; ++i)
    blocks.push_back(h.allocate(100));
  for (void* block : blocks)
    heap::free(block);
  EXPECT_EQ(h.stats().misuse_count, 0u);
  for (void* block : blocks)
    heap::free(block);
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
  for (int i = 0; i < 20000; ++i)
    blocks.push_back(h.allocate(1 + static_cast<std::size_t>(i) % 300));
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

TEST_F(misuse_death, a_block_of_memory_that_has_gone_and_one_of_a_reader_stop_the_program) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        heap h = heap_with(1 << 20, {}, "a");
        void* block = h.allocate(100);
        heap reader = must(attach_as_another("a", {.read_only = true}));
        heap::free(must(reader.resolve(h.handle_of(block))));
      },
      "read-only");
  EXPECT_DEATH(
      {
        heap h = heap_with(1 << 20);
        void* block = h.allocate(100);
        heap::free(block);
        must(h.remove_memory(region_id{1}));
        heap::free(block);
      },
      "in no region of any heap");
  EXPECT_DEATH(
      {
        heap h = heap_with(1 << 20);
        void* block = h.allocate(100);
        h = heap{};
        heap::free(block);
      },
      "in no region of any heap");
  EXPECT_DEATH(
      {
        heap h = heap_with(1 << 20, {}, "b");
        heap other = must(attach_as_another("b"));  // has not heard of the removal yet
        void* block = h.allocate(100'000);
        void* theirs = must(other.resolve(h.handle_of(block)));
        heap::free(block);
        must(h.remove_memory(region_id{1}));
        heap::free(theirs);
      },
      "has been removed");
  EXPECT_DEATH(
      {
        heap h = heap_with(1 << 20);
        raw_pool p = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 10}));
        void* object = p.take();
        p.give(object);
        must(raw_pool::release(h, "p"));
        p.give(object);
      },
      "given to a pool that has been released");
}

TEST_F(misuse_death, a_double_free_found_late_stops_the_program_that_did_it) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        heap h = heap_with(1 << 20);
        free_again(h);
        h.trim();
      },
      "1 blocks or pool objects were freed twice");
  EXPECT_DEATH(
      {
        heap h = heap_with(1 << 20);
        std::thread([&] { free_again(h); }).join();
      },
      "freed twice");
  EXPECT_DEATH(
      {
        // Private: its memory goes with it, the mistake is said all the same.
        heap h = heap_with(1 << 20);
        free_again(h);
        h = heap{};
      },
      "freed twice");
}

TEST_F(misuse, overruns_of_user_memory_cannot_hurt_the_heap) {
  heap h = heap_with(1 << 20);
  std::vector<char*> blocks;
  for (int i = 0; i < 500; ++i)
    blocks.push_back(static_cast<char*>(h.allocate(1000)));
  char* base = nullptr;
  h.for_each_region([&](const region_summary& r) { base = static_cast<char*>(r.base); });
  // All of it, live or free.
  for (std::size_t i = 0; i < 1 << 20; ++i)
    base[i] = static_cast<char>(i * 31);
  expect_sound(h);
  for (char* block : blocks)
    heap::free(block);
  for (std::size_t i = 0; i < 1 << 20; ++i)
    base[i] = static_cast<char>(i * 17);
  h.trim();
  expect_sound(h);
  EXPECT_EQ(h.stats().free_bytes, 1u << 20);
}

}  // namespace
}  // namespace annex
