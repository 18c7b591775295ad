// tests/no_malloc_test.cpp - allocating and freeing while malloc gives nothing: the slow paths
// included, and what is said when there is no block or a free was a mistake.
//
// What a malloc built on annex needs, and a program that is short of memory: a free must not fail.
// malloc and operator new are this program's own here and refuse what a thread asks while it holds
// a no_malloc. Sanitizers bring a malloc that can't be replaced: there is nothing to test then.
#include <execinfo.h>
#include <malloc.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "another_member.hpp"
#include "support.hpp"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {

constinit thread_local bool refuses = false;
constinit thread_local int refusals = 0;

// True, and where from is said: this call gets nothing.
bool is_refused() {
  if (!refuses) return false;
  refuses = false;  // what is said may need some
  if (++refusals == 1) {
    void* frames[24];
    ::backtrace_symbols_fd(frames, ::backtrace(frames, 24), 2);
  }
  refuses = true;
  errno = ENOMEM;
  return true;
}

}  // namespace

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void* malloc(size_t bytes) {
  return is_refused() ? nullptr : __libc_malloc(bytes);
}
void* calloc(size_t n, size_t bytes) {
  return is_refused() ? nullptr : __libc_calloc(n, bytes);
}
void* realloc(void* p, size_t bytes) {
  return is_refused() ? nullptr : __libc_realloc(p, bytes);
}
void* aligned_alloc(size_t align, size_t bytes) {
  return is_refused() ? nullptr : __libc_memalign(align, bytes);
}
void* memalign(size_t align, size_t bytes) {
  return aligned_alloc(align, bytes);
}
int posix_memalign(void** p, size_t align, size_t bytes) {
  *p = aligned_alloc(align, bytes);
  return *p != nullptr ? 0 : ENOMEM;
}
}

