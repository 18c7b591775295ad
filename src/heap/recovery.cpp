// heap/recovery.cpp - taking back what the dead left, and what the living keep, without waiting for either.
//
//   dead member   its threads' caches → slabs; slabs: empty → region, else → orphans (or freed, with reclaim_dead);
//                 half-added regions undone; leases and claims dropped; record freed when it holds nothing
//   frozen thread recall: set frozen, process barrier, wait until not busy, stand in for it, clear frozen
//   orphans       slabs whose blocks outlive their thread; adopted by the next thread that needs the class
//
// Everything here runs under the heap lock, in transactions of bounded size, and is idempotent: if the one who recovers
// dies, the next one begins again. A dead thread's slot is freed last, by one store.
#include <algorithm>

#include "heap/local_heap.hpp"
#include "heap/pool_table.hpp"
#include "platform/os.hpp"

namespace annex::detail {
namespace {

constexpr u64 patience_ns = 20'000'000;  // with a thread that is in the middle of an operation: it may be stopped
constexpr int spins_before_look = 1000;  // then it may be dead
constexpr u32 slabs_per_holding = 256;  // of the lock, while others wait for it

}  // namespace

// ---- frozen threads ----------------------------------------------------------------------------------------------------

local_heap::frozen_caches local_heap::freeze_all(transaction& t) noexcept {
  frozen_caches frozen;
  segment_header& h = segment_.header();
  const bool barrier = h.no_barrier.load(std::memory_order_relaxed) == 0;
  for (u32 i = 0; i < h.thread_slots_used.load(std::memory_order_relaxed); ++i) {
    const thread_slot& slot = segment_.slot(i);
    if (member_of_state(slot.state.load(std::memory_order_acquire)) == 0 || slot.cache == 0) continue;
    auto* c = segment_.chunk<thread_cache>(slot.cache);
    if (c->key == 0) continue;  // not started, or being recovered
    if (c->slot != i || (i != t.slot() && !barrier)) { frozen.not_still += i != t.slot(); continue; }
    if (i != t.slot()) c->frozen.store(frozen_asked, std::memory_order_relaxed);
    frozen.caches.push_back(c);
  }
  if (frozen.caches.empty()) return frozen;
  if (barrier) os::process_barrier();
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const u64 until = os::now_ns() + patience_ns;
  std::erase_if(frozen.caches, [&](thread_cache* c) {
    for (int spins = 0; c->busy.load(std::memory_order_acquire) != 0; ++spins) {  // sync(busy)
      if (spins < spins_before_look) continue;
      const bool dead = is_member_gone(segment_, c->member, member_);
      frozen.somebody_died |= dead;
      if (dead || os::now_ns() > until) {
        c->frozen.store(frozen_no, std::memory_order_release);
        ++frozen.not_still;
        return true;
      }
      os::yield();
    }
    if (c->slot != t.slot()) c->frozen.store(frozen_held, std::memory_order_release);
    compiler_fence();  // whoever takes over from us must know before we touch anything
    return false;
  });
  return frozen;
}

// The dead recovered and the living held still. Who dies in between, in the middle of an operation, is recovered too.
local_heap::frozen_caches local_heap::recover_and_freeze(transaction& t) noexcept {
  for (int tries = 0;; ++tries) {
    recover_dead(t);
    frozen_caches frozen = freeze_all(t);
    if (!frozen.somebody_died || tries == 3) return frozen;
    thaw(frozen);
  }
}

void local_heap::thaw(frozen_caches& frozen) noexcept {
  for (thread_cache* c : frozen.caches) c->frozen.store(frozen_no, std::memory_order_release);  // sync(frozen)
  frozen.caches.clear();
}

// The freezer died: whatever it did in a cache's name is completed by giving everything back.
void local_heap::repair_frozen(transaction& t) noexcept {
  segment_header& h = segment_.header();
  for (u32 i = 0; i < h.thread_slots_used.load(std::memory_order_relaxed); ++i) {
    const thread_slot& slot = segment_.slot(i);
    if (member_of_state(slot.state.load(std::memory_order_acquire)) == 0 || slot.cache == 0) continue;
    auto* c = segment_.chunk<thread_cache>(slot.cache);
    if (c->frozen.load(std::memory_order_acquire) == frozen_held) repair_cache(*c);
    c->frozen.store(frozen_no, std::memory_order_release);
  }
  t.commit();
}

// From the truth (lanes, bitmaps, magazines) to the indexes (counts, partial lists), and every magazine emptied.
void local_heap::repair_cache(thread_cache& c) noexcept {
  for (u32 i = 1; i < class_count; ++i) c.magazines[i].partial = c.magazines[i].empties = 0;
  for_each_lane(c, [&](chunk_ref lane) {
    for (chunk_ref ref = lane; ref != 0;) {
      auto* slab = segment_.chunk<slab_record>(ref);
      ref = slab->lane_next;
      slab->in_partial = 0;
      recount(slab);
      if (slab->free_count == 0) continue;
      add_partial(segment_, c, slab);
      if (slab->free_count == slab->capacity) ++c.magazines[slab->size_class].empties;
    }
  });
  u32 already_free = 0;  // both places may have had it (rule R2): no mistake of the program
  for (u32 i = 1; i < class_count; ++i) flush(segment_, views_, c, i, 0, &already_free);
}

// ---- slabs without owner -----------------------------------------------------------------------------------------------------

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
    for (chunk_ref ref = lane; ref != 0;) {
      auto* slab = segment_.chunk<slab_record>(ref);
      ref = slab->lane_next;
      if (slab->region != region_slot) continue;
      local_region& region = views_.at(slab->region);
      u32 doubles = 0;
      collect(segment_, slab, &doubles);
      recount(slab);
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

// An orphan slab whose member has no block in it any more goes to one who has: a record must not outlive what it holds.
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
    release_member_if_done(t, before);
  }
  t.commit();
}

