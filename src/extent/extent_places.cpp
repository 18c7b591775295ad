// extent/extent_places.cpp - where in a free extent a block may begin, and how long it may be.
//
//   addresses   base + offset      multiples of the alignment A
//   IOVAs       of the run here    multiples of the IOVA's alignment I, no boundary crossed
//
// In one run of IOVAs address and IOVA differ by the same everywhere. So both can be aligned only
// where the difference is a multiple of the smaller of A and I, and what is then a multiple of the
// larger one, in its own kind, has both. Without IOVAs the whole extent is one run, whose IOVAs are
// its addresses.
//
// Nothing is written here. What comes from the segment (runs, lists) is bounded where it is read.
#include <algorithm>

#include "extent/extents.hpp"

namespace annex {
namespace {

// Offsets [begin, end) of a region where address and IOVA (or address alone) go on without a break.
struct stretch {
  u64 begin, end;
  u64 base;      // address = base + offset
  u64 distance;  // IOVA = address + distance
};

// What a request asks of a stretch.
class fitting {
 public:
  explicit fitting(const extent_request& q) noexcept
      : align_(std::max(q.align_bytes, u64{64})),
        iova_align_(!q.iova_contiguous        ? align_
                    : q.iova_align_bytes != 0 ? std::max(q.iova_align_bytes, u64{1})
                                              : align_),
        boundary_(q.boundary_bytes),
        highest_(q.iova_contiguous ? q.highest_iova : ~u64{0}) {}

  /// The first offset from `from` on that is aligned as asked. Nothing: there is none.
  std::optional<u64> aligned(const stretch& s, u64 from) const noexcept {
    if ((s.distance & (std::min(align_, iova_align_) - 1)) != 0) return {};
    const u64 space = iova_align_ > align_ ? s.base + s.distance : s.base;
    const u64 offset = align_up(space + from, std::max(align_, iova_align_)) - space;
    return offset >= from && offset < s.end ? std::optional(offset) : std::nullopt;
  }
  /// Bytes from the offset on that cross nothing.
  u64 room(const stretch& s, u64 offset) const noexcept {
    const u64 iova = s.base + offset + s.distance;
    u64 bytes = s.end - offset;
    if (boundary_ != 0) bytes = std::min(bytes, boundary_ - (iova & (boundary_ - 1)));
    if (iova > highest_) return 0;
    return highest_ - iova < bytes - 1 ? highest_ - iova + 1 : bytes;
  }
  /// The first two aligned offsets, the second behind the first one's boundary. Behind that
  /// everything is as it was there.
  template <class Visit>
  void for_each_place(const stretch& s, Visit&& visit) const noexcept {
    auto offset = aligned(s, s.begin);
    if (!offset || visit(*offset, room(s, *offset)) || boundary_ == 0) return;
    const u64 iova = s.base + *offset + s.distance;
    u64 behind = 0;
    if (add_overflows(*offset, boundary_ - (iova & (boundary_ - 1)), &behind) || behind >= s.end)
      return;
    offset = aligned(s, behind);
    if (offset) (void)visit(*offset, room(s, *offset));
  }
  u64 highest() const noexcept { return highest_; }

 private:
  u64 align_, iova_align_, boundary_, highest_;
};

// The stretch that the offset lies in; nothing: the region has no IOVAs there, and they are wanted.
std::optional<stretch> stretch_at(const local_region& region, u64 offset, u64 end,
                                  bool by_iova) noexcept {
  const u64 base = reinterpret_cast<u64>(region.base);
  if (!by_iova) return stretch{offset, end, base, 0};
  const auto bus = region.iovas.at(offset);
  if (!bus || bus->contiguous_bytes == 0) return {};
  const u64 stop = bus->contiguous_bytes < end - offset ? offset + bus->contiguous_bytes : end;
  return stretch{offset, stop, base, bus->address - (base + offset)};
}

// The first offset from which on every unit is as asked: the block begins at a multiple of the
// unit, and so does every run of IOVAs in it.
std::optional<u64> place_units(const local_region& region, u64 offset, u64 end,
                               const extent_request& q) noexcept {
  extent_request of_unit = q;
  of_unit.align_bytes = std::max(q.align_bytes, q.unit_bytes);
  of_unit.iova_align_bytes =
      q.iova_align_bytes != 0 ? q.iova_align_bytes : std::max(q.align_bytes, u64{64});
  if (q.unit_bytes > q.align_bytes && q.boundary_bytes != 0)  // a unit's own boundary
    of_unit.iova_align_bytes = std::max(of_unit.iova_align_bytes, q.unit_bytes);
  of_unit.boundary_bytes = 0;
  const fitting fits(of_unit);
  u64 begin = end;  // of what is being collected; end: nothing yet
  while (offset < end) {
    const auto s = stretch_at(region, offset, end, q.iova_contiguous);
    if (!s) return {};
    const auto first = fits.aligned(*s, offset);
    const bool goes_on = begin != end && first && *first == offset;
    if (!goes_on) begin = first ? *first : end;
    if (begin != end) {
      const u64 from = std::max(begin, offset);
      const u64 good = from + fits.room(*s, from);
      if (good > begin && good - begin >= q.size_bytes) return begin;
      // A run that ends within a unit, or reaches too high: none goes on from it.
      if (good != s->end || (s->end - begin) % q.unit_bytes != 0) begin = end;
    }
    offset = s->end;
  }
  return {};
}

}  // namespace

std::optional<u64> extents::place_in(u32 granule, const extent_request& q) const noexcept {
  const u64 end = end_of(granule);
  u64 offset = offset_of(granule);
  if (q.unit_bytes != 0) return place_units(region_, offset, end, q);
  const fitting fits(q);
  while (offset < end && q.size_bytes <= end - offset) {
    const auto s = stretch_at(region_, offset, end, q.iova_contiguous);
    if (!s) return {};
    std::optional<u64> found;
    fits.for_each_place(*s, [&](u64 at, u64 room) {
      if (room >= q.size_bytes) found = at;
      return found.has_value();
    });
    if (found) return found;
    offset = s->end;
  }
  return {};
}

u64 extents::largest_in(u32 granule, const extent_request& q) const noexcept {
  u64 end = end_of(granule), best = 0;
  if (record_.first_unsure != 0 && granule < record_.first_unsure)
    end = std::min(end, offset_of(record_.first_unsure));
  const fitting fits(q);
  for (u64 offset = offset_of(granule); offset < end;) {
    const auto s = stretch_at(region_, offset, end, q.iova_contiguous);
    if (!s) break;
    fits.for_each_place(*s, [&](u64, u64 room) {
      best = std::max(best, align_down(room, u64{64}));
      return false;
    });
    offset = s->end;
  }
  return best;
}

u64 extents::largest_block(const extent_request& q) const noexcept {
  u64 best = 0;
  u32 steps = 0;  // a damaged list may run in a circle
  for (u32 bin = next_used_bin(record_, 0); bin < extent_bins;
       bin = next_used_bin(record_, bin + 1))
    for (u32 g = record_.bins[bin]; g < region_.granule_count && steps <= region_.granule_count;
         g = region_.extents[g].next, ++steps)
      best = std::max(best, largest_in(g, q));
  return best;
}

}  // namespace annex
