// region/iova_map.hpp - offset → IOVA and IOVA → offset, over runs instead of pages.
//
//   runs   | 0: A | 5p: B | 6p: C | …         sorted by offset; a run ends where the next begins
//   index  one entry per 2^shift bytes: the last run that begins at or before it;
//          there is about one run per entry
//   order  the runs' numbers sorted by IOVA
//
// A contiguous table is one run whatever its page count. Immutable once published: lookups take no
// lock.
#pragma once
#include <optional>
#include <span>
#include <vector>

#include <annex/types.hpp>

#include "base/failure.hpp"
#include "region/region_record.hpp"

namespace annex {

/// Addresses without a break.
struct iova_span {
  u64 address, bytes;
};

/// The map as one process sees it.
struct iova_map {
  const iova_run* runs = nullptr;
  const u32* index = nullptr;
  const u32* order = nullptr;
  u32 run_count = 0, index_shift = 0;
  u64 length_bytes = 0;

  struct place {
    u64 address, contiguous_bytes, run_offset;
  };
  /// run_count is not 0.
  place find(u64 offset) const noexcept {
    const u32 run = run_count == 1 ? 0 : run_at(offset);
    // A damaged table gives wrong addresses, but never a length that leads out of the region or
    // nowhere.
    const u64 end = end_of(run), bytes = end > offset ? end - offset : length_bytes - offset;
    return place{runs[run].address + (offset - runs[run].offset), bytes, runs[run].offset};
  }
  std::optional<place> at(u64 offset) const noexcept {
    return run_count != 0 && offset < length_bytes ? std::optional(find(offset)) : std::nullopt;
  }
  std::optional<u64> offset_of(u64 address) const noexcept;
  /// Whether any of so many bytes from address on belongs to a run. In as many steps as offset_of.
  bool overlaps(u64 address, u64 bytes) const noexcept;
  /// IOVAs that the map has too: of these, which are sorted and do not overlap. In as many steps as
  /// both have runs, or fewer where one of them has few.
  std::optional<iova_span> shared_with(std::span<const iova_span> spans) const noexcept;
  u32 run_at(u64 offset) const noexcept;
  /// The run's IOVAs. A damaged table may make them any.
  iova_span span_of(u32 run) const noexcept {
    const u64 begin = runs[run].offset, end = end_of(run);
    return {runs[run].address, end > begin ? end - begin : 0};
  }
  u64 end_of(u32 run) const noexcept {
    const u64 end = run + 1 < run_count ? runs[run + 1].offset : length_bytes;
    return end < length_bytes ? end : length_bytes;
  }
};

/// The tables of a map before they are copied into the segment.
struct iova_tables {
  std::vector<iova_run> runs;
  std::vector<u32> order, index;
  u32 index_shift = 0;
  u64 lowest = 0, highest = 0, longest_run_bytes = 0;  // highest: last byte
};

/// The runs of the tables, sorted by address.
std::vector<iova_span> sorted_spans(const iova_tables& tables, u64 length_bytes);
/// Errors: bad_iova (an address wraps around), iova_overlap (two pages share one).
result<iova_tables> make_iova_tables(std::span<const iova> page_iovas, u64 page_bytes);
/// Order and index of runs that are sorted by offset. Errors: iova_overlap.
result<iova_tables> index_runs(std::vector<iova_run> runs, u64 length_bytes, u64 page_bytes);

}  // namespace annex
