// shared/layout.hpp - the head of a segment and the tables of members and threads.
//
//   0         segment_header               magic, limits, lock, arena, list heads
//   +         member_record[member_limit]  attached processes, and dead ones that still hold blocks
//   +         thread_slot[thread_limit]    threads that have a cache
//   +         region_record[region_limit]  (region/region_record.hpp)
//   +         u32[zone_buckets]            hash chains of zone records
//   +         journal                      old values of the open transaction
//   +         arena                        everything else, in chunks of 64 bytes and up
//
// Beside it lies a file .NAME.ID.alive without contents, in which members lock a byte each
// (shared/liveness.hpp).
//
// Links are chunk numbers (chunk_ref: offset / 64), so a segment may lie anywhere and reach 256 GiB
// of chunks. 0 is none. A word is truth or index: truth is changed by one store, or inside a
// transaction; an index can be rebuilt from it.
#pragma once
#include <type_traits>

#include "base/limits.hpp"
#include "base/seal.hpp"
#include "base/shared_word.hpp"
#include "base/units.hpp"

namespace annex {

inline constexpr u64 segment_magic = 0x676573'78656e6e61;  // "annexseg"
// A newer minor version uses reserved room: it reads older segments, and older libraries leave its
// fields alone. 5: zones that are committed, words to wait on (docs/design/0015, 0016). 6: the huge
// pages of a region, large blocks that threads keep (docs/design/0023, 0024).
inline constexpr u32 layout_major = 6, layout_minor = 0;

using chunk_ref = u32;
inline constexpr u64 chunk_unit_bytes = 64;

inline constexpr u16 no_owner = 0xffff;  // of a slab: an orphan

enum segment_state : u32 {
  segment_ready = 1,
  segment_destroyed = 0x656e6f67
};  // far apart: no damaged bit ends a heap
enum segment_option : u32 {
  option_checked = 1,
  option_reclaim_dead = 2,
  option_refuse_misuse = 4,
  option_private = 8,
  option_ephemeral = 16
};

struct arena_lists {
  u64 top;                   // bytes: everything above was never used
  u64 file_bytes;            // the file is at least so long
  u64 small_top, small_end;  // the run that small chunks are cut from
  chunk_ref small_free[33];  // by units
  u32 padding;
  chunk_ref large_free[160];  // by size class of pages
};

struct segment_header {
  u64 magic;
  u32 layout_major, layout_minor;
  u64 layout_hash;
  u64 heap_id;
  u64 reserve_bytes;  // address space to map
  char name[limits::name_bytes];
  u32 options;
  shared_word<u32> state;
  // With the record and the slot that are kept for the one who mends.
  u32 member_limit, thread_limit;
  u32 region_limit, zone_limit;
  u32 file_mode, padding0;
  u64 members_at, threads_at, regions_at, zone_buckets_at, journal_at, arena_at;

  alignas(64) shared_word<u32> lock;  // 0, or slot + 1 of the holder, | lock_waiters
  u32 padding1;
  shared_word<u64> lock_sequence;  // odd while held
  shared_word<u64> lock_steals;

  // Rises with every change of the region table; futex of watchers.
  alignas(64) shared_word<u32> region_epoch;
  u32 region_count;
  u32 next_region_id;
  u32 zone_count;
  shared_word<u32> thread_slots_used;  // slots above were never claimed
  shared_word<u32> member_records_used;
  shared_word<u64> misuse_count;
  shared_word<u64> recovered_threads;
  u32 region_hint;              // where the last extent came from
  shared_word<u32> no_barrier;  // a member's kernel has no membarrier: caches can't be frozen

