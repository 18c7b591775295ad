// care/reclaim.cpp - see reclaim.hpp.
#include "care/reclaim.hpp"

#include <algorithm>

#include "cache/blocks.hpp"
#include "cache/orphans.hpp"
#include "named/naming.hpp"
#include "named/pool_caches.hpp"
#include "shared/members.hpp"

namespace annex {

// Frees what a dead member holds (only: sorted; null: everything). Returns how many; *skipped
// counts slabs whose owner could not be held still.
size_t free_held_by(tenure& t, u32 id, const std::vector<handle>* only, u32* skipped) noexcept {
  frozen_caches frozen = freeze_all(t);
  auto cache_of_owner = [&](u16 owner) -> thread_cache* {
    for (thread_cache* c : frozen.caches)
      if (c->slot == owner) return c;
    return nullptr;
  };
  auto is_chosen = [&](handle block) {
    return std::binary_search(only->begin(), only->end(), block);
  };
  size_t freed = 0;
  for (const u32 region_slot : used_region_slots(t.seg())) {
    if (t.views().record(region_slot).state.load(std::memory_order_relaxed) < region_active)
      continue;
    local_region& region = t.views().at(region_slot);
    for (u32 granule = 0, next = 0, before = 0;
         granule < region.granule_count && !t.seg().is_damaged();
         before = granule, granule = next) {
      next = granule + region.extents[granule].length;
      if (next <= granule) {
        t.seg().mark_damaged("an extent has no length");
        break;
      }
      const granule_entry g = region.granules[granule];
      const u64 begin = u64{granule} << region.granule_shift;
      const live_block large{
          &region, block_kind::large, begin + u64{region.extents[granule].lead} * 64,
          0,       granule,           nullptr,
          0};
      if (g.kind == granule_large && region.extents[granule].holder == id &&
          (only == nullptr || is_chosen(where_is(t.seg(), large)))) {
        free_extent(t, region, granule);
        ++freed;
        if (region.granules[before].kind == granule_free) granule = before;  // merged with it
        next = granule;
        continue;
      }
      if (g.kind != granule_slab && g.kind != granule_slab_held) continue;
      slab_record* slab = t.seg().chunk<slab_record>(region.extents[granule].record);
      thread_cache* owner = slab->owner == no_owner ? nullptr : cache_of_owner(slab->owner);
      if (slab->owner != no_owner && owner == nullptr) {
        if (skipped != nullptr && slab->holdings != 0) ++*skipped;
        continue;
      }
      if (owner != nullptr)
        flush(t.seg(), t.views(), *owner, slab->size_class, 0, t.doubles_of(owner->member));
      collect(t.seg(), slab, &t.found().anybodys);
      for (u32 w = 0; w < slab->words; ++w) {
        u64 theirs = 0;
        list_walk walk(t.seg());
        for (chunk_ref ref = slab->holdings; ref != 0 && walk.goes_on();
             ref = t.seg().chunk<holding_record>(ref)->next)
          if (t.seg().chunk<holding_record>(ref)->member == id)
            theirs |= t.seg().chunk<holding_record>(ref)->held_bits(w);
        if (slab->member == id && slab->owner == no_owner)
          theirs |= slab->valid_bits(w) & ~slab->free_words()[w] & ~held_bits(t.seg(), slab, w);
        theirs &= ~slab->free_words()[w];
        for (u64 rest = only != nullptr ? theirs : 0; rest != 0; rest &= rest - 1) {
          const u32 bit = static_cast<u32>(std::countr_zero(rest));
          if (const u32 index = w * 64 + bit;
              !is_chosen(where_is(t.seg(), {&region, block_kind::slab_block,
                                            begin + u64{index} * class_bytes[slab->size_class], 0,
                                            granule, slab, index})))
            theirs &= ~(u64{1} << bit);
        }
        if (theirs == 0) continue;
        freed += static_cast<size_t>(std::popcount(theirs));
        clear_holders(t.seg(), slab, w, theirs);
        for (u64 rest = theirs; rest != 0; rest &= rest - 1)
          forget_block(t.seg(), region, *slab, w * 64 + static_cast<u32>(std::countr_zero(rest)));
        compiler_fence();
        mark_free(*slab, w, theirs);
      }
      recount(t.seg(), slab);
      if (drop_empty_holdings(t, slab) && owner != nullptr && g.kind == granule_slab_held)
        set_owner(t, region, slab, slab->owner, false);
      t.commit();
      if (owner != nullptr) repair_cache(t, *owner);
    }
  }
  thaw(frozen);
  release_empty_orphans(t);
  for_each_pool(t.seg(), [&](const zone_record& z, const known_pool& pool) {
    u16* const holders = pool.holders(t.seg().thread_limit());
    if (z.region_slot == no_region) return;
    const local_region& region = t.views().at(z.region_slot);
    const u32 generation = count_in(region.extents[z.granule].name);
    for (u32 object = 0; object < pool.object_count; ++object) {
      if (holders[object] != id ||
          (only != nullptr && !is_chosen(where_is(t.seg(), region, z, pool, object))))
        continue;
      forget_object(t.seg(), region, pool, generation, object);
      take_pool_object_back(t, pool, object);
      ++freed;
    }
  });
  // What is left of its record: orphan slabs that hold nothing of it any more belong to nobody now.
  release_member_if_done(t, id);
  t.commit();
  return freed;
}

}  // namespace annex
