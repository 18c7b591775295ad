// heap/fast_path.hpp - the hits of allocate and free, once, for every face: C++, C, std::pmr and
// containers, the DPDK drop-in.
//
//   allocate   the cache this thread used last is of this heap → the top of the size's magazine
//   free       the block lies in the region of this thread's last free, of the heap it used last →
//              its own slab's magazine
//
// What is no hit is left to heap/requests.hpp, which the caller calls from a function of its own,
// out of line, so that the hit needs no stack frame. The store that commits, and what a death
// leaves, are in cache/thread_cache.hpp. tests/instruction_budget.txt counts every instruction.
#pragma once
#include "base/size_class.hpp"
#include "cache/thread_cache.hpp"
#include "heap/local_heap.hpp"

namespace annex::detail {

/// Of a size that slabs have: the entry of a block (block_of() leads to it; entry_is_clean: zeros).
/// bases: of the heap's views.
/// False: nothing has changed; take the slow path.
[[gnu::always_inline]] inline bool entry_hit(local_heap& heap, char* const* bases, u64 size_bytes,
                                             u64* entry) noexcept {
  if (this_thread.heap_number != heap.here.number) [[unlikely]]
    return false;
  return take_entry(this_thread.cache, bases, size_bytes, entry);
}

/// False: nothing has changed; take the slow path.
[[gnu::always_inline]] inline bool allocate_hit(local_heap& heap, u64 size_bytes,
                                                void** block) noexcept {
  char* const* const bases = heap.here.views.bases();  // once: it is in a register then
  u64 entry = 0;
  if (size_bytes - 1 >= limits::largest_slab_block_bytes ||
      !entry_hit(heap, bases, size_bytes, &entry)) [[unlikely]]
    return false;
  *block = block_of(bases, entry);
  return true;
}

/// What follows when allocate_hit() says no: another heap than the last time, then the slow path.
inline void* allocate_past_hit(local_heap& heap, u64 size_bytes) noexcept {
  if (this_thread.heap_number != heap.here.number &&
      size_bytes - 1 < limits::largest_slab_block_bytes)
    if (thread_cache* c = turn_to(heap.here.index, heap.here.number))
      if (void* block = nullptr; take_cached(c, heap.here.views.bases(), size_bytes, &block))
        return block;
  return heap.blocks.allocate(size_bytes);
}

/// may_hit: asked of the region that the block lies in. False: nothing has changed; take the slow
/// path, which also finds out what is wrong.
template <class MayHit>
[[gnu::always_inline]] inline bool free_hit(void* block, MayHit may_hit) noexcept {
  const local_region* const region = this_thread.last_region;
  const u64 offset = static_cast<u64>(static_cast<char*>(block) - region->base);
  if (offset >= region->length_bytes || this_thread.heap_number != region->heap_number ||
      !may_hit(*region)) [[unlikely]]
    return false;
  return put_cached(this_thread.cache, *region, offset);
}
[[gnu::always_inline]] inline bool free_hit(void* block) noexcept {
  return free_hit(block, [](const local_region&) { return true; });
}

}  // namespace annex::detail
