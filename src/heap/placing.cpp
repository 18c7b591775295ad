// heap/placing.cpp - see placing.hpp.
#include "heap/placing.hpp"

#include <algorithm>

namespace annex::detail {

// Whether the block lies as asked. Slabs know addresses only: what a placement says of IOVAs is
// looked at here.
bool is_as_asked(const placement& p, const local_region& region, const void* block) noexcept {
  const u64 at = reinterpret_cast<u64>(block);
  if (at % p.align_bytes != 0) return false;
  if (!p.iova_contiguous)
    return p.boundary_bytes == 0 || !crosses(at, p.size_bytes, p.boundary_bytes);
  const auto bus = region.iovas.at(at - reinterpret_cast<u64>(region.base));
  return bus && bus->contiguous_bytes >= p.size_bytes && bus->address % p.align_bytes == 0 &&
         (p.boundary_bytes == 0 || !crosses(bus->address, p.size_bytes, p.boundary_bytes));
}

// The slabs that can serve a placement; 0: an extent of its own.
u32 class_for(const placement& p) noexcept {
  u64 slab_bytes = p.size_bytes;
  bool from_slab = p.align_bytes <= limits::smallest_page_bytes;
  if (p.boundary_bytes != 0 || p.iova_contiguous) {
    // A power-of-two block up to a page lies at a multiple of its size: it crosses no boundary and
    // no page.
    slab_bytes = std::bit_ceil(std::max<u64>(p.size_bytes, p.align_bytes));
    from_slab &= slab_bytes <= limits::smallest_page_bytes;
  }
  return from_slab && slab_bytes <= limits::largest_slab_block_bytes
             ? class_of_aligned(slab_bytes, p.align_bytes)
             : 0;
}

bool is_size(u64 bytes) noexcept {
  return bytes != 0 && bytes <= limits::largest_region_bytes;
}

// The one place where a placement's numbers are looked at: afterwards no sum of them wraps.
bool is_possible(const placement& p) noexcept {
  return is_size(p.size_bytes) && is_power_of_two(p.align_bytes) &&
         p.align_bytes <= limits::largest_align_bytes &&
         (p.boundary_bytes == 0 ||
          (is_power_of_two(p.boundary_bytes) && p.boundary_bytes >= p.size_bytes));
}

}  // namespace annex::detail
