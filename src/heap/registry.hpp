// heap/registry.hpp - this process's heaps and threads: who has a cache where, what fork means, and
// how threads and programs end.
//
// A local heap has an index; every thread keeps a table of its caches by that index. Closing a heap
// clears its column.
//
//   fork      Before: nobody is in the middle of what the child would find half done. In the child:
//             the threads that are not there have no caches, every named heap becomes a new member
//             on first use, and private ones are refused.
//   thread    Its caches go back when its thread-specific data is destroyed: after every
//             thread_local of C++. A destructor that allocates after that gets a new table, given
//             back in the next round; what the last round leaves is given back by the next thread
//             that needs a cache.
//   program   From the moment main's thread_locals are destroyed (before the first destructor of a
//             static), heaps are not taken apart any more: threads that still work, and destructors
//             that free blocks later, find everything in its place. The kernel ends the membership
//             with the process.
#pragma once
#include "heap/local_heap.hpp"

namespace annex::registry {

/// An index for a new heap, lowest first.
u32 enter(detail::local_heap* heap);
void leave(u32 index) noexcept;
/// Null: not attached, or more than once, so that nobody can say which attachment is meant.
detail::local_heap* find(heap_id id) noexcept;
/// One more user for this process's attachment of the segment with this identity; null: there is
/// none.
detail::local_heap* share(u64 device, u64 inode, bool read_only) noexcept;
/// The heap has been set up, and may be shared from now on.
void make_shareable(detail::local_heap* heap) noexcept;
/// One user less; true: that was the last one.
bool unshare(detail::local_heap* heap) noexcept;

/// Remembers this thread's cache; thread exit will give it back.
void remember_cache(u32 heap_index, thread_cache* cache);
/// Takes every thread's cache of a heap out of their tables.
void forget_heap(u32 heap_index);
/// Until no thread that ends is giving its cache back to this heap any more. Nobody begins to:
/// forget_heap() first.
void wait_for_leaving_threads(const detail::local_heap* heap) noexcept;
/// Gives back what threads that are gone have left in their last moment.
void give_back_late_caches() noexcept;

/// main has returned, or exit() was called: nothing is taken apart any more.
bool is_program_ending() noexcept;

}  // namespace annex::registry
