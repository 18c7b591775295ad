// care/recovery.cpp - see recovery.hpp.
//
// Blocks that the program freed twice are found here as well, when they leave the caches of the
// dead: heap/free.cpp has the table of who is told. What a death left in two places is marked where
// it lies (moving), and is no mistake.
#include "care/recovery.hpp"

#include <algorithm>
#include <cstring>

#include "cache/blocks.hpp"
#include "care/reclaim.hpp"
#include "named/pool_caches.hpp"
#include "platform/report.hpp"
#include "region/region_state.hpp"
#include "shared/members.hpp"

namespace annex {

namespace {

constexpr u32 slabs_per_holding = 256;  // of the lock, while others wait for it

}  // namespace

// The dead recovered and the living held still. Who dies in between, in the middle of an operation,
// is recovered too.
frozen_caches recover_and_freeze(tenure& t) noexcept {
  for (int tries = 0;; ++tries) {
    recover_dead(t);
    frozen_caches frozen = freeze_all(t);
    if (!frozen.somebody_died || tries == 3) return frozen;
    thaw(frozen);
  }
}

namespace {

// The slabs of a thread that is gone, to their regions or the orphans. Others get the lock in
// between: then it starts again from what is left. False: somebody else has finished it.
bool orphan_slabs_of_gone(tenure& t, thread_slot& slot, thread_cache& c) noexcept {
  const u64 state = slot.state.load(std::memory_order_relaxed);
  u32 done = 0;
  for (u32 lane = 0; lane < limits::lanes; ++lane) {
    if ((c.used_lanes[lane / 64] >> (lane % 64) & 1) == 0) continue;
    list_walk walk(t.seg());
    while (c.lanes[lane] != 0 && walk.goes_on()) {
      auto* slab = t.seg().chunk<slab_record>(c.lanes[lane]);
      collect(t.seg(), slab, &t.found().anybodys);
      recount(t.seg(), slab);
      slab->in_partial = 0;
      if (slab->free_count == slab->capacity) {
        drop_empty_holdings(t, slab);
        release_slab(t, t.views().at(slab->region), slab, &c.lanes[lane]);
      } else {
        orphan_slab(t, slab, &c.lanes[lane]);
      }
      t.commit();
      if (++done % slabs_per_holding != 0 || !t.let_others_in()) continue;
      if (t.stole()) repair_frozen(t);
      if (slot.state.load(std::memory_order_acquire) != state) return false;
    }
  }
  return true;
}

}  // namespace

void recover_thread(tenure& t, u32 index, bool dead) noexcept {
  thread_slot& slot = t.seg().slot(index);
  const u64 state = slot.state.load(std::memory_order_acquire);
  const u32 member = member_of_state(state);
  if (member == 0) return;
  u32* const doubles = member == t.member() ? &t.found().ours : &t.found().anybodys;
  return_pool_objects(t, index, member, doubles);
  if (slot.cache != 0 && t.seg().chunk<thread_cache>(slot.cache)->slot == index) {
    auto& c = *t.seg().chunk<thread_cache>(slot.cache);
    const bool counted = c.key != 0;
    c.key = 0;  // its indexes are nobody's any more
    c.frozen.store(frozen_no, std::memory_order_relaxed);
    c.busy.store(0, std::memory_order_relaxed);
    for (u32 i = 1; i < class_count; ++i)
      give_back_magazine(t.seg(), t.views(), c, i, doubles);
    if (counted && t.seg().member(member).threads > 0)
      t.put(t.seg().member(member).threads, t.seg().member(member).threads - 1);
    if (!orphan_slabs_of_gone(t, slot, c)) return;
  }
  if (slot.inflight_region_1 != 0 && !slot.has_inflight()) t.put(slot.inflight_region_1, 0);
  if (slot.has_inflight() &&
      slot.inflight_region_1 <= t.seg().region_limit()) {  // its caller never saw it
    local_region& region = t.views().at(slot.inflight_region_1 - 1);
    const u32 granule = slot.inflight_granule;
    t.put(slot.inflight_region_1, 0);
    t.put(slot.inflight_seal, 0);
    if (region.record->state.load(std::memory_order_relaxed) >= region_active &&
        granule < region.granule_count && region.granules[granule].kind == granule_large &&
        region.extents[granule].holder == member)
      free_extent(t, region, granule);
  }
  for (auto& hint : slot.hints)
    hint.store(0, std::memory_order_relaxed);
  if (dead) t.seg().header().recovered_threads.fetch_add(1, std::memory_order_relaxed);
  t.commit();
  // sync(slot): the next owner sees all of it.
  slot.state.store(state >> 16 << 16, std::memory_order_release);
  note_free_slot(t.seg(), index);
}

// The member is gone or leaves; its threads have been recovered.
void recover_member(tenure& t, u32 id, bool release_record) noexcept {
  member_record& m = t.seg().member(id);
  for (const u32 slot : used_region_slots(t.seg())) {
    region_record& r = t.views().record(slot);
    if (r.worker != id) continue;
    if (const u32 state = r.state.load(std::memory_order_relaxed); state == region_partial) {
      region_record gone;
      std::memcpy(static_cast<void*>(&gone), &r, sizeof gone);
      if (const auto places = t.files().places_of(gone); places)
        t.files().remove_memory(*places, t.seg(), gone);
      else
        log(log_level::warn, "the file of a region that a dead process was removing is left: {}",
            places.error().message());
      free_region(t, slot);
    } else if (state == region_draining) {
      set_region_state(t, slot, region_active);
    }
  }
  if (m.region_claims != 0) {
    const chunk_ref claims = m.region_claims;
    t.put(m.region_claims, 0);
    free_chunk(t, claims, u64{t.seg().region_limit()} * sizeof(region_claim));
  }
  u32 objects = 0;
  for_each_pool(t.seg(), [&](const zone_record&, const known_pool& pool) {
    const u16* const holders = pool.holders(t.seg().thread_limit());
    objects +=
        static_cast<u32>(std::count(holders, holders + pool.object_count, static_cast<u16>(id)));
  });
  t.put(m.pool_objects_held, objects);
  t.put(m.threads, 0);
  t.put(m.state, member_dead);
  if (release_record) release_member_if_done(t, id);
  t.commit();
}

// The record says live or joining, and the kernel says gone.
bool is_claim_of_the_dead(const segment& s, u32 id, u32 self) noexcept {
  return is_claimed(s.member(id).state.load(std::memory_order_acquire)) &&
         is_member_gone(s, id, self);
}

void recover_dead(tenure& t) noexcept {
  bool any = false;
  for (u32 id = 1; id <= t.seg().members_used(); ++id) {
    if (!is_claim_of_the_dead(t.seg(), id, t.member())) continue;
    log(log_level::info, "member {} (process {}) of heap {} is dead: taking its caches back", id,
        t.seg().member(id).process_id, t.files().heap());
    for (u32 i = 0; i < t.seg().slots_used(); ++i)
      if (member_of_state(t.seg().slot(i).state.load(std::memory_order_acquire)) == id)
        recover_thread(t, i, true);
    // Others were let in: one of them may have finished this, and the record be somebody else's.
    if (!is_claim_of_the_dead(t.seg(), id, t.member())) continue;
    recover_member(t, id, true);
    any = true;
    if ((t.seg().header().options & option_reclaim_dead) != 0 &&
        t.seg().member(id).state.load(std::memory_order_relaxed) == member_dead)
      free_held_by(t, id, nullptr, nullptr);
  }
  // Members that died while they closed: the record is dead already, the last slot is not free yet.
  for (u32 i = 0; i < t.seg().slots_used(); ++i) {
    const u32 id = member_of_state(t.seg().slot(i).state.load(std::memory_order_acquire));
    if (id == 0 || id == t.member() || id > t.seg().member_limit() ||
        is_claimed(t.seg().member(id).state.load(std::memory_order_acquire)))
      continue;
    if (!is_member_alive(t.seg(), id)) recover_thread(t, i, true);
  }
  for (u32 id = 1; id <= t.seg().members_used(); ++id)
    if (t.seg().member(id).state.load(std::memory_order_acquire) == member_dead &&
        !is_member_alive(t.seg(), id))
      release_member_if_done(t, id);
  t.commit();
  if (any) release_empty_orphans(t);
}

}  // namespace annex
