// cache/refill.cpp - blocks out of the slabs of a cache, declared in thread_cache.hpp: into a
// magazine, or one alone.
//
//   refill    entries written above the count; count = n; then out of the free bits: while it
//             moves (moving.hpp) a block is in both, and the union counts (rule R2)
//   direct    out of the free bits: the store to free[] commits
//
// The caller has the right to the cache (rule C1). If the process dies here: what is in a magazine
// or in the bits is free, and recovery gives it back; a block taken directly is its member's.
#include <algorithm>
#include <bit>

#include "base/race_checker.hpp"
#include "cache/moving.hpp"

namespace annex {
namespace {

u64 offset_of_slab(region_views& views, const slab_record& slab) noexcept {
  return u64{slab.granule} << views.at(slab.region).granule_shift;
}

// A slab of a partial list, if its blocks can be handed out: of this class, with free blocks, and
// inside its region. Null: the list leads to something else, and the segment is marked as damaged.
slab_record* usable_slab(const segment& s, region_views& views, chunk_ref ref,
                         u32 size_class) noexcept {
  auto* slab = s.chunk<slab_record>(ref);
  const local_region& region = views.at(slab->region);
  const u64 end =
      (u64{slab->granule} << region.granule_shift) + u64{slab->capacity} * class_bytes[size_class];
  const bool is_inside = is_usable_here(region) && end <= region.region_bytes;
  if (slab->size_class == size_class && slab->summary != 0 && slab->in_partial != 0 && is_inside)
    return slab;
  s.mark_damaged("a list of slabs with free blocks leads to something else");
  return nullptr;
}

// An entry of a block taken from the bitmap. The mark goes with the entry; from then on the slab
// knows of it no more.
u64 entry_of(slab_record& slab, u64 slab_offset, u32 block, u32 block_bytes) noexcept {
  const u64 entry = u64{slab.region} << region_shift | (slab_offset + u64{block} * block_bytes);
  return block >= slab.first_clean() ? entry | entry_is_clean : entry;
}

}  // namespace

bool refill(const segment& s, region_views& views, thread_cache& c, u32 size_class,
            u32* doubles) noexcept {
  const u32 block_bytes = class_bytes[size_class];
  magazine& m = c.magazines[size_class];
  u64* const entries = c.entries_of(size_class);
  u32 n = m.count.load(std::memory_order_relaxed);
  if (m.capacity < largest_capacity_of(block_bytes)) m.capacity = m.capacity * 2;
  const u32 wanted = std::min(m.capacity / 2, largest_batch);
  moving_scope moving(m, doubles);
  while (n < wanted) {
    if (m.partial == 0 && (n != 0 || !collect_lanes(s, c, false, doubles) || m.partial == 0)) break;
    slab_record* slab = usable_slab(s, views, m.partial, size_class);
    if (slab == nullptr) {
      m.partial = 0;
      break;
    }
    const u64 offset = offset_of_slab(views, *slab);
    // A freezer may have collected what others freed.
    race_checker::taken_over(s.header().heap_id, m.partial);
    while (slab->summary != 0 && n < wanted) {
      const u32 w = static_cast<u32>(std::countr_zero(slab->summary)) & 63;
      const u64 word = slab->free_bits(w) & slab->valid_bits(w);
      if (word != slab->free_words()[w]) [[unlikely]]
        s.mark_damaged("a slab has free blocks without a witness");
      // Without the instruction it is slow.
      const u32 there = word == ~u64{0} ? 64 : static_cast<u32>(std::popcount(word));
      const u32 count = std::min(there, wanted - n);
      u64 left = word;
      u32 block = 0;
      // The lowest is handed out first.
      for (u64* top = entries + n + count; top != entries + n; left &= left - 1) {
        block = w * 64 + static_cast<u32>(std::countr_zero(left));
        *--top = entry_of(*slab, offset, block, block_bytes);
      }
      if (block >= slab->first_clean())
        slab->set_first_clean(block + 1);  // before anyone can have them
      n += count;
      compiler_fence();
      m.count.store(n, std::memory_order_relaxed);  // now in both: the union counts (rule R2)
      compiler_fence();
      leave_free(*slab, w, left);
      if (left == 0) slab->summary &= ~(u64{1} << w);
      if (slab->free_count == slab->capacity && m.empties > 0) --m.empties;
      slab->free_count -= count;
    }
    if (slab->summary == 0) remove_partial(s, c, slab);
  }
  return n != 0;
}

namespace {

// The lowest free block of the first slab of a partial list that is not empty, straight from its
// bitmap. ~0: the list leads to something else; the segment is marked as damaged.
u64 take_from_first(const segment& s, region_views& views, thread_cache& c,
                    u32 size_class) noexcept {
  magazine& m = c.magazines[size_class];
  slab_record* slab = usable_slab(s, views, m.partial, size_class);
  const u32 w = slab != nullptr ? static_cast<u32>(std::countr_zero(slab->summary)) & 63 : 0;
  const u64 word = slab != nullptr ? slab->free_bits(w) & slab->valid_bits(w) : 0;
  if (word == 0) {
    if (slab != nullptr) s.mark_damaged("a slab that is said to have free blocks has none");
    m.partial = 0;
    return ~u64{0};
  }
  race_checker::taken_over(s.header().heap_id, m.partial);
  const u32 bit = static_cast<u32>(std::countr_zero(word));
  if (slab->free_count == slab->capacity && m.empties > 0) --m.empties;
  const u64 entry =
      entry_of(*slab, offset_of_slab(views, *slab), w * 64 + bit, class_bytes[size_class]);
  if (w * 64 + bit >= slab->first_clean()) slab->set_first_clean(w * 64 + bit + 1);
  compiler_fence();
  const u64 left = word & ~(u64{1} << bit);
  leave_free(*slab, w, left);  // commit
  if (left == 0) slab->summary &= ~(u64{1} << w);
  --slab->free_count;
  if (slab->summary == 0) remove_partial(s, c, slab);
  return entry;
}

// Whether a slab of the class with a free block lies in the region: it is then the first of the
// list.
bool put_first_what_lies_in(const segment& s, thread_cache& c, u32 size_class,
                            u32 region_slot) noexcept {
  const chunk_ref first = c.magazines[size_class].partial;
  list_walk walk(s);
  for (chunk_ref ref = first; ref != 0 && walk.goes_on();
       ref = s.chunk<slab_record>(ref)->partial_next) {
    auto* slab = s.chunk<slab_record>(ref);
    if (slab->region != region_slot) continue;
    if (slab->size_class != size_class) {
      s.mark_damaged("a list of slabs with free blocks leads to something else");
      return false;
    }
    if (ref != first) {
      remove_partial(s, c, slab);
      add_partial(s, c, slab);
    }
    return true;
  }
  return false;
}

}  // namespace

u64 take_direct(const segment& s, region_views& views, thread_cache& c, u32 size_class,
                u32* doubles) noexcept {
  const magazine& m = c.magazines[size_class];
  if (m.partial == 0 && (!collect_lanes(s, c, false, doubles) || m.partial == 0)) return ~u64{0};
  return take_from_first(s, views, c, size_class);
}

u64 take_in_region(const segment& s, region_views& views, thread_cache& c, u32 size_class,
                   u32 region_slot, u32* doubles) noexcept {
  magazine& m = c.magazines[size_class];
  if (const u32 n = m.count.load(std::memory_order_relaxed); n != 0) {
    const u64 entry = c.entries_of(size_class)[n - 1];
    if (entry >> region_shift == region_slot && leads_somewhere(views.bases(), entry)) {
      compiler_fence();
      m.count.store(n - 1, std::memory_order_relaxed);  // commit
      return entry;
    }
  }
  bool is_there = put_first_what_lies_in(s, c, size_class, region_slot);
  if (!is_there && collect_lanes(s, c, false, doubles))
    is_there = put_first_what_lies_in(s, c, size_class, region_slot);
  return is_there ? take_from_first(s, views, c, size_class) : ~u64{0};
}

}  // namespace annex
