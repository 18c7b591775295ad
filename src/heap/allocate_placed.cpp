// heap/allocate_placed.cpp - a block as a placement says; small ones that have to lie in a certain
// way: within a page or boundary, contiguous in IOVAs, below a highest IOVA.
//
//   1 slabs   of each region whose pages are large enough: blocks that lie as asked are picked out
//             (cache/fitting.cpp); a new slab is cut as long as that helps
//   2 extent  of its own, where no slab serves                      (allocate.cpp)
//
// So 227 buffers of 9,216 bytes share a page of 2 MiB, not 32. Where most blocks of a slab would
// cross something, larger ones are taken whose multiples do not (placing.hpp, class_in).
// If the process dies: as in allocate.cpp.
#include "attached/misuse.hpp"
#include "heap/placing.hpp"
#include "heap/requests.hpp"

namespace annex::detail {

// Null: no slab of this region has one, and a new one would not either, or there is no room.
void* requests::take_fitting(thread_cache& c, local_region& region, u32 size_class,
                             const placement& p, bool* clean) noexcept {
  const auto fits = [&](u64 offset) { return is_as_asked(p, region, region.base + offset); };
  constexpr u32 most_new_slabs = 8;  // orphans that others left full of what does not fit
  for (u32 cut = 0; !segment_.is_damaged();) {
    u64 entry = 0;
    u32 doubles = 0;  // of blocks that others freed
    auto seen = fitting_search::none;
    bool entered = false;
    {
      busy_scope busy(c);
      entered = busy.entered();
      if (entered)
        seen = annex::take_fitting(segment_, views_, c, size_class, region.slot, fits, &entry,
                                   &doubles);
    }
    if (doubles != 0) say_doubles(heap_, {0, doubles});
    if (!entered) {
      locked wait_for_the_freezer(heap_);
      continue;
    }
    if (seen == fitting_search::found) {
      if (!leads_somewhere(views_.bases(), entry)) return nullptr;
      *clean = (entry & entry_is_clean) != 0;
      return block_of(views_.bases(), entry);
    }
    if (seen == fitting_search::hopeless || cut++ >= most_new_slabs ||
        !add_slab(c, size_class, region.slot))
      return nullptr;
  }
  return nullptr;
}

void* requests::allocate_fitting(const placement& p) noexcept {
  if (!is_constrained(p) || p.size_bytes > limits::largest_slab_block_bytes || is_read_only())
    return allocate_large(p);
  thread_cache* c = cache_of(heap_.index);
  if (c == nullptr) c = make_cache();
  if (c == nullptr) return allocate_large(p);
  if (memory_.has_news()) memory_.synchronize();
  for (const bool on_node : {true, false}) {
    if (on_node && p.numa_node == any_node) continue;
    for (const u32 slot : used_region_slots(segment_)) {
      // sync(published): the record's words belong to the state.
      if (views_.record(slot).state.load(std::memory_order_acquire) != region_active) continue;
      local_region& region = views_.at(slot);
      if (!is_usable_here(region) || (on_node && region.record->numa_node != p.numa_node) ||
          (p.zeroed && region.access == touch::none))
        continue;
      const u32 size_class = class_in(p, region);
      if (size_class == 0) continue;
      bool clean = false;
      void* const block = take_fitting(*c, region, size_class, p, &clean);
      if (block == nullptr) continue;
      if (zero_if_asked(block, p, clean)) return block;
      free(block);
    }
  }
  return allocate_large(p);
}

void* requests::allocate(const placement& asked) noexcept {
  const placement p = completed(asked);
  if (!is_possible(p)) return explain(explanation::cause::bad_request, p);
  const u32 size_class = class_for(p);
  if (size_class == 0) return allocate_fitting(p);
  bool clean = false;
  void* block = allocate_class(size_class, p, &clean);
  if (block == nullptr) return nullptr;
  const local_region* region = address_index::find(block);
  const bool is_right = is_as_asked(p, *region, block);
  const bool on_node = p.numa_node == any_node || region->record->numa_node == p.numa_node;
  if (!is_right || !on_node || !zero_if_asked(block, p, clean)) {
    // The cache gave a block from a region that won't do: take one of our own where it will.
    void* better = allocate_fitting(p);
    // The node is a preference only.
    if (better == nullptr && is_right && zero_if_asked(block, p, clean)) return block;
    free(block);
    block = better;
  }
  return block;
}

void* requests::allocate_cleared(u64 size_bytes) noexcept {
  return allocate(placement{.size_bytes = size_bytes, .align_bytes = 16, .zeroed = true});
}

}  // namespace annex::detail
