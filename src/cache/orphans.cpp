// cache/orphans.cpp - see orphans.hpp.
#include "cache/orphans.hpp"

#include "cache/kept_extents.hpp"
#include "shared/members.hpp"

namespace annex {

// From its thread's lane to the orphans of its class.
void orphan_slab(tenure& t, slab_record* slab, chunk_ref* lane) noexcept {
  u32& left_behind = t.seg().member(slab->member).slabs_orphaned;
  unlink_slab(t, lane, slab);
  set_owner(t, t.views().at(slab->region), slab, no_owner, false);
  link_slab(t, &t.seg().header().orphans[slab->size_class], slab);
  t.put(left_behind, left_behind + 1);
}

// Of one region, from a cache that is held still.
void make_orphans(tenure& t, thread_cache& c, u32 region_slot) noexcept {
  for_each_lane(c, [&](chunk_ref& lane) {
    list_walk walk(t.seg());
    for (chunk_ref ref = lane; ref != 0 && walk.goes_on();) {
      auto* slab = t.seg().chunk<slab_record>(ref);
      ref = slab->lane_next;
      if (slab->region != region_slot) continue;
      local_region& region = t.views().at(slab->region);
      collect(t.seg(), slab, &t.found().anybodys);
      recount(t.seg(), slab);
      if (slab->in_partial != 0) remove_partial(t.seg(), c, slab);
      if (slab->free_count == slab->capacity) {
        if (c.magazines[slab->size_class].empties > 0) --c.magazines[slab->size_class].empties;
        drop_empty_holdings(t, slab);
        release_slab(t, region, slab, &lane);
      } else {
        orphan_slab(t, slab, &lane);
      }
      t.commit();
    }
  });
}

void take_region_out_of_caches(tenure& t, u32 region_slot, frozen_caches& frozen) noexcept {
  for (thread_cache* c : frozen) {
    flush_region(t.seg(), t.views(), *c, region_slot, t.doubles_of(c->member));
    make_orphans(t, *c, region_slot);
    give_back_kept(t, *c, region_slot);
  }
  release_empty_orphans(t);
}

// An orphan slab whose member has no block in it any more goes to one who has: a record must not
// outlive what it holds.
void pass_on(tenure& t, slab_record* slab) noexcept {
  for (u32 w = 0; w < slab->words; ++w)
    if ((slab->valid_bits(w) & ~slab->free_words()[w] & ~held_bits(t.seg(), slab, w)) != 0) return;
  drop_empty_holdings(t, slab);
  auto* holding = slab->holdings != 0 ? t.seg().chunk<holding_record>(slab->holdings) : nullptr;
  if (holding != nullptr) {
    const u32 before = slab->member, after = holding->member;
    t.put(slab->holdings, holding->next);
    free_chunk(t, t.seg().ref_of(holding), holding_record_bytes(holding->words));
    t.put(t.seg().member(after).holdings, t.seg().member(after).holdings - 1);
    t.put(t.seg().member(before).slabs_orphaned, t.seg().member(before).slabs_orphaned - 1);
    t.put(t.seg().member(after).slabs_orphaned, t.seg().member(after).slabs_orphaned + 1);
    t.put(slab->member, static_cast<u16>(after));
    t.put(slab->seal, slab->right_seal());
    release_member_if_done(t, before);
  }
  t.commit();
}

void release_empty_orphans(tenure& t) noexcept {
  segment_header& h = t.seg().header();
  list_walk walk(t.seg());
  for (u32 size_class = 1; size_class < class_count; ++size_class)
    for (chunk_ref ref = h.orphans[size_class]; ref != 0 && walk.goes_on();) {
      auto* slab = t.seg().chunk<slab_record>(ref);
      ref = slab->lane_next;
      collect(t.seg(), slab, &t.found().anybodys);
      recount(t.seg(), slab);
      if (slab->free_count != slab->capacity) {
        pass_on(t, slab);
        continue;
      }
      const u32 member = slab->member;
      drop_empty_holdings(t, slab);
      release_slab(t, t.views().at(slab->region), slab, &h.orphans[size_class]);
      t.put(t.seg().member(member).slabs_orphaned, t.seg().member(member).slabs_orphaned - 1);
      release_member_if_done(t, member);
      t.commit();
    }
}

slab_record* adopt(tenure& t, u32 size_class, thread_cache& c, u32 only_slot) noexcept {
  segment_header& h = t.seg().header();
  int looks = 0;
  for (chunk_ref ref = h.orphans[size_class]; ref != 0 && looks < 16; ++looks) {
    auto* slab = t.seg().chunk<slab_record>(ref);
    ref = slab->lane_next;
    local_region& region = t.views().at(slab->region);
    if (only_slot != any_slot && slab->region != only_slot) continue;
    if (!is_usable_here(region) ||
        region.record->state.load(std::memory_order_relaxed) != region_active)
      continue;
    collect(t.seg(), slab, &t.found().anybodys);
    recount(t.seg(), slab);
    if (slab->free_count == 0) continue;
    const u32 before = slab->member;
    drop_empty_holdings(t, slab);
    // Its chunk may be the next one given out, and what is written there is not logged: if the rest
    // is undone, this must have happened.
    t.commit();
    if (before != t.member() && slab->free_count != slab->capacity && !add_holding(t, slab))
      continue;
    unlink_slab(t, &h.orphans[size_class], slab);
    t.put(t.seg().member(before).slabs_orphaned, t.seg().member(before).slabs_orphaned - 1);
    t.put(slab->member, static_cast<u16>(t.member()));
    t.put(slab->seal, slab->right_seal());
    slab->in_partial = 0;
    set_owner(t, region, slab, c.slot, slab->holdings != 0);
    if (before != t.member()) release_member_if_done(t, before);
    return slab;
  }
  return nullptr;
}

void release_empty_slabs(tenure& t, thread_cache& c, u32 size_class, u32 keep) noexcept {
  magazine& m = c.magazines[size_class];
  list_walk walk(t.seg());
  for (chunk_ref ref = m.partial; ref != 0 && m.empties > keep && walk.goes_on();) {
    auto* slab = t.seg().chunk<slab_record>(ref);
    ref = slab->partial_next;
    if (slab->free_count != slab->capacity) continue;
    remove_partial(t.seg(), c, slab);
    --m.empties;
    if (m.made > 0) --m.made;
    drop_empty_holdings(t, slab);
    release_slab(t, t.views().at(slab->region), slab, &c.lanes[slab->lane % limits::lanes]);
    t.commit();
  }
}

// Everything a cache keeps, its own and what others freed, into the slabs, and the empty ones to
// their regions.
void empty_cache(tenure& t, thread_cache& c) noexcept {
  for (u32 i = 1; i < class_count; ++i)
    flush(t.seg(), t.views(), c, i, 0, t.doubles_of(c.member));
  collect_lanes(t.seg(), c, true, &t.found().anybodys);
  for (u32 i = 1; i < class_count; ++i)
    release_empty_slabs(t, c, i, 0);
  give_back_kept(t, c, any_slot);
}

}  // namespace annex
