// region/region_state.cpp - see region_state.hpp.
#include "region/region_state.hpp"

#include "shared/arena.hpp"

namespace annex {

// Active, draining or partial, and what follows from it. One transaction.
void set_region_state(tenure& t, u32 slot, region_state state) noexcept {
  segment_header& h = t.seg().header();
  region_record& r = t.views().record(slot);
  t.put(r.state, state);
  u64& word = h.free_regions[slot / 64];
  const u64 bit = u64{1} << (slot % 64);
  const bool usable = state == region_active && r.free_granules != 0;
  if (((word & bit) != 0) != usable) t.put(word, word ^ bit);
  // sync(epoch): after what has changed.
  t.put(h.region_epoch, h.region_epoch.load(std::memory_order_relaxed) + 1);
  t.commit();
}

// Under the heap lock: the record and its tables go. One transaction.
void free_region(tenure& t, u32 slot) noexcept {
  segment_header& h = t.seg().header();
  region_record& r = t.views().record(slot);
  const u64 granules = r.granule_count;
  free_chunk(t, r.granules, granules * sizeof(granule_entry));
  free_chunk(t, r.extents, granules * sizeof(extent_entry));
  free_chunk(t, r.iova_runs, u64{r.iova_run_count} * sizeof(iova_run));
  free_chunk(t, r.iova_order, u64{r.iova_run_count} * sizeof(u32));
  if (r.iova_index != 0)
    free_chunk(t, r.iova_index, ((r.length_bytes >> r.iova_index_shift) + 2) * sizeof(u32));
  const u64 bit = u64{1} << (slot % 64);
  if ((h.free_regions[slot / 64] & bit) != 0)
    t.put(h.free_regions[slot / 64], h.free_regions[slot / 64] & ~bit);
  t.put(h.used_regions[slot / 64], h.used_regions[slot / 64] & ~bit);
  use_up_numbers(t, r, slot);
  t.put(h.region_count, h.region_count - 1);
  t.put(h.region_epoch, h.region_epoch.load(std::memory_order_relaxed) + 1);
  t.put(r.state, region_free);
  t.commit();
}

}  // namespace annex
