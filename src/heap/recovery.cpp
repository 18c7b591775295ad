// heap/recovery.cpp - taking back what the dead left, and what the living keep, without waiting for
// either.
//
//   dead member   its threads' caches → slabs; slabs: empty → region, else → orphans (or freed,
//                 with reclaim_dead); half-added regions undone; leases and claims dropped; record
//                 freed when it holds nothing
//   frozen thread recall: set frozen, process barrier, wait until not busy, stand in for it, clear
//   frozen
//   orphans       slabs whose blocks outlive their thread; adopted by the next thread that needs
//                 the class
//
// Blocks that the program freed twice are found here as well, when they leave the caches of the
// dead and the living: free.cpp has the table of who is told. What a death left in two places is
// marked where it lies (moving), and is no mistake.
//
// Everything here runs under the heap lock, in transactions of bounded size, and is idempotent: if
// the one who recovers dies, the next one begins again. A dead thread's slot is freed last, by one
// store.
#include <algorithm>

#include "base/race_checker.hpp"
#include "heap/local_heap.hpp"
#include "named/pool_table.hpp"
#include "platform/os.hpp"

namespace annex::detail {
namespace {

// With a thread that is in the middle of an operation: it may be stopped.
constexpr u64 patience_ns = 20'000'000;
constexpr int spins_before_look = 1000;  // then it may be dead
constexpr u32 slabs_per_holding = 256;   // of the lock, while others wait for it

}  // namespace

// ---- frozen threads -----------------------------------------------------------------------------

local_heap::frozen_caches local_heap::freeze_all(transaction& t, u32 only_member) noexcept {
  frozen_caches frozen;
  segment_header& h = segment_.header();
  const bool barrier = h.no_barrier.load(std::memory_order_relaxed) == 0;
  for (u32 i = 0; i < segment_.slots_used(); ++i) {
    const thread_slot& slot = segment_.slot(i);
    const u32 member = member_of_state(slot.state.load(std::memory_order_acquire));
    if (member == 0 || (only_member != 0 && member != only_member) || slot.cache == 0) continue;
    auto* c = segment_.chunk<thread_cache>(slot.cache);
    if (c->key == 0) continue;  // not started, or being recovered
    if (c->slot != i || (i != t.slot() && !barrier)) {
      frozen.not_still += i != t.slot();
      continue;
    }
    if (i != t.slot()) set_frozen(*c, frozen_asked);
    frozen.caches.push_back(c);
  }
  if (frozen.caches.empty()) return frozen;
  // Taken away since it was prepared: nobody can be held still any more.
  if (barrier && !os::process_barrier()) {
    h.no_barrier.store(1, std::memory_order_relaxed);
    std::erase_if(frozen.caches, [&](thread_cache* c) {
      if (c->slot == t.slot()) return false;
      set_frozen(*c, frozen_no);
      ++frozen.not_still;
      return true;
    });
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const u64 until = os::now_ns() + patience_ns;
  std::erase_if(frozen.caches, [&](thread_cache* c) {
    for (int spins = 0; c->busy.load(std::memory_order_acquire) != 0; ++spins) {  // sync(busy)
      if (spins < spins_before_look) continue;
      const bool dead = is_member_gone(segment_, c->member, member_);
      frozen.somebody_died |= dead;
      if (dead || os::now_ns() > until) {
        set_frozen(*c, frozen_no);
        ++frozen.not_still;
        return true;
      }
      os::yield();
    }
    if (c->slot != t.slot()) set_frozen(*c, frozen_held);
    compiler_fence();  // whoever takes over from us must know before we touch anything
    return false;
  });
  race_checker::all_taken_over();  // their last hits came before
  return frozen;
}

// The dead recovered and the living held still. Who dies in between, in the middle of an operation,
// is recovered too.
local_heap::frozen_caches local_heap::recover_and_freeze(transaction& t) noexcept {
  for (int tries = 0;; ++tries) {
    recover_dead(t);
    frozen_caches frozen = freeze_all(t);
    if (!frozen.somebody_died || tries == 3) return frozen;
    thaw(frozen);
  }
}

void local_heap::thaw(frozen_caches& frozen) noexcept {
  for (thread_cache* c : frozen.caches)
    set_frozen(*c, frozen_no);
  frozen.caches.clear();
}

void local_heap::make_all_look() noexcept {
  for (u32 i = 0; i < segment_.slots_used(); ++i) {
    const thread_slot& slot = segment_.slot(i);
    if (member_of_state(slot.state.load(std::memory_order_acquire)) == 0 || slot.cache == 0)
      continue;
    auto* c = segment_.chunk<thread_cache>(slot.cache);
    // sync(frozen).
    c->frozen.store(c->frozen.load(std::memory_order_relaxed) | frozen_look,
                    std::memory_order_release);
  }
}

u32 local_heap::busy_member_of(const known_pool& pool, const frozen_caches& frozen,
                               u32 own_slot) noexcept {
  for (u32 i = 0; i < segment_.slots_used(); ++i) {
    const u32 member = member_of_state(segment_.slot(i).state.load(std::memory_order_acquire));
    if (member == 0 || i == own_slot || pool.caches()[i] == 0) continue;
    // Not started.
    if (const chunk_ref cache = segment_.slot(i).cache;
        cache == 0 || segment_.chunk<thread_cache>(cache)->key == 0)
      continue;
    if (std::none_of(frozen.caches.begin(), frozen.caches.end(),
                     [&](const thread_cache* c) { return c->slot == i; }))
      return member;
  }
  return 0;
}

void local_heap::take_back(thread_cache& c) noexcept {
  if (frozen_of(c) == frozen_held && !segment_.is_damaged()) repair_cache(c);
  set_frozen(c, frozen_no);
}

// The freezer died: whatever it did in a cache's name is completed by giving everything back. Slabs
// without owner are counted anew.
void local_heap::repair_frozen(transaction& t) noexcept {
  for (u32 i = 0; i < segment_.slots_used(); ++i) {
    const thread_slot& slot = segment_.slot(i);
    if (member_of_state(slot.state.load(std::memory_order_acquire)) == 0 || slot.cache == 0)
      continue;
    take_back(*segment_.chunk<thread_cache>(slot.cache));
  }
  for (const chunk_ref head :
       segment_.header().orphans)  // it may have been in the middle of one of these
    for (auto [ref, walk] = std::pair{head, list_walk(segment_)}; ref != 0 && walk.goes_on();
         ref = segment_.chunk<slab_record>(ref)->lane_next)
      recount(segment_, segment_.chunk<slab_record>(ref));
  t.commit();
}

// From the truth (lanes, bitmaps, magazines) to the indexes (counts, partial lists), and every
// magazine emptied.
void local_heap::repair_cache(thread_cache& c) noexcept {
  for (u32 i = 1; i < class_count; ++i)
    c.magazines[i].partial = c.magazines[i].empties = 0;
  for_each_lane(c, [&](chunk_ref lane) {
    list_walk walk(segment_);
    for (chunk_ref ref = lane; ref != 0 && walk.goes_on();) {
      auto* slab = segment_.chunk<slab_record>(ref);
      ref = slab->lane_next;
      slab->in_partial = 0;
      recount(segment_, slab);
      if (slab->free_count == 0) continue;
      add_partial(segment_, c, slab);
      if (slab->free_count == slab->capacity) ++c.magazines[slab->size_class].empties;
    }
  });
  for (u32 i = 1; i < class_count; ++i)
    flush(segment_, views_, c, i, 0, doubles_of(c));
}

// ---- slabs without owner ------------------------------------------------------------------------

// From its thread's lane to the orphans of its class.
void local_heap::orphan_slab(transaction& t, slab_record* slab, chunk_ref* lane) noexcept {
  u32& left_behind = segment_.member(slab->member).slabs_orphaned;
  unlink_slab(t, lane, slab);
  set_owner(t, views_.at(slab->region), slab, no_owner, false);
  link_slab(t, &segment_.header().orphans[slab->size_class], slab);
  t.put(left_behind, left_behind + 1);
}

// Of one region, from a cache that is held still.
void local_heap::make_orphans(transaction& t, thread_cache& c, u32 region_slot) noexcept {
  for_each_lane(c, [&](chunk_ref& lane) {
    list_walk walk(segment_);
    for (chunk_ref ref = lane; ref != 0 && walk.goes_on();) {
      auto* slab = segment_.chunk<slab_record>(ref);
      ref = slab->lane_next;
      if (slab->region != region_slot) continue;
      local_region& region = views_.at(slab->region);
      collect(segment_, slab, &found_.anybodys);
      recount(segment_, slab);
      if (slab->in_partial != 0) remove_partial(segment_, c, slab);
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

// An orphan slab whose member has no block in it any more goes to one who has: a record must not
// outlive what it holds.
void local_heap::pass_on(transaction& t, slab_record* slab) noexcept {
  for (u32 w = 0; w < slab->words; ++w)
    if ((slab->valid_bits(w) & ~slab->free_words()[w] & ~held_bits(segment_, slab, w)) != 0) return;
  drop_empty_holdings(t, slab);
  auto* holding = slab->holdings != 0 ? segment_.chunk<holding_record>(slab->holdings) : nullptr;
  if (holding != nullptr) {
    const u32 before = slab->member, after = holding->member;
    t.put(slab->holdings, holding->next);
    free_chunk(t, segment_.ref_of(holding), holding_record_bytes(holding->words));
    t.put(segment_.member(after).holdings, segment_.member(after).holdings - 1);
    t.put(segment_.member(before).slabs_orphaned, segment_.member(before).slabs_orphaned - 1);
    t.put(segment_.member(after).slabs_orphaned, segment_.member(after).slabs_orphaned + 1);
    t.put(slab->member, static_cast<u16>(after));
    t.put(slab->seal, slab->right_seal());
    release_member_if_done(t, before);
  }
  t.commit();
}

void local_heap::release_empty_orphans(transaction& t) noexcept {
  segment_header& h = segment_.header();
  list_walk walk(segment_);
  for (u32 size_class = 1; size_class < class_count; ++size_class)
    for (chunk_ref ref = h.orphans[size_class]; ref != 0 && walk.goes_on();) {
      auto* slab = segment_.chunk<slab_record>(ref);
      ref = slab->lane_next;
      collect(segment_, slab, &found_.anybodys);
      recount(segment_, slab);
      if (slab->free_count != slab->capacity) {
        pass_on(t, slab);
        continue;
      }
      const u32 member = slab->member;
      drop_empty_holdings(t, slab);
      release_slab(t, views_.at(slab->region), slab, &h.orphans[size_class]);
      t.put(segment_.member(member).slabs_orphaned, segment_.member(member).slabs_orphaned - 1);
      release_member_if_done(t, member);
      t.commit();
    }
}

slab_record* local_heap::adopt(transaction& t, u32 size_class, thread_cache& c,
                               u32 only_slot) noexcept {
  segment_header& h = segment_.header();
  int looks = 0;
  for (chunk_ref ref = h.orphans[size_class]; ref != 0 && looks < 16; ++looks) {
    auto* slab = segment_.chunk<slab_record>(ref);
    ref = slab->lane_next;
    local_region& region = views_.at(slab->region);
    if (only_slot != any_slot && slab->region != only_slot) continue;
    if (!is_usable_here(region) ||
        region.record->state.load(std::memory_order_relaxed) != region_active)
      continue;
    collect(segment_, slab, &found_.anybodys);
    recount(segment_, slab);
    if (slab->free_count == 0) continue;
    const u32 before = slab->member;
    drop_empty_holdings(t, slab);
    if (before != member_ && slab->free_count != slab->capacity && !add_holding(t, slab)) continue;
    unlink_slab(t, &h.orphans[size_class], slab);
    t.put(segment_.member(before).slabs_orphaned, segment_.member(before).slabs_orphaned - 1);
    t.put(slab->member, static_cast<u16>(member_));
    t.put(slab->seal, slab->right_seal());
    slab->in_partial = 0;
    set_owner(t, region, slab, c.slot, slab->holdings != 0);
    if (before != member_) release_member_if_done(t, before);
    return slab;
  }
  return nullptr;
}

void local_heap::release_empty_slabs(transaction& t, thread_cache& c, u32 size_class,
                                     u32 keep) noexcept {
  magazine& m = c.magazines[size_class];
  list_walk walk(segment_);
  for (chunk_ref ref = m.partial; ref != 0 && m.empties > keep && walk.goes_on();) {
    auto* slab = segment_.chunk<slab_record>(ref);
    ref = slab->partial_next;
    if (slab->free_count != slab->capacity) continue;
    remove_partial(segment_, c, slab);
    --m.empties;
    if (m.made > 0) --m.made;
    drop_empty_holdings(t, slab);
    release_slab(t, views_.at(slab->region), slab, &c.lanes[slab->lane % limits::lanes]);
    t.commit();
  }
}

// ---- recall -------------------------------------------------------------------------------------

void local_heap::trim_all(bool recall_everything) noexcept {
  if (is_read_only() || !ensure_member() || segment_.is_damaged()) return;
  locked t(*this);
  if (!recall_everything) recover_dead(*t);
  frozen_caches frozen = recall_everything ? recover_and_freeze(*t) : frozen_caches{};
  for (thread_cache* c : frozen.caches)
    empty_cache(*t, *c);
  thaw(frozen);
  release_empty_orphans(*t);
}

// Everything a cache keeps, its own and what others freed, into the slabs, and the empty ones to
// their regions.
void local_heap::empty_cache(transaction& t, thread_cache& c) noexcept {
  for (u32 i = 1; i < class_count; ++i)
    flush(segment_, views_, c, i, 0, doubles_of(c));
  collect_lanes(segment_, c, true, &found_.anybodys);
  for (u32 i = 1; i < class_count; ++i)
    release_empty_slabs(t, c, i, 0);
}

void local_heap::trim_own() noexcept {
  if (is_read_only() || !ensure_member() || segment_.is_damaged()) return;
  locked t(*this);
  frozen_caches frozen = freeze_all(*t);
  for (thread_cache* c : frozen.caches)
    if (c->member == member_) empty_cache(*t, *c);
  thaw(frozen);
  release_empty_orphans(*t);
}

// The pool's zone is being released: its caches go with it, in the same transaction or before.
void local_heap::release_pool_caches(transaction& t, const zone_record& z) noexcept {
  const known_pool pool = find_pool_table(segment_, z.table, z.table_bytes);
  if (!pool) return;
  for (u32 i = 0; i < segment_.thread_limit(); ++i)
    if (const chunk_ref cache = pool.caches()[i]; cache != 0) {
      t.put(pool.caches()[i], 0);
      free_chunk(t, cache, sizeof(pool_cache));
      t.commit();
    }
  const chunk_ref generations = pool.table->generations;
  if (generations == 0 || z.region_slot == no_region) return;
  const local_region& region = views_.at(z.region_slot);
  const generations_of_region& all = region.generations;
  const u32 first = all.behind(count_in(region.extents[z.granule].name), 1);
  const u32 highest =
      generation_above(*region.record, all, first, pool.object_count,
                       [&](u64 object) { return generation_word(segment_, pool, object); });
  raise_floor(t, *region.record, all, z.offset_bytes, z.offset_bytes + z.size_bytes, highest);
  t.put(pool.table->generations, 0);
  free_chunk(t, generations, u64{pool.object_count} * sizeof(u32));
}

void local_heap::recall_pool(const zone_record& z, u64 incarnation) noexcept {
  locked t(*this);
  frozen_caches frozen = recover_and_freeze(*t);
  if (z.incarnation.load(std::memory_order_relaxed) == incarnation)
    if (const known_pool pool = find_pool_table(segment_, z.table, z.table_bytes))
      flush_pool_caches(*t, pool, frozen);
  thaw(frozen);
}

void local_heap::flush_pool_caches(transaction& t, const known_pool& pool,
                                   const frozen_caches& frozen) noexcept {
  for (const thread_cache* c : frozen.caches)
    if (const chunk_ref cache = pool.caches()[c->slot]; cache != 0)
      *doubles_of(*c) +=
          flush_pool_cache(t, pool, *segment_.chunk<pool_cache>(cache), c->member, 0);
}

// ---- threads and members that are gone ----------------------------------------------------------

void local_heap::leave_thread(thread_cache* c) noexcept {
  if (forked_ || is_read_only() || segment_.is_damaged()) return;
  locked t(*this);
  recover_thread(*t, c->slot, false);
}

void local_heap::for_each_pool(
    const std::function<void(const zone_record&, const known_pool&)>& visit) noexcept {
  if (segment_.header().zone_count == 0) return;
  for_each_zone_bucket(segment_, [&](chunk_ref chain) {
    list_walk walk(segment_);
    for (chunk_ref ref = chain; ref != 0 && walk.goes_on();
         ref = segment_.chunk<zone_record>(ref)->next)
      if (const auto* zone = segment_.chunk<zone_record>(ref); zone->type == zone_type::pool)
        if (const known_pool pool = find_pool_table(segment_, zone->table, zone->table_bytes))
          visit(*zone, pool);
  });
}

void local_heap::return_pool_objects(transaction& t, u32 slot, u32 member, u32* doubles) noexcept {
  for_each_pool([&](const zone_record&, const known_pool& pool) {
    if (const chunk_ref cache = pool.caches()[slot]; cache != 0)
      *doubles += flush_pool_cache(t, pool, *segment_.chunk<pool_cache>(cache), member, 0);
  });
}

// The slabs of a thread that is gone, to their regions or the orphans. Others get the lock in
// between: then it starts again from what is left. False: somebody else has finished it.
bool local_heap::orphan_slabs_of_gone(transaction& t, thread_slot& slot, thread_cache& c) noexcept {
  const u64 state = slot.state.load(std::memory_order_relaxed);
  u32 done = 0;
  for (u32 lane = 0; lane < limits::lanes; ++lane) {
    if ((c.used_lanes[lane / 64] >> (lane % 64) & 1) == 0) continue;
    list_walk walk(segment_);
    while (c.lanes[lane] != 0 && walk.goes_on()) {
      auto* slab = segment_.chunk<slab_record>(c.lanes[lane]);
      collect(segment_, slab, &found_.anybodys);
      recount(segment_, slab);
      slab->in_partial = 0;
      if (slab->free_count == slab->capacity) {
        drop_empty_holdings(t, slab);
        release_slab(t, views_.at(slab->region), slab, &c.lanes[lane]);
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

void local_heap::recover_thread(transaction& t, u32 index, bool dead) noexcept {
  thread_slot& slot = segment_.slot(index);
  const u64 state = slot.state.load(std::memory_order_acquire);
  const u32 member = member_of_state(state);
  if (member == 0) return;
  u32* const doubles = member == member_ ? &found_.ours : &found_.anybodys;
  return_pool_objects(t, index, member, doubles);
  if (slot.cache != 0 && segment_.chunk<thread_cache>(slot.cache)->slot == index) {
    auto& c = *segment_.chunk<thread_cache>(slot.cache);
    const bool counted = c.key != 0;
    c.key = 0;  // its indexes are nobody's any more
    c.frozen.store(frozen_no, std::memory_order_relaxed);
    c.busy.store(0, std::memory_order_relaxed);
    for (u32 i = 1; i < class_count; ++i)
      give_back_magazine(segment_, views_, c, i, doubles);
    if (counted && segment_.member(member).threads > 0)
      t.put(segment_.member(member).threads, segment_.member(member).threads - 1);
    if (!orphan_slabs_of_gone(t, slot, c)) return;
  }
  if (slot.inflight_region_1 != 0 && !slot.has_inflight()) t.put(slot.inflight_region_1, 0);
  if (slot.has_inflight() &&
      slot.inflight_region_1 <= segment_.region_limit()) {  // its caller never saw it
    local_region& region = views_.at(slot.inflight_region_1 - 1);
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
  if (dead) segment_.header().recovered_threads.fetch_add(1, std::memory_order_relaxed);
  t.commit();
  // sync(slot): the next owner sees all of it.
  slot.state.store(state >> 16 << 16, std::memory_order_release);
  note_free_slot(segment_, index);
}

void local_heap::release_member_if_done(transaction& t, u32 id) noexcept {
  if (id == 0 || id > segment_.member_limit()) return;
  member_record& m = segment_.member(id);
  if (m.state.load(std::memory_order_relaxed) == member_dead && m.extents_held == 0 &&
      m.holdings == 0 && m.slabs_orphaned == 0 && m.pool_objects_held == 0)
    t.put(m.state, member_free);
}

// The member is gone or leaves; its threads have been recovered.
void local_heap::recover_member(transaction& t, u32 id, bool release_record) noexcept {
  member_record& m = segment_.member(id);
  for (const u32 slot : used_region_slots(segment_)) {
    region_record& r = views_.record(slot);
    if (r.worker != id) continue;
    if (const u32 state = r.state.load(std::memory_order_relaxed); state == region_partial) {
      region_record gone;
      std::memcpy(static_cast<void*>(&gone), &r, sizeof gone);
      if (const auto places = files_.places_of(gone); places)
        files_.remove_memory(*places, segment_, gone);
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
    free_chunk(t, claims, u64{segment_.region_limit()} * sizeof(region_claim));
  }
  u32 objects = 0;
  for_each_pool([&](const zone_record&, const known_pool& pool) {
    const u16* const holders = pool.holders(segment_.thread_limit());
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
bool local_heap::is_claim_of_the_dead(u32 id) const noexcept {
  return is_claimed(segment_.member(id).state.load(std::memory_order_acquire)) &&
         is_member_gone(segment_, id, member_);
}

bool local_heap::has_living_others() noexcept {
  if (has_option(option_private)) return false;
  std::vector<u32> own{member_};  // and the records of further attaches here
  {
    std::lock_guard guard(memory_mutex_);
    for (const membership& share : shares_)
      own.push_back(share.member);
  }
  for (u32 id = 1; id <= segment_.members_used(); ++id)
    if (std::find(own.begin(), own.end(), id) == own.end() && !is_member_gone(segment_, id, 0))
      return true;
  return false;
}

void local_heap::recover_dead(transaction& t) noexcept {
  bool any = false;
  for (u32 id = 1; id <= segment_.members_used(); ++id) {
    if (!is_claim_of_the_dead(id)) continue;
    log(log_level::info, "member {} (process {}) of heap {} is dead: taking its caches back", id,
        segment_.member(id).process_id, name_);
    for (u32 i = 0; i < segment_.slots_used(); ++i)
      if (member_of_state(segment_.slot(i).state.load(std::memory_order_acquire)) == id)
        recover_thread(t, i, true);
    // Others were let in: one of them may have finished this, and the record be somebody else's.
    if (!is_claim_of_the_dead(id)) continue;
    recover_member(t, id, true);
    any = true;
    if (has_option(option_reclaim_dead) &&
        segment_.member(id).state.load(std::memory_order_relaxed) == member_dead)
      free_held_by(t, id, nullptr, nullptr);
  }
  // Members that died while they closed: the record is dead already, the last slot is not free yet.
  for (u32 i = 0; i < segment_.slots_used(); ++i) {
    const u32 id = member_of_state(segment_.slot(i).state.load(std::memory_order_acquire));
    if (id == 0 || id == member_ || id > segment_.member_limit() ||
        is_claimed(segment_.member(id).state.load(std::memory_order_acquire)))
      continue;
    if (!is_member_alive(segment_, id)) recover_thread(t, i, true);
  }
  for (u32 id = 1; id <= segment_.members_used(); ++id)
    if (segment_.member(id).state.load(std::memory_order_acquire) == member_dead &&
        !is_member_alive(segment_, id))
      release_member_if_done(t, id);
  t.commit();
  if (any) release_empty_orphans(t);
}

size_t local_heap::recover() noexcept {
  if (is_read_only() || !ensure_member() || segment_.is_damaged()) return 0;
  size_t dead = 0;
  for (u32 id = 1; id <= segment_.members_used(); ++id)
    if (is_claim_of_the_dead(id)) ++dead;
  if (dead == 0) return 0;
  locked t(*this);
  recover_dead(*t);
  return dead;
}

// One object of a dead member, into the pool. One transaction.
void local_heap::take_pool_object_back(transaction& t, const known_pool& pool,
                                       u32 object) noexcept {
  pool_table& table = *pool.table;
  u16& holder = pool.holders(segment_.thread_limit())[object];
  member_record& m = segment_.member(holder);
  t.put(pool.bits()[object / 64], pool.bits()[object / 64] | u64{1} << (object % 64));
  t.put(table.in_bits, table.in_bits.load(std::memory_order_relaxed) + 1);
  if (object / 64 < table.first_word) t.put(table.first_word, object / 64);
  if (m.pool_objects_held > 0) t.put(m.pool_objects_held, m.pool_objects_held - 1);
  t.put(holder, 0);
  t.commit();
  // The waiter's process barrier, or the heap lock, orders it after the commit.
  tell_waiters(table.object_signal);
}

}  // namespace annex::detail
