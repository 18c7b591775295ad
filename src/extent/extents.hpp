// extent/extents.hpp - runs of granules inside one region: good fit in constant time, all
// bookkeeping out of band.
//
//   granule   0     1 2 3 4      5 6            7 …
//            [slab][free: 4    ][large: 2     ][free …
//   entry     kind  length,foot  length,holder
//             only an extent's first and last granules carry a meaning
//
// Free extents lie in bins by length (eight per doubling), the lowest first as far as 16 steps go;
// two levels of bitmaps find the first bin that must fit. A large block takes the shortest that
// fits, a slab the lowest: docs/design/0006. A request is rounded up to its bin, so the first
// extent found serves it; if there is none, the one bin below is searched, so nothing that fits is
// refused. Constraints (alignment, boundary, IOVA contiguity) are tried extent by extent, and a
// region whose longest IOVA run is too short says no at once.
//
// Invariants (audit):
//   E1  the extents tile the region: lengths add up to granule_count, none is 0
//   E2  two free extents never touch
//   E3  every free extent is in the bin of its length, linked both ways, and its foot names its
//       first granule
//   E4  bin_bits and bin_groups say which bins are not empty
//   E5  free_granules is the sum of the free lengths
//   E6  no granule from first_clean on was ever given out; the mark agrees with its complement
//   E7  the seal at the head of an extent in use fits what the entry says; its holder is a member
//       for a large block, else nobody
//   H1  an extent in use has a name's word, of a generation that is not above the floors it touches
//       (region/generation.hpp)
//
// Every function is called inside a transaction: a death undoes it.
#pragma once
#include <optional>

#include "region/local_region.hpp"
#include "shared/heap_lock.hpp"

namespace annex {

struct extent_request {
  u64 size_bytes = 0;
  u64 align_bytes = 1;
  u64 boundary_bytes = 0;
  bool iova_contiguous = false;
  granule_kind kind = granule_large;
  u16 holder = 0;
  u64 iova_align_bytes = 0;    // of the IOVA alone; 0: align_bytes
  u64 highest_iova = ~u64{0};  // no byte lies above it
  /// Not the whole has to meet boundary and contiguity, but each part of so many bytes, a power of
  /// two that divides the boundary: 0: the whole.
  u64 unit_bytes = 0;
  /// A slab: where it can be had, none of its bytes lie across a multiple of it; 0: anywhere.
  u64 wished_boundary_bytes = 0;
};

/// Whether there may be a place for it in the region, by what its record says of IOVAs.
inline bool may_fit(const region_record& r, const extent_request& q) noexcept {
  return !q.iova_contiguous ||
         (r.longest_run_bytes >= (q.unit_bytes != 0 ? q.unit_bytes : q.size_bytes) &&
          r.lowest_iova <= q.highest_iova);
}

/// The block begins at offset_bytes, in the extent's first granule. Its bytes from
/// clean_offset_bytes on are zeros.
struct extent_place {
  u32 granule;
  u64 offset_bytes, clean_offset_bytes;
  u64 dirty_bytes() const noexcept {
    return clean_offset_bytes > offset_bytes ? clean_offset_bytes - offset_bytes : 0;
  }
};

class extents {
 public:
  explicit extents(const local_region& region) noexcept
      : region_(region), record_(*region.record) {}

  std::optional<extent_place> allocate(transaction& t, const extent_request& request) noexcept;
  /// The largest block that meets the request's constraints; 0: none.
  u64 largest_block(const extent_request& request) const noexcept;
  void free(transaction& t, u32 granule) noexcept;
  /// Makes the extent reach end_offset_bytes, by taking from the free extent behind it or giving
  /// back; false: no room.
  bool resize(transaction& t, u32 granule, u64 end_offset_bytes,
              bool keep_iova_contiguous) noexcept;
  /// Writes the seal of an extent in use, after a word of its entry has changed.
  void seal(transaction& t, u32 granule) noexcept;
  /// The whole region as one free extent; back_ends() first: false: the annex directory is full.
  bool back_ends() const noexcept;
  void make_free(transaction& t) noexcept;

