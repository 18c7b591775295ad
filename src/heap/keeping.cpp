// heap/keeping.cpp - large blocks by way of the thread that freed them (cache/kept_extents.hpp):
// neither freeing nor allocating one takes the heap lock.
//
// If the process dies: before the granule's word is stored the block is live, behind it kept, and
// the other way round; what a dead thread kept goes back to its regions.
#include <cstring>

#include "cache/kept_extents.hpp"
#include "heap/local_heap.hpp"
#include "heap/placing.hpp"

namespace annex::detail {

// Out of the way of those that find one.
[[gnu::noinline]] void requests::give_back_oldest(thread_cache& c, u32 how_many) noexcept {
  if (segment_.is_damaged() || is_inside_callback()) return;
  locked t(heap_);
  give_back_oldest_kept(*t, c, how_many);
}

// What this thread freed and keeps. Others that it keeps, of sizes that nobody asks for any more,
// go back one by one. Null: an extent has to be cut.
void* requests::take_kept_block(u64 size_bytes, const kept_wish* wish) noexcept {
  thread_cache* const c = cache_of(heap_.index);
  if (c == nullptr || c->kept.count.load(std::memory_order_relaxed) == 0) return nullptr;
  const auto [block, are_others_kept] = take_kept(segment_, views_, *c, size_bytes, wish);
  if (are_others_kept) give_back_oldest(*c, 1);
  return block;
}

void* requests::take_kept_block(const placement& p) noexcept {
  const kept_wish wish{[](const void* context, const local_region& region, const void* block) {
                         const placement& wanted = *static_cast<const placement*>(context);
                         const bool is_near = wanted.numa_node == any_node ||
                                              region.record->numa_node == wanted.numa_node;
                         return is_near && is_as_asked(wanted, region, block) &&
                                (!wanted.zeroed || region.access != touch::none);
                       },
                       &p};
  void* const block = take_kept_block(p.size_bytes, &wish);
  if (block != nullptr && p.zeroed) std::memset(block, 0, p.size_bytes);
  return block;
}

// In the thread's cache, without the lock. False: it goes back to its region.
bool requests::keep_large(local_region& region, u32 granule) noexcept {
  thread_cache* const c = keeps_large_ ? cache_of(heap_.index) : nullptr;
  if (c == nullptr) return false;
  for (;;) {
    const keeping got = keep_extent(*c, region, granule);
    if (got == keeping::kept) return true;
    if (got == keeping::full) give_back_oldest(*c, most_kept_extents / 4);
    if (got != keeping::frozen) return false;
    wait_for_freezer();
  }
}

[[gnu::noinline]] void requests::wait_for_freezer() noexcept {
  locked wait(heap_);
}

}  // namespace annex::detail
