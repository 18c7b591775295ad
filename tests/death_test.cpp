// tests/death_test.cpp - the other ways to go: stopped, replaced, exited, aborted, in another PID
// namespace, pid taken by another.
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "another_member.hpp"
#include "heap/local_heap.hpp"
#include "support.hpp"

namespace annex {
namespace {

using deaths = in_own_directory;
struct words {
  std::atomic<int> ready{0}, inner{0};
  std::atomic<u64> block{0};
};

// The dead are noticed, their caches come back, their blocks stay until they are reaped, then the
// heap is as it was.
void expect_recovered(heap& h, u64 blocks_left) {
  EXPECT_TRUE(wait_until([&] { return h.recover() == 1; }));
  expect_sound(h);
  u64 held = 0;
  for (const member_summary& m : h.members()) {
    if (m.alive) continue;
    held += m.held_blocks;
    must(h.reap(m.id));
  }
  EXPECT_EQ(held, blocks_left);
  expect_alone_and_empty(h);
}

TEST_F(deaths, exit_without_close) {
  heap h = heap_with(4 << 20, {}, "a");
  child_process child([] {
    heap mine = must(attach_as_another("a"));
    for (int i = 0; i < 40; ++i)
      mine.allocate(100);
    ::_exit(0);
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  expect_recovered(h, 40);
}

TEST_F(deaths, exec_is_the_end_of_a_member_though_not_of_its_process) {
  auto* w = shared_words<words>();
  heap h = heap_with(4 << 20, {}, "a");
  child_process child([w] {
    heap mine = must(attach_as_another("a"));
    for (int i = 0; i < 40; ++i)
      mine.allocate(100);
    w->ready = 1;
    ::execl("/bin/sleep", "sleep", "100", nullptr);
    return 1;
  });
  ASSERT_TRUE(wait_until([&] { return w->ready == 1; }));
  auto program = [&] {
    std::ifstream file(fmt::format("/proc/{}/comm", child.id()));
    std::string name;
    std::getline(file, name);
    return name;
  };
  ASSERT_TRUE(wait_until([&] { return program() == "sleep"; }));
  EXPECT_EQ(::kill(child.id(), 0), 0) << "the process lives, as something else";
  expect_recovered(h, 40);
}

TEST_F(deaths, a_thread_that_ends_gives_its_full_caches_back) {
  heap h = heap_with(8 << 20, {}, "a");
  std::thread([&] {
    std::vector<void*> blocks;
    for (int i = 0; i < 2000; ++i)
      blocks.push_back(h.allocate(static_cast<std::size_t>(16 + i)));
    heap::free_bulk(blocks);
    EXPECT_GT(h.members().front().cached_bytes, 10000u);
  }).join();
  EXPECT_EQ(h.members().front().cached_bytes, 0u);
  EXPECT_EQ(h.stats().free_bytes, 8u << 20) << "empty slabs went back at once";
  expect_sound(h);
}

TEST_F(deaths, a_pid_that_is_somebody_elses_now_means_nothing) {
  heap h = heap_with(4 << 20, {}, "a");
  pid_t dead = 0;
  {
    child_process child([] {
      heap mine = must(attach_as_another("a"));
      for (int i = 0; i < 7; ++i)
        mine.allocate(100);
      ::kill(::getpid(), SIGKILL);
      return 0;
    });
    dead = child.id();
    child.wait_for_exit_code();
  }
  // The next process gets the dead one's number.
  const int last = ::open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
  const std::string before = std::to_string(dead - 1);
  if (last < 0 || ::write(last, before.data(), before.size()) < 0)
    GTEST_SKIP() << "may not choose process numbers";
  ::close(last);
  child_process heir([] {
    ::pause();
    return 0;
  });
  if (heir.id() != dead) GTEST_SKIP() << "another process was faster";
  expect_recovered(h, 7);
}

TEST_F(deaths, other_pid_namespaces_are_no_hiding_place) {
  auto* w = shared_words<words>();
  heap h = heap_with(4 << 20, {}, "a");
  child_process outer([w] {
    if (::unshare(CLONE_NEWPID) != 0) return 77;
    child_process inner([w] {  // process 1 over there
      heap mine = must(attach_as_another("a"));
      int alive = 0;
      for (const member_summary& m : mine.members())
        alive += m.alive;
      if (::getpid() != 1 || alive != 2 || mine.recover() != 0) return 1;
      for (int i = 0; i < 9; ++i)
        mine.allocate(100);
      w->ready = 1;
      for (;;)
        ::pause();
    });
    w->inner = inner.id();  // its number here
    return inner.wait_for_exit_code() == -SIGKILL ? 0 : 1;
  });
  auto has_ended = [&] {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(outer.id()), &info, WEXITED | WNOHANG | WNOWAIT) ==
               0 &&
           info.si_pid != 0;
  };
  ASSERT_TRUE(wait_until([&] { return (w->ready == 1 && w->inner != 0) || has_ended(); }));
  if (w->ready == 0) GTEST_SKIP() << "may not make a PID namespace";
  EXPECT_EQ(h.recover(), 0u) << "it lives";
  EXPECT_EQ(h.members().size(), 2u);
  for (const member_summary& m : h.members())
    if (!m.self) {
      EXPECT_EQ(m.process_id, 1) << "its number there, which means nothing here";
    }
  ::kill(w->inner, SIGKILL);
  EXPECT_EQ(outer.wait_for_exit_code(), 0);
  expect_recovered(h, 9);
}

struct aborting : observer {
  bool when_added;
  explicit aborting(bool added) : when_added(added) {}
  std::string_view name() const noexcept override { return "aborting"; }
  result<void> on_add(const region_view& r) override {
    if (when_added && static_cast<unsigned>(r.region) != 1) std::abort();
    return {};
  }
  result<void> finish_remove(const region_view&, std::chrono::steady_clock::time_point) override {
    if (!when_added) std::abort();
    return {};
  }
};

TEST_F(deaths, abort_in_an_observer_leaves_no_half_region) {
  for (const bool when_added : {true, false}) {
    heap h = heap_with(1 << 20, {}, "a");
    child_process child([when_added] {
      ::dup2(::open("/dev/null", O_WRONLY | O_CLOEXEC), 2);
      heap mine = must(attach_as_another("a"));
      aborting who(when_added);
      auto seen = must(mine.observe(who));
      if (when_added)
        (void)mine.bring_memory({.length_bytes = 1 << 20});
      else
        (void)mine.remove_memory(region_id{1});
      return 0;
    });
    EXPECT_EQ(child.wait_for_exit_code(), -SIGABRT);
    expect_recovered(h, 0);
    int regions = 0;
    h.for_each_region([&](const region_summary& r) {
      ++regions;
      EXPECT_FALSE(r.draining) << "a region whose remover died serves again";
    });
    EXPECT_EQ(regions, 1);
    void* block = h.allocate(5000);
    EXPECT_NE(block, nullptr);
    heap::free(block);
    must(h.remove_memory(region_id{1}));
    h = heap{};
    must(heap::destroy("a"));
    EXPECT_TRUE(std::filesystem::is_empty(path()));
  }
}

TEST_F(deaths, whoever_is_stopped_keeps_what_is_his_and_others_go_on) {
  auto* w = shared_words<words>();
  heap h = heap_with(8 << 20, {}, "a");
  child_process child([w] {
    heap mine = must(attach_as_another("a"));
    std::mt19937 random(1);
    void* kept = mine.allocate(1000);
    w->block = static_cast<u64>(mine.handle_of(kept));
    std::memset(kept, 7, 1000);
    w->ready = 1;
    for (;;)
      heap::free(mine.allocate(16 + random() % 3000));
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return w->ready == 1; }));
  void* const mine = h.allocate(64);
  heap::free(mine);  // a block in this thread's cache
  int held = 0;
  for (int round = 0; round < 40; ++round) {
    ::usleep(static_cast<useconds_t>(100 + round * 37));
    child.kill_now(SIGSTOP);
    ::waitpid(child.id(), nullptr, WUNTRACED);
    if (h.internal()->here.seg.header().lock.load(std::memory_order_relaxed) != 0) {
      // Stopped with the lock in its hands: what needs no lock goes on, the rest waits for it.
      ++held;
      heap::free(h.allocate(64));
      child.kill_now(SIGCONT);
      continue;
    }
    EXPECT_EQ(h.recover(), 0u);
    for (int i = 0; i < 50; ++i) {
      void* small = h.allocate(200);
      void* large = h.allocate(100000);
      ASSERT_TRUE(small != nullptr && large != nullptr);
      heap::free(small);
      heap::free(large);
    }
    must(h.reserve_zone("z", {.size_bytes = 100}));
    must(h.release_zone("z"));
    h.trim();
    const auto report = must(h.audit());
    for (const std::string& sentence : report.broken)
      ADD_FAILURE() << sentence;
    EXPECT_EQ(static_cast<unsigned char*>(must(h.resolve(handle{w->block.load()})))[999], 7);
    heap::free(h.allocate(64));  // in the cache again after the trim
    child.kill_now(SIGCONT);
  }
  EXPECT_LT(held, 40) << "it always had the lock";
  child.kill_now();
  child.wait_for_exit_code();
  EXPECT_EQ(h.recover(), 1u);
  for (const member_summary& m : h.members())
    if (!m.alive) must(h.reap(m.id));
  h.trim();
  EXPECT_EQ(h.stats().live_blocks, 0u);
  expect_sound(h);
}

TEST_F(deaths, the_holder_of_the_lock_is_named_when_it_is_stopped_and_replaced_when_it_is_killed) {
  auto* w = shared_words<words>();
  heap h = heap_with(8 << 20, {}, "a");
  child_process child([w] {
    heap mine = must(attach_as_another("a"));
    detail::locked t(mine.internal()->here);
    w->ready = 1;
    ::raise(SIGSTOP);
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return w->ready == 1; }));
  ::waitpid(child.id(), nullptr, WUNTRACED);
  const std::string log = path() + "/log";
  child_process waiter([&] {
    ::dup2(::open(log.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600), 2);
    heap mine = must(attach_as_another("a"));  // takes the lock
    return mine.allocate(100000) != nullptr ? 0 : 1;
  });
  ::usleep(1'600'000);
  EXPECT_EQ(::waitpid(waiter.id(), nullptr, WNOHANG), 0) << "it waits: the holder is alive";
  child.kill_now();
  child.wait_for_exit_code();
  EXPECT_EQ(waiter.wait_for_exit_code(), 0) << "and goes on at once when the holder is dead";
  std::string text(4096, '\0');
  const int fd = ::open(log.c_str(), O_RDONLY | O_CLOEXEC);
  const auto n = ::read(fd, text.data(), text.size());
  ::close(fd);
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  EXPECT_NE(text.find(fmt::format("process {} ", child.id())), text.npos) << text;
  ::unlink(log.c_str());
  EXPECT_GE(h.stats().lock_steals, 1u);
  expect_sound(h);
}

}  // namespace
}  // namespace annex