namespace annex {
namespace {

/// As long as it lives, this thread gets nothing from malloc. Asking is a failure.
class no_malloc {
 public:
  no_malloc() {
    refusals = 0;
    refuses = true;
  }
  ~no_malloc() {
    refuses = false;
    EXPECT_EQ(refusals, 0) << "where from is said above";
  }
};

class without_malloc : public in_own_directory {
 protected:
  // The first call loads a library.
  without_malloc() {
    void* frame[1];
    (void)::backtrace(frame, 1);
  }
};

constexpr std::size_t sizes[] = {1, 16, 100, 1000, 5000, 30000, 64 << 10, 300 << 10, 2 << 20};

// Kept outside of any vector.
struct kept_blocks {
  void* blocks[4096] = {};
  std::size_t count = 0;
  void take(heap& h, std::size_t bytes) {
    if (void* const block = h.allocate(bytes); block != nullptr && count < 4096)
      blocks[count++] = block;
    else
      heap::free(block);
  }
  void free_all() {
    while (count != 0)
      heap::free(blocks[--count]);
  }
};

TEST_F(without_malloc, a_threads_first_blocks_come_and_go) {
  heap h = heap_with(64 << 20, {}, "a");
  std::thread([&] {
    static kept_blocks kept;
    const no_malloc none;
    for (int round = 0; round < 3; ++round) {
      for (const std::size_t bytes : sizes)
        for (int i = 0; i < 20; ++i)
          kept.take(h, bytes);
      kept.free_all();
    }
  }).join();  // and its end, which gives the cache back
  expect_alone_and_empty(h);
}

TEST_F(without_malloc, the_end_of_a_thread_gives_its_cache_back) {
  heap h = heap_with(4 << 20, {}, "a");
  struct at_the_end {
    ~at_the_end() { EXPECT_EQ(refusals, 0); }
  };
  std::thread([&] {
    static thread_local const at_the_end looked_at;
    (void)&looked_at;
    refusals = 0;
    refuses = true;  // to the very end
    heap::free(h.allocate(100));
  }).join();
  expect_alone_and_empty(h);
}

TEST_F(without_malloc, every_way_to_ask_for_a_block) {
  heap h = heap_with(64 << 20, {}, "a");
  {
    const no_malloc none;
    for (const std::size_t bytes : sizes) {
      placement p{.size_bytes = bytes, .align_bytes = 4096, .zeroed = true};
      heap::free(h.allocate(p));
      p.boundary_bytes = 4 << 20;
      heap::free(h.allocate(p));
      void* block = h.allocate(bytes);
      block = h.reallocate(block, bytes * 2);
      block = h.reallocate(block, bytes / 2 + 1);
      EXPECT_NE(block, nullptr);
      heap::free(block);
      void* many[40];
      const std::size_t got = h.allocate_bulk(bytes / 8 + 1, many);
      EXPECT_EQ(got, 40u);
      heap::free_bulk(std::span(many, got));
    }
  }
  expect_alone_and_empty(h);
}

TEST_F(without_malloc, blocks_of_other_threads_and_members_are_freed) {
  heap h = heap_with(64 << 20, {}, "a"), other = must(attach_as_another("a"));
  static kept_blocks kept;
  std::thread([&] {
    for (const std::size_t bytes : sizes)
      for (int i = 0; i < 100; ++i)
        kept.take(other, bytes);
    // So that it lives while its blocks are freed.
    std::thread([&] {
      const no_malloc none;
      kept.free_all();
    }).join();
  }).join();
  other = {};
  expect_alone_and_empty(h);
}

TEST_F(without_malloc, a_full_heap_says_so) {
  heap h = heap_with(8 << 20, {}, "a"), other = must(attach_as_another("a"));
  static kept_blocks kept, others;
  std::atomic<bool> is_filled{false}, is_done{false};
  std::thread beside([&] {  // its cache is recalled
    for (int i = 0; i < 500; ++i)
      others.take(other, 2000);
    others.free_all();
    is_filled = true;
    while (!is_done)
      std::this_thread::yield();
  });
  while (!is_filled)
    std::this_thread::yield();
  {
    const no_malloc none;
    for (std::size_t bytes = 1 << 20; bytes >= 16; bytes /= 4)
      for (std::size_t before = ~std::size_t{0}; before != kept.count && kept.count < 4000;) {
        before = kept.count;
        kept.take(h, bytes);
      }
    EXPECT_EQ(h.allocate(64 << 20), nullptr);
    EXPECT_EQ(heap::last_failure().why, explanation::cause::no_fit);
    EXPECT_EQ(h.allocate({.size_bytes = 1 << 20, .align_bytes = 64, .iova_contiguous = true}),
              nullptr);
    EXPECT_EQ(h.allocate(0), nullptr);
    EXPECT_EQ(heap::last_failure().why, explanation::cause::bad_request);
    kept.free_all();
  }
  is_done = true;
  beside.join();
  other = {};
  expect_alone_and_empty(h);
}

TEST_F(without_malloc, the_dead_are_recovered_by_who_needs_their_memory) {
  heap h = heap_with(8 << 20, {.reclaim_dead = true}, "a");
  auto* ready = shared_words<std::atomic<int>>();
  child_process child([&] {
    heap mine = must(attach_as_another("a"));
    static kept_blocks kept;
    for (int i = 0; i < 6; ++i)
      kept.take(mine, 1 << 20);
    for (int i = 0; i < 100; ++i)
      kept.take(mine, 500);
    *ready = 1;
    ::pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return *ready == 1; }));
  child.kill_now();
  (void)child.wait_for_exit_code();
  {
    const no_malloc none;
    void* const block = h.allocate(6 << 20);
    EXPECT_NE(block, nullptr);
    heap::free(block);
  }
  expect_alone_and_empty(h);
}

TEST_F(without_malloc, memory_that_another_member_has_added_is_attached) {
  heap h = heap_with(4 << 20, {}, "a");
  {
    heap::free(h.allocate(100));
    heap other = must(attach_as_another("a"));
    (void)must(other.bring_memory({.length_bytes = 16 << 20}));
    const no_malloc none;
    void* const block = h.allocate(8 << 20);
    EXPECT_NE(block, nullptr);
    heap::free(block);
  }
  expect_alone_and_empty(h);
}

TEST_F(without_malloc, mistakes_are_reported) {
  heap h = heap_with(4 << 20, {.on_misuse = misuse_policy::refuse, .checked = true}, "a");
  void* const block = h.allocate(100);
  void* const large = h.allocate(100 << 10);
  heap::free(block);
  heap::free(large);
  {
    const no_malloc none;
    heap::free(block);
    heap::free(large);
    heap::free(static_cast<char*>(block) + 1);
  }
  EXPECT_EQ(h.stats().misuse_count, 3u);
}

TEST_F(without_malloc, objects_of_pools_and_rings_come_and_go) {
  heap h = heap_with(16 << 20, {}, "a");
  raw_pool objects =
      must(raw_pool::create(h, "objects", {.object_bytes = 64, .object_count = 1000}));
  ring queue = must(ring::create(h, "queue", 64));
  {
    const no_malloc none;
    void* taken[300];
    for (void*& object : taken)
      object = objects.take();
    for (int i = 0; i < 64; ++i)
      EXPECT_TRUE(queue.put(h.handle_of(taken[i])));
    for (int i = 0; i < 64; ++i)
      EXPECT_EQ(queue.take(), h.handle_of(taken[i]));
    for (void* object : taken)
      objects.give(object);
  }
}

TEST_F(without_malloc, a_forked_childs_first_block_comes) {
  heap h = heap_with(4 << 20, {}, "a");
  heap::free(h.allocate(100));
  child_process child([&] {
    const no_malloc none;
    void* const block = h.allocate(200);
    heap::free(block);
    return block != nullptr && refusals == 0 ? 0 : 1;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

}  // namespace
}  // namespace annex

#endif
