// cache/fitting.cpp - a block that lies as asked, out of the slabs of a cache, declared in
// thread_cache.hpp.
//
//   the magazine's top    if it fits                                       one store commits
//   slabs of the region   the first free block that fits, looked for in    the store to free[]
//                         so many slabs and bits at most                   commits
//
// Blocks that do not fit stay where they are: they serve those who do not ask. The caller has the
// right to the cache (rule C1). If the process dies here: a block is free until the store that
// commits, and its member's from then on (cache/refill.cpp has the same for blocks that lie
// anywhere).
#include <algorithm>
#include <bit>

#include "base/race_checker.hpp"
#include "cache/moving.hpp"

namespace annex {
namespace {

constexpr u32 most_slabs = 64, most_blocks = 1024;  // that are looked at for one block

// The search in one slab.
struct slab_search {
  slab_record& slab;
  u64 offset;  // of the slab in its region
  u32 block_bytes;
  u32 looked_at = 0;

  /// A free block that fits, or capacity: none of those that were looked at.
  u32 find(function_ref<bool(u64)> fits) noexcept {
    for (u64 words = slab.summary; words != 0; words &= words - 1) {
      const u32 w = static_cast<u32>(std::countr_zero(words)) & 63;
      if (w >= slab.words) break;
      for (u64 left = slab.free_bits(w) & slab.valid_bits(w); left != 0; left &= left - 1) {
        const u32 block = w * 64 + static_cast<u32>(std::countr_zero(left));
        if (fits(offset + u64{block} * block_bytes)) return block;
        if (++looked_at >= most_blocks) return slab.capacity;
      }
    }
    return slab.capacity;
  }
};

// Out of the free bits: as take_from_first() of refill.cpp.
u64 take_bit(const segment& s, thread_cache& c, slab_record& slab, u64 slab_offset, u32 block,
             u32 size_class) noexcept {
  magazine& m = c.magazines[size_class];
  const u32 w = block / 64;
  const u64 left = slab.free_bits(w) & slab.valid_bits(w) & ~(u64{1} << (block % 64));
  if (slab.free_count == slab.capacity && m.empties > 0) --m.empties;
  u64 entry =
      u64{slab.region} << region_shift | (slab_offset + u64{block} * class_bytes[size_class]);
  if (block >= slab.first_clean()) {
    entry |= entry_is_clean;
    slab.set_first_clean(block + 1);  // blocks below it that were passed over count as used
  }
  compiler_fence();
  leave_free(slab, w, left);  // commit
  if (left == 0) slab.summary &= ~(u64{1} << w);
  --slab.free_count;
  if (slab.summary == 0) remove_partial(s, c, &slab);
  return entry;
}

fitting_search search_slabs(const segment& s, region_views& views, thread_cache& c, u32 size_class,
                            u32 region_slot, function_ref<bool(u64)> fits, u64* entry) noexcept {
  const local_region& region = views.at(region_slot);
  const u32 block_bytes = class_bytes[size_class];
  u32 slabs = 0, blocks = 0;
  bool is_hopeless = false;
  list_walk walk(s);
  for (chunk_ref ref = c.magazines[size_class].partial; ref != 0 && walk.goes_on();
       ref = s.chunk<slab_record>(ref)->partial_next) {
    auto* const slab = s.chunk<slab_record>(ref);
    if (slab->region != region_slot) continue;
    const u64 offset = u64{slab->granule} << region.granule_shift;
    if (slab->size_class != size_class || slab->in_partial == 0 ||
        offset + u64{slab->capacity} * block_bytes > region.region_bytes) {
      s.mark_damaged("a list of slabs with free blocks leads to something else");
      return fitting_search::hopeless;
    }
    race_checker::taken_over(s.header().heap_id, ref);
    slab_search search{*slab, offset, block_bytes};
    const u32 block = search.find(fits);
    if (block < slab->capacity) {
      *entry = take_bit(s, c, *slab, offset, block, size_class);
      return fitting_search::found;
    }
    is_hopeless |= slab->free_count == slab->capacity;
    blocks += search.looked_at;
    if (++slabs >= most_slabs || blocks >= most_blocks) break;
  }
  return is_hopeless ? fitting_search::hopeless : fitting_search::none;
}

}  // namespace

fitting_search take_fitting(const segment& s, region_views& views, thread_cache& c, u32 size_class,
                            u32 region_slot, function_ref<bool(u64)> fits, u64* entry,
                            u32* doubles) noexcept {
  magazine& m = c.magazines[size_class];
  if (const u32 n = m.count.load(std::memory_order_relaxed); n != 0) {
    const u64 top = c.entries_of(size_class)[n - 1];
    if (top >> region_shift == region_slot && leads_somewhere(views.bases(), top) &&
        fits(top & offset_mask)) {
      compiler_fence();
      m.count.store(n - 1, std::memory_order_relaxed);  // commit
      *entry = top;
      return fitting_search::found;
    }
  }
  fitting_search seen = search_slabs(s, views, c, size_class, region_slot, fits, entry);
  if (seen == fitting_search::none && collect_lanes(s, c, false, doubles))
    seen = search_slabs(s, views, c, size_class, region_slot, fits, entry);
  return seen;
}

}  // namespace annex
