// tests/zone_test.cpp - blocks under names.
#include <algorithm>
#include <chrono>
#include <cstring>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "another_member.hpp"
#include "heap/local_heap.hpp"
#include "inside.hpp"
#include "support.hpp"

namespace annex {
namespace {

using zones = in_own_directory;

TEST_F(zones, are_found_by_name_until_they_are_released) {
  heap h = heap_with(1 << 20);
  const zone made = must(h.reserve_zone("table", {.size_bytes = 1000, .zeroed = true}));
  ASSERT_NE(made.address, nullptr);
  EXPECT_EQ(made.size_bytes, 1000u);
  EXPECT_EQ(reinterpret_cast<u64>(made.address) % 64, 0u);
  EXPECT_EQ(made.bus_address, no_iova);
  const zone found = must(h.find_zone("table"));
  EXPECT_EQ(found.address, made.address);
  EXPECT_EQ(found.where, made.where);
  EXPECT_EQ(must(h.resolve(found.where)), made.address);
  EXPECT_EQ(refused(h.reserve_zone("table", {.size_bytes = 1})), errc::zone_exists);
  EXPECT_EQ(refused(h.find_zone("other")), errc::no_such_zone);
  must(h.release_zone("table"));
  EXPECT_EQ(refused(h.find_zone("table")), errc::no_such_zone);
  EXPECT_EQ(refused(h.release_zone("table")), errc::no_such_zone);
  EXPECT_EQ(refused(h.resolve(found.where)), errc::stale_handle);
  expect_sound(h);
}

TEST_F(zones, refuse_bad_names_and_arguments) {
  heap h = heap_with(1 << 20);
  const std::string longest(63, 'x'), too_long(64, 'x');
  for (const std::string& name : {std::string(), too_long, std::string("a\0b", 3)}) {
    EXPECT_EQ(refused(h.reserve_zone(name, {.size_bytes = 1})), errc::invalid_name);
    EXPECT_EQ(refused(h.find_zone(name)), errc::invalid_name);
    EXPECT_EQ(refused(h.release_zone(name)), errc::invalid_name);
  }
  must(h.reserve_zone(longest, {.size_bytes = 1}));
  must(h.reserve_zone("with spaces / and anything", {.size_bytes = 1}));
  EXPECT_EQ(refused(h.reserve_zone("z", {.size_bytes = 1, .align_bytes = 3})),
            errc::invalid_argument);
  EXPECT_EQ(refused(h.reserve_zone("z", {.size_bytes = 100, .boundary_bytes = 64})),
            errc::invalid_argument);
  EXPECT_EQ(refused(h.reserve_zone("z", {.size_bytes = std::size_t{1} << 60})),
            errc::invalid_argument);
  EXPECT_EQ(refused(h.reserve_zone("z", {.size_bytes = 2 << 20})), errc::out_of_memory);
  EXPECT_EQ(h.last_failure().why, explanation::cause::no_fit);
  expect_sound(h);
}

TEST_F(zones, keep_alignment_boundary_and_contiguity) {
  heap h = heap_with(0);
  mapped_memory m(16 << 20);
  std::vector<iova> table;
  for (u64 i = 0; i < m.size() / 4096; ++i)
    table.push_back(iova{0x80000000 + (i + i / 16) * 4096});
  memory_range r = m.range();
  r.page_iovas = table;
  must(h.add_memory(r));
  const zone aligned = must(h.reserve_zone("aligned", {.size_bytes = 100, .align_bytes = 1 << 20}));
  EXPECT_EQ(reinterpret_cast<u64>(aligned.address) % (1 << 20), 0u);
  const zone contiguous =
      must(h.reserve_zone("contiguous", {.size_bytes = 60000, .iova_contiguous = true}));
  EXPECT_GE(heap::locate(contiguous.address)->contiguous_bytes, 60000u);
  EXPECT_NE(contiguous.bus_address, no_iova);
  EXPECT_EQ(refused(h.reserve_zone("too long", {.size_bytes = 70000, .iova_contiguous = true})),
            errc::out_of_memory);
  const zone bounded =
      must(h.reserve_zone("bounded", {.size_bytes = 100000, .boundary_bytes = 131072}));
  EXPECT_EQ(reinterpret_cast<u64>(bounded.address) / 131072,
            (reinterpret_cast<u64>(bounded.address) + 99999) / 131072);
  expect_sound(h);
}

TEST_F(zones, of_size_zero_are_the_largest_there_is) {
  heap h = heap_with(4 << 20);
  void* first = h.allocate(1 << 20);
  const zone all = must(h.reserve_zone("all", {.size_bytes = 0}));
  EXPECT_EQ(all.size_bytes, 3u << 20);
  std::memset(all.address, 1, all.size_bytes);
  EXPECT_EQ(refused(h.reserve_zone("none", {.size_bytes = 0})), errc::out_of_memory);
  must(h.release_zone("all"));
  const zone bounded = must(h.reserve_zone("bounded", {.size_bytes = 0, .boundary_bytes = 65536}));
  EXPECT_EQ(bounded.size_bytes, 65536u);
  heap::free(first);
  expect_sound(h);
}

TEST_F(zones, a_thousand_are_walked_in_order) {
  heap h = heap_with(16 << 20);
  for (int i = 0; i < 1000; ++i)
    must(h.reserve_zone("zone" + std::to_string(1000 + i), {.size_bytes = 100}));
  std::vector<std::string> names;
  h.for_each_zone([&](const zone_summary& z) { names.push_back(z.name); });
  EXPECT_EQ(names.size(), 1000u);
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  expect_sound(h);
  for (const std::string& name : names)
    must(h.release_zone(name));
  EXPECT_EQ(h.stats().free_bytes, 16u << 20);
}

TEST_F(zones, cannot_be_freed_as_a_block) {
  heap h = heap_with(1 << 20, {.on_misuse = misuse_policy::refuse});
  const zone z = must(h.reserve_zone("z", {.size_bytes = 100}));
  heap::free(z.address);
  EXPECT_EQ(h.stats().misuse_count, 1u);
  EXPECT_EQ(must(h.find_zone("z")).address, z.address);
}

TEST_F(zones, the_largest_there_is_never_grows_the_heap) {
  heap h = heap_with(4 << 20);
  int calls = 0;
  h.on_shortage([&](std::size_t) {
    ++calls;
    return h.bring_memory({.length_bytes = 1 << 20}).has_value();
  });
  for (int i = 0; i < 100; ++i)
    heap::free(h.allocate(1000));  // a cache keeps some
  const zone all = must(h.reserve_zone("all", {}));
  EXPECT_EQ(all.size_bytes, 4u << 20);
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(refused(h.reserve_zone("more", {})), errc::out_of_memory);
  EXPECT_EQ(calls, 0) << "nothing is free, and it still did not grow";
}

// ---- zones that are committed (docs/design/0016) ------------------------------------------------

using committed_zones = in_own_directory;
using namespace std::chrono_literals;

std::optional<zone_summary> listed(const heap& h, const std::string& name) {
  std::optional<zone_summary> found;
  h.for_each_zone([&](const zone_summary& z) {
    if (z.name == name) found = z;
  });
  return found;
}

TEST_F(committed_zones, are_found_when_they_are_full_and_not_before) {
  heap h = heap_with(1 << 20, {}, "a");
  const zone z = must(h.reserve_zone("weights", {.size_bytes = 1000}, visibility::on_commit));
  ASSERT_NE(z.address, nullptr);
  EXPECT_EQ(refused(h.find_zone("weights")), errc::not_committed);
  EXPECT_EQ(refused(h.reserve_zone("weights", {.size_bytes = 1})), errc::zone_exists);
  const auto mine = listed(h, "weights");
  ASSERT_TRUE(mine);
  EXPECT_FALSE(mine->committed);
  EXPECT_EQ(mine->maker, h.self());
  EXPECT_EQ(mine->maker_process_id, ::getpid());
  EXPECT_TRUE(mine->maker_alive);
  expect_sound(h);
  std::memset(z.address, 7, z.size_bytes);
  must(h.commit_zone("weights", z));
  const zone found = must(h.find_zone("weights"));
  EXPECT_EQ(found.address, z.address);
  EXPECT_EQ(found.generation, z.generation);
  EXPECT_TRUE(listed(h, "weights")->committed);
  must(h.commit_zone("weights", z));  // again: it is
  EXPECT_EQ(refused(h.commit_zone("other", z)), errc::no_such_zone);
  expect_sound(h);
  must(h.release_zone("weights"));
  expect_alone_and_empty(h);
}

TEST_F(committed_zones, have_higher_generations_the_later_they_are_made) {
  heap h = heap_with(1 << 20, {}, "a");
  u64 last = 0;
  for (int i = 0; i < 10; ++i) {
    const zone z = must(h.reserve_zone("z", {.size_bytes = 1000},
                                       i % 2 == 0 ? visibility::on_commit : visibility::at_once));
    EXPECT_GT(z.generation, last);
    last = z.generation;
    if (i % 3 == 0) must(h.commit_zone("z", z));
    must(h.release_zone("z"));
    if (i == 5) {
      h = heap{};
      h = must(heap::attach("a"));
    }
  }
  const zone old = must(h.reserve_zone("z", {.size_bytes = 1000}, visibility::on_commit));
  must(h.release_zone("z"));
  const zone now = must(h.reserve_zone("z", {.size_bytes = 1000}, visibility::on_commit));
  EXPECT_EQ(refused(h.commit_zone("z", old)), errc::no_such_zone) << "another generation";
  EXPECT_EQ(refused(h.find_zone("z")), errc::not_committed);
  must(h.commit_zone("z", now));
  EXPECT_EQ(must(h.find_zone("z")).generation, now.generation);
}

TEST_F(committed_zones, have_higher_generations_after_a_repair_too) {
  for (int damage = 0; damage < 4; ++damage) {
    u64 last = 0;
    {
      heap h = heap_with(1 << 20, {}, "a");
      for (int i = 0; i < 5; ++i) {
        last = must(h.reserve_zone("gone", {.size_bytes = 100})).generation;
        must(h.release_zone("gone"));
      }
      (void)must(h.reserve_zone("half", {.size_bytes = 100}, visibility::on_commit));
    }
    {
      opened_segment opened("a");
      segment_header& header = opened.view().header();
      if (damage == 0) header.zone_generations = 1;
      if (damage == 1) header.zone_generations_again = 0;
      if (damage == 2) header.zone_generations = ~u64{0};
      if (damage == 3) header.zone_generations_again |= u64{1} << 60;
    }
    EXPECT_EQ(refused(heap::attach("a")), errc::corrupt) << damage;
    const repair_report done = must(heap::repair("a"));
    EXPECT_TRUE(done.after.holds()) << damage;
    heap h = must(heap::attach("a"));
    EXPECT_EQ(refused(h.find_zone("half")), errc::not_committed);
    EXPECT_GT(must(h.reserve_zone("new", {.size_bytes = 100})).generation, last) << damage;
    must(h.release_zone("half"));
    must(h.release_zone("new"));
    h = heap{};
    must(heap::destroy("a"));
  }
}

TEST_F(committed_zones, with_a_damaged_record_are_not_found_half_filled_after_a_repair) {
  for (const bool is_committed : {false, true}) {
    {
      heap h = heap_with(1 << 20, {}, "a");
      const zone z = must(h.reserve_zone("z", {.size_bytes = 100}, visibility::on_commit));
      if (is_committed) must(h.commit_zone("z", z));
    }
    {
      opened_segment opened("a");
      const segment s = opened.view();
      for (u32 i = 0; i < limits::zone_buckets; ++i)
        if (const chunk_ref ref = s.zone_buckets()[i]; ref != 0) {
          auto* z = s.chunk<zone_record>(ref);
          z->state.value ^= 0x10001;
          z->size_bytes ^= 0x30;  // two places: no seal tells what it was
        }
    }
    (void)must(heap::repair("a"));
    heap h = must(heap::attach("a"));
    EXPECT_EQ(refused(h.find_zone("z")), errc::not_committed);
    must(h.release_zone("z"));
    expect_alone_and_empty(h);
    h = heap{};
    must(heap::destroy("a"));
  }
}

TEST_F(committed_zones, of_a_living_maker_are_nobody_elses_business) {
  heap h = heap_with(1 << 20, {}, "a");
  const zone z = must(h.reserve_zone("z", {.size_bytes = 100}, visibility::on_commit));
  child_process other([&] {
    heap mine = must(heap::attach("a"));
    EXPECT_EQ(refused(mine.find_zone("z")), errc::not_committed);
    EXPECT_EQ(refused(mine.commit_zone("z", z)), errc::heap_in_use);
    EXPECT_EQ(refused(mine.release_zone("z")), errc::heap_in_use);
    EXPECT_EQ(refused(mine.reserve_zone("z", {.size_bytes = 100})), errc::zone_exists);
    EXPECT_TRUE(listed(mine, "z")->maker_alive);
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(other.wait_for_exit_code(), 0);
  must(h.commit_zone("z", z));
  child_process reader([&] {
    heap mine = must(heap::attach("a", {.read_only = true}));
    EXPECT_EQ(must(mine.find_zone("z")).generation, z.generation);
    EXPECT_EQ(refused(mine.commit_zone("z", z)), errc::read_only);
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(reader.wait_for_exit_code(), 0);
}

TEST_F(committed_zones, of_a_dead_maker_are_listed_and_free_for_others) {
  heap h = heap_with(1 << 20, {}, "a");
  u64 last = 0;
  for (const bool release : {true, false}) {
    child_process maker([] {
      heap mine = must(heap::attach("a"));
      (void)must(mine.reserve_zone("z", {.size_bytes = 600 << 10}, visibility::on_commit));
      ::raise(SIGKILL);
      return 0;
    });
    const pid_t id = maker.id();
    EXPECT_EQ(maker.wait_for_exit_code(), -SIGKILL);
    EXPECT_EQ(refused(h.find_zone("z")), errc::not_committed);
    h.recover();
    const auto left = listed(h, "z");
    ASSERT_TRUE(left);
    EXPECT_FALSE(left->committed);
    EXPECT_FALSE(left->maker_alive);
    EXPECT_EQ(left->maker_process_id, id);
    EXPECT_GT(left->generation, last);
    last = left->generation;
    if (release) must(h.release_zone("z"));
  }
  // Only one has room.
  const zone z = must(h.reserve_zone("z", {.size_bytes = 600 << 10}, visibility::on_commit));
  EXPECT_GT(z.generation, last);
  EXPECT_EQ(refused(h.find_zone("z")), errc::not_committed);
  must(h.commit_zone("z", z));
  expect_sound(h);
  must(h.release_zone("z"));
  expect_alone_and_empty(h);
}

TEST_F(committed_zones, of_another_process_with_the_dead_makers_record_are_still_the_dead_makers) {
  heap h = heap_with(1 << 20, {}, "a");
  child_process maker([] {
    heap mine = must(heap::attach("a"));
    (void)must(mine.reserve_zone("z", {.size_bytes = 1000}, visibility::on_commit));
    ::raise(SIGKILL);
    return 0;
  });
  maker.wait_for_exit_code();
  h.recover();
  auto* const ready = shared_words<std::atomic<int>>();
  child_process next([&] {
    heap mine = must(heap::attach("a"));
    *ready = static_cast<int>(mine.self());
    ::pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return ready->load() != 0; }));
  EXPECT_EQ(static_cast<u32>(ready->load()), static_cast<u32>(listed(h, "z")->maker))
      << "the record is used again";
  EXPECT_FALSE(listed(h, "z")->maker_alive);
  must(h.release_zone("z"));
}

TEST_F(committed_zones, are_waited_for_also_by_who_may_only_read) {
  heap h = heap_with(1 << 20, {}, "a");
  EXPECT_EQ(refused(h.wait_zone("z", 0ns)), errc::deadline_passed);
  EXPECT_EQ(refused(h.wait_zone("z", 20ms)), errc::deadline_passed);
  EXPECT_EQ(refused(h.wait_zone("", 1s)), errc::invalid_name);
  auto* const waiting = shared_words<std::atomic<int>>();
  std::vector<std::unique_ptr<child_process>> all;
  for (const bool read_only : {false, true})
    all.push_back(std::make_unique<child_process>([=] {
      heap mine = must(heap::attach("a", {.read_only = read_only}));
      ++*waiting;
      const zone first = must(mine.wait_zone("z", 60s));
      EXPECT_EQ(static_cast<const char*>(first.address)[999], 1);
      ++*waiting;
      const zone second = must(mine.wait_zone("z", 60s, first.generation));
      EXPECT_GT(second.generation, first.generation);
      EXPECT_EQ(static_cast<const char*>(second.address)[999], 2);
      EXPECT_EQ(refused(mine.resolve(first.where)), errc::stale_handle);
      EXPECT_EQ(refused(mine.wait_zone("z", 10ms, second.generation)), errc::deadline_passed);
      return ::testing::Test::HasFailure() ? 1 : 0;
    }));
  for (int round = 1; round <= 2; ++round) {
    ASSERT_TRUE(wait_until([&] { return waiting->load() == round * 2; }));
    if (round == 2) must(h.release_zone("z"));
    const zone z = must(h.reserve_zone("z", {.size_bytes = 1000}, visibility::on_commit));
    std::this_thread::sleep_for(5ms);
    std::memset(z.address, round, z.size_bytes);
    must(h.commit_zone("z", z));
  }
  for (auto& one : all)
    EXPECT_EQ(one->wait_for_exit_code(), 0);
}

TEST_F(committed_zones, are_waited_for_although_makers_are_killed_at_any_moment) {
  heap h = heap_with(1 << 20, {}, "a");
  auto* const waiting = shared_words<std::atomic<int>>();
  child_process reader([=] {
    heap mine = must(heap::attach("a", {.read_only = true}));
    u64 generation = 0;
    *waiting = 1;
    for (;;) {  // until the last one
      const zone z = must(mine.wait_zone("z", 60s, generation));
      const auto* bytes = static_cast<const unsigned char*>(z.address);
      const unsigned char first = bytes[0];
      const bool is_whole =
          std::all_of(bytes, bytes + z.size_bytes, [=](unsigned char b) { return b == first; });
      if (!is_whole && mine.resolve(z.where)) return 1;  // nobody has released it meanwhile
      generation = z.generation;
      if (is_whole && first == 255 && mine.resolve(z.where)) return 0;
    }
  });
  ASSERT_TRUE(wait_until([&] { return waiting->load() != 0; }));
  std::mt19937 random(20260102);
  for (int round = 0; round < 40; ++round) {
    child_process maker([round] {
      heap mine = must(heap::attach("a"));
      for (int i = 0;; ++i) {
        (void)mine.release_zone("z");
        const zone z = must(mine.reserve_zone("z", {.size_bytes = 50000}, visibility::on_commit));
        std::memset(z.address, (round + i) % 200, z.size_bytes);
        must(mine.commit_zone("z", z));
      }
      return 0;
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 4000));
    maker.kill_now();
    maker.wait_for_exit_code();
  }
  h.recover();
  (void)h.release_zone("z");
  const zone z = must(h.reserve_zone("z", {.size_bytes = 50000}, visibility::on_commit));
  std::memset(z.address, 255, z.size_bytes);
  must(h.commit_zone("z", z));
  EXPECT_EQ(reader.wait_for_exit_code(), 0);
  expect_sound(h);
}

}  // namespace
}  // namespace annex
