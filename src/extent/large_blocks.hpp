// extent/large_blocks.hpp - an extent that is a member's block: it goes back when it is freed, and
// when its caller never saw it.
//
//   allocate   extent cut, counted, named in the thread's slot (in flight) ──▶ the caller has it
//
// A thread that dies in between leaves its slot's word: recovery frees what nobody ever saw.
#pragma once
#include "extent/extents.hpp"
#include "region/departure.hpp"

namespace annex {

/// A large block goes back to its region; one transaction, under the heap lock.
void free_extent(transaction& t, local_region& region, u32 granule) noexcept;

namespace detail {

/// The block in flight of a thread that is gone. True: done.
bool recover_large_block(tenure& t, const gone_thread& gone) noexcept;
/// Those that a dead member holds, of all regions.
void reclaim_large_blocks(reclaiming& r) noexcept;

}  // namespace detail
}  // namespace annex
