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
      granule < region.granule_count && region.granules[granule].kind == granule_large &&
      region.extents[granule].holder == gone.member)
    free_extent(t, region, granule);
  return true;
}

}  // namespace detail
}  // namespace annex
