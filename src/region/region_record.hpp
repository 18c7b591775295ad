// region/region_record.hpp - what the segment knows of a region.
//
//   granule_entry[granules]   any granule → kind, class, owner, distance to its slab's head
//                             (one load finds a block's slab)
//   extent_entry[granules]    meaningful at the first granule of an extent (foot: at its last)
//                             (boundary tags, out of band)
//   iova_run[runs]            offset → IOVA (region/iova_map.hpp)
//
//   free ──add: tables made──▶ partial ──observers agreed──▶ active ◀─canceled, or worker died─┐
//    ▲                          │   ▲                          └──────────drain─────▶ draining ─┘
//    └─made undone, worker died─┘   └────────────nothing live: the region is gone────────┘
//
// partial: on its way in or out; nobody else touches it. Its worker, or whoever recovers it,
// removes the file annex made for it, then frees the record: no death leaves a file behind.
// An id leads to its slot, and so to the record, in one step (region_slot_of); no id is ever given
// out again.
#pragma once
#include <annex/types.hpp>

#include "base/seal.hpp"
#include "shared/layout.hpp"

namespace annex {

enum region_state : u32 {
  region_free = 0,
  region_partial = 1,
  region_active = 2,
  region_draining = 3
};
// Owned: the file goes with the region.
enum region_backing : u8 { backing_none = 0, backing_foreign = 1, backing_owned = 2 };

enum granule_kind : u8 {
  // Of a free run, a large block or a zone; distance: a hint how far back it begins, or 0.
  granule_inside = 0,
  granule_free = 1,   // first or last granule of a free extent
  granule_large = 2,  // first granule of a large block
  granule_slab = 3,   // any granule of a slab
  // The same, of a slab with holdings or generations: the owner's frees take the slow path.
  granule_slab_held = 4,
  granule_zone = 5,  // first granule of a zone, pool or ring
  // First granule of a large block that the thread of this owner keeps (cache/kept_extents.hpp); no
  // owner: it is being freed.
  granule_kept = 6,
};

constexpr bool is_slab(u8 kind) noexcept {
  return kind == granule_slab || kind == granule_slab_held;
}

/// A member's block, live or kept.
constexpr bool is_large(u8 kind) noexcept {
  return kind == granule_large || kind == granule_kept;
}

struct alignas(8) granule_entry {
  u16 owner;  // thread slot, or no_owner
  u8 kind;
  u8 size_class;
  u16 distance;    // granules back to the slab's first
  u16 blocks_end;  // in this granule, in units of 16 bytes: no block begins there or behind
};
inline constexpr u32 blocks_end_unit = 16;
static_assert(sizeof(granule_entry) == 8);

struct extent_entry {
  u32 length;  // granules
  union {
    u32 previous;  // in the bin's list, while free
    // Generation, while not: of a large block or zone, or where its blocks begin
    // (region/generation.hpp).
    u32 name;
  };
  union {
    u32 next;               // in the bin's list, while free
    chunk_ref generations;  // u32[blocks] of a slab, once somebody asked a handle of one; else 0
  };
  union {
    u32 foot;  // at the last granule of a free extent: its first
    u32 seal;  // at the first granule of one in use (seal_of_extent)
  };
  u16 holder;  // member, for a large block
  // Of a large block: where it begins in its first granule, in units of 64 bytes.
  u16 lead;
  chunk_ref record;  // slab_record of a slab, zone_record of a zone
};
static_assert(sizeof(extent_entry) == 24);

/// What the head of an extent in use carries: that its length, holder, place, record, kind and
/// generation are as they were written. Not whether it has a name (bit 0 of name): that is set
/// without the heap lock.
inline u32 seal_of_extent(const extent_entry& e, u8 kind, u32 granule, u32 region_id) noexcept {
  const u64 use = kind == granule_slab_held ? u64{granule_slab}
                  : kind == granule_kept    ? u64{granule_large}
                                            : kind;
  return static_cast<u32>(seal_of({u64{region_id} << 32 | granule, u64{e.length} << 32 | e.record,
                                   u64{e.holder} << 32 | u64{e.lead} << 16 | use,
                                   u64{e.name & ~u32{1}} << 32 | e.generations}));
}

struct iova_run {
  u64 offset, address;
};

inline constexpr u32 no_extent = ~u32{0};
inline constexpr u32 extent_bins = 256;
inline constexpr u32 region_parts = 64;  // that generations are counted in

// Physical: the IOVAs are where the pages are.
enum region_pin : u8 { not_pinned = 0, pinned_pages = 1, pinned_physical = 2 };

struct region_record {
  shared_word<u32> state;
  shared_word<u32> id;
  u64 length_bytes, page_bytes;
  u64 adder_base;                // where the adder had it
  u64 device, inode, fd_offset;  // of the backing file
  u32 adder, adder_process;
  u32 adder_fd_plus_1;
  int numa_node;
  u8 align_shift;  // every process maps it at a multiple of this
  u8 granule_shift, access, backing;
  u32 granule_count, free_granules;
  chunk_ref granules, extents;
  chunk_ref iova_runs, iova_order, iova_index;
  u32 iova_run_count, iova_index_shift;
  u64 lowest_iova, highest_iova, longest_run_bytes;
  shared_word<u32> cancel_drain;  // epoch of the last cancel
  u32 live_extents;               // large blocks, zones and slabs
  u64 bin_groups;                 // bit: a group of eight bins that is not empty
  u8 bin_bits[extent_bins / 8];
  u32 bins[extent_bins];  // first free extent
  char path[limits::path_bytes];
  u32 worker;             // member that adds, drains or removes it
  u8 same_address;        // every member has it at adder_base
  u32 first_clean;        // granules from here on are zeros nobody was ever given
  u8 pinned;              // region_pin: every member that has it pins it
  u8 generations_turned;  // some place was named so often that its generations began again
  u8 huge;                // huge_pages: what every member that has it asks of the kernel
  u8 huge_check;          // its witness (huge_check_of)
  // Granules from here on are taken from the file system when they are given out; 0: none.
  u32 first_unsure;
  // Of this slot, by the regions before; stays when the region goes (region/generation.hpp).
  u64 numbers_used;
  u64 numbers_used_inverted;  // its complement: a witness
  u32 floors[region_parts];   // generations below these were given out
  u64 seal;               // of what stays as it was when the region was published (seal_of_region)
  u64 iova_seal;          // of the IOVA runs (seal_of_runs)
  u32 first_clean_check;  // the complement of first_clean
  u8 padding[12];
};
static_assert(sizeof(region_record) == 2048);

/// Of what a region is, and where its bytes are found. Whoever changes one of these words writes
/// the seal too.
inline u64 seal_of_region(const region_record& r) noexcept {
  return seal_of(
      {u64{r.id.value} << 32 | static_cast<u32>(r.numa_node), r.length_bytes, r.page_bytes,
       r.adder_base, r.device, r.inode, r.fd_offset, u64{r.adder} << 32 | r.adder_process,
       u64{r.adder_fd_plus_1} << 32 | u64{r.align_shift} << 24 | u64{r.granule_shift} << 16 |
           u64{r.access} << 8 | r.backing,
       u64{r.granule_count} << 32 | u64{r.same_address} << 8 | r.pinned, r.first_unsure,
       u64{r.granules} << 32 | r.extents, u64{r.iova_runs} << 32 | r.iova_order,
       u64{r.iova_index} << 32 | r.iova_run_count, seal_of_bytes(r.path, sizeof r.path)});
}
/// What is asked of the kernel for its memory is a hint with a witness of its own, not in the seal:
/// libraries of layout 5.0 know neither, and leave in the slot what was there before. What does not
/// fit the region's id is nothing, and no damage.
inline u8 huge_check_of(u32 region_id, u8 huge) noexcept {
  return huge == 0 ? 0 : static_cast<u8>(seal_of({u64{region_id} << 8 | huge}));
}
inline huge_pages huge_of(u32 region_id, u8 huge, u8 check) noexcept {
  const bool fits =
      huge <= static_cast<u8>(huge_pages::always) && huge_check_of(region_id, huge) == check;
  return fits ? huge_pages{huge} : huge_pages::automatic;
}
inline huge_pages huge_of(const region_record& r) noexcept {
  return huge_of(r.id.value, r.huge, r.huge_check);
}
inline u64 seal_of_runs(const iova_run* runs, u32 count) noexcept {
  return count == 0 ? 0 : seal_of_bytes(runs, u64{count} * sizeof(iova_run));
}

/// A region of so many bytes is cut into granules of 2^this: multiples of it in addresses too, so
/// that what is aligned begins with a granule. Where it does not lie so, in small ones, whose
/// tables have a 128th of its length, as long as they stay below so many bytes.
constexpr u8 granule_shift_of(u64 length_bytes, u64 base = 0,
                              u64 most_table_bytes = ~u64{0}) noexcept {
  constexpr u64 entry_bytes = sizeof(granule_entry) + sizeof(extent_entry);
  const bool is_aligned = (base & low_bits(limits::granule_shift)) == 0;
  const bool is_affordable =
      (length_bytes >> limits::small_granule_shift) < most_table_bytes / entry_bytes;
  return length_bytes < limits::small_region_bytes || (!is_aligned && is_affordable)
             ? limits::small_granule_shift
             : limits::granule_shift;
}

/// Two regions that are there at once have different ones, also modulo region_slots.
constexpr u32 region_slot_of(u32 region_id, u32 region_limit) noexcept {
  return region_id &
         (std::bit_ceil(region_limit < limits::region_slots ? region_limit : limits::region_slots) -
          1);
}

}  // namespace annex