  alignas(64) arena_lists arena;
  alignas(64) chunk_ref orphans[64];            // slabs without an owner, by class
  u64 used_regions[limits::region_slots / 64];  // bit: the region's record is not free
  u64 free_regions[limits::region_slots / 64];  // bit: the region is active and has a free granule
  // Bit: this 64th of the zone buckets has been written; the others are empty.
  shared_word<u64> zone_pages;
  u32 region_slots_used;  // regions have had slots below this one only
  // Somebody met a word that can't be: whoever attaches inspects everything first.
  shared_word<u32> damaged;
  // Pools and rings that were ever made: each has the number of its own.
  u64 incarnations;
  // Zone records of released pools, tables of released rings: for the next ones only.
  chunk_ref spare_pools, spare_rings;
  shared_word<u32> free_thread_slot;  // hint: slots below are probably taken
  u32 padding2;
  u64 seal;  // of what never changes (seal_of_header)
  // Zones that were ever reserved: each has the number of its own, its generation. Written twice,
  // so that a repair never goes back (docs/design/0016).
  u64 zone_generations, zone_generations_again;
  // Rises when a zone can be found that could not; futex of wait_zone().
  shared_word<u32> zones_signal;
  u32 padding3;
  u64 reserved[23];  // room for later minor versions
};
static_assert(std::is_trivially_copyable_v<segment_header> &&
              std::is_standard_layout_v<segment_header>);

/// Of what is written once, when the heap is made: its name, its options, its limits and where its
/// tables lie.
inline u64 seal_of_header(const segment_header& h) noexcept {
  return seal_of({h.magic, u64{h.layout_major} << 32 | h.layout_minor, h.layout_hash, h.heap_id,
                  h.reserve_bytes, seal_of_bytes(h.name, sizeof h.name),
                  u64{h.options} << 32 | h.file_mode, u64{h.member_limit} << 32 | h.thread_limit,
                  u64{h.region_limit} << 32 | h.zone_limit, h.members_at, h.threads_at,
                  h.regions_at, h.zone_buckets_at, h.journal_at, h.arena_at});
}

inline constexpr u32 lock_waiters = 1u << 31;

// joining: it has a record and may hold the heap lock, but has not inspected the segment: it
// vouches for nothing yet.
enum member_state : u32 { member_free = 0, member_live = 1, member_dead = 2, member_joining = 3 };
constexpr bool is_claimed(u32 state) noexcept {
  return state == member_live || state == member_joining;
}

struct member_record {
  shared_word<u32> state;
  u32 process_id;
  u64 start_time;
  char program[24];
  chunk_ref region_claims;  // region_claim[region_limit], or 0
  u32 extents_held;         // large blocks whose holder this is
  u32 holdings;             // slabs in which it holds blocks without owning the slab
  u32 slabs_orphaned;       // slabs without owner whose blocks are this member's
  u32 threads;
  u32 pool_objects_held;  // counted when it died
  u32 padding[16];
};
static_assert(sizeof(member_record) == 128);

/// What a member has to do with a region. Written by the member alone; read by whoever wants to
/// remove the region.
struct region_claim {
  shared_word<u32> region;    // id it is about; another id: nothing
  shared_word<u16> attached;  // claim_attached, claim_observed
  shared_word<u16> leases;
  shared_word<u32> fd_plus_1;
};
enum claim_bits : u16 { claim_attached = 1, claim_observed = 2 };
static_assert(sizeof(region_claim) == 12);

/// state: 0 free, else member | generation << 16. One store claims it, one store frees it.
struct thread_slot {
  shared_word<u64> state;
  u32 thread_id;
  chunk_ref cache;  // thread_cache; kept for the slot's next owner
  // A large block that has not reached its caller yet: region slot + 1, granule.
  u32 inflight_region_1;
  u32 inflight_granule;
  u32 inflight_seal;  // of both, while they say something
  u32 padding[9];
  u32 right_inflight_seal() const noexcept {
    return static_cast<u32>(seal_of({u64{inflight_region_1} << 32 | inflight_granule}));
  }
  /// A block is on its way, and it is that one.
  bool has_inflight() const noexcept {
    return inflight_region_1 != 0 && inflight_seal == right_inflight_seal();
  }
  shared_word<u64> hints[limits::lanes / 64];  // lanes in which another thread freed a block
};
static_assert(sizeof(thread_slot) == 128);

struct journal_entry {
  u64 offset_and_bytes;
  u64 old_value;
};  // offset << 4 | bytes
struct journal {
  shared_word<u32> count;
  u32 padding[15];
  journal_entry entries[limits::journal_entries];
};

inline u32 member_of_state(u64 thread_state) noexcept {
  return static_cast<u32>(thread_state & 0xffff);
}

}  // namespace annex
