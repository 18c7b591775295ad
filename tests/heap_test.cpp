// tests/heap_test.cpp - creating, joining, leaving and ending heaps; allocating and freeing in one
// process.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "another_member.hpp"
#include "support.hpp"

namespace annex {
namespace {

using heap_life = in_own_directory;
using allocation = in_own_directory;

TEST_F(heap_life, begins_empty_and_ends_without_a_trace) {
  {
    heap h = must(heap::create("a"));
    EXPECT_EQ(h.name(), "a");
    EXPECT_EQ(h.stats().total_bytes, 0u);
    EXPECT_EQ(refused(heap::destroy("a")), errc::heap_in_use);
  }
  must(heap::destroy("a"));
  EXPECT_TRUE(std::filesystem::is_empty(path()));
  EXPECT_EQ(refused(heap::destroy("a")), errc::no_such_heap);
}

TEST_F(heap_life, names_are_checked) {
  for (const char* name :
       {"", ".hidden", "a/b", "../x", "with space", "name-of-thirty-two-characters-00"}) {
    EXPECT_EQ(refused(heap::create(name)), errc::invalid_name) << name;
    EXPECT_EQ(refused(attach_as_another(name)), errc::invalid_name) << name;
    EXPECT_EQ(refused(heap::destroy(name)), errc::invalid_name) << name;
  }
  heap longest = must(heap::create("name-of-thirty-one-characters-0"));
}

TEST_F(heap_life, names_are_unique) {
  heap a = must(heap::create("a"));
  EXPECT_EQ(refused(heap::create("a")), errc::name_taken);
  EXPECT_EQ(refused(attach_as_another("b")), errc::no_such_heap);
}

TEST_F(heap_life, options_are_checked_and_the_error_names_value_and_limit) {
  for (const heap_options& o :
       {heap_options{.metadata_limit_bytes = 1}, heap_options{.member_limit = 0},
        heap_options{.member_limit = 60001}, heap_options{.thread_limit = 1},
        heap_options{.region_limit = 0}, heap_options{.region_limit = 16385},
        heap_options{.zone_limit = 0}, heap_options{.file_mode = 01000}}) {
    EXPECT_EQ(refused(heap::create("a", o)), errc::invalid_argument);
    EXPECT_EQ(refused(heap::create_private(o)), errc::invalid_argument);
  }
  const auto r = heap::create("a", {.member_limit = 70000});
  EXPECT_NE(r.error().message().find("70000"), std::string_view::npos);
  EXPECT_NE(r.error().message().find("60000"), std::string_view::npos);
}

TEST_F(heap_life, a_directory_that_cannot_be_made_is_an_error) {
  ::setenv("ANNEX_DIR", "/proc/nowhere", 1);
  const errc code = refused(heap::create("a"));
  EXPECT_TRUE(code == errc::os_failure || code == errc::permission);
}

TEST_F(heap_life, files_carry_the_mode_asked_for) {
  const mode_t before = ::umask(0);
  heap a = must(heap::create("a")), b = must(heap::create("b", {.file_mode = 0640}));
  ::umask(before);
  using std::filesystem::perms;
  EXPECT_EQ(std::filesystem::status(path() + "/a.annex").permissions(),
            perms::owner_read | perms::owner_write);
  EXPECT_EQ(std::filesystem::status(path() + "/b.annex").permissions(),
            perms::owner_read | perms::owner_write | perms::group_read);
}

TEST_F(heap_life, list_shows_every_heap_with_its_figures) {
  heap a = heap_with(1 << 20, {}, "a"), b = heap_with(0, {}, "b");
  ASSERT_NE(a.allocate(100000), nullptr);
  std::ofstream(path() + "/junk.annex") << "no segment";
  const auto heaps = must(heap::list());
  ASSERT_EQ(heaps.size(), 3u);
  EXPECT_EQ(heaps[2].name, "junk");
  EXPECT_FALSE(heaps[2].problem.empty());
  EXPECT_TRUE(heaps[0].problem.empty());
  EXPECT_EQ(heaps[0].name, "a");
  EXPECT_EQ(heaps[0].total_bytes, 1u << 20);
  EXPECT_GE(heaps[0].used_bytes, 100000u);
  EXPECT_EQ(heaps[0].region_count, 1u);
  EXPECT_EQ(heaps[0].member_count, 1u);
  EXPECT_EQ(heaps[1].id, b.id());
}

TEST_F(heap_life, destroy_refuses_while_blocks_are_live) {
  {
    heap h = heap_with(1 << 20, {}, "a");
    ASSERT_NE(h.allocate(1000), nullptr);
    must(h.reserve_zone("z", {.size_bytes = 100}));
  }
  EXPECT_EQ(refused(heap::destroy("a")), errc::blocks_live);
  {
    heap h = must(attach_as_another("a"));
    must(h.release_zone("z"));
    for (const member_summary& m : h.members())
      if (!m.alive) {
        EXPECT_EQ(must(h.reap(m.id)), 1u);
      }
  }
  must(heap::destroy("a"));
  EXPECT_TRUE(std::filesystem::is_empty(path()));
}

TEST_F(heap_life, contents_and_zones_survive_everybody_leaving) {
  {
    heap h = heap_with(1 << 20, {}, "a");
    std::strcpy(static_cast<char*>(must(h.reserve_zone("z", {.size_bytes = 100})).address),
                "still here");
  }
  heap h = must(attach_as_another("a"));
  expect_sound(h);
  EXPECT_STREQ(static_cast<char*>(must(h.find_zone("z")).address), "still here");
  EXPECT_NE(h.allocate(64), nullptr);
}

TEST_F(heap_life, many_private_heaps_live_side_by_side) {
  std::vector<heap> heaps;
  for (int i = 0; i < 200; ++i)
    heaps.push_back(must(heap::create_private({.metadata_limit_bytes = 128 << 20})));
  for (heap& h : heaps)
    must(h.bring_memory({.length_bytes = 65536}));
  std::vector<void*> blocks;
  for (heap& h : heaps)
    blocks.push_back(h.allocate(100));
  for (size_t i = 0; i < heaps.size(); ++i)
    EXPECT_EQ(heap::locate(blocks[i])->heap, heaps[i].id());
  for (void* block : blocks)
    heap::free(block);
}

TEST_F(allocation, every_size_is_aligned_usable_and_apart) {
  heap h = heap_with(64 << 20);
  struct block {
    char* at;
    std::size_t size;
  };
  std::vector<block> blocks;
  for (std::size_t size = 1; size <= 300000; size = size < 2000 ? size + 1 : size + size / 7) {
    char* at = static_cast<char*>(h.allocate(size));
    ASSERT_NE(at, nullptr) << size << ": " << heap::last_failure().message();
    EXPECT_EQ(reinterpret_cast<u64>(at) % 16, 0u);
    EXPECT_GE(heap::usable_size(at), size);
    std::memset(at, static_cast<int>(size & 0xff), size);
    blocks.push_back({at, size});
  }
  for (const block& b : blocks)
    for (std::size_t i = 0; i < b.size; i += 97)
      ASSERT_EQ(static_cast<unsigned char>(b.at[i]), b.size & 0xff);
  expect_sound(h);
  for (const block& b : blocks)
    heap::free(b.at);
  h.trim();
  EXPECT_EQ(h.stats().free_bytes, 64u << 20);
  expect_sound(h);
}

TEST_F(allocation, one_block_can_be_the_whole_heap) {
  for (std::size_t size : {std::size_t{4096}, std::size_t{1} << 20, (std::size_t{5} << 20) + 4096,
                           std::size_t{64} << 20, (std::size_t{64} << 20) + 12288}) {
    heap h = heap_with(size);
    void* all = h.allocate(size);
    ASSERT_NE(all, nullptr) << size << ": " << heap::last_failure().message();
    EXPECT_EQ(heap::usable_size(all), size);
    EXPECT_EQ(h.allocate(size), nullptr);
    heap::free(all);
    EXPECT_NE(h.allocate(size), nullptr);
  }
}

TEST_F(allocation, a_full_heap_explains_itself_and_recovers) {
  heap h = heap_with(1 << 20);
  std::vector<void*> blocks;
  while (void* block = h.allocate(1000))
    blocks.push_back(block);
  EXPECT_GT(blocks.size(), 900u);
  const explanation why = heap::last_failure();
  EXPECT_EQ(why.why, explanation::cause::no_fit);
  EXPECT_EQ(why.requested_bytes, 1000u);
  EXPECT_EQ(why.top[0].process_id, ::getpid());
  EXPECT_GT(why.top[0].bytes, 900000u);
  EXPECT_NE(why.message().find("free some or add memory"), std::string_view::npos);
  for (void* block : blocks)
    heap::free(block);
  EXPECT_NE(h.allocate(1 << 20), nullptr);
}

TEST_F(allocation, a_heap_without_memory_says_so) {
  heap h = heap_with(0);
  EXPECT_EQ(h.allocate(1), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::no_region);
  EXPECT_EQ(h.allocate(0), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::bad_request);
}

TEST_F(allocation, bulk_takes_and_gives_many) {
  heap h = heap_with(4 << 20);
  std::vector<void*> blocks(5000);
  EXPECT_EQ(h.allocate_bulk(200, blocks), 5000u);
  std::vector<void*> sorted = blocks;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(std::adjacent_find(sorted.begin(), sorted.end()), sorted.end());
  heap::free_bulk(blocks);
  std::vector<void*> too_many(100);
  EXPECT_EQ(h.allocate_bulk(100000, too_many), 4u * 1024 * 1024 / 102400);
  EXPECT_EQ(h.allocate_bulk(0, too_many), 0u);
}

TEST_F(allocation, reallocate_stays_in_place_when_it_can_and_keeps_the_bytes) {
  heap h = heap_with(8 << 20);
  char* p = static_cast<char*>(h.reallocate(nullptr, 200000));
  for (int i = 0; i < 200000; ++i)
    p[i] = static_cast<char>(i % 251);
  EXPECT_EQ(h.reallocate(p, 400000), p);  // into the free memory behind it
  EXPECT_EQ(h.reallocate(p, 100000), p);  // shrunk in place
  EXPECT_LT(heap::usable_size(p), 200000u);
  void* wall = h.allocate(1 << 20);
  char* moved = static_cast<char*>(h.reallocate(p, 3 << 20));
  ASSERT_NE(moved, nullptr);
  EXPECT_NE(moved, p);
  for (int i = 0; i < 100000; ++i)
    ASSERT_EQ(moved[i], static_cast<char>(i % 251));
  char* small = static_cast<char*>(h.allocate(100));
  std::memcpy(small, moved, 100);
  EXPECT_EQ(h.reallocate(small, 101), small);  // same block size
  char* grown = static_cast<char*>(h.reallocate(small, 5000));
  EXPECT_EQ(std::memcmp(grown, moved, 100), 0);
  EXPECT_EQ(h.reallocate(grown, 100 << 20), nullptr);  // refused: the old block is untouched
  EXPECT_EQ(std::memcmp(grown, moved, 100), 0);
  EXPECT_EQ(h.reallocate(grown, 0), nullptr);
  heap::free(moved);
  heap::free(wall);
  h.trim();
  EXPECT_EQ(h.stats().used_bytes, 0u);
}

TEST_F(allocation, reallocate_with_a_placement_keeps_what_it_says) {
  heap h = heap_with(0);
  mapped_memory m(16 << 20);
  std::vector<iova> iovas;
  for (u64 page = 0; page < 8; ++page)
    iovas.push_back(iova{4 * GiB + page * 2 * MiB});
  must(h.add_memory(
      {.base = m.data(), .length_bytes = m.size(), .page_bytes = 2 << 20, .page_iovas = iovas}));
  placement p{.size_bytes = 100, .align_bytes = 4096, .iova_contiguous = true};
  char* block = static_cast<char*>(h.reallocate(nullptr, p));
  ASSERT_NE(block, nullptr);
  block[99] = 5;
  for (const std::size_t size : {200ul, 5000ul, 70000ul, 300000ul, 1ul << 20, 90000ul, 50ul}) {
    p.size_bytes = size;
    void* const next_to_it = h.allocate(64);
    block = static_cast<char*>(h.reallocate(block, p));
    ASSERT_NE(block, nullptr) << size << ": " << heap::last_failure().message();
    EXPECT_EQ(reinterpret_cast<u64>(block) % 4096, 0u) << size;
    EXPECT_EQ(static_cast<u64>(*heap::locate(block)->bus_address) % 4096, 0u) << size;
    EXPECT_GE(heap::usable_size(block), size);
    EXPECT_TRUE(size < 100 || block[99] == 5) << size;
    heap::free(next_to_it);
  }
  void* const elsewhere = h.allocate({.size_bytes = 100, .align_bytes = 64});
  p.size_bytes = 100;
  p.align_bytes = 65536;
  void* const aligned = h.reallocate(elsewhere, p);
  EXPECT_EQ(reinterpret_cast<u64>(aligned) % 65536, 0u);
  EXPECT_EQ(h.reallocate(aligned, p), aligned) << "it is so already";
  p.zeroed = true;
  EXPECT_EQ(h.reallocate(aligned, p), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::bad_request);
  p.zeroed = false;
  p.size_bytes = 100 << 20;
  EXPECT_EQ(h.reallocate(aligned, p), nullptr);
  p.size_bytes = 0;
  EXPECT_EQ(h.reallocate(aligned, p), nullptr) << "freed";
  heap::free(block);
  h.trim();
  EXPECT_EQ(h.stats().live_blocks, 0u);
  expect_sound(h);
}

TEST_F(allocation, no_bytes_are_no_block) {
  heap h = heap_with(1 << 20);
  EXPECT_EQ(h.allocate(0), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::bad_request);
  EXPECT_EQ(h.allocate(placement{}), nullptr);
  void* blocks[2] = {};
  EXPECT_EQ(h.allocate_bulk(0, blocks), 0u);
  EXPECT_EQ(h.stats().live_blocks, 0u);
}

TEST_F(allocation, shrinking_needs_no_memory) {
  heap h = heap_with(1 << 20);
  std::vector<void*> blocks;
  while (void* block = h.allocate(60000))
    blocks.push_back(block);
  while (h.allocate(64) != nullptr) {}
  EXPECT_EQ(h.reallocate(blocks[0], 20000), blocks[0]) << "no other place: it stays";
  EXPECT_EQ(h.reallocate(blocks[0], placement{.size_bytes = 20000}), blocks[0]);
}

TEST_F(allocation, reallocate_stays_in_the_blocks_own_heap) {
  heap a = heap_with(1 << 20), b = heap_with(1 << 20);
  void* p = a.allocate(100);
  void* q = b.reallocate(p, 30000);
  EXPECT_EQ(heap::locate(q)->heap, a.id());
}

TEST_F(allocation, threads_free_each_others_blocks) {
  heap h = heap_with(32 << 20);
  constexpr int thread_count = 4, rounds = 300;
  std::vector<std::vector<void*>> mail(thread_count);
  for (int round = 0; round < rounds; ++round) {
    std::vector<std::thread> threads;
    for (int t = 0; t < thread_count; ++t)
      threads.emplace_back([&, t] {
        std::vector<void*> mine;
        for (void* block : mail[static_cast<size_t>(t)])
          heap::free(block);
        std::mt19937 random(static_cast<unsigned>(round * 10 + t));
        for (int i = 0; i < 100; ++i)
          if (void* block = h.allocate(1 + random() % 3000)) mine.push_back(block);
        mail[static_cast<size_t>(t)] = std::move(mine);
      });
    for (std::thread& t : threads)
      t.join();
    std::rotate(mail.begin(), mail.begin() + 1, mail.end());
  }
  for (const auto& box : mail)
    heap::free_bulk(box);
  expect_sound(h);
  h.trim();
  EXPECT_EQ(h.stats().live_blocks, 0u);
}

TEST_F(allocation, what_idle_threads_keep_comes_back_when_it_is_needed) {
  heap h = heap_with(2 << 20);
  std::atomic<int> parked{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&] {
      std::vector<void*> blocks(200);
      blocks.resize(h.allocate_bulk(1024, blocks));
      heap::free_bulk(blocks);
      ++parked;
      while (!go)
        std::this_thread::yield();
    });
  while (parked != 8)
    std::this_thread::yield();
  void* all = h.allocate(2 << 20);
  EXPECT_NE(all, nullptr) << heap::last_failure().message();
  go = true;
  for (std::thread& t : threads)
    t.join();
  expect_sound(h);
}

TEST_F(allocation, a_thread_that_ends_leaves_nothing_cached) {
  heap h = heap_with(4 << 20);
  for (int i = 0; i < 50; ++i)
    std::thread([&] { heap::free(h.allocate(100)); }).join();
  EXPECT_EQ(h.stats().thread_count, 0u);
  EXPECT_EQ(h.stats().free_bytes, 4u << 20);
}

TEST_F(allocation, statistics_add_up) {
  heap h = heap_with(8 << 20);
  std::vector<void*> blocks;
  for (int i = 0; i < 1000; ++i)
    blocks.push_back(h.allocate(128));
  blocks.push_back(h.allocate(1 << 20));
  const heap_stats s = h.stats();
  EXPECT_EQ(s.live_blocks, 1001u);
  EXPECT_EQ(s.used_bytes, 1000u * 128 + (1 << 20));
  EXPECT_EQ(s.used_bytes + s.cached_bytes + s.free_bytes, s.total_bytes);
  EXPECT_GT(s.metadata_bytes, 0u);
  EXPECT_LE(s.largest_free_bytes, s.free_bytes);
  u64 seen = 0;
  must(h.for_each_block([&](const block_summary& b) {
    ++seen;
    EXPECT_TRUE(std::find(blocks.begin(), blocks.end(), b.address) != blocks.end());
    EXPECT_EQ(b.holder, h.self());
  }));
  EXPECT_EQ(seen, 1001u);
  heap::free_bulk(blocks);
}

}  // namespace
}  // namespace annex
