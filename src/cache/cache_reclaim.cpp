// cache/cache_reclaim.cpp - blocks of slabs that a dead member holds go back to the heap.
//
// Under the heap lock, while every cache is held still; a transaction for each slab. A slab whose
// owner can't be held still is left alone and counted.
#include "cache/cache_rules.hpp"
#include "cache/orphans.hpp"

namespace annex::detail {
namespace {

struct slab_place {
  local_region& region;
  u32 granule;
  slab_record* slab;
};

// Blocks of one word of a slab's bitmaps that the member holds.
u64 held_in_word(const segment& s, slab_record* slab, u32 w, u32 member) noexcept {
  u64 theirs = 0;
  list_walk walk(s);
  for (chunk_ref ref = slab->holdings; ref != 0 && walk.goes_on();
       ref = s.chunk<holding_record>(ref)->next)
    if (s.chunk<holding_record>(ref)->member == member)
      theirs |= s.chunk<holding_record>(ref)->held_bits(w);
  if (slab->member == member && slab->owner == no_owner)
    theirs |= slab->valid_bits(w) & ~slab->free_words()[w] & ~held_bits(s, slab, w);
  return theirs & ~slab->free_words()[w];
}

u64 chosen_in_word(const reclaiming& r, const slab_place& at, u32 w) noexcept {
  const segment& s = r.t.seg();
  const extent_entry& extent = at.region.extents[at.granule];
  const u64 begin = u64{at.granule} << at.region.granule_shift;
  u64 theirs = held_in_word(s, at.slab, w, r.member);
  for (u64 rest = r.only != nullptr ? theirs : 0; rest != 0; rest &= rest - 1) {
    const u32 bit = static_cast<u32>(std::countr_zero(rest));
    const u32 block = w * 64 + bit;
    const u64 offset = begin + u64{block} * class_bytes[at.slab->size_class];
    const u32* const word = generation_word(s, extent, *at.slab, block);
    if (!r.is_chosen(handle_by(at.region, offset, first_generation(extent), word)))
      theirs &= ~(u64{1} << bit);
  }
  return theirs;
}

// In a slab that nobody takes blocks of meanwhile.
void free_in_bitmaps(reclaiming& r, const slab_place& at) noexcept {
  const segment& s = r.t.seg();
  for (u32 w = 0; w < at.slab->words; ++w) {
    const u64 theirs = chosen_in_word(r, at, w);
    if (theirs == 0) continue;
    r.freed += static_cast<size_t>(std::popcount(theirs));
    clear_holders(s, at.slab, w, theirs);
    for (u64 rest = theirs; rest != 0; rest &= rest - 1)
      forget_block(s, at.region, *at.slab, w * 64 + static_cast<u32>(std::countr_zero(rest)));
    compiler_fence();
    mark_free(*at.slab, w, theirs);
  }
}

void reclaim_of_slab(reclaiming& r, const frozen_caches& frozen, const slab_place& at) noexcept {
  tenure& t = r.t;
  slab_record* const slab = at.slab;
  thread_cache* const owner = slab->owner != no_owner ? frozen.of(slab->owner) : nullptr;
  if (slab->owner != no_owner && owner == nullptr) {
    r.skipped += slab->holdings != 0;
    return;
  }
  const bool says_held = load_granule(&at.region.granules[at.granule]).kind == granule_slab_held;
  if (owner != nullptr)
    flush(t.seg(), t.views(), *owner, slab->size_class, 0, t.doubles_of(owner->member));
  collect(t.seg(), slab, &t.found().anybodys);
  free_in_bitmaps(r, at);
  recount(t.seg(), slab);
  if (drop_empty_holdings(t, slab) && owner != nullptr && says_held)
    set_owner(t, at.region, slab, slab->owner, false);
  t.commit();
  if (owner != nullptr) repair_cache(t, *owner);
}

}  // namespace

void reclaim_slab_blocks(reclaiming& r) noexcept {
  frozen_caches frozen = freeze_all(r.t);
  for (const u32 slot : used_region_slots(r.t.seg())) {
    if (r.t.views().record(slot).state.load(std::memory_order_relaxed) < region_active) continue;
    local_region& region = r.t.views().at(slot);
    walk_extents(region, [&](u32 granule, u32, u8 kind) {
      slab_record* const slab = is_slab(kind) ? slab_of(r.t.seg(), region, granule) : nullptr;
      if (slab != nullptr && !r.t.seg().is_damaged())
        reclaim_of_slab(r, frozen, {region, granule, slab});
    });
  }
  frozen.thaw();
  release_empty_orphans(r.t);
}

}  // namespace annex::detail
