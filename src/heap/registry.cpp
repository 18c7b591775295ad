// heap/registry.cpp - see registry.hpp.
#include "heap/registry.hpp"

#include <algorithm>
#include <atomic>

#include "heap/forking.hpp"
#include "platform/kept_file.hpp"
#include "platform/processes.hpp"
#include "platform/waiting.hpp"

namespace annex {

namespace registry {
namespace {

// One thread's table of caches, by heap index.
struct thread_entry {
  std::vector<thread_cache*> caches;
  u32 thread_id = 0;
  // Made when no further round of destructors is sure to come: its thread may be gone.
  bool is_late = false;
};

struct registry_state {
  std::mutex mutex;
  std::vector<detail::local_heap*> heaps;  // by index; null: unused
  std::vector<thread_entry*> threads;
  std::vector<detail::local_heap*> being_left;  // by threads that end: once for each cache
};

// Never destroyed: threads may end after main().
registry_state& state() noexcept {
  static registry_state& only = *new registry_state;
  return only;
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

// Takes the entry out of the list and returns whose caches it had. Under the mutex.
std::vector<std::pair<detail::local_heap*, thread_cache*>> take_apart(thread_entry* entry) {
  std::vector<std::pair<detail::local_heap*, thread_cache*>> caches;
  std::erase(state().threads, entry);
  for (u32 i = 0; i < entry->caches.size(); ++i)
    if (entry->caches[i] != nullptr && state().heaps[i] != nullptr)
      caches.emplace_back(state().heaps[i], entry->caches[i]);
  for (const auto& [heap, cache] : caches)
    state().being_left.push_back(heap);
  return caches;
}

// What was taken apart goes back to its heaps, which wait for it before they close.
void give_back(const std::vector<std::pair<detail::local_heap*, thread_cache*>>& caches) {
  for (auto [heap, cache] : caches) {
    heap->membership.leave_thread(cache);
    std::lock_guard guard(state().mutex);
    auto& left = state().being_left;
    left.erase(std::find(left.begin(), left.end(), heap));
  }
}

void thread_ends() {
  thread_entry* const entry = own_entry;
  if (entry == nullptr) return;
  std::vector<std::pair<detail::local_heap*, thread_cache*>> caches;
  {
    std::lock_guard guard(state().mutex);
    caches = take_apart(entry);
    own_entry = nullptr;
    ++times_ended;
    this_thread = {};
  }
  delete entry;
  give_back(caches);
}

thread_entry& entry_of_this_thread() {
  if (own_entry != nullptr) return *own_entry;
  auto* entry = new thread_entry;
  entry->thread_id = os::thread_id();
  own_entry = entry;
  entry->is_late = times_ended >= rounds_that_are_sure;
  os::at_end_of_this_thread(thread_ends);
  std::lock_guard guard(state().mutex);
  if (entry->is_late) late_threads.store(true, std::memory_order_relaxed);
  state().threads.push_back(entry);
  return *entry;
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
  state().being_left.clear();
  own_entry = nullptr;
  this_thread = {};
  for (detail::local_heap* heap : state().heaps)
    if (heap != nullptr) detail::become_child(*heap);
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
    const auto& left = state().being_left;
    if (std::find(left.begin(), left.end(), heap) == left.end()) return;
  }
}

void give_back_late_caches() noexcept {
  std::vector<std::pair<detail::local_heap*, thread_cache*>> caches;
  {
    std::lock_guard guard(state().mutex);
    if (!late_threads.load(std::memory_order_relaxed)) return;
    bool any_left = false;
    for (thread_entry* entry : std::vector(state().threads)) {
      if (!entry->is_late) continue;
      if (os::thread_exists(entry->thread_id)) {
        any_left = true;
        continue;
      }
      const auto of_one = take_apart(entry);
      caches.insert(caches.end(), of_one.begin(), of_one.end());
      delete entry;
    }
    late_threads.store(any_left, std::memory_order_relaxed);
  }
  give_back(caches);
}

bool is_program_ending() noexcept {
  return program_ends.load(std::memory_order_relaxed);  // nothing is read because of it
}

}  // namespace registry
}  // namespace annex
