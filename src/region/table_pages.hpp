// region/table_pages.hpp - which pages of a region's granule and extent tables can be written
// without a fault.
//
// The tables of a huge region are sparse chunks (shared/arena.hpp): a terabyte has 512 MiB of
// tables, of which few pages are ever touched. Only the first and last granule of an extent, and
// all granules of a slab, are written; their pages are made sure of before the extent is cut, so
// that freeing and merging never meet a page that is not there.
// The bits are this process's own knowledge: a bit too few costs a system call, none is ever too
// many.
#pragma once
#include <atomic>
#include <memory>

#include "platform/memory.hpp"
#include "region/region_record.hpp"
#include "shared/arena.hpp"

namespace annex {

/// Tables up to this size are whole from the start.
inline constexpr u64 whole_table_bytes = 64 * KiB;
constexpr backing backing_of_table(u64 bytes) noexcept {
  return bytes <= whole_table_bytes ? backing::whole : backing::sparse;
}

/// Deletes what os::map_own_pages() gave.
struct unmapped {
  u64 bytes = 0;
  void operator()(std::atomic<u64>* bits) const noexcept { os::unmap(bits, bytes); }
};

class table_pages {
 public:
  /// For a region with tables of so many granules.
  void open(const segment& s, const region_record& r);
  /// Makes sure of the entries of granules first … last, both tables. False: the annex directory is
  /// full.
  bool back(u32 first, u32 last) const noexcept;
  /// The same of the granule table alone.
  bool back_granules(u32 first, u32 last) const noexcept {
    return granules_.back(*segment_, first, last);
  }

 private:
  struct table {
    u64 begin = 0, entry_bytes = 0;                       // in the segment; 0: whole
    std::unique_ptr<std::atomic<u64>[], unmapped> known;  // bit per page; null: none is known
    bool back(const segment& s, u32 first, u32 last) const noexcept;
  };
  const segment* segment_ = nullptr;
  table granules_, extents_;
};

}  // namespace annex
