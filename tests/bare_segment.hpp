// tests/bare_segment.hpp - the layers below a heap, without one: a segment, members of it, regions.
//
//   bare_segment   │ header │ members │ threads │ regions │ buckets │ journal │ arena …
//                  in memory; and a file beside it in which members lock their bytes
//   add_region()   a record, its tables, one free extent: as this process sees it
//
// Nothing of annex touches the memory of a region, so here a region's address is only a number.
// Processes: a forked child shares the segment; it calls join() to be a member of its own, and when
// it dies the kernel says so, as in a heap.
#pragma once
#include <string>
#include <vector>

#include "extent/extents.hpp"
#include "platform/kept_file.hpp"
#include "region/region_views.hpp"
#include "support.hpp"

namespace annex {

class bare_segment {
 public:
  explicit bare_segment(u64 reserve_bytes = 64 * MiB);
  ~bare_segment();
  bare_segment(const bare_segment&) = delete;
  bare_segment& operator=(const bare_segment&) = delete;

  const segment& seg() const { return segment_; }
  segment_header& header() const { return segment_.header(); }
  region_views& views() { return views_; }
  /// The member and the slot that this process began with.
  lock_identity me() const { return me_; }
  /// One more: for a thread of this process, or in a forked child. Ends with the process.
  lock_identity join();

  /// A region of so many bytes at `base`. page_iovas: one for each page of page_bytes, or none.
  local_region& add_region(u64 length_bytes, u64 base = 0x2000'0000'0000,
                           const std::vector<iova>& page_iovas = {}, u64 page_bytes = 4 * KiB);

  /// Whether somebody met a word that can't be.
  bool is_damaged() const { return segment_.is_damaged(); }

 private:
  os::kept_file file_, life_;
  std::atomic<u32> damage_{0};
  segment segment_;
  region_views views_;
  lock_identity me_{};
  std::vector<local_region*> regions_;
};

/// Another one each time, or ANNEX_MODEL_SEED. A test says which.
u32 a_seed();

/// What is wrong with the arena (invariant A2) when these chunks are in somebody's hands; empty:
/// nothing. held: where a chunk begins, and how many bytes were asked for.
std::string what_is_wrong_with_arena(const segment& s,
                                     const std::vector<std::pair<chunk_ref, u64>>& held);

/// What is wrong with a region's extents (invariants E1 to E7 of extent/extents.hpp, but for slabs'
/// insides); empty: nothing.
std::string what_is_wrong_with_extents(const segment& s, const local_region& region);

}  // namespace annex
