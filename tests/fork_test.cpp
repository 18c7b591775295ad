// tests/fork_test.cpp - fork, vfork and posix_spawn under load: no child hangs, none is refused,
// nothing is lost.
//
// ANNEX_FORKS: how many children of the busy parent (400).
#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "another_member.hpp"
#include "heap/local_heap.hpp"
#include "support.hpp"

extern char** environ;

namespace annex {
namespace {

using forks = in_own_directory;

constexpr unsigned hanging_after_seconds = 20;

int how_many(int usually) {
  const char* const asked = std::getenv("ANNEX_FORKS");
  return asked != nullptr ? std::atoi(asked) : usually;
}

struct willing : observer {
  std::string_view name() const noexcept override { return "willing"; }
  result<void> on_add(const region_view&) override { return {}; }
  result<void> finish_remove(const region_view&, std::chrono::steady_clock::time_point) override {
    return {};
  }
};

// Threads that are in the middle of everything.
class busy_threads {
 public:
  explicit busy_threads(heap& h) : heap_(h) {
    for (unsigned seed = 1; seed <= 2; ++seed)
      work([this, random = std::mt19937(seed)]() mutable { allocate_and_free(random); });
    work([this] { bring_and_remove(); });
    work([this] { attach_and_close(); });
    work([this] { observe(); });
  }
  ~busy_threads() {
    stop_ = true;
    for (std::thread& t : threads_)
      t.join();
  }
  std::uint64_t rounds() const { return rounds_; }

 private:
  template <class Work>
  void work(Work what) {
    threads_.emplace_back([this, what]() mutable {
      while (!stop_) {
        what();
        ++rounds_;
      }
    });
  }
  void allocate_and_free(std::mt19937& random) {
    void* blocks[32] = {};
    for (void*& block : blocks)
      block = heap_.allocate(1 + random() % (random() % 10 == 0 ? 200000 : 4000));
    for (void* block : blocks)
      heap::free(block);
  }
  void bring_and_remove() {
    const auto id = heap_.bring_memory({.length_bytes = 1 << 20});
    if (!id)
      ADD_FAILURE() << id.error().message();
    else
      (void)heap_.drain_memory(*id, std::chrono::milliseconds(1));
  }
  void attach_and_close() {
    { heap shared = must(heap::attach("a")); }
    heap own = must(attach_as_another("a"));
    heap::free(own.allocate(1000));
  }
  void observe() {
    willing who;
    const auto seen = heap_.observe(who);
    if (!seen) ADD_FAILURE() << seen.error().message();
  }