  /// The first granule of the large block or zone that this granule belongs to; no_extent: none. At
  /// once where a look-up has left a hint (remember_first), else by looking back, or from the
  /// region's start.
  u32 first_of(u32 granule) const noexcept;
  /// Leaves the hint, in a granule that is not the first. For whoever may write to the segment.
  void remember_first(u32 granule, u32 first) const noexcept;

  u64 offset_of(u32 granule) const noexcept { return u64{granule} << region_.granule_shift; }
  u64 end_of(u32 granule) const noexcept {
    const u64 end = offset_of(granule + region_.extents[granule].length);
    return end < region_.region_bytes ? end : region_.region_bytes;
  }

 private:
  std::optional<u64> place_in(u32 granule, const extent_request& request) const noexcept;
  u64 largest_in(u32 granule, const extent_request& request) const noexcept;
  std::optional<extent_place> allocate_low(transaction& t, u32 first_bin,
                                           const extent_request& request) noexcept;
  std::optional<extent_place> take(transaction& t, u32 granule, u64 offset,
                                   const extent_request& request) noexcept;
  void insert(transaction& t, u32 granule, u32 length) noexcept;
  void remove(transaction& t, u32 granule) noexcept;
  void count_free(transaction& t, u32 granules) noexcept;
  void mark_given(transaction& t, u32 end) noexcept;
  void set_kind(transaction& t, u32 granule, granule_kind kind) noexcept;

  const local_region& region_;
  region_record& record_;
};

/// The bin whose extents are all at least so long; the bin an extent of this length belongs to.
constexpr u32 bin_that_fits(u32 granules) noexcept;
constexpr u32 bin_of(u32 granules) noexcept {
  if (granules < 8) return granules;
  const u32 exponent = log2_floor(granules);
  return (exponent - 2) * 8 + ((granules >> (exponent - 3)) & 7);
}
constexpr u32 bin_that_fits(u32 granules) noexcept {
  if (granules < 8) return granules;
  const u32 below = bin_of(granules), exponent = log2_floor(granules);
  return ((granules >> (exponent - 3)) << (exponent - 3)) == granules ? below : below + 1;
}
static_assert(bin_of(~u32{0}) < extent_bins && bin_of(7) == 7 && bin_of(8) == 8 &&
              bin_of(17) == bin_of(16) && bin_that_fits(17) == bin_of(18));

inline bool bin_is_used(const region_record& r, u32 bin) noexcept {
  return (r.bin_bits[bin / 8] >> (bin % 8) & 1) != 0;
}

/// The first bin from `from` on that holds an extent; extent_bins: none.
inline u32 next_used_bin(const region_record& r, u32 from) noexcept {
  if (from >= extent_bins) return extent_bins;
  const u32 group = from / 8;
  const u32 in_group = u32{r.bin_bits[group]} >> (from % 8) << (from % 8);
  if (in_group != 0) return group * 8 + static_cast<u32>(std::countr_zero(in_group));
  const u64 groups = group >= 63 ? 0 : r.bin_groups & ~low_bits(group + 1);
  if (groups == 0) return extent_bins;
  const u32 next = static_cast<u32>(std::countr_zero(groups));
  return next * 8 + static_cast<u32>(std::countr_zero(static_cast<u32>(r.bin_bits[next])));
}

/// Extents of a region in order: visit(granule, length, kind). A region that changes under a reader
/// without the lock may end the walk early, never run away.
void walk_extents(const local_region& region, auto&& visit) {
  const u32 count = region.granule_count;
  for (u32 granule = 0; granule < count;) {
    const u32 length =
        std::atomic_ref(region.extents[granule].length).load(std::memory_order_relaxed);
    if (length == 0 || length > count - granule) return;
    visit(granule, length, load_granule(region.granule_base + granule).kind);
    granule += length;
  }
}
/// Bytes of the extent that begins at this granule; the last one ends where the region does.
inline u64 bytes_at(const local_region& region, u32 granule) noexcept {
  const u64 begin = u64{granule} << region.granule_shift;
  const u64 behind = region.region_bytes - std::min(region.region_bytes, begin);
  return std::min(u64{length_at(region, granule)} << region.granule_shift, behind);
}
/// Length of the longest free extent, in granules, exact; and how many there are when asked for.
u32 longest_free(const local_region& region, u64* holes = nullptr) noexcept;

}  // namespace annex
