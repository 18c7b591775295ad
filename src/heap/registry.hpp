// heap/registry.hpp - this process's heaps and threads: who has a cache where, and what fork means.
//
// A local heap has an index; every thread keeps a table of its caches by that index. Closing a heap clears its column.
// fork: the child's threads have no caches, every named heap becomes a new member on first use, private ones are refused.
#pragma once
#include "heap/local_heap.hpp"

namespace annex::registry {

/// An index for a new heap, lowest first.
u32 enter(detail::local_heap* heap);
void leave(u32 index) noexcept;
detail::local_heap* find(heap_id id) noexcept;

/// Remembers this thread's cache; thread exit will give it back.
void remember_cache(u32 heap_index, thread_cache* cache);
/// Takes every thread's cache of a heap out of their tables.
std::vector<thread_cache*> forget_heap(u32 heap_index);

}  // namespace annex::registry
