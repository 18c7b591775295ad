// heap/registry.cpp - see registry.hpp.
#include "heap/registry.hpp"

#include <algorithm>

#include "platform/os.hpp"

namespace annex::registry {
namespace {

struct thread_entry;

struct registry_state {
  std::mutex mutex;
  std::vector<detail::local_heap*> heaps;   // by index; null: unused
  std::vector<thread_entry*> threads;
};

// Never destroyed: threads may end after main().
registry_state& state() noexcept {
  static registry_state& only = *new registry_state;
  return only;
}

// One thread's table of caches. Its destructor runs at thread exit and gives the caches back.
struct thread_entry {
  std::vector<thread_cache*> caches;

  thread_entry() {
    std::lock_guard guard(state().mutex);
    state().threads.push_back(this);
  }
  ~thread_entry() {
    std::vector<std::pair<detail::local_heap*, thread_cache*>> mine;
    {
      std::lock_guard guard(state().mutex);
      std::erase(state().threads, this);
      for (u32 i = 0; i < caches.size(); ++i)
        if (caches[i] != nullptr && state().heaps[i] != nullptr) mine.emplace_back(state().heaps[i], caches[i]);
      this_thread = {};
    }
    for (auto [heap, cache] : mine) heap->leave_thread(cache);
  }
  void publish() noexcept { this_thread = {.caches = caches.data(), .cache_count = static_cast<u32>(caches.size()), .last_region = this_thread.last_region}; }
};

thread_entry& entry_of_this_thread() {
  static thread_local thread_entry entry;
  return entry;
}

void in_child() {
  // The mutex may have been held by a thread that does not exist here; this process has one thread.
  new (&state().mutex) std::mutex;
  thread_entry& mine = entry_of_this_thread();
  state().threads.assign(1, &mine);
  std::fill(mine.caches.begin(), mine.caches.end(), nullptr);
  mine.publish();
  this_thread.last_region = &no_place;
  for (detail::local_heap* heap : state().heaps)
    if (heap != nullptr) heap->become_child();
}

}  // namespace

u32 enter(detail::local_heap* heap) {
  static const bool fork_is_watched = (os::at_fork_in_child(in_child), true);
  (void)fork_is_watched;
  std::lock_guard guard(state().mutex);
  auto& heaps = state().heaps;
  const auto unused = std::find(heaps.begin(), heaps.end(), nullptr);
  const u32 index = static_cast<u32>(unused - heaps.begin());
  if (unused == heaps.end()) heaps.push_back(heap);
  else *unused = heap;
  return index;
}

void leave(u32 index) noexcept {
  std::lock_guard guard(state().mutex);
  state().heaps[index] = nullptr;
}

detail::local_heap* find(heap_id id) noexcept {
  std::lock_guard guard(state().mutex);
  for (detail::local_heap* heap : state().heaps)
    if (heap != nullptr && heap->id() == id) return heap;
  return nullptr;
}

void remember_cache(u32 heap_index, thread_cache* cache) {
  thread_entry& mine = entry_of_this_thread();
  std::lock_guard guard(state().mutex);
  if (mine.caches.size() <= heap_index) mine.caches.resize(std::max<size_t>(heap_index + 1, 8), nullptr);
  mine.caches[heap_index] = cache;
  mine.publish();
}

std::vector<thread_cache*> forget_heap(u32 heap_index) {
  std::vector<thread_cache*> found;
  std::lock_guard guard(state().mutex);
  for (thread_entry* thread : state().threads) {
    if (thread->caches.size() <= heap_index || thread->caches[heap_index] == nullptr) continue;
    found.push_back(thread->caches[heap_index]);
    thread->caches[heap_index] = nullptr;
  }
  return found;
}

}  // namespace annex::registry