  heap& heap_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> rounds_{0};
  std::vector<std::thread> threads_;
};

void remove_what_was_brought(heap& h) {
  for (int tries = 0; tries < 3; ++tries) {
    h.recover();
    for (const member_summary& m : h.members())
      if (!m.alive) (void)h.reap(m.id);
    h.trim();
    std::vector<region_id> extra;
    h.for_each_region([&](const region_summary& r) {
      if (static_cast<unsigned>(r.id) > 1) extra.push_back(r.id);
    });
    for (const region_id id : extra)
      (void)h.drain_memory(id, std::chrono::seconds(2));
  }
}

TEST_F(forks, of_a_program_in_the_middle_of_everything_end_well) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer's allocator is not put right at fork: a child of threads may find "
                  "its locks held";
#endif
  heap h =
      heap_with(64 << 20, {.member_limit = 64, .thread_limit = 256, .region_limit = 1024}, "a");
  const auto begin = std::chrono::steady_clock::now();
  std::chrono::steady_clock::duration longest{};
  {
    busy_threads busy(h);
    for (int i = 0; i < how_many(400) && !HasFailure(); ++i) {
      const auto before = std::chrono::steady_clock::now();
      child_process child([&, i] {
        ::alarm(hanging_after_seconds);
        void* const small = h.allocate(100);
        void* const large = h.allocate(150000);
        if (small == nullptr || large == nullptr) return 1;
        std::memset(large, 1, 150000);
        heap::free(small);
        if (i % 4 == 1 && !h.bring_memory({.length_bytes = 1 << 20})) return 2;
        if (i % 4 == 2) {  // threads that all ask for their first lock at once
          std::atomic<bool> failed{false};
          std::thread others[4];
          for (std::thread& t : others)
            t = std::thread([&] {
              void* const block = h.allocate(100000);
              if (block == nullptr) failed = true;
              heap::free(block);
            });
          for (std::thread& t : others)
            t.join();
          if (failed) return 3;
        }
        if (i % 4 == 3) {
          heap again = must(heap::attach("a"));
          heap::free(again.allocate(200));
        }
        heap::free(large);
        return 0;
      });
      EXPECT_EQ(child.wait_for_exit_code(), 0) << "child " << i;
      longest = std::max(longest, std::chrono::steady_clock::now() - before);
      if (i % 50 == 49) {
        h.recover();
        expect_sound(h);
      }
    }
    EXPECT_GT(busy.rounds(), 0u);
  }
  std::printf("longest child %.0f ms, all in %.1f s\n",
              std::chrono::duration<double, std::milli>(longest).count(),
              std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  EXPECT_LT(longest, std::chrono::seconds(10));
  remove_what_was_brought(h);
  EXPECT_EQ(h.members().size(), 1u);
  EXPECT_EQ(h.stats().live_blocks, 0u);
  expect_sound(h);
}

TEST_F(forks, first_locks_of_a_childs_threads_do_not_disturb_each_other) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "threads in a child of threads";
#endif
  heap a = heap_with(8 << 20, {}, "a"), b = heap_with(8 << 20, {}, "b");
  for (int i = 0; i < how_many(400) / 4; ++i) {
    child_process child([&] {
      ::alarm(hanging_after_seconds);
      std::atomic<int> ready{0};
      auto use = [&](heap& h) {
        ++ready;
        while (ready != 2) {}
        for (int n = 0; n < 3; ++n)
          heap::free(h.allocate(100000));
      };
      std::thread other([&] { use(b); });
      use(a);
      other.join();
      return 0;
    });
    ASSERT_EQ(child.wait_for_exit_code(), 0) << "child " << i;
  }
  a.recover();
  b.recover();
  expect_sound(a);
  expect_sound(b);
}

TEST_F(forks, of_forks_are_members_of_their_own) {
  heap h = heap_with(8 << 20, {}, "a");
  void* const block = h.allocate(100);
  child_process child([&] {
    ::alarm(hanging_after_seconds);
    child_process grandchild([&] {  // of a child that had not used the heap
      void* const own = h.allocate(100);
      heap::free(own);
      return own != nullptr && h.members().size() == 2 ? 0 : 1;
    });
    if (grandchild.wait_for_exit_code() != 0) return 1;
    if (h.allocate(100) == nullptr) return 2;
    child_process later([&] { return h.allocate(100) != nullptr ? 0 : 1; });
    return later.wait_for_exit_code() == 0 ? 0 : 3;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  heap::free(block);
  h.recover();
  for (const member_summary& m : h.members())
    if (!m.alive) (void)h.reap(m.id);
  EXPECT_EQ(h.stats().live_blocks, 0u);
  expect_sound(h);
}

TEST_F(forks, other_programs_started_while_the_lock_is_held_keep_nothing_alive) {
  heap h = heap_with(8 << 20, {}, "a");
  struct words {
    std::atomic<int> ready{0};
    std::atomic<int> programs[3];
  };
  auto* w = shared_words<words>();
  child_process child([w] {
    heap mine = must(attach_as_another("a"));
    for (int i = 0; i < 10; ++i)
      mine.allocate(100);
    detail::locked held(mine.internal()->here);
    static char name[] = "sleep", time[] = "60";
    char* const arguments[] = {name, time, nullptr};
    pid_t spawned = 0;
    if (::posix_spawn(&spawned, "/bin/sleep", nullptr, nullptr, arguments, environ) != 0) return 1;
    const pid_t by_vfork = ::vfork();
    if (by_vfork == 0) {
      ::execv("/bin/sleep", arguments);
      ::_exit(127);
    }
    const pid_t by_fork = ::fork();
    if (by_fork == 0) {
      ::execv("/bin/sleep", arguments);
      ::_exit(127);
    }
    w->programs[0] = spawned;
    w->programs[1] = by_vfork;
    w->programs[2] = by_fork;
    w->ready = 1;
    ::pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return w->ready == 1; }));
  child.kill_now();
  EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
  const auto before = std::chrono::steady_clock::now();
  // The lock is taken over at once, although three of its children live.
  void* const large = h.allocate(100000);
  EXPECT_NE(large, nullptr);
  heap::free(large);
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(1));
  EXPECT_GE(h.stats().lock_steals, 1u);
  h.recover();
  for (const member_summary& m : h.members())
    if (!m.self) {
      EXPECT_FALSE(m.alive);
      EXPECT_EQ(must(h.reap(m.id)), 10u);
    }
  for (const auto& program : w->programs) {
    EXPECT_EQ(::kill(program, 0), 0) << "it lives still";
    ::kill(program, SIGKILL);
  }
  expect_sound(h);
}

TEST_F(forks, while_another_thread_has_the_lock_leave_it_to_the_parent) {
  heap h = heap_with(8 << 20, {}, "a");
  heap another = must(attach_as_another("a"));
  for (int i = 0; i < 20; ++i) {
    std::atomic<bool> has{false}, leave{false};
    std::thread holder([&] {
      detail::locked held(another.internal()->here);
      has = true;
      while (!leave)
        std::this_thread::yield();
    });
    while (!has)
      std::this_thread::yield();
    child_process child([&] {
      ::alarm(hanging_after_seconds);
      void* const block = h.allocate(100000);  // waits for the parent
      heap::free(block);
      return block != nullptr ? 0 : 1;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    leave = true;
    EXPECT_EQ(child.wait_for_exit_code(), 0);
    holder.join();
  }
  expect_sound(h);
}

}  // namespace
}  // namespace annex
