// tests/open_test.cpp - heap::open: attach to what is there, create what is not, whoever else does
// the same.
#include <sched.h>
#include <time.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <random>
#include <vector>

#include "support.hpp"

namespace annex {
namespace {

using open = in_own_directory;

const heap_options small{.metadata_limit_bytes = std::size_t{16} << 20,
                         .member_limit = 64,
                         .thread_limit = 64,
                         .region_limit = 16,
                         .zone_limit = 16};

std::vector<std::string> files_of_the_directory() {
  std::vector<std::string> names;
  for (const auto& file : std::filesystem::directory_iterator(directory()))
    names.push_back(file.path().filename().string());
  return names;
}

TEST_F(open, creates_once_and_attaches_from_then_on) {
  bool is_new = false;
  heap first = must(heap::open("a", small, &is_new));
  EXPECT_TRUE(is_new);
  heap second = must(heap::open("a", {.zone_limit = 7}, &is_new));
  EXPECT_FALSE(is_new);
  EXPECT_EQ(first.id(), second.id());
  must(first.bring_memory({.length_bytes = 1 << 20}));
  EXPECT_NE(second.allocate(100), nullptr);
}

TEST_F(open, finds_the_heap_again_after_everybody_has_closed_it) {
  const heap_id id = must(heap::open("a", small)).id();
  EXPECT_EQ(must(heap::open("a", small)).id(), id);
  must(heap::destroy("a"));
  bool is_new = false;
  EXPECT_NE(must(heap::open("a", small, &is_new)).id(), id);
  EXPECT_TRUE(is_new);
}

TEST_F(open, refuses_what_create_and_attach_refuse) {
  EXPECT_EQ(refused(heap::open(".a")), errc::invalid_name);
  EXPECT_EQ(refused(heap::open("a", {.thread_limit = 1})), errc::invalid_argument);
  EXPECT_EQ(refused(heap::attach("a")), errc::no_such_heap) << "nothing was made";
  must(heap::open("a", small));
  EXPECT_EQ(refused(heap::open("a", {.thread_limit = 1})), errc::invalid_argument)
      << "there or not";
}

TEST_F(open, of_an_ephemeral_heap_begins_anew_when_its_last_member_has_died) {
  heap_options worthless = small;
  worthless.ephemeral = true;
  auto* const id = shared_words<std::atomic<u64>>();
  child_process dies([&] {
    static heap h = must(heap::open("a", worthless));
    must(h.bring_memory({.length_bytes = 1 << 20}));
    (void)h.allocate(1000);
    id->store(static_cast<u64>(h.id()));
    ::pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return id->load() != 0; }));
  bool is_new = true;
  EXPECT_EQ(static_cast<u64>(must(heap::open("a", worthless, &is_new)).id()), id->load());
  EXPECT_FALSE(is_new) << "it lives";
  dies.kill_now();
  dies.wait_for_exit_code();
  heap h = must(heap::open("a", worthless, &is_new));
  EXPECT_TRUE(is_new);
  EXPECT_NE(static_cast<u64>(h.id()), id->load());
  EXPECT_EQ(h.stats().region_count, 0u);
}

constexpr int crowd = 16;
struct meeting {
  std::atomic<int> ready, go, opened, creators, strangers, leave;
  std::atomic<u64> id;
};

TEST_F(open, by_sixteen_processes_at_once_creates_once) {
  for (int round = 0; round < 25; ++round) {
    auto* const m = shared_words<meeting>();
    std::vector<std::unique_ptr<child_process>> all;
    for (int i = 0; i < crowd; ++i)
      all.push_back(std::make_unique<child_process>([m] {
        ++m->ready;
        while (m->go.load() == 0)
          ::sched_yield();
        bool is_new = false;
        heap h = must(heap::open("a", small, &is_new));
        if (is_new) ++m->creators;
        u64 nobody = 0;
        const u64 mine = static_cast<u64>(h.id());
        if (!m->id.compare_exchange_strong(nobody, mine) && nobody != mine) ++m->strangers;
        ++m->opened;
        while (m->leave.load() == 0)
          ::usleep(200);
        return 0;
      }));
    ASSERT_TRUE(wait_until([&] { return m->ready.load() == crowd; }));
    m->go = 1;
    ASSERT_TRUE(wait_until([&] { return m->opened.load() == crowd; })) << m->opened.load();
    EXPECT_EQ(m->creators.load(), 1);
    EXPECT_EQ(m->strangers.load(), 0);
    {
      heap h = must(heap::attach("a"));
      expect_sound(h);
    }
    m->leave = 1;
    for (auto& one : all)
      EXPECT_EQ(one->wait_for_exit_code(), 0);
    must(heap::destroy("a"));
    EXPECT_TRUE(files_of_the_directory().empty()) << files_of_the_directory().front();
  }
}

TEST_F(open, is_not_blocked_by_processes_that_are_killed_while_they_open) {
  std::mt19937 random(20260101);
  for (int round = 0; round < 60; ++round) {
    auto* const m = shared_words<meeting>();
    std::vector<std::unique_ptr<child_process>> all;
    for (int i = 0; i < 4; ++i)
      all.push_back(std::make_unique<child_process>([m] {
        ++m->ready;
        while (m->go.load() == 0)
          ::sched_yield();
        heap h = must(heap::open("a", small));
        ::pause();
        return 0;
      }));
    ASSERT_TRUE(wait_until([&] { return m->ready.load() == 4; }));
    m->go = 1;
    const timespec moment{0, static_cast<long>(random() % 3'000'000)};
    ::nanosleep(&moment, nullptr);
    for (auto& one : all)
      one->kill_now();
    for (auto& one : all)
      one->wait_for_exit_code();
    {
      heap h = must(heap::open("a", small));
      expect_alone_and_empty(h);
    }
    must(heap::destroy("a"));
    EXPECT_TRUE(files_of_the_directory().empty()) << files_of_the_directory().front();
  }
}

TEST_F(open, and_destroy_in_a_crowd_leave_a_heap_or_none) {
  auto* const m = shared_words<meeting>();
  std::vector<std::unique_ptr<child_process>> all;
  for (int i = 0; i < 6; ++i)
    all.push_back(std::make_unique<child_process>([m, i] {
      for (int round = 0; round < 60; ++round) {
        { heap h = must(heap::open("a", small)); }
        if (round % 6 == i)
          if (auto ended = heap::destroy("a"); !ended && ended.error().code != errc::heap_in_use &&
                                               ended.error().code != errc::no_such_heap)
            ++m->strangers;
      }
      return 0;
    }));
  for (auto& one : all)
    EXPECT_EQ(one->wait_for_exit_code(), 0);
  EXPECT_EQ(m->strangers.load(), 0);
  heap h = must(heap::open("a", small));
  expect_alone_and_empty(h);
}

}  // namespace
}  // namespace annex
