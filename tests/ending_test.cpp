// tests/ending_test.cpp - how threads and programs end: any order of destructors, and workers that
// go on while main returns.
//
// A program that ends is this one, executed again with the name of a part of it.
#include <pthread.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "another_member.hpp"
#include "support.hpp"

namespace annex {
namespace {

heap* left_open = nullptr;  // a heap that is never closed
heap closed_at_the_end;     // a static one: its destructor runs when main has returned

void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  ::_exit(3);
}
void use(heap& h) {
  void* small = h.allocate(100);
  void* large = h.allocate(100000);
  check(small != nullptr && large != nullptr, "no block");
  std::memset(small, 1, 100);
  std::memset(large, 1, 100000);
  void* const from_malloc = std::malloc(200);  // notices what writes where a cache had been
  std::free(from_malloc);
  heap::free(large);
  heap::free(small);
}
void fill_a_cache(heap& h) {
  std::vector<void*> blocks;
  for (std::size_t i = 0; i < 200; ++i)
    blocks.push_back(h.allocate(16 + i * 20));
  heap::free_bulk(blocks);
}

// Allocates and frees when it is destroyed; keeps a block until then.
struct user {
  void* kept = nullptr;
  void keep() { kept = left_open->allocate(64); }
  ~user() {
    if (left_open == nullptr) return;
    heap::free(kept);
    use(*left_open);
    fill_a_cache(*left_open);
  }
};
thread_local user of_the_thread;
user of_the_program;  // made before main, destroyed after

pthread_key_t the_key{};
pthread_key_t make_key() {
  ::pthread_key_create(&the_key, [](void* value) {
    use(*left_open);
    const auto rounds = reinterpret_cast<std::intptr_t>(value);
    if (rounds > 1) ::pthread_setspecific(the_key, reinterpret_cast<void*>(rounds - 1));
  });
  return the_key;
}
void set(pthread_key_t key, int rounds) {
  ::pthread_setspecific(key, reinterpret_cast<void*>(static_cast<std::intptr_t>(rounds)));
}

void open_heap() {
  left_open = new heap(must(heap::attach("a")));
}

// ---- programs
int thread_locals_then_heap() {
  open_heap();
  for (int i = 0; i < 20; ++i)
    std::thread([] {
      of_the_thread.keep();  // made first, destroyed last
      fill_a_cache(*left_open);
    }).join();
  of_the_thread.keep();
  return 0;
}
int heap_then_thread_locals() {
  open_heap();
  for (int i = 0; i < 20; ++i)
    std::thread([] {
      fill_a_cache(*left_open);
      of_the_thread.keep();
    }).join();
  fill_a_cache(*left_open);
  of_the_thread.keep();
  return 0;
}
int keys_made_before() {
  const pthread_key_t key = make_key();
  open_heap();
  for (const int rounds : {1, 2, 3, 4, 6})
    for (int i = 0; i < 10; ++i)
      std::thread([=] {
        set(key, rounds);
        fill_a_cache(*left_open);
        of_the_thread.keep();
      }).join();
  use(*left_open);
  return 0;
}
int keys_made_after() {
  open_heap();
  use(*left_open);
  const pthread_key_t key = make_key();
  for (const int rounds : {1, 2, 3, 4, 6})
    for (int i = 0; i < 10; ++i)
      std::thread([=] {
        fill_a_cache(*left_open);
        set(key, rounds);
      }).join();
  set(key, 2);
  return 0;
}
int threads_that_first_allocate_in_a_destructor() {
  open_heap();
  const pthread_key_t key = make_key();
  for (int i = 0; i < 20; ++i) {
    std::thread([=] { set(key, 1 + i % 5); }).join();
    std::thread([] { of_the_thread.kept = nullptr; }).join();
  }
  return 0;
}
int statics() {
  open_heap();
  of_the_program.keep();
  fill_a_cache(*left_open);
  return 0;
}
int at_exit() {
  open_heap();
  std::atexit([] { use(*left_open); });
  fill_a_cache(*left_open);
  std::exit(0);
}
int exit_in_a_thread() {
  open_heap();
  of_the_program.keep();
  of_the_thread.keep();
  std::thread([] {
    of_the_thread.keep();
    fill_a_cache(*left_open);
    std::exit(0);
  }).join();
  return 1;
}
void start_detached_workers(heap& h) {
  for (unsigned seed = 1; seed <= 4; ++seed)
    std::thread([&h, seed] {
      std::mt19937 random(seed);
      for (;;) {
        void* blocks[64];
        for (void*& block : blocks)
          block = h.allocate(16 + random() % 40000);
        for (void* block : blocks)
          heap::free(block);
      }
    }).detach();
  ::usleep(5000);
}
int workers_with_a_static_heap() {
  closed_at_the_end = must(heap::attach("a"));
  left_open = &closed_at_the_end;
  start_detached_workers(closed_at_the_end);
  return 0;
}
int workers_with_a_heap_left_open() {
  open_heap();
  of_the_program.keep();
  start_detached_workers(*left_open);
  return 0;
}
int workers_and_an_observation() {
  closed_at_the_end = must(heap::attach("a"));
  struct willing : observer {
    std::string_view name() const noexcept override { return "willing"; }
    result<void> on_add(const region_view&) override { return {}; }
    result<void> finish_remove(const region_view&, std::chrono::steady_clock::time_point) override {
      return {};
    }
  };
  static willing who;
  static observation seen = must(closed_at_the_end.observe(who));
  start_detached_workers(closed_at_the_end);
  return 0;
}
int main_thread_ends_first() {
  open_heap();
  // Glibc does not destroy the thread_locals of a main thread that ends so.
  fill_a_cache(*left_open);
  std::thread([] {
    ::usleep(3000);
    for (int i = 0; i < 50; ++i)
      use(*left_open);
    of_the_thread.keep();
  }).detach();
  ::pthread_exit(nullptr);
}

const std::map<std::string, int (*)()> programs = {
    {"thread_locals_then_heap", thread_locals_then_heap},
    {"heap_then_thread_locals", heap_then_thread_locals},
    {"keys_made_before", keys_made_before},
    {"keys_made_after", keys_made_after},
    {"threads_that_first_allocate_in_a_destructor", threads_that_first_allocate_in_a_destructor},
    {"statics", statics},
    {"at_exit", at_exit},
    {"exit_in_a_thread", exit_in_a_thread},
    {"workers_with_a_static_heap", workers_with_a_static_heap},
    {"workers_with_a_heap_left_open", workers_with_a_heap_left_open},
    {"workers_and_an_observation", workers_and_an_observation},
    {"main_thread_ends_first", main_thread_ends_first},
};

// ThreadSanitizer ends its part of a thread before the last destructors of keys run, and crashes in
// whatever is instrumented.
#if defined(__SANITIZE_THREAD__)
#define NOT_UNDER_A_RACE_CHECKER() GTEST_SKIP() << "the sanitizer has left the thread by then"
#else
#define NOT_UNDER_A_RACE_CHECKER() (void)0
#endif

class endings : public in_own_directory {
 protected:
  // Blocks that workers had when the program ended are the dead one's; all others were freed.
  void expect_good_end_of(const char* program, int times, bool leaves_blocks = false) {
    heap h = heap_with(64 << 20, {}, "a");
    for (int i = 0; i < times; ++i) {
      child_process child([program] {
        ::alarm(30);
        // pthread_exit() in main leaves memory of the C library behind, which a leak checker
        // reports.
        ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
        ::execl("/proc/self/exe", "ending_test", "--program", program, static_cast<char*>(nullptr));
        return 9;
      });
      ASSERT_EQ(child.wait_for_exit_code(), 0) << program << ", run " << i;
      h.recover();
      expect_sound(h);
      EXPECT_EQ(h.stats().misuse_count, 0u);
      if (!leaves_blocks) {
        EXPECT_EQ(h.stats().live_blocks, 0u) << "run " << i;
      }
      for (const member_summary& m : h.members())
        if (!m.alive) (void)h.reap(m.id);
    }
    expect_alone_and_empty(h);
  }
};

TEST_F(endings, of_threads_with_thread_locals_older_than_their_cache) {
  expect_good_end_of("thread_locals_then_heap", 3);
}
TEST_F(endings, of_threads_with_thread_locals_younger_than_their_cache) {
  expect_good_end_of("heap_then_thread_locals", 3);
}
TEST_F(endings, of_threads_with_keys_older_than_annexs) {
  NOT_UNDER_A_RACE_CHECKER();
  expect_good_end_of("keys_made_before", 3);
}
TEST_F(endings, of_threads_with_keys_younger_than_annexs) {
  NOT_UNDER_A_RACE_CHECKER();
  expect_good_end_of("keys_made_after", 3);
}
TEST_F(endings, of_threads_that_first_allocate_in_a_destructor) {
  NOT_UNDER_A_RACE_CHECKER();
  expect_good_end_of("threads_that_first_allocate_in_a_destructor", 3);
}
TEST_F(endings, of_programs_whose_statics_allocate_and_free) {
  expect_good_end_of("statics", 5);
}
TEST_F(endings, of_programs_that_allocate_at_exit) {
  expect_good_end_of("at_exit", 5);
}
// Main's thread_local stays.
TEST_F(endings, of_programs_by_exit_in_a_thread) {
  expect_good_end_of("exit_in_a_thread", 5, true);
}
TEST_F(endings, while_detached_workers_use_a_static_heap) {
  expect_good_end_of("workers_with_a_static_heap", 15, true);
}
TEST_F(endings, while_detached_workers_use_a_heap_that_is_left_open) {
  expect_good_end_of("workers_with_a_heap_left_open", 15, true);
}
TEST_F(endings, while_detached_workers_work_and_an_observation_ends) {
  expect_good_end_of("workers_and_an_observation", 15, true);
}
TEST_F(endings, of_main_before_the_last_thread) {
  NOT_UNDER_A_RACE_CHECKER();
  expect_good_end_of("main_thread_ends_first", 5);
}

}  // namespace
}  // namespace annex

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--program") return annex::programs.at(argv[2])();
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
