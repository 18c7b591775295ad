// cache/thread_cache.cpp - see thread_cache.hpp: what a cache begins as, its lists of slabs with
// free blocks, and what others freed into its lanes. refill.cpp takes blocks out of the slabs,
// flush.cpp puts them back.
#include "cache/thread_cache.hpp"

#include <algorithm>

namespace annex {

constinit thread_local thread_state this_thread;

thread_cache* turn_to(u32 heap_index, u64 heap_number) noexcept {
  thread_cache* const c = cache_of(heap_index);
  if (c == nullptr) return nullptr;
  this_thread.heap_number = heap_number;
  this_thread.cache = c;
  return c;
}

void start_cache(thread_cache& c, u16 slot, u32 member, bool checked) noexcept {
  c.key = slot | u32{granule_slab} << 16;
  c.busy.store(0, std::memory_order_relaxed);
  c.frozen.store(frozen_no, std::memory_order_relaxed);
  c.member = member;
  c.slot = slot;
  c.checked = checked ? 1 : 0;
  c.next_lane = 0;
  c.kept.count.store(0, std::memory_order_relaxed);
  c.kept.bytes.store(0, std::memory_order_relaxed);
  std::fill(std::begin(c.used_lanes), std::end(c.used_lanes), 0);
  std::fill(std::begin(c.lanes), std::end(c.lanes), 0);
  for (u32 i = 1; i < class_count; ++i) {
    magazine& m = c.magazines[i];
    m.count.store(0, std::memory_order_relaxed);
    m.capacity = checked ? 0 : first_capacity;
    m.block_bytes = class_bytes[i];
    m.divisor = class_divisor[i];
    m.empties = 0;
    m.partial = 0;
    m.made = 0;
    m.moving = 0;
  }
}

slab_record* slab_at(const segment& s, const local_region& region, u64 offset) noexcept {
  const u32 granule = static_cast<u32>(offset >> region.granule_shift);
  if (granule >= region.granule_count) return nullptr;
  const granule_entry g = load_granule(region.granule_base + granule);
  if ((g.kind != granule_slab && g.kind != granule_slab_held) || g.distance > granule)
    return nullptr;
  const chunk_ref ref = region.extents[granule - g.distance].record;
  return ref != 0 ? s.chunk<slab_record>(ref) : nullptr;
}

void add_partial(const segment& s, thread_cache& c, slab_record* slab) noexcept {
  chunk_ref& head = c.magazines[slab->size_class].partial;
  slab->partial_previous = 0;
  slab->partial_next = head;
  if (head != 0) s.chunk<slab_record>(head)->partial_previous = s.ref_of(slab);
  head = s.ref_of(slab);
  slab->in_partial = 1;
}

void remove_partial(const segment& s, thread_cache& c, slab_record* slab) noexcept {
  if (slab->in_partial == 0) return;
  if (slab->partial_next != 0)
    s.chunk<slab_record>(slab->partial_next)->partial_previous = slab->partial_previous;
  if (slab->partial_previous != 0)
    s.chunk<slab_record>(slab->partial_previous)->partial_next = slab->partial_next;
  else
    c.magazines[slab->size_class].partial = slab->partial_next;
  slab->in_partial = 0;
}

bool collect_lanes(const segment& s, thread_cache& c, bool all, u32* doubles) noexcept {
  thread_slot& slot = s.slot(c.slot);
  bool any = false;
  for (u32 word = 0; word < limits::lanes / 64; ++word) {
    u64 lanes = slot.hints[word].load(std::memory_order_relaxed);
    // sync(hint): after the remote bit.
    if (lanes != 0) lanes = slot.hints[word].exchange(0, std::memory_order_acq_rel);
    if (all) lanes = c.used_lanes[word];
    for (; lanes != 0; lanes &= lanes - 1) {
      const u32 lane = word * 64 + static_cast<u32>(std::countr_zero(lanes));
      list_walk walk(s);
      for (chunk_ref ref = c.lanes[lane]; ref != 0 && walk.goes_on();) {
        slab_record* slab = s.chunk<slab_record>(ref);
        ref = slab->lane_next;
        if (collect(s, slab, doubles) == 0) continue;
        any = true;
        if (slab->in_partial == 0) add_partial(s, c, slab);
        if (slab->free_count == slab->capacity) ++c.magazines[slab->size_class].empties;
      }
    }
  }
  return any;
}

}  // namespace annex
