// heap/placing.cpp - see placing.hpp.
#include "heap/placing.hpp"

#include <algorithm>

namespace annex::detail {

placement completed(const placement& asked) noexcept {
  placement p = asked;
  if (p.align_bytes == 0) p.align_bytes = 64;
  p.iova_contiguous |= p.iova_align_bytes != 0 || p.highest_iova != no_iova;
  return p;
}

extent_request request_for(const placement& p, u64 size_bytes, granule_kind kind,
                           u16 holder) noexcept {
  return {.size_bytes = size_bytes,
          .align_bytes = p.align_bytes,
          .boundary_bytes = p.boundary_bytes,
          .iova_contiguous = p.iova_contiguous,
          .kind = kind,
          .holder = holder,
          .iova_align_bytes = p.iova_align_bytes,
          .highest_iova = static_cast<u64>(p.highest_iova)};
}

bool is_constrained(const placement& p) noexcept {
  return p.boundary_bytes != 0 || p.iova_contiguous;
}

// Whether the block lies as asked. Slabs know addresses only: what a placement says of IOVAs is
// looked at here.
bool is_as_asked(const placement& p, const local_region& region, const void* block) noexcept {
  const u64 at = reinterpret_cast<u64>(block);
  if (at % p.align_bytes != 0) return false;
  if (!p.iova_contiguous)
    return p.boundary_bytes == 0 || !crosses(at, p.size_bytes, p.boundary_bytes);
  const auto bus = region.iovas.at(at - reinterpret_cast<u64>(region.base));
  if (!bus || bus->contiguous_bytes < p.size_bytes) return false;
  const u64 align = p.iova_align_bytes != 0 ? p.iova_align_bytes : p.align_bytes;
  const u64 highest = static_cast<u64>(p.highest_iova);
  return bus->address % align == 0 && bus->address <= highest &&
         highest - bus->address >= p.size_bytes - 1 &&
         (p.boundary_bytes == 0 || !crosses(bus->address, p.size_bytes, p.boundary_bytes));
}

// The slabs that can serve a placement; 0: an extent of its own.
u32 class_for(const placement& p) noexcept {
  u64 slab_bytes = p.size_bytes;
  bool from_slab = p.align_bytes <= limits::smallest_page_bytes;
  if (is_constrained(p)) {
    // A power-of-two block up to a page lies at a multiple of its size: it crosses no boundary and
    // no page.
    slab_bytes = std::bit_ceil(std::max({p.size_bytes, p.align_bytes, p.iova_align_bytes}));
    from_slab &= slab_bytes <= limits::smallest_page_bytes;
  }
  return from_slab && slab_bytes <= limits::largest_slab_block_bytes
             ? class_of_aligned(slab_bytes, p.align_bytes)
             : 0;
}

// Blocks of a slab follow each other at distances of their size. Where that is small beside the
// piece that none may cross, few do; else the next power of two, whose multiples do not.
u32 class_in(const placement& p, const local_region& region) noexcept {
  u64 piece_bytes = p.boundary_bytes != 0 ? p.boundary_bytes : ~u64{0};
  if (p.iova_contiguous) {
    const region_record& r = *region.record;
    if (region.iovas.run_count == 0 || r.lowest_iova > static_cast<u64>(p.highest_iova)) return 0;
    piece_bytes =
        std::min(piece_bytes, std::max(r.page_bytes, region.region_bytes / region.iovas.run_count));
  }
  const u64 align = std::max<u64>(p.align_bytes, p.iova_contiguous ? p.iova_align_bytes : 0);
  const u64 bytes = p.size_bytes <= piece_bytes / 4 ? p.size_bytes : std::bit_ceil(p.size_bytes);
  if (align > limits::smallest_page_bytes || bytes > limits::largest_slab_block_bytes ||
      bytes > piece_bytes)
    return 0;
  return class_of_aligned(bytes, align);
}

bool is_size(u64 bytes) noexcept {
  return bytes != 0 && bytes <= limits::largest_region_bytes;
}

// The one place where a placement's numbers are looked at: afterwards no sum of them wraps.
bool is_possible(const placement& p) noexcept {
  return is_size(p.size_bytes) && is_power_of_two(p.align_bytes) &&
         p.align_bytes <= limits::largest_align_bytes &&
         (p.iova_align_bytes == 0 || (is_power_of_two(p.iova_align_bytes) &&
                                      p.iova_align_bytes <= limits::largest_align_bytes)) &&
         (p.boundary_bytes == 0 ||
          (is_power_of_two(p.boundary_bytes) && p.boundary_bytes >= p.size_bytes));
}

}  // namespace annex::detail
