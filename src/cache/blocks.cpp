// cache/blocks.cpp - see blocks.hpp.
#include "cache/blocks.hpp"

namespace annex {

std::optional<live_block> find_block(const segment& s, local_region& region, u64 offset,
                                     bool inside) noexcept {
  const u32 granule = static_cast<u32>(offset >> region.granule_shift);
  if (granule >= region.granule_count) return {};
  const granule_entry g = load_granule(region.granule_base + granule);
  live_block found{&region, {}, 0, 0, granule, nullptr, 0};
  if (g.kind == granule_slab || g.kind == granule_slab_held) {
    slab_record* slab = slab_at(s, region, offset);
    if (slab == nullptr) return {};
    const u64 slab_offset = u64{slab->granule} << region.granule_shift;
    const u32 index = block_index_of(offset - slab_offset, class_reciprocal[slab->size_class]);
    const u64 begin = slab_offset + u64{index} * class_bytes[slab->size_class];
    if (index >= slab->capacity || (!inside && begin != offset)) return {};
    const u64 bit = u64{1} << (index % 64);
    const u64 gone =
        std::atomic_ref(slab->free_words()[index / 64]).load(std::memory_order_relaxed) |
        slab->remote_bits(index / 64);
    if ((gone & bit) != 0) return {};
    found = {
        &region, block_kind::slab_block, begin, class_bytes[slab->size_class], slab->granule, slab,
        index};
    return found;
  }
  if (g.kind == granule_inside && inside) {
    const u32 at = extents(region).first_of(granule);
    if (at == no_extent) return {};
    if (s.writable()) extents(region).remember_first(granule, at);
    const u64 first = (u64{at} << region.granule_shift) + u64{region.extents[at].lead} * 64;
    const bool is_large = load_granule(&region.granules[at]).kind == granule_large;
    return live_block{&region, is_large ? block_kind::large : block_kind::zone,
                      first,   extents(region).end_of(at) - first,
                      at,      nullptr,
                      0};
  }
  if (g.kind != granule_large && g.kind != granule_zone) return {};
  const extent_entry& e = region.extents[granule];
  const u64 begin = (u64{granule} << region.granule_shift) + u64{e.lead} * 64;
  if (inside ? offset < begin : offset != begin) return {};
  found.kind = g.kind == granule_large ? block_kind::large : block_kind::zone;
  found.offset_bytes = begin;
  found.size_bytes = extents(region).end_of(granule) - begin;
  return found;
}

}  // namespace annex
