// base/limits.hpp - every size that is fixed, and what happens when it is reached.
#pragma once
#include "base/units.hpp"

namespace annex::limits {

inline constexpr u64 name_bytes = 32;       // heap names: 31 and a NUL; longer: invalid_name
inline constexpr u64 zone_name_bytes = 64;  // zone names: 63 and a NUL; longer: invalid_name
// Backing paths; longer: the region is attached by hand.
inline constexpr u64 path_bytes = 512;
inline constexpr u64 smallest_page_bytes = 4 * KiB;
inline constexpr u64 largest_page_bytes = 1 * GiB;
// Offset of a byte in a handle: up to 44 bits.
inline constexpr u64 largest_region_bytes = 16 * TiB;
inline constexpr u32 handle_slot_shift = 44;                 // region/generation.hpp
inline constexpr u32 region_slot_bits = 14;                  // of 16 in a magazine entry
inline constexpr u32 region_slots = 1u << region_slot_bits;  // more regions: limit_reached
inline constexpr u32 largest_member_limit = 60000;           // u16 in extents and slabs
inline constexpr u32 largest_thread_limit = 60000;           // u16 owner in the granule map
inline constexpr u32 largest_zone_limit = 1u << 24;
inline constexpr u64 smallest_metadata_limit = 2 * MiB, largest_metadata_limit = TiB;
inline constexpr u64 largest_align_bytes = 1 * TiB;
// What an offset into a file can say; further: bad_length.
inline constexpr u64 largest_file_bytes = ~u64{0} >> 1;
// What the kernel's masks hold; higher: invalid_argument.
inline constexpr int largest_numa_node = 1023;
// Threads that populate, pin or zero; more asked for: so many.
inline constexpr u32 largest_worker_count = 1024;
// Deadlines; further: so long.
inline constexpr i64 longest_wait_ns = i64{365} * 24 * 3600 * 1'000'000'000;
inline constexpr u64 largest_pool = u64{1} << 30;  // objects
inline constexpr u32 lanes = 512;                  // lists of slabs per thread, one hint bit each
// Puts in one transaction; more: the heap is damaged, and all are undone.
inline constexpr u32 journal_entries = 1022;
inline constexpr u32 zone_buckets = 65536;

// Small blocks: up to this size they come from slabs; above, each block is an extent of its own.
inline constexpr u64 largest_slab_block_bytes = 64 * KiB;
// Most blocks in one slab (64 words of bitmap, one summary word).
inline constexpr u32 slab_blocks = 4096;
// Most granules in one slab: all journaled when one is made.
inline constexpr u32 slab_granules = 64;

// Granules: 64 KiB; 4 KiB for regions too small for that to be fair.
inline constexpr u32 granule_shift = 16, small_granule_shift = 12;
inline constexpr u64 small_region_bytes = 32 * MiB;

}  // namespace annex::limits