void local_heap::release_empty_orphans(transaction& t) noexcept {
  segment_header& h = segment_.header();
  for (u32 size_class = 1; size_class < class_count; ++size_class)
    for (chunk_ref ref = h.orphans[size_class]; ref != 0;) {
      auto* slab = segment_.chunk<slab_record>(ref);
      ref = slab->lane_next;
      u32 doubles = 0;
      collect(segment_, slab, &doubles);
      recount(slab);
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

slab_record* local_heap::adopt(transaction& t, u32 size_class, thread_cache& c) noexcept {
  segment_header& h = segment_.header();
  int looks = 0;
  for (chunk_ref ref = h.orphans[size_class]; ref != 0 && looks < 16; ++looks) {
    auto* slab = segment_.chunk<slab_record>(ref);
    ref = slab->lane_next;
    local_region& region = views_.at(slab->region);
    if (region.base == nullptr || region.joining || region.record->state.load(std::memory_order_relaxed) != region_active) continue;
    u32 doubles = 0;
    collect(segment_, slab, &doubles);
    recount(slab);
    if (slab->free_count == 0) continue;
    const u32 before = slab->member;
    drop_empty_holdings(t, slab);
    if (before != member_ && slab->free_count != slab->capacity && !add_holding(t, slab)) continue;
    unlink_slab(t, &h.orphans[size_class], slab);
    t.put(segment_.member(before).slabs_orphaned, segment_.member(before).slabs_orphaned - 1);
    t.put(slab->member, static_cast<u16>(member_));
    slab->in_partial = 0;
    set_owner(t, region, slab, c.slot, slab->holdings != 0);
    if (before != member_) release_member_if_done(t, before);
    return slab;
  }
  return nullptr;
}

void local_heap::release_empty_slabs(transaction& t, thread_cache& c, u32 size_class, u32 keep) noexcept {
  magazine& m = c.magazines[size_class];
  for (chunk_ref ref = m.partial; ref != 0 && m.empties > keep;) {
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

// ---- recall ----------------------------------------------------------------------------------------------------------------------

void local_heap::trim_all(bool recall_everything) noexcept {
  if (is_read_only() || !ensure_member()) return;
  u32 doubles = 0;
  {
    locked t(*this);
    if (!recall_everything) recover_dead(*t);
    frozen_caches frozen = recall_everything ? recover_and_freeze(*t) : frozen_caches{};
    for (thread_cache* c : frozen.caches) {
      for (u32 i = 1; i < class_count; ++i) flush(segment_, views_, *c, i, 0, &doubles);
      collect_lanes(segment_, *c, true, &doubles);
      for (u32 i = 1; i < class_count; ++i) release_empty_slabs(*t, *c, i, 0);
    }
    thaw(frozen);
    release_empty_orphans(*t);
  }
  note_doubles(doubles);
}

// Whose mistake it was is not known: counted and said, but no bystander is stopped.
void local_heap::note_doubles(u32 doubles) noexcept {
  if (doubles == 0) return;
  segment_.header().misuse_count.fetch_add(doubles, std::memory_order_relaxed);
  log(log_level::error, "{} blocks or pool objects of heap {} had been freed twice", doubles, name_);
}

void local_heap::trim_own() noexcept {
  if (is_read_only() || !ensure_member()) return;
  locked t(*this);
  frozen_caches frozen = freeze_all(*t);
  u32 doubles = 0;
  for (thread_cache* c : frozen.caches) {
    if (c->member != member_) continue;
    for (u32 i = 1; i < class_count; ++i) flush(segment_, views_, *c, i, 0, &doubles);
    collect_lanes(segment_, *c, true, &doubles);
    for (u32 i = 1; i < class_count; ++i) release_empty_slabs(*t, *c, i, 0);
  }
  thaw(frozen);
  release_empty_orphans(*t);
}

// The pool's zone is being released: its caches go with it, in the same transaction or before.
void local_heap::release_pool_caches(transaction& t, const zone_record& z) noexcept {
  auto* pool = segment_.chunk<pool_table>(z.table);
  for (u32 i = 0; i < segment_.header().thread_limit; ++i)
    if (const chunk_ref cache = pool->caches()[i]; cache != 0) {
      t.put(pool->caches()[i], 0);
      free_chunk(t, cache, sizeof(pool_cache));
      t.commit();
    }
}

void local_heap::recall_pool(pool_table& pool) noexcept {
  u32 doubles = 0;
  {
    locked t(*this);
    frozen_caches frozen = recover_and_freeze(*t);
    doubles = flush_pool_caches(*t, pool, frozen);
    thaw(frozen);
  }
  note_doubles(doubles);
}

u32 local_heap::flush_pool_caches(transaction& t, pool_table& pool, const frozen_caches& frozen) noexcept {
  u32 doubles = 0;
  for (const thread_cache* c : frozen.caches)
    if (const chunk_ref cache = pool.caches()[c->slot]; cache != 0) doubles += flush_pool_cache(t, pool, *segment_.chunk<pool_cache>(cache), 0);
  return doubles;
}

// ---- threads and members that are gone ----------------------------------------------------------------------------------------------

void local_heap::leave_thread(thread_cache* c) noexcept {
  if (forked_ || is_read_only()) return;
  locked t(*this);
  recover_thread(*t, c->slot, false);
}

void local_heap::for_each_pool(const std::function<void(const zone_record&, pool_table&)>& visit) noexcept {
  if (segment_.header().zone_count == 0) return;
  for_each_zone_bucket(segment_, [&](chunk_ref chain) {
    for (chunk_ref ref = chain; ref != 0; ref = segment_.chunk<zone_record>(ref)->next)
      if (const auto* zone = segment_.chunk<zone_record>(ref); zone->type == zone_type::pool) visit(*zone, *segment_.chunk<pool_table>(zone->table));
  });
}

void local_heap::return_pool_objects(transaction& t, u32 slot) noexcept {
  for_each_pool([&](const zone_record&, pool_table& pool) {
    if (const chunk_ref cache = pool.caches()[slot]; cache != 0) flush_pool_cache(t, pool, *segment_.chunk<pool_cache>(cache), 0);
  });
}

// The slabs of a thread that is gone, to their regions or the orphans. Others get the lock in between: then it starts again
// from what is left. False: somebody else has finished it.
bool local_heap::orphan_slabs_of_gone(transaction& t, thread_slot& slot, thread_cache& c) noexcept {
  const u64 state = slot.state.load(std::memory_order_relaxed);
  u32 done = 0;
  for (u32 lane = 0; lane < limits::lanes; ++lane) {
    if ((c.used_lanes[lane / 64] >> (lane % 64) & 1) == 0) continue;
    while (c.lanes[lane] != 0) {
      auto* slab = segment_.chunk<slab_record>(c.lanes[lane]);
      u32 doubles = 0;  // both places may have had a block (rule R2): no mistake of the program
      collect(segment_, slab, &doubles);
      recount(slab);
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
  return_pool_objects(t, index);
  if (slot.cache != 0 && segment_.chunk<thread_cache>(slot.cache)->slot == index) {
    auto& c = *segment_.chunk<thread_cache>(slot.cache);
    const bool counted = c.key != 0;
    c.key = 0;  // its indexes are nobody's any more
    c.frozen.store(frozen_no, std::memory_order_relaxed);
    c.busy.store(0, std::memory_order_relaxed);
    for (u32 i = 1; i < class_count; ++i) give_back_magazine(segment_, views_, c, i);
    if (counted && segment_.member(member).threads > 0) t.put(segment_.member(member).threads, segment_.member(member).threads - 1);
    if (!orphan_slabs_of_gone(t, slot, c)) return;
  }
  if (slot.inflight_region_1 != 0 && slot.inflight_region_1 <= segment_.header().region_limit) {  // its caller never saw it
    local_region& region = views_.at(slot.inflight_region_1 - 1);
    const u32 granule = slot.inflight_granule;
    t.put(slot.inflight_region_1, 0);
    if (region.record->state.load(std::memory_order_relaxed) >= region_active && granule < region.record->granule_count &&
        region.granules[granule].kind == granule_large && region.extents[granule].holder == member)
      free_extent(t, region, granule);
  }
  for (auto& hint : slot.hints) hint.store(0, std::memory_order_relaxed);
  if (dead) segment_.header().recovered_threads.fetch_add(1, std::memory_order_relaxed);
  t.commit();
  slot.state.store(state >> 16 << 16, std::memory_order_release);  // sync(slot): the next owner sees all of it
}

void local_heap::release_member_if_done(transaction& t, u32 id) noexcept {
  if (id == 0 || id > segment_.header().member_limit) return;
  member_record& m = segment_.member(id);
  if (m.state.load(std::memory_order_relaxed) == member_dead && m.extents_held == 0 && m.holdings == 0 && m.slabs_orphaned == 0 && m.pool_objects_held == 0) t.put(m.state, member_free);
}

// The member is gone or leaves; its threads have been recovered.
void local_heap::recover_member(transaction& t, u32 id, bool release_record) noexcept {
  segment_header& h = segment_.header();
  member_record& m = segment_.member(id);
  for (const u32 slot : used_region_slots(segment_)) {
    region_record& r = views_.record(slot);
    if (r.worker != id) continue;
    if (const u32 state = r.state.load(std::memory_order_relaxed); state == region_partial) {
      remove_owned_file(r);
      free_region(t, slot);
    } else if (state == region_draining) {
      set_region_state(t, slot, region_active);
    }
  }
  if (m.region_claims != 0) {
    const chunk_ref claims = m.region_claims;
    t.put(m.region_claims, 0);
    free_chunk(t, claims, u64{h.region_limit} * sizeof(region_claim));
  }
  u32 objects = 0;
  for_each_pool([&](const zone_record&, pool_table& pool) {
    const u16* const holders = pool.holders(h.thread_limit);
    objects += static_cast<u32>(std::count(holders, holders + pool.object_count, static_cast<u16>(id)));
  });
  t.put(m.pool_objects_held, objects);
  t.put(m.threads, 0);
  t.put(m.state, member_dead);
  if (release_record) release_member_if_done(t, id);
  t.commit();
}

void local_heap::recover_dead(transaction& t) noexcept {
  segment_header& h = segment_.header();
  bool any = false;
  for (u32 id = 1; id <= h.member_records_used.load(std::memory_order_relaxed); ++id) {
    if (segment_.member(id).state.load(std::memory_order_acquire) != member_live || !is_member_gone(segment_, id, member_)) continue;
    log(log_level::info, "member {} (process {}) of heap {} is dead: taking its caches back", id, segment_.member(id).process_id, name_);
    for (u32 i = 0; i < h.thread_slots_used.load(std::memory_order_relaxed); ++i)
      if (member_of_state(segment_.slot(i).state.load(std::memory_order_acquire)) == id) recover_thread(t, i, true);
    // Others were let in: one of them may have finished this, and the record be somebody else's.
    if (segment_.member(id).state.load(std::memory_order_acquire) != member_live || !is_member_gone(segment_, id, member_)) continue;
    recover_member(t, id, true);
    any = true;
    if (has_option(option_reclaim_dead) && segment_.member(id).state.load(std::memory_order_relaxed) == member_dead) free_held_by(t, id, nullptr, nullptr);
  }
  // Members that died while they closed: the record is dead already, the last slot is not free yet.
  for (u32 i = 0; i < h.thread_slots_used.load(std::memory_order_relaxed); ++i) {
    const u32 id = member_of_state(segment_.slot(i).state.load(std::memory_order_acquire));
    if (id == 0 || id == member_ || id > h.member_limit || segment_.member(id).state.load(std::memory_order_acquire) == member_live) continue;
    if (!os::is_byte_locked(segment_.fd(), member_lock_position + id)) recover_thread(t, i, true);
  }
  for (u32 id = 1; id <= h.member_records_used.load(std::memory_order_relaxed); ++id)
    if (segment_.member(id).state.load(std::memory_order_acquire) == member_dead && !os::is_byte_locked(segment_.fd(), member_lock_position + id)) release_member_if_done(t, id);
  t.commit();
  if (any) release_empty_orphans(t);
}

size_t local_heap::recover() noexcept {
  if (is_read_only() || !ensure_member()) return 0;
  const segment_header& h = segment_.header();
  size_t dead = 0;
  for (u32 id = 1; id <= h.member_records_used.load(std::memory_order_relaxed); ++id)
    dead += segment_.member(id).state.load(std::memory_order_acquire) == member_live && is_member_gone(segment_, id, member_);
  if (dead == 0) return 0;
  locked t(*this);
  recover_dead(*t);
  return dead;
}

// One object of a dead member, into the pool. One transaction.
void local_heap::take_pool_object_back(transaction& t, pool_table& pool, u32 object) noexcept {
  u16& holder = pool.holders(segment_.header().thread_limit)[object];
  member_record& m = segment_.member(holder);
  t.put(pool.bits()[object / 64], pool.bits()[object / 64] | u64{1} << (object % 64));
  t.put(pool.in_bits, pool.in_bits.load(std::memory_order_relaxed) + 1);
  if (object / 64 < pool.first_word) t.put(pool.first_word, object / 64);
  if (m.pool_objects_held > 0) t.put(m.pool_objects_held, m.pool_objects_held - 1);
  t.put(holder, 0);
  t.commit();
}

}  // namespace annex::detail
