// cache/cache_rules.cpp - see cache_rules.hpp: what an audit asks of threads' caches.
#include "cache/cache_rules.hpp"

#include <algorithm>

namespace annex::detail {

cached_block find_cached_block(const segment& s, u64 entry, u32 size_class,
                               function_ref<bool(chunk_ref)> is_slab) noexcept {
  const u64 offset = entry & offset_mask;
  const region_record& r = s.at<region_record>(s.geometry().regions_at)[entry >> region_shift];
  const u64 granule = offset >> (r.granule_shift & 63);
  const u64 granules = __atomic_load_n(&r.granule_count, __ATOMIC_RELAXED);
  if (granule >= granules) return {};
  const auto* const kinds =
      s.find_chunk<granule_entry>(r.granules, granules * sizeof(granule_entry));
  const auto* const extents =
      s.find_chunk<extent_entry>(r.extents, granules * sizeof(extent_entry));
  if (kinds == nullptr || extents == nullptr) return {};
  const granule_entry g = kinds[granule];
  const u64 distance = g.distance;
  const chunk_ref ref = distance <= granule ? extents[granule - distance].record : 0;
  if (!is_slab(ref)) return {};
  auto* slab = s.chunk<slab_record>(ref);
  const u64 in_slab = offset - (u64{slab->granule} << r.granule_shift);
  if (slab->size_class != size_class) return {};
  const u32 index = block_index_of(in_slab, class_reciprocal[size_class]);
  if (index >= slab->capacity || u64{index} * class_bytes[size_class] != in_slab) return {};
  return {slab, index};
}

owner_state state_of_owner(const segment& s, u32 slot) noexcept {
  const chunk_ref ref = slot < s.thread_limit() ? s.slot(slot).cache : 0;
  if (!lies_in_arena(s, ref, sizeof(thread_cache))) return owner_state::unknown;
  const auto& c = *s.chunk<thread_cache>(ref);
  if (c.slot != slot) return owner_state::unknown;
  const bool is_busy = c.key == 0 || c.busy.value != 0 || c.frozen.value == frozen_held;
  return is_busy ? owner_state::busy : owner_state::at_rest;
}

namespace {

class thread_check {
 public:
  explicit thread_check(inspection& in)
      : in_(in), regions_(in.notes<regions_known>()), slabs_(in.notes<slabs_seen>()) {}

  void run() {
    for (u32 i = 0; i < in_.s.slots_used() && !in_.gave_up(); ++i)
      check_thread(i);
    std::sort(cached_.begin(), cached_.end());
    if (std::adjacent_find(cached_.begin(), cached_.end()) != cached_.end())
      in_.broken("S2: a block is in two magazines");
    if (in_.locked) check_kept();
  }

 private:
  void check_thread(u32 i) {
    const thread_slot& slot = in_.s.slot(i);
    // sync(slot): what whoever had it before left is seen.
    const u32 member = member_of_state(slot.state.load(std::memory_order_acquire));
    if (slot.cache != 0 && !in_.take(slot.cache, sizeof(thread_cache), "thread cache")) return;
    if (in_.locked && slot.inflight_region_1 != 0 && !slot.has_inflight())
      in_.broken("M3: thread {} has a block on its way that does not fit its seal", i);
    if (member == 0) return;
    in_.count_one();
    // A record may be free while the last slot of its member is not: it died while it closed.
    if (member > in_.s.member_limit() || slot.inflight_region_1 > in_.s.region_limit())
      return in_.broken("M1: thread {} belongs to member {}, which is nobody", i, member);
    if (slot.cache == 0) return;
    const auto& c = *in_.s.chunk<thread_cache>(slot.cache);
    if (c.slot == i) check_cache(c, i);  // else claimed, not started
  }

  void check_cache(const thread_cache& c, u32 i) {
    if (in_.locked) check_lanes(c, i);
    if (in_.locked && c.key != 0 && c.key != (i | u32{granule_slab} << 16))
      return in_.broken("C1: thread {} is not the one its cache was made for", i);
    // Half recovered, or not started: its lanes count, the rest does not.
    if (c.key == 0) return;
    for (u32 k = 1; k < class_count; ++k)
      check_magazine(c, i, k);
  }

  void check_lanes(const thread_cache& c, u32 i) {
    for (u32 lane = 0; lane < limits::lanes; ++lane) {
      check_slab_list(in_, c.lanes[lane], static_cast<u16>(i), lane, false);
      if (c.lanes[lane] != 0 && (c.used_lanes[lane / 64] >> (lane % 64) & 1) == 0)
        in_.broken("S4: lane {} of thread {} has slabs, but is not marked", lane, i);
    }
  }

