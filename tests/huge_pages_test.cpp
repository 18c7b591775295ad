// tests/huge_pages_test.cpp - transparent huge pages: asked for, made, remembered, shown.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "another_member.hpp"
#include "heap/huge_pages.hpp"
#include "heap/local_heap.hpp"
#include "platform/memory.hpp"
#include "region/region_record.hpp"
#include "support.hpp"

namespace annex {
namespace {

using huge_memory = in_own_directory;
using kind = memory_source::kind;

constexpr std::size_t length_bytes = 16 * MiB;

// Whether this machine makes huge pages of such memory when it is told to.
bool can_be_made(bool shared) {
  const u64 page = os::transparent_page_bytes();
  if (page == 0) return false;
  const auto mapped = os::map_anonymous(page, 0, shared, page);
  if (mapped.address == nullptr) return false;
  const bool made =
      os::populate(mapped.address, 4096) == 0 && os::make_huge(mapped.address, page) == 0;
  os::unmap(mapped.address, page);
  return made;
}

huge_pages said_of(const heap& h, region_id id) {
  huge_pages said{};
  h.for_each_region([&](const region_summary& r) {
    if (r.id == id) said = r.huge;
  });
  return said;
}

TEST_F(huge_memory, always_is_all_of_it_or_refused) {
  for (const kind from : {kind::anonymous, kind::shared}) {
    heap h = heap_with(0);
    const auto id =
        h.bring_memory({.from = from, .length_bytes = length_bytes, .huge = huge_pages::always});
    if (!can_be_made(true)) {
      ASSERT_FALSE(id);
      EXPECT_EQ(h.stats().region_count, 0u);
      continue;
    }
    must(id);
    EXPECT_EQ(said_of(h, *id), huge_pages::always);
    EXPECT_EQ(must(h.huge_bytes(*id)), length_bytes);
    expect_sound(h);
    must(h.remove_memory(*id));
  }
}

TEST_F(huge_memory, is_what_prefault_and_pin_take_where_there_is_any) {
  if (!can_be_made(true)) GTEST_SKIP() << "this kernel makes no huge pages of shared memory";
  heap h = heap_with(0);
  const region_id touched = must(h.bring_memory({.length_bytes = length_bytes, .prefault = true}));
  EXPECT_EQ(said_of(h, touched), huge_pages::aligned);
  EXPECT_EQ(must(h.huge_bytes(touched)), length_bytes);
  const region_id never = must(
      h.bring_memory({.length_bytes = length_bytes, .prefault = true, .huge = huge_pages::never}));
  EXPECT_EQ(said_of(h, never), huge_pages::never);
  EXPECT_EQ(must(h.huge_bytes(never)), 0u);
  const auto pinned = h.bring_memory({.length_bytes = length_bytes, .pin = true});
  if (pinned) {
    EXPECT_EQ(must(h.huge_bytes(*pinned)), length_bytes);
  }
}

TEST_F(huge_memory, is_left_as_it_is_where_nobody_asks) {
  heap h = heap_with(0);
  const region_id id = must(h.bring_memory({.length_bytes = length_bytes}));
  EXPECT_EQ(said_of(h, id), huge_pages::automatic);
  mapped_memory m(length_bytes);
  EXPECT_EQ(said_of(h, must(h.add_memory(m.range()))), huge_pages::automatic);
}

TEST_F(huge_memory, keeps_what_given_memory_contains) {
  if (!can_be_made(false)) GTEST_SKIP() << "this kernel makes no huge pages of such memory";
  heap h = heap_with(0);
  mapped_memory m(length_bytes);
  std::memset(m.data(), 0x5a, length_bytes);
  memory_range range = m.range();
  range.huge = huge_pages::always;
  const region_id id = must(h.add_memory(range));
  const u64 page = os::transparent_page_bytes();
  EXPECT_GE(must(h.huge_bytes(id)), length_bytes - 2 * page);
  for (std::size_t at = 0; at < length_bytes; at += 4096)
    ASSERT_EQ(static_cast<const char*>(m.data())[at], 0x5a);
}

TEST_F(huge_memory, refuses_what_can_not_be_and_changes_nothing) {
  heap h = heap_with(0);
  auto refused_source = [&](memory_source m) { return refused(h.bring_memory(m)); };
  EXPECT_EQ(refused_source({.from = kind::hugetlb,
                            .length_bytes = 2 * MiB,
                            .page_bytes = 2 * MiB,
                            .huge = huge_pages::aligned}),
            errc::invalid_argument);
  EXPECT_EQ(
      refused_source({.length_bytes = 4 * MiB, .overcommit = true, .huge = huge_pages::always}),
      errc::invalid_argument);
  EXPECT_EQ(refused_source({.length_bytes = 4 * MiB, .huge = huge_pages{4}}),
            errc::invalid_argument);
  mapped_memory m(1 * MiB);
  memory_range range = m.range();
  range.huge = huge_pages{200};
  EXPECT_EQ(refused(h.add_memory(range)), errc::invalid_argument);
  if (os::transparent_page_bytes() == 2 * MiB) {
    range.huge = huge_pages::always;
    EXPECT_EQ(refused(h.add_memory(range)), errc::bad_length);
    range.access = touch::none;
    EXPECT_EQ(refused(h.add_memory(range)), errc::no_cpu_access);
    EXPECT_EQ(refused_source({.length_bytes = 1 * MiB, .huge = huge_pages::always}),
              errc::bad_length);
  }
  EXPECT_EQ(refused(h.huge_bytes(region_id{77})), errc::no_such_region);
  EXPECT_EQ(h.stats().region_count, 0u);
  expect_sound(h);
}

TEST_F(huge_memory, whoever_attaches_asks_again) {
  if (!can_be_made(true)) GTEST_SKIP() << "this kernel makes no huge pages of shared memory";
  heap h = heap_with(0, {}, "a");
  const region_id id =
      must(h.bring_memory({.length_bytes = length_bytes, .huge = huge_pages::always}));
  heap other = must(attach_as_another("a"));
  EXPECT_EQ(said_of(other, id), huge_pages::always);
  must(other.attach_memory(id));
  must(other.prefault(id));
  EXPECT_EQ(must(other.huge_bytes(id)), length_bytes);
}

TEST_F(huge_memory, policy_that_does_not_fit_its_region_is_none) {
  EXPECT_EQ(huge_of(1, 3, huge_check_of(1, 3)), huge_pages::always);
  EXPECT_EQ(huge_of(1, 4, huge_check_of(1, 4)), huge_pages::automatic);
  EXPECT_EQ(huge_of(2, 3, huge_check_of(1, 3)), huge_pages::automatic) << "of the slot's last";
  EXPECT_EQ(huge_of(1, 0, 0), huge_pages::automatic) << "written by layout 5.0";
}

// ---- what docs/design/0023 says, measured: --gtest_also_run_disabled_tests ----------------------

double seconds_of(const std::function<void()>& act) {
  const auto begin = std::chrono::steady_clock::now();
  act();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

u64 resident_bytes(const void* base, u64 bytes) {
  std::vector<unsigned char> pages(bytes / 4096);
  if (::mincore(const_cast<void*>(base), bytes, pages.data()) != 0) return 0;
  return 4096 * static_cast<u64>(std::count_if(pages.begin(), pages.end(),
                                               [](unsigned char page) { return (page & 1) != 0; }));
}

// Nanoseconds for a word of a block of 1 KiB, at random among so many.
double random_touch_ns(heap& h, std::size_t count) {
  std::vector<u64*> blocks(count);
  for (u64*& block : blocks) {
    block = static_cast<u64*>(h.allocate(1024));
    *block = 0;
  }
  constexpr int touches = 4'000'000;
  u64 random = 1;
  const double seconds = seconds_of([&] {
    for (int i = 0; i < touches; ++i) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      ++*blocks[(random >> 33) % count];
    }
  });
  for (u64* block : blocks)
    h.free(block);
  return seconds / touches * 1e9;
}

TEST_F(huge_memory, DISABLED_figures_of_the_design) {
  for (const kind from : {kind::anonymous, kind::shared})
    for (const bool pin : {false, true})
      for (const huge_pages huge :
           {huge_pages::never, huge_pages::automatic, huge_pages::never, huge_pages::automatic}) {
        heap h = must(heap::create_private());
        bool is_there = false;
        const double seconds = seconds_of([&] {
          is_there =
              h.bring_memory(
                   {.from = from, .length_bytes = GiB, .prefault = !pin, .pin = pin, .huge = huge})
                  .has_value();
        });
        if (!is_there) continue;
        std::printf("%s, %s, %s: %.2f s a GiB, a touch %.0f ns\n",
                    from == kind::anonymous ? "anonymous" : "shared", pin ? "pin" : "prefault",
                    huge == huge_pages::never ? "small" : "huge", seconds,
                    random_touch_ns(h, 1 << 19));
      }
  for (const huge_pages huge : {huge_pages::automatic, huge_pages::aligned}) {
    heap h = must(heap::create_private());
    const region_id id =
        must(h.bring_memory({.from = kind::anonymous, .length_bytes = 64 * MiB, .huge = huge}));
    for (int i = 0; i < 101; ++i)
      std::memset(h.allocate(64), 1, 64);
    void* base = nullptr;
    h.for_each_region([&](const region_summary& r) { base = r.base; });
    std::printf("%s: 101 blocks of 64 B: %llu KiB resident, %llu KiB huge\n",
                huge == huge_pages::automatic ? "automatic" : "aligned",
                static_cast<unsigned long long>(resident_bytes(base, 64 * MiB) / KiB),
                static_cast<unsigned long long>(must(h.huge_bytes(id)) / KiB));
  }
}

}  // namespace
}  // namespace annex
