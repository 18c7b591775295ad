// region/region_record.hpp - what the segment knows of a region.
//
//   granule_entry[granules]   any granule → kind, class, owner, distance to its slab's head    (one load finds a block's slab)
//   extent_entry[granules]    meaningful at the first granule of an extent (foot: at its last)  (boundary tags, out of band)
//   iova_run[runs]            offset → IOVA                                                    (region/iova_map.hpp)
//
//   free ──add: tables made──▶ partial ──observers agreed──▶ active ◀──canceled, or the worker died──┐
//    ▲                          │   ▲                          └──────────drain──────────▶ draining ─┘
//    └─made undone, worker died─┘   └──────────────nothing live: the region is gone──────────┘
//
// partial: on its way in or out; nobody else touches it. Its worker, or who recovers it, removes the file annex made for it,
// then frees the record: no death leaves a file behind.
// A region's id modulo region_slots is its slot, so an id leads to its record in one step and is never reused.
#pragma once
#include <annex/types.hpp>

#include "shared/layout.hpp"

namespace annex {

enum region_state : u32 { region_free = 0, region_partial = 1, region_active = 2, region_draining = 3 };
enum region_backing : u8 { backing_none = 0, backing_foreign = 1, backing_owned = 2 };  // owned: the file goes with the region

enum granule_kind : u8 {
  granule_inside = 0,   // of a free run, a large block or a zone: nothing to see here
  granule_free = 1,     // first or last granule of a free extent
  granule_large = 2,    // first granule of a large block
  granule_slab = 3,     // any granule of a slab
  granule_slab_held = 4,  // the same, of a slab that has holdings: the owner's frees take the slow path
  granule_zone = 5,     // first granule of a zone, pool or ring
};

struct alignas(8) granule_entry {
  u16 owner;            // thread slot, or no_owner
  u8 kind;
  u8 size_class;
  u16 distance;         // granules back to the slab's first
  u16 blocks_end;       // in this granule, in units of 16 bytes: no block begins there or behind
};
inline constexpr u32 blocks_end_unit = 16;
static_assert(sizeof(granule_entry) == 8);

struct extent_entry {
  u32 length;           // granules
  u32 previous, next;   // in the bin's list, while free
  u32 foot;             // at the last granule of a free extent: its first
  u16 holder;           // member, for a large block
  u16 lead;             // of a large block: where it begins in its first granule, in units of 64 bytes
  chunk_ref record;     // slab_record of a slab, zone_record of a zone
};
static_assert(sizeof(extent_entry) == 24);

struct iova_run { u64 offset, address; };

inline constexpr u32 no_extent = ~u32{0};
inline constexpr u32 extent_bins = 256;

enum region_pin : u8 { not_pinned = 0, pinned_pages = 1, pinned_physical = 2 };  // physical: the IOVAs are where the pages are

struct region_record {
  shared_word<u32> state;
  shared_word<u32> id;
  u64 length_bytes, page_bytes;
  u64 adder_base;                  // where the adder had it
  u64 device, inode, fd_offset;    // of the backing file
  u32 adder, adder_process;
  u32 adder_fd_plus_1;
  int numa_node;
  u8 align_shift;                  // every process maps it at a multiple of this
  u8 granule_shift, access, backing;
  u32 granule_count, free_granules;
  chunk_ref granules, extents;
  chunk_ref iova_runs, iova_order, iova_index;
  u32 iova_run_count, iova_index_shift;
  u64 lowest_iova, highest_iova, longest_run_bytes;
  shared_word<u32> cancel_drain;   // epoch of the last cancel
  u32 live_extents;                // large blocks, zones and slabs
  u64 bin_groups;                  // bit: a group of eight bins that is not empty
  u8 bin_bits[extent_bins / 8];
  u32 bins[extent_bins];           // first free extent
  char path[limits::path_bytes];
  u32 worker;                      // member that adds, drains or removes it
  u8 same_address;                 // every member has it at adder_base
  u32 first_clean;                 // granules from here on are zeros nobody was ever given
  u8 pinned;                       // region_pin: every member that has it pins it
  u8 padding[315];
};
static_assert(sizeof(region_record) == 2048);

/// What a handle carries of its region's id; ids for which this is 0 are not given out.
constexpr u32 handle_bits_of(u32 region_id) noexcept { return region_id & ((1u << (64 - limits::handle_offset_bits)) - 1); }
constexpr handle handle_at(u32 region_id, u64 offset) noexcept { return handle{u64{handle_bits_of(region_id)} << limits::handle_offset_bits | offset}; }

}  // namespace annex
