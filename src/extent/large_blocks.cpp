// extent/large_blocks.cpp - see large_blocks.hpp.
#include "extent/large_blocks.hpp"

#include "shared/members.hpp"

namespace annex {

void free_extent(transaction& t, local_region& region, u32 granule) noexcept {
  const u32 holder = region.extents[granule].holder;
  extents(region).free(t, granule);
  if (holder != 0 && holder <= t.seg().member_limit() && t.seg().member(holder).extents_held > 0) {
    t.put(t.seg().member(holder).extents_held, t.seg().member(holder).extents_held - 1);
    release_member_if_done(t, holder);
  }
  t.commit();
}

namespace detail {

bool recover_large_block(tenure& t, const gone_thread& gone) noexcept {
  thread_slot& slot = t.seg().slot(gone.index);
  if (slot.inflight_region_1 != 0 && !slot.has_inflight()) t.put(slot.inflight_region_1, 0);
  if (!slot.has_inflight() || slot.inflight_region_1 > t.seg().region_limit()) return true;
  local_region& region = t.views().at(slot.inflight_region_1 - 1);
  const u32 granule = slot.inflight_granule;
  t.put(slot.inflight_region_1, 0);
  t.put(slot.inflight_seal, 0);
  if (region.record->state.load(std::memory_order_relaxed) >= region_active &&
      granule < region.granule_count &&
      load_granule(&region.granules[granule]).kind == granule_large &&
      region.extents[granule].holder == gone.member)
    free_extent(t, region, granule);
  return true;
}

namespace {

bool is_to_go(const reclaiming& r, const local_region& region, u32 granule) noexcept {
  const extent_entry& e = region.extents[granule];
  if (load_granule(&region.granules[granule]).kind != granule_large || e.holder != r.member)
    return false;
  const u64 offset = (u64{granule} << region.granule_shift) + u64{e.lead} * 64;
  return r.is_chosen(handle_by(region, offset, 0, &e.name));
}

// In the order of their places. What is freed merges with the free extent in front of it, if there
// is one, and the walk goes on where that one begins.
void reclaim_of_region(reclaiming& r, local_region& region) noexcept {
  for (u32 granule = 0, before = 0; granule < region.granule_count && !r.t.seg().is_damaged();) {
    const u32 length = region.extents[granule].length;
    if (length == 0 || length > region.granule_count - granule)
      return r.t.seg().mark_damaged("an extent has no length");
    if (is_to_go(r, region, granule)) {
      free_extent(r.t, region, granule);
      ++r.freed;
      if (load_granule(&region.granules[before]).kind == granule_free) granule = before;
      continue;
    }
    before = granule;
    granule += length;
  }
}

}  // namespace

void reclaim_large_blocks(reclaiming& r) noexcept {
  for (const u32 slot : used_region_slots(r.t.seg()))
    if (r.t.views().record(slot).state.load(std::memory_order_relaxed) >= region_active)
      reclaim_of_region(r, r.t.views().at(slot));
}

}  // namespace detail
}  // namespace annex