  void check_magazine(const thread_cache& c, u32 i, u32 k) {
    const magazine& m = c.magazines[k];
    const u32 n = m.count.value;
    if (n > magazine_slots || m.capacity.value > magazine_slots ||
        m.block_bytes != class_bytes[k] || m.divisor != class_divisor[k])
      return in_.broken("C1: thread {}: the magazine of class {} is impossible", i, k);
    // Of others, recovery builds it anew.
    if (in_.locked && in_.is_still(i)) check_partial(m, static_cast<u16>(i), k);
    for (u32 at = 0; at < n; ++at)
      if (!check_entry(c.entries_of(k)[at], i, k)) break;
  }

  // False: the rest of its magazine is not looked at.
  bool check_entry(u64 entry, u32 i, u32 k) {
    const bool is_still = in_.is_still(i);
    const known_region* const region = regions_.find(static_cast<u32>(entry >> region_shift));
    if (region == nullptr) {
      in_.broken("C1: thread {} keeps a block of a region that is not there", i);
      return false;
    }
    const auto [slab, index] = find_cached_block(
        in_.s, entry, k, [&](chunk_ref ref) { return slabs_.records.contains(ref); });
    if (slab == nullptr) {
      // A block that was freed twice may outlive its slab in the cache: recovery says so, and
      // drops it.
      if (!is_still && !is_slab_of_class(*region, entry & offset_mask, k)) return true;
      in_.broken("C1: thread {} keeps an address that is no block of class {}", i, k);
      return false;
    }
    if (!is_still) return true;
    if (slab->owner != i || (slab->free_words()[index / 64] >> (index % 64) & 1) != 0)
      in_.broken("C1: thread {} keeps a block that is {}", i,
                 slab->owner != i ? "not its own" : "free in its slab too");
    cached_.push_back(entry & ~entry_is_clean);
    return true;
  }

  static bool is_slab_of_class(const known_region& region, u64 offset, u32 size_class) {
    if (offset >> region.granule_shift >= region.granule_count) return true;
    const granule_entry g = region.granules[offset >> region.granule_shift];
    return is_slab(g.kind) && g.size_class == size_class;
  }

  void check_partial(const magazine& m, u16 owner, u32 size_class) {
    chunk_ref previous = 0;
    u64 steps = 0;
    for (chunk_ref ref = m.partial; ref != 0; ref = in_.s.chunk<slab_record>(ref)->partial_next) {
      auto* slab = slabs_.records.contains(ref) ? in_.s.chunk<slab_record>(ref) : nullptr;
      if (slab == nullptr || slab->owner != owner || slab->size_class != size_class ||
          slab->partial_previous != previous || slab->in_partial == 0 || ++steps > slabs_.found)
        return in_.broken(
            "S4: the partial list of class {} of thread {} is not a list of its slabs", size_class,
            owner);
      previous = ref;
    }
  }

  // C2. Of a thread that moves, one may just be on its way in or out.
  void check_kept() {
    for (const auto& [slot, granule, owner] : in_.notes<extents_seen>().kept) {
      if (owner == no_owner || (owner < in_.s.slots_used() && !in_.is_still(owner))) continue;
      if (!is_in_list(owner, extents_seen::zone_place(slot, granule)))
        in_.broken(
            "C2: the large block at granule {} of region {} is kept by thread {}, which does "
            "not have it",
            granule, regions_.find(slot)->id, owner);
    }
  }
  bool is_in_list(u32 owner, u64 entry) const {
    if (owner >= in_.s.slots_used() || in_.s.slot(owner).cache == 0) return false;
    const auto* const c = in_.s.find_chunk<thread_cache>(in_.s.slot(owner).cache);
    if (c == nullptr || c->slot != owner) return false;
    const u64* const first = c->kept.entries;
    const u32 n = std::min<u32>(c->kept.count.value, most_kept_extents);
    return std::find(first, first + n, entry) != first + n;
  }

  inspection& in_;
  const regions_known& regions_;
  const slabs_seen& slabs_;
  std::vector<u64> cached_;
};

}  // namespace

void check_caches(inspection& in) {
  thread_check(in).run();
}

void count_caches(counting& c) {
  u64 kept_blocks = 0, kept_bytes = 0;
  for_each_cache(c.s, [&](u32, const thread_cache& cache) {
    ++c.out.thread_count;
    for (u32 k = 1; k < class_count; ++k) {
      kept_blocks += kept_in(cache, k);
      kept_bytes += u64{kept_in(cache, k)} * class_bytes[k];
    }
  });
  c.out.live_blocks -= std::min(c.out.live_blocks, kept_blocks);
  const u64 live_bytes = c.slab_live_bytes - std::min(c.slab_live_bytes, kept_bytes);
  c.out.used_bytes += live_bytes;
  c.out.cached_bytes = c.slab_bytes - std::min(c.slab_bytes, live_bytes) + c.kept_extent_bytes;
}

}  // namespace annex::detail
