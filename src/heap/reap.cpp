// heap/reap.cpp - freeing what dead members hold, after the application has looked at it.
//
//   list (heap lock, everybody still)  →  the application looks, without any lock  →  free what it chose and the dead member
//   still holds (heap lock, a transaction per block or slab)
//
// In between a block may be freed by whoever has its handle, and be somebody else's by then: what
// is freed is looked up again under the lock, and only a block that the same dead member still
// holds goes. Dying in between is dying before or after a block: the rest stays with the dead
// member, for the next reap.
#include <algorithm>

#include "heap/local_heap.hpp"
#include "named/pool_table.hpp"

namespace annex::detail {

// What a dead member holds, objects of pools included.
std::vector<block_summary> local_heap::held_by(u32 id) {
  std::vector<block_summary> found;
  (void)for_each_block([&](const block_summary& b) {
    if (static_cast<u32>(b.holder) == id) found.push_back(b);
  });
  locked t(*this);
  for_each_pool([&](const zone_record& z, const known_pool& pool) {
    const u16* const holders = pool.holders(segment_.thread_limit());
    if (z.region_slot == no_region) return;
    const local_region& region = views_.at(z.region_slot);
    for (u32 object = 0; object < pool.object_count; ++object) {
      if (holders[object] != id) continue;
      char* const address = region.base != nullptr
                                ? region.base + z.offset_bytes + object * pool.object_bytes
                                : nullptr;
      found.push_back({block_kind::pool_object, where_is(region, z, pool, object), address,
                       pool.object_bytes, member_id{id}});
    }
  });
  return found;
}

// Frees what a dead member holds (only: sorted; null: everything). Returns how many; *skipped
// counts slabs whose owner could not be held still.
size_t local_heap::free_held_by(transaction& t, u32 id, const std::vector<handle>* only,
                                u32* skipped) noexcept {
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
  for (const u32 region_slot : used_region_slots(segment_)) {
    if (views_.record(region_slot).state.load(std::memory_order_relaxed) < region_active) continue;
    local_region& region = views_.at(region_slot);
    for (u32 granule = 0, next = 0, before = 0;
         granule < region.granule_count && !segment_.is_damaged();
         before = granule, granule = next) {
      next = granule + region.extents[granule].length;
      if (next <= granule) {
        segment_.mark_damaged("an extent has no length");
        break;
      }
      const granule_entry g = region.granules[granule];
      const u64 begin = u64{granule} << region.granule_shift;
      const live_block large{
          &region, block_kind::large, begin + u64{region.extents[granule].lead} * 64,
          0,       granule,           nullptr,
          0};
      if (g.kind == granule_large && region.extents[granule].holder == id &&
          (only == nullptr || is_chosen(where_is(large)))) {
        free_extent(t, region, granule);
        ++freed;
        if (region.granules[before].kind == granule_free) granule = before;  // merged with it
        next = granule;
        continue;
      }
      if (g.kind != granule_slab && g.kind != granule_slab_held) continue;
      slab_record* slab = segment_.chunk<slab_record>(region.extents[granule].record);
      thread_cache* owner = slab->owner == no_owner ? nullptr : cache_of_owner(slab->owner);
      if (slab->owner != no_owner && owner == nullptr) {
        if (skipped != nullptr && slab->holdings != 0) ++*skipped;
        continue;
      }
      if (owner != nullptr)
        flush(segment_, views_, *owner, slab->size_class, 0, doubles_of(*owner));
      collect(segment_, slab, &found_.anybodys);
      for (u32 w = 0; w < slab->words; ++w) {
        u64 theirs = 0;
        list_walk walk(segment_);
        for (chunk_ref ref = slab->holdings; ref != 0 && walk.goes_on();
             ref = segment_.chunk<holding_record>(ref)->next)
          if (segment_.chunk<holding_record>(ref)->member == id)
            theirs |= segment_.chunk<holding_record>(ref)->held_bits(w);
        if (slab->member == id && slab->owner == no_owner)
          theirs |= slab->valid_bits(w) & ~slab->free_words()[w] & ~held_bits(segment_, slab, w);
        theirs &= ~slab->free_words()[w];
        for (u64 rest = only != nullptr ? theirs : 0; rest != 0; rest &= rest - 1) {
          const u32 bit = static_cast<u32>(std::countr_zero(rest));
          if (const u32 index = w * 64 + bit; !is_chosen(where_is(
                  {&region, block_kind::slab_block,
                   begin + u64{index} * class_bytes[slab->size_class], 0, granule, slab, index})))
            theirs &= ~(u64{1} << bit);
        }
        if (theirs == 0) continue;
        freed += static_cast<size_t>(std::popcount(theirs));
        clear_holders(segment_, slab, w, theirs);
        for (u64 rest = theirs; rest != 0; rest &= rest - 1)
          forget_block(segment_, region, *slab, w * 64 + static_cast<u32>(std::countr_zero(rest)));
        compiler_fence();
        mark_free(*slab, w, theirs);
      }
      recount(segment_, slab);
      if (drop_empty_holdings(t, slab) && owner != nullptr && g.kind == granule_slab_held)
        set_owner(t, region, slab, slab->owner, false);
      t.commit();
      if (owner != nullptr) repair_cache(*owner);
    }
  }
  thaw(frozen);
  release_empty_orphans(t);
  for_each_pool([&](const zone_record& z, const known_pool& pool) {
    u16* const holders = pool.holders(segment_.thread_limit());
    if (z.region_slot == no_region) return;
    const local_region& region = views_.at(z.region_slot);
    const u32 generation = count_in(region.extents[z.granule].name);
    for (u32 object = 0; object < pool.object_count; ++object) {
      if (holders[object] != id ||
          (only != nullptr && !is_chosen(where_is(region, z, pool, object))))
        continue;
      forget_object(segment_, region, pool, generation, object);
      take_pool_object_back(t, pool, object);
      ++freed;
    }
  });
  // What is left of its record: orphan slabs that hold nothing of it any more belong to nobody now.
  release_member_if_done(t, id);
  t.commit();
  return freed;
}

result<size_t> local_heap::reap(u32 id,
                                const std::function<reap_choice(const block_summary&)>& look) {
  if (is_read_only())
    return refuse(errc::read_only, "\"{}\" is attached read-only; attach it writable to reap",
                  name_);
  if (!ensure_member())
    return refuse(errc::forked_away, "this forked child is no member of the heap");
  ANNEX_TRY(refuse_if_damaged());
  if (id == 0 || id > segment_.members_used() ||
      segment_.member(id).state.load(std::memory_order_acquire) == member_free)
    return refuse(errc::invalid_argument, "\"{}\" has no member {}; `annex who` lists them", name_,
                  id);
  const member_record& m = segment_.member(id);
  if (!is_member_gone(segment_, id, member_))
    return refuse(errc::invalid_argument,
                  "member {} (process {}) of \"{}\" is alive; only the dead are reaped", id,
                  m.process_id, name_);
  const u64 born = m.start_time;
  const u32 process = m.process_id;
  std::vector<handle> chosen;
  if (look) {
    for (const block_summary& b : held_by(id))
      if (look(b) == reap_choice::free) chosen.push_back(b.where);
    std::sort(chosen.begin(), chosen.end());
  }
  locked t(*this);
  recover_dead(*t);
  // Its record may have gone to another process meanwhile, because nothing of its was left.
  if (m.state.load(std::memory_order_acquire) != member_dead || m.process_id != process ||
      m.start_time != born)
    return 0;
  u32 skipped = 0;
  const size_t freed = free_held_by(*t, id, look ? &chosen : nullptr, &skipped);
  if (skipped != 0)
    log(log_level::warn,
        "{} slabs were not searched, because their threads are in the middle of an operation; reap "
        "again",
        skipped);
  return freed;
}

}  // namespace annex::detail
