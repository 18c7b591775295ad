// cache/orphans.hpp - slabs without an owner: left by threads that ended or died, taken out of
// caches that a drain has to empty, adopted by whoever needs their class next.
//
//   owner's lane ──orphan_slab──▶ orphans of the class ──adopt──▶ another thread's lane
//                                     └──all of it free: back to the region
//
// An orphan slab is held in the name of one member (slab_record::member), whose record stays as
// long as it holds one; pass_on() names another when nothing in the slab is that member's any more.
// Everything here runs under the heap lock, in transactions of bounded size: a death between two of
// them leaves a slab in a lane or in the orphan list, never in neither.
#pragma once
#include "cache/still.hpp"

namespace annex {

inline constexpr u32 any_slot = ~u32{0};  // of regions to look in

/// From its thread's lane to the orphans of its class.
void orphan_slab(tenure& t, slab_record* slab, chunk_ref* lane) noexcept;
/// Every slab of one region out of a cache that is held still.
void make_orphans(tenure& t, thread_cache& c, u32 region_slot) noexcept;
/// Whatever caches that are held still keep of a region goes back to its slabs, and these become
/// orphans: no thread hands out a block of it any more.
void take_region_out_of_caches(tenure& t, u32 region_slot, frozen_caches& frozen) noexcept;
/// An orphan slab whose member has no block in it any more goes to one who has: a record must not
/// outlive what it holds.
void pass_on(tenure& t, slab_record* slab) noexcept;
/// Orphans of which nothing is live go back to their regions.
void release_empty_orphans(tenure& t) noexcept;
/// An orphan of the class with a free block, for this thread; only_slot: in that region. Null:
/// there is none. Commits before it takes one; the caller links it, and commits again.
slab_record* adopt(tenure& t, u32 size_class, thread_cache& c, u32 only_slot) noexcept;
/// A cache's slabs without a live block, but for so many, go back to their regions.
void release_empty_slabs(tenure& t, thread_cache& c, u32 size_class, u32 keep) noexcept;
/// Everything a cache keeps, its own and what others freed, into the slabs, and the empty ones to
/// their regions.
void empty_cache(tenure& t, thread_cache& c) noexcept;

}  // namespace annex
