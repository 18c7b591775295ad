// care/reclaim.cpp - see reclaim.hpp.
#include "care/reclaim.hpp"

#include <algorithm>

#include "cache/blocks.hpp"
#include "cache/orphans.hpp"
#include "named/naming.hpp"
#include "named/pool_caches.hpp"
#include "shared/members.hpp"

namespace annex {
namespace {

// Whose blocks are freed, and which of them.
struct chosen_blocks {
  u32 member;
  const std::vector<handle>* only;  // sorted; null: all

  // where: asked only when there is a choice.
  bool has(auto&& where) const {
    return only == nullptr || std::binary_search(only->begin(), only->end(), where());
  }
};

bool free_if_large(tenure& t, local_region& region, u32 granule, const chosen_blocks& chosen) {
  const extent_entry& e = region.extents[granule];
  if (region.granules[granule].kind != granule_large || e.holder != chosen.member) return false;
  const u64 offset = (u64{granule} << region.granule_shift) + u64{e.lead} * 64;
  const live_block block{&region, block_kind::large, offset, 0, granule, nullptr, 0};
  if (!chosen.has([&] { return where_is(t.seg(), block); })) return false;
  free_extent(t, region, granule);
  return true;
}

// Blocks of one word of a slab's bitmaps that the member holds.
u64 held_in_word(const segment& s, slab_record* slab, u32 w, u32 member) {
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

u64 chosen_in_word(const segment& s, local_region& region, u32 granule, slab_record* slab, u32 w,
                   const chosen_blocks& chosen) {
  u64 theirs = held_in_word(s, slab, w, chosen.member);
  const u64 begin = u64{granule} << region.granule_shift;
  for (u64 rest = chosen.only != nullptr ? theirs : 0; rest != 0; rest &= rest - 1) {
    const u32 bit = static_cast<u32>(std::countr_zero(rest));
    const u32 index = w * 64 + bit;
    const u64 offset = begin + u64{index} * class_bytes[slab->size_class];
    const live_block block{&region, block_kind::slab_block, offset, 0, granule, slab, index};
    if (!chosen.has([&] { return where_is(s, block); })) theirs &= ~(u64{1} << bit);
  }
  return theirs;
}

// In a slab that nobody takes blocks of meanwhile. Returns how many.
size_t free_in_bitmaps(const segment& s, local_region& region, u32 granule, slab_record* slab,
                       const chosen_blocks& chosen) {
  size_t freed = 0;
  for (u32 w = 0; w < slab->words; ++w) {
    const u64 theirs = chosen_in_word(s, region, granule, slab, w, chosen);
    if (theirs == 0) continue;
    freed += static_cast<size_t>(std::popcount(theirs));
    clear_holders(s, slab, w, theirs);
    for (u64 rest = theirs; rest != 0; rest &= rest - 1)
      forget_block(s, region, *slab, w * 64 + static_cast<u32>(std::countr_zero(rest)));
    compiler_fence();
    mark_free(*slab, w, theirs);
  }
  return freed;
}

// Blocks of a slab. Its owner's cache is held still; *skipped counts it if it is not.
size_t free_in_slab(tenure& t, const frozen_caches& frozen, local_region& region, u32 granule,
                    const chosen_blocks& chosen, u32* skipped) {
  const granule_entry g = region.granules[granule];
  slab_record* slab = t.seg().chunk<slab_record>(region.extents[granule].record);
  thread_cache* const owner = slab->owner != no_owner ? frozen.of(slab->owner) : nullptr;
  if (slab->owner != no_owner && owner == nullptr) {
    if (skipped != nullptr && slab->holdings != 0) ++*skipped;
    return 0;
  }
  if (owner != nullptr)
    flush(t.seg(), t.views(), *owner, slab->size_class, 0, t.doubles_of(owner->member));
  collect(t.seg(), slab, &t.found().anybodys);
  const size_t freed = free_in_bitmaps(t.seg(), region, granule, slab, chosen);
  recount(t.seg(), slab);
  if (drop_empty_holdings(t, slab) && owner != nullptr && g.kind == granule_slab_held)
    set_owner(t, region, slab, slab->owner, false);
  t.commit();
  if (owner != nullptr) repair_cache(t, *owner);
  return freed;
}

// Large blocks and slabs, in the order of their places.
size_t free_in_region(tenure& t, const frozen_caches& frozen, local_region& region,
                      const chosen_blocks& chosen, u32* skipped) {
  size_t freed = 0;
  for (u32 granule = 0, next = 0, before = 0;
       granule < region.granule_count && !t.seg().is_damaged(); before = granule, granule = next) {
    next = granule + region.extents[granule].length;
    if (next <= granule) {
      t.seg().mark_damaged("an extent has no length");
      break;
    }
    if (free_if_large(t, region, granule, chosen)) {
      ++freed;
      if (region.granules[before].kind == granule_free) granule = before;  // merged with it
      next = granule;
    } else if (is_slab(region.granules[granule].kind)) {
      freed += free_in_slab(t, frozen, region, granule, chosen, skipped);
    }
  }
  return freed;
}

size_t free_in_pool(tenure& t, const zone_record& z, const known_pool& pool,
                    const chosen_blocks& chosen) {
  if (z.region_slot == no_region) return 0;
  u16* const holders = pool.holders(t.seg().thread_limit());
  const local_region& region = t.views().at(z.region_slot);
  const u32 generation = count_in(region.extents[z.granule].name);
  size_t freed = 0;
  for (u32 object = 0; object < pool.object_count; ++object) {
    if (holders[object] != chosen.member ||
        !chosen.has([&] { return where_is(t.seg(), region, z, pool, object); }))
      continue;
    forget_object(t.seg(), region, pool, generation, object);
    take_pool_object_back(t, pool, object);
    ++freed;
  }
  return freed;
}

}  // namespace

size_t free_held_by(tenure& t, u32 id, const std::vector<handle>* only, u32* skipped) noexcept {
  const chosen_blocks chosen{id, only};
  frozen_caches frozen = freeze_all(t);
  size_t freed = 0;
  for (const u32 slot : used_region_slots(t.seg())) {
    if (t.views().record(slot).state.load(std::memory_order_relaxed) < region_active) continue;
    freed += free_in_region(t, frozen, t.views().at(slot), chosen, skipped);
  }
  frozen.thaw();
  release_empty_orphans(t);
  for_each_pool(t.seg(), [&](const zone_record& z, const known_pool& pool) {
    freed += free_in_pool(t, z, pool, chosen);
  });
  // What is left of its record: its orphan slabs now hold none of its blocks, and have no holder.
  release_member_if_done(t, id);
  t.commit();
  return freed;
}

}  // namespace annex
