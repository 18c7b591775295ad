// cache/cache_rebuild.cpp - the threads of a damaged segment, all of them dead (cache_rules.hpp).
//
// Their magazines are emptied first: blocks go back to slabs where caches are believed, else those
// that are not free in their slabs stay in use. Then every slab is linked into its owner's lane, or
// among the orphans of its class. A death in the middle: repair again.
#include <algorithm>
#include <bit>

#include "cache/cache_rules.hpp"
#include "shared/member_rules.hpp"

namespace annex::detail {
namespace {

// ---- slots and their caches -------------------------------------------------------------------

// What the audit would have recovery do.
void give_back(rebuilding& rb, const thread_cache& c, u32 count, u32 k) {
  const auto& records = rb.notes<slabs_rebuilt>().records;
  const auto is_slab = [&](chunk_ref ref) { return records.contains(ref); };
  for (u32 i = 0; i < count; ++i) {
    const auto [slab, index] = find_cached_block(rb.s, c.entries_of(k)[i], k, is_slab);
    if (slab == nullptr) continue;
    const u64 bit = u64{1} << (index % 64);
    if ((slab->free_words()[index / 64] & bit) == 0) mark_free(*slab, index / 64, bit);
  }
}

void empty_magazine(rebuilding& rb, thread_cache& c, u32 thread, u32 k) {
  magazine& m = c.magazines[k];
  const u32 n = m.count.value;
  const u32 member = member_of_state(rb.s.slot(thread).state.value);
  if (n > magazine_slots)
    rb.say("thread {}: {} entries in the magazine of class {} can't be", thread, n, k);
  if (rb.caches_are_believed)
    give_back(rb, c, std::min(n, magazine_slots), k);
  else if (n != 0 && member != 0)
    rb.doubt(
        "thread {} (member {}) kept {} blocks of {} bytes, which nothing vouches for: those that "
        "are not free in their slabs stay with the slabs' members",
        thread, member, std::min(n, magazine_slots), class_bytes[k]);
  m.count.value = 0;
  m.capacity = std::min<u32>(m.capacity, magazine_slots);
  m.block_bytes = class_bytes[k];
  m.divisor = class_divisor[k];
  m.partial = m.empties = m.moving = 0;
}

void empty_cache(rebuilding& rb, thread_cache& c, u32 i) {
  if (c.key != 0)
    rb.fix(c.key, i | u32{granule_slab} << 16, fmt::format("thread {}: whose cache it is", i));
  for (u32 k = 1; k < class_count; ++k)
    empty_magazine(rb, c, i, k);
  std::fill(std::begin(c.lanes), std::end(c.lanes), 0);
  std::fill(std::begin(c.used_lanes), std::end(c.used_lanes), 0);
  c.busy.value = c.frozen.value = 0;
  c.kept.count.value = 0;
  c.kept.bytes.value = 0;
}

void rebuild_slot(rebuilding& rb, u32 i) {
  thread_slot& slot = rb.s.slot(i);
  if (member_of_state(slot.state.value) > rb.s.member_limit()) {
    rb.say("thread {} was said to be member {}'s, who is nobody", i,
           member_of_state(slot.state.value));
    slot.state.value = slot.state.value >> 16 << 16;
  }
  if (slot.inflight_region_1 != 0 &&
      (!slot.has_inflight() || slot.inflight_region_1 > rb.s.region_limit()))
    rb.fix(slot.inflight_region_1, 0, "a large block on its way");
  if (slot.cache != 0 && !rb.take(slot.cache, sizeof(thread_cache))) {
    rb.doubt(
        "thread {} (member {}) had a cache that is not where it should be: what it kept stays in "
        "use",
        i, member_of_state(slot.state.value));
    slot.cache = 0;
  }
}

void empty_threads(rebuilding& rb) {
  u32 used = 0;
  for (u32 i = 0; i < rb.s.thread_limit(); ++i) {
    rebuild_slot(rb, i);
    const thread_slot& slot = rb.s.slot(i);
    if (slot.state.value != 0 || slot.cache != 0) used = i + 1;
    if (slot.cache == 0) continue;
    auto& c = *rb.s.chunk<thread_cache>(slot.cache);
    if (c.slot == i) empty_cache(rb, c, i);
  }
  rb.fix(rb.h.thread_slots_used, used, "the thread slots that were ever used");
}

// ---- slabs and their owners -------------------------------------------------------------------

// Null: it has none any more.
thread_cache* owner_of(rebuilding& rb, const slab_record& slab) {
  if (slab.owner >= rb.h.thread_slots_used.value) return nullptr;
  const thread_slot& slot = rb.s.slot(slab.owner);
  if (member_of_state(slot.state.value) == 0 || slot.cache == 0) return nullptr;
  auto* const owner = rb.s.chunk<thread_cache>(slot.cache);
  return owner->slot == slab.owner && owner->key != 0 ? owner : nullptr;
}

void write_granules(rebuilding& rb, const known_region& region, const slab_record& slab,
                    const extent_run& where, bool has_owner) {
  granule_entry* const g = region.granules + where.granule;
  const bool is_held = slab.holdings != 0 || region.extents[where.granule].generations != 0;
  const u8 kind = is_held && has_owner ? granule_slab_held : granule_slab;
  for (u32 i = 0; i < where.length; ++i) {
    const granule_entry right = slab_granule(slab, i, slab.owner, kind, region.granule_shift);
    if (std::bit_cast<u64>(g[i]) != std::bit_cast<u64>(right) &&
        (g[i].kind != granule_slab_held || kind != granule_slab))
      rb.say("region {}: granule {} names its slab again", region.id, where.granule + i);
    g[i] = right;
  }
}

void link_slab(rebuilding& rb, chunk_ref ref, const extent_run& where) {
  auto* slab = rb.s.chunk<slab_record>(ref);
  const known_region& region = *rb.notes<regions_known>().find(where.slot);
  thread_cache* const owner = owner_of(rb, *slab);
  if (owner == nullptr && slab->owner != no_owner)
    rb.fix(slab->owner, no_owner,
           fmt::format("region {}: the slab at granule {}: its owner", region.id, where.granule));
  write_granules(rb, region, *slab, where, owner != nullptr);
  count_free(rb, slab, "");
  slab->in_partial = 0;
  if (owner != nullptr)
    mark_lane(*owner, slab->lane);
  else
    ++held_by(rb, slab->member).orphans;
  chunk_ref& head = owner != nullptr ? owner->lanes[slab->lane] : rb.h.orphans[slab->size_class];
  slab->lane_previous = 0;
  slab->lane_next = head;
  if (head != 0) rb.s.chunk<slab_record>(head)->lane_previous = ref;
  head = ref;
}

void link_slabs(rebuilding& rb) {
  std::fill(std::begin(rb.h.orphans), std::end(rb.h.orphans), 0);
  for (const auto& [ref, where] : rb.notes<slabs_rebuilt>().records)
    link_slab(rb, ref, where);
}

// What threads keep, for the extents: by their lists.
void find_kept(rebuilding& rb) {
  auto& places = rb.notes<extents_kept>().places;
  for (u32 i = 0; i < rb.s.thread_limit(); ++i) {
    if (state_of_owner(rb.s, i) == owner_state::unknown) continue;
    const auto& c = *rb.s.chunk<thread_cache>(rb.s.slot(i).cache);
    const u32 n = std::min<u32>(c.kept.count.value, most_kept_extents);
    for (u32 at = 0; at < n; ++at)
      places.insert(c.kept.entries[at]);
  }
}

}  // namespace

void find_caches(rebuilding& rb) {
  auto& busy = rb.notes<slabs_rebuilt>().busy_owners;
  busy.resize(rb.s.thread_limit());
  for (u32 slot = 0; slot < busy.size(); ++slot)
    busy[slot] = state_of_owner(rb.s, slot) == owner_state::busy;
  find_kept(rb);
}

void rebuild_caches(rebuilding& rb) {
  empty_threads(rb);
  link_slabs(rb);
}

}  // namespace annex::detail
