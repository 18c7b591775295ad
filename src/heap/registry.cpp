// heap/registry.cpp - see registry.hpp.
#include "heap/registry.hpp"

#include <algorithm>
#include <atomic>

#include "base/never_destroyed.hpp"
#include "heap/forking.hpp"
#include "platform/kept_file.hpp"
#include "platform/own_memory.hpp"
#include "platform/processes.hpp"
#include "platform/waiting.hpp"

namespace annex {

namespace registry {
namespace {

// One thread's table of caches, by heap index.
struct thread_entry {
  std::pmr::vector<thread_cache*> caches;
  u32 thread_id = 0;
  // Made when no further round of destructors is sure to come: its thread may be gone.
  bool is_late = false;
};

struct registry_state {
  std::mutex mutex;
  own_memory memory{own_pages()};
  std::pmr::vector<detail::local_heap*> heaps{&memory};  // by index; null: unused
  std::pmr::vector<thread_entry*> threads{&memory};
};

// Threads may end after main().
registry_state& state() noexcept {
  return never_destroyed<registry_state>();
}

// Of the registry's own records. Under the mutex.
std::pmr::polymorphic_allocator<> allocator() noexcept {
  return {&state().memory};
}

// Of destructors of thread-specific data: POSIX promises four.
constexpr u32 rounds_that_are_sure = 3;

constinit thread_local thread_entry* own_entry = nullptr;
constinit thread_local u32 times_ended = 0;
constinit std::atomic<bool> program_ends{false};
constinit std::atomic<bool> late_threads{false};  // any entry is late

// Destroyed with the main thread's thread_locals, which is before any static.
struct end_notice {
  ~end_notice() { program_ends.store(true, std::memory_order_relaxed); }  // it publishes nothing
  void touch() noexcept { asm volatile("" : : "r"(this) : "memory"); }
};
thread_local end_notice notice;

[[gnu::constructor]] void watch_for_the_end() {
  if (os::thread_id() == os::process_id()) notice.touch();
}

void publish(const thread_entry& mine) noexcept {
  this_thread = {.caches = mine.caches.data(),
                 .cache_count = static_cast<u32>(mine.caches.size()),
                 .last_region = this_thread.last_region};
}

// The caches of a thread that ends go back to their heaps, one after the other: a heap that closes
// meanwhile takes its own out, or waits for the one that is on its way. Then the entry goes.
void give_back(thread_entry* entry) {
  std::unique_lock guard(state().mutex);
  for (u32 i = 0; i < entry->caches.size(); ++i) {
    thread_cache* const cache = std::exchange(entry->caches[i], nullptr);
    detail::local_heap* const heap = state().heaps[i];
    if (cache == nullptr || heap == nullptr) continue;
    ++heap->being_left;
    guard.unlock();
    heap->membership.leave_thread(cache);
    guard.lock();
    --heap->being_left;
  }
  std::erase(state().threads, entry);
  allocator().delete_object(entry);
}

void thread_ends() {
  thread_entry* const entry = std::exchange(own_entry, nullptr);
  if (entry == nullptr) return;
  ++times_ended;
  this_thread = {};
  give_back(entry);
}

thread_entry& entry_of_this_thread() {
  if (own_entry != nullptr) return *own_entry;
  std::lock_guard guard(state().mutex);
  auto* const entry = allocator().new_object<thread_entry>(
      thread_entry{.caches = std::pmr::vector<thread_cache*>(&state().memory),
                   .thread_id = os::thread_id(),
                   .is_late = times_ended >= rounds_that_are_sure});
  if (entry->is_late) late_threads.store(true, std::memory_order_relaxed);
  state().threads.push_back(entry);
  own_entry = entry;
  os::at_end_of_this_thread(thread_ends);
  return *entry;
}

// A late thread's entry that nobody gives back yet, and whose thread is gone. Null: none.
thread_entry* take_late_entry() {
  std::lock_guard guard(state().mutex);
  bool any_left = false;
  for (thread_entry* entry : state().threads) {
    if (!entry->is_late) continue;
    any_left = true;
    if (os::thread_exists(entry->thread_id)) continue;
    entry->is_late = false;
    return entry;
  }
  late_threads.store(any_left, std::memory_order_relaxed);
  return nullptr;
}

void before_fork() {
  state().mutex.lock();
  for (detail::local_heap* heap : state().heaps)
    if (heap != nullptr) detail::before_fork(*heap);
  address_index::before_fork();
}

void after_fork() {
  address_index::after_fork();
  for (detail::local_heap* heap : state().heaps)
    if (heap != nullptr) detail::after_fork(*heap);
  state().mutex.unlock();
}

void in_child() {
  after_fork();  // the forking thread had them all
  notice.touch();
  // This process has one thread. The tables of the others are theirs no more; they may have been
  // half way through a change.
  state().threads.clear();
  own_entry = nullptr;
  this_thread = {};
  for (detail::local_heap* heap : state().heaps) {
    if (heap == nullptr) continue;
    heap->being_left = 0;
    detail::become_child(*heap);
  }
}

}  // namespace

u32 enter(detail::local_heap* heap) {
  static const bool fork_is_watched = (os::at_fork(before_fork, after_fork, in_child), true);
  (void)fork_is_watched;
  std::lock_guard guard(state().mutex);
  auto& heaps = state().heaps;
  const auto unused = std::find(heaps.begin(), heaps.end(), nullptr);
  const u32 index = static_cast<u32>(unused - heaps.begin());
  if (unused == heaps.end())
    heaps.push_back(heap);
  else
    *unused = heap;
  return index;
}

void leave(u32 index) noexcept {
  std::lock_guard guard(state().mutex);
  state().heaps[index] = nullptr;
}

detail::local_heap* find(heap_id id) noexcept {
  std::lock_guard guard(state().mutex);
  detail::local_heap* found = nullptr;
  for (detail::local_heap* heap : state().heaps) {
    if (heap == nullptr || heap->here.id() != id) continue;
    if (found != nullptr) return nullptr;
    found = heap;
  }
  return found;
}

namespace {

// The attachment of the segment with this identity, with one more user; null: there is none. One
// that another thread is just making counts when it is ready, or is gone when it could not be.
detail::local_heap* share_if_ready(u64 device, u64 inode, bool read_only, bool* must_wait) {
  std::lock_guard guard(state().mutex);
  *must_wait = false;
  for (detail::local_heap* heap : state().heaps) {
    if (heap == nullptr || heap->here.is_read_only() != read_only) continue;
    const os::kept_file& file = heap->here.file;
    if (!file.is_open() || file.device() != device || file.inode() != inode) continue;
    if (!heap->can_be_shared() || heap->users == 0) continue;
    if (!heap->is_ready) {
      *must_wait = true;
      return nullptr;
    }
    ++heap->users;
    return heap;
  }
  return nullptr;
}

}  // namespace

detail::local_heap* share(u64 device, u64 inode, bool read_only) noexcept {
  constexpr u64 look_again_ns = 100'000;
  for (;; os::sleep_ns(look_again_ns)) {
    bool must_wait = false;
    detail::local_heap* const shared = share_if_ready(device, inode, read_only, &must_wait);
    if (!must_wait) return shared;
  }
}

void make_shareable(detail::local_heap* heap) noexcept {
  std::lock_guard guard(state().mutex);
  heap->is_ready = true;
}

bool unshare(detail::local_heap* heap) noexcept {
  std::lock_guard guard(state().mutex);
  u32& users = heap->users;
  if (users != 0) --users;
  return users == 0;
}

void remember_cache(u32 heap_index, thread_cache* cache) {
  thread_entry& mine = entry_of_this_thread();
  std::lock_guard guard(state().mutex);
  if (mine.caches.size() <= heap_index)
    mine.caches.resize(std::max<size_t>(heap_index + 1, 8), nullptr);
  mine.caches[heap_index] = cache;
  publish(mine);
}

void forget_heap(u32 heap_index) {
  std::lock_guard guard(state().mutex);
  for (thread_entry* thread : state().threads)
    if (heap_index < thread->caches.size()) thread->caches[heap_index] = nullptr;
}

void wait_for_leaving_threads(const detail::local_heap* heap) noexcept {
  constexpr u64 look_again_ns = 100'000;
  for (;; os::sleep_ns(look_again_ns)) {
    std::lock_guard guard(state().mutex);
    if (heap->being_left == 0) return;
  }
}

void give_back_late_caches() noexcept {
  if (!late_threads.load(std::memory_order_relaxed)) return;
  while (thread_entry* const entry = take_late_entry())
    give_back(entry);
}

bool is_program_ending() noexcept {
  return program_ends.load(std::memory_order_relaxed);  // nothing is read because of it
}

}  // namespace registry
}  // namespace annex
