// cache/kept_extents.hpp - large blocks that a thread keeps when they are freed, and hands out
// again without the heap lock.
//
//   free       entries[count] = place; fence; count + 1; fence; granule: large → kept, owner = the
//              thread's slot                                  <- commit: before it live, after kept
//   allocate   granule: kept → large, no owner                <- commit; then its entry goes
//   give back  the extent freed (heap lock, one transaction); then the entry is taken out
//
// Truth is the granule's word. The list is an index that has every extent the thread keeps, and may
// have others: what a death or a freezer left there, told by their granules, which are not kept by
// this thread. So whoever dies at any place leaves a block that is live or kept, and whoever
// recovers the thread finds all that it kept.
//
// The extent stays an extent in use of its member, sealed as a large block, and counts among those
// that the member's record says; it is no live block: freeing it again is a mistake that is told,
// handles of it are stale (only blocks without a name are kept), audit, map and figures call it
// cached.
//
// Who may touch the list and move a granule out of kept: as the magazines (rule C1). From large to
// kept a granule goes by compare-and-swap, since a mistaken program may free the block twice at
// once: under the heap lock the second one claims it the same way (claim_large()), so that exactly
// one of them has it.
//
// Kept are extents of the own member, up to a 64th of their region and 64 MiB in all; what nobody
// asks for again goes back, the oldest first, when another size is asked for or there are too many.
// docs/design/0024 has the measurements.
#pragma once
#include <optional>

#include "cache/thread_cache.hpp"
#include "region/tenure.hpp"

namespace annex {

/// Why it is not kept: lies otherwise than all are, is another's or named, or is too large (no);
/// so many are kept already (full); somebody else frees it (lost); a freezer has the cache.
enum class keeping { kept, no, full, frozen };

/// The large block at this granule, which its holder frees.
keeping keep_extent(thread_cache& c, local_region& region, u32 granule) noexcept;

/// Whether a kept block will do; null: any does.
struct kept_wish {
  bool (*accepts)(const void* context, const local_region&, const void* block);
  const void* context;
};
struct taken_block {
  void* block = nullptr;  // null: there is none that fits
  bool are_others_kept = false;
};
/// A kept block of so many bytes, up to an eighth more.
taken_block take_kept(const segment& s, region_views& views, thread_cache& c, u64 size_bytes,
                      const kept_wish* wish) noexcept;

/// Under the heap lock, with the right to the cache: what it keeps of a region (any_slot: of all)
/// goes back there; the oldest so many.
void give_back_kept(tenure& t, thread_cache& c, u32 region_slot) noexcept;
void give_back_oldest_kept(tenure& t, thread_cache& c, u32 how_many) noexcept;

/// Under the heap lock: a large block that is to be freed there. False: somebody else has freed it.
bool claim_large(transaction& t, const local_region& region, u32 granule) noexcept;

}  // namespace annex
