// tests/limit_test.cpp - every limit: what it carries, and the clear refusal behind it.
#include <sys/resource.h>

#include <thread>

#include "another_member.hpp"
#include "support.hpp"

namespace annex {
namespace {

using limits_ = in_own_directory;

template <class R>
void expect_limit(const R& r, const char* number) {
  EXPECT_EQ(refused(r), errc::limit_reached);
  EXPECT_NE(r.error().message().find(number), std::string_view::npos) << r.error().message();
}

TEST_F(limits_, regions) {
  heap h = heap_with(0, {.region_limit = 5});
  mapped_memory m(64 << 20);
  std::vector<region_id> ids;
  for (int i = 0; i < 5; ++i)
    ids.push_back(must(h.add_memory({.base = m.data() + i * 8192, .length_bytes = 4096})));
  expect_limit(h.add_memory({.base = m.data() + (1 << 20), .length_bytes = 4096}), "5 regions");
  must(h.remove_memory(ids[2]));
  must(h.add_memory({.base = m.data() + (1 << 20), .length_bytes = 4096}));
  expect_sound(h);
}

TEST_F(limits_, all_sixteen_thousand_regions) {
  heap h = heap_with(0);
  mapped_memory m(16384ul * 8192, PROT_NONE);
  for (u64 i = 0; i < 16384; ++i)
    must(h.add_memory({.base = m.data() + i * 8192, .length_bytes = 4096, .access = touch::none}));
  expect_limit(h.add_memory({.base = m.data() + 4096, .length_bytes = 4096, .access = touch::none}),
               "16384 regions");
  for (u64 i = 0; i < 16384; i += 1111)
    EXPECT_EQ(heap::locate(m.data() + i * 8192 + 1)->offset_bytes, 1u);
  EXPECT_NE(h.allocate(4096), nullptr);
}

TEST_F(limits_, zones) {
  heap h = heap_with(1 << 20, {.zone_limit = 3});
  for (int i = 0; i < 3; ++i)
    must(h.reserve_zone("z" + std::to_string(i), {.size_bytes = 10}));
  expect_limit(h.reserve_zone("y", {.size_bytes = 10}), "3 zones");
  expect_limit(ring::create(h, "r", 8), "3 zones");
  must(h.release_zone("z1"));
  must(h.reserve_zone("y", {.size_bytes = 10}));
}

TEST_F(limits_, sixty_five_thousand_zones) {
  heap h = heap_with(0);
  mapped_memory m(256 << 20, PROT_NONE);
  for (std::size_t i = 0; i < 16; ++i)
    must(h.add_memory(
        {.base = m.data() + (i << 24), .length_bytes = 1 << 24, .access = touch::none}));
  for (u64 made = 0; made < 65536; ++made)
    must(h.reserve_zone("zone" + std::to_string(made), {.size_bytes = 4096}));
  EXPECT_EQ(h.stats().zone_count, 65536u);
  EXPECT_EQ(h.stats().free_bytes, 0u);
  EXPECT_TRUE(h.find_zone("zone65535").has_value());
  expect_sound(h);
}

TEST_F(limits_, members) {
  heap a = must(heap::create("a", {.metadata_limit_bytes = 64 << 20,
                                   .member_limit = 3,
                                   .thread_limit = 100,
                                   .region_limit = 100}));
  std::vector<heap> others;
  for (int i = 0; i < 2; ++i)
    others.push_back(must(attach_as_another("a")));
  expect_limit(attach_as_another("a"), "3 members");
  others.pop_back();
  must(attach_as_another("a"));
}

TEST_F(limits_, threads_of_members) {
  heap a = must(heap::create(
      "a", {.metadata_limit_bytes = 64 << 20, .thread_limit = 2, .region_limit = 100}));
  heap b = must(attach_as_another("a"));
  expect_limit(attach_as_another("a"), "2 threads");
  EXPECT_EQ(a.members().size(), 2u) << "the refused one left nothing behind";
  expect_sound(a);
}

TEST_F(limits_, a_thousand_members) {
  heap a = must(heap::create("a", {.metadata_limit_bytes = 64 << 20, .region_limit = 100}));
  must(a.bring_memory({.length_bytes = 4 << 20}));
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < 2500) GTEST_SKIP() << "only " << files.rlim_cur << " descriptors";
  std::vector<heap> members;
  for (int i = 0; i < 1023; ++i)
    members.push_back(must(attach_as_another("a", {.regions = attach_policy::manual})));
  EXPECT_EQ(a.stats().member_count, 1024u);
  EXPECT_NE(a.allocate(100), nullptr);
  members.clear();
  EXPECT_EQ(a.stats().member_count, 1u);
}

TEST_F(limits_, threads) {
  heap h = heap_with(1 << 20, {.thread_limit = 3});  // one is the service slot
  void* mine = h.allocate(100);
  std::thread([&] {
    void* second = h.allocate(100);
    EXPECT_NE(second, nullptr);
    std::thread([&] {
      EXPECT_EQ(h.allocate(100), nullptr);
      EXPECT_EQ(heap::last_failure().why, explanation::cause::limit);
      EXPECT_NE(heap::last_failure().message().find("3 threads"), std::string_view::npos);
      heap::free(mine);  // freeing needs no slot
    }).join();
    heap::free(second);
  }).join();
  EXPECT_NE(h.allocate(100), nullptr);
  expect_sound(h);
}

TEST_F(limits_, metadata) {
  heap h = must(heap::create_private({.metadata_limit_bytes = 4 << 20,
                                      .member_limit = 10,
                                      .thread_limit = 10,
                                      .region_limit = 100}));
  // Never mapped: ThreadSanitizer's address space has no room for it on some runs.
  const memory_range vast{.base = reinterpret_cast<void*>(std::uintptr_t{1} << 40),
                          .length_bytes = std::size_t{1} << 40,
                          .access = touch::none};
  expect_limit(h.add_memory(vast), std::to_string(4 << 20).c_str());
  mapped_memory small(1 << 20);
  must(h.add_memory(small.range()));
  expect_limit(ring::create(h, "r", 1 << 20), std::to_string(4 << 20).c_str());
  EXPECT_NE(h.allocate(100), nullptr);
  expect_sound(h);
}

TEST_F(limits_, many_idle_threads_give_back_under_pressure) {
  heap h = heap_with(64 << 20);
  std::atomic<int> parked{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 300; ++t)
    threads.emplace_back([&] {
      for (std::size_t size : {16ul, 64ul, 300ul, 5000ul})
        heap::free(h.allocate(size));
      ++parked;
      while (!go)
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    });
  ASSERT_TRUE(wait_until([&] { return parked == 300; }));
  EXPECT_GT(h.stats().cached_bytes, 1u << 20);
  EXPECT_NE(h.allocate(64 << 20), nullptr);
  go = true;
  for (std::thread& t : threads)
    t.join();
}

}  // namespace
}  // namespace annex
