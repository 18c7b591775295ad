// named/zone_record.hpp - what the segment knows of a zone, a pool or a ring: its name, and where
// it lies.
//
//   buckets[hash of the name] ──next──▶ zone_record ──next──▶ …
//                                         ├ region slot, granule: its memory; the extent leads back
//                                         └ table: pool_table.hpp, ring_table.hpp
//
// Changed in transactions under the heap lock only, but for the state, which is changed once.
#pragma once
#include <string_view>

#include "base/limits.hpp"
#include "base/seal.hpp"
#include "shared/layout.hpp"

namespace annex {

/// The region slot of what lies in no region: rings.
inline constexpr u32 no_region = ~u32{0};

/// What a zone record says; pools and rings are zones with tables of their own. The record of a
/// released pool is used for pools again and for nothing else: whoever has the pool open reads its
/// incarnation there at any time (docs/design/0011).
enum class zone_type : u32 { plain = 1, pool = 2, ring = 3 };
/// Far apart: no damaged bit makes a zone that is being filled one that can be found.
enum zone_state : u32 { zone_committed = 0x6c6c7566, zone_being_filled = 0x93706d65 };
struct zone_record {
  chunk_ref next;
  zone_type type;
  u32 region_slot, granule;  // no memory (rings): region_slot = no_region
  u64 offset_bytes, size_bytes;
  chunk_ref table;  // of a pool or ring
  u32 seal;         // of all but next (seal_of_zone)
  u64 table_bytes;
  char name[limits::zone_name_bytes];
  shared_word<u64> incarnation;  // of a pool; 0: released, or no pool
  shared_word<u32> state;        // zone_state; changes once, from being filled to committed
  u32 maker;                     // the member that reserved it
  // Of a plain zone: no two of the heap are alike, later ones are higher.
  u64 generation;
  u32 maker_process;
  u32 padding;
  // Of that process: another one with the maker's record is not the maker.
  u64 maker_start_time;
};
static_assert(sizeof(zone_record) == 152);
inline u32 seal_of_zone(const zone_record& z) noexcept {
  return static_cast<u32>(seal_of(
      {u64{z.region_slot} << 32 | z.granule, static_cast<u64>(z.type) << 32 | z.table,
       z.offset_bytes, z.size_bytes, z.table_bytes, z.incarnation.value,
       u64{z.state.value} << 32 | z.maker, z.generation, u64{z.maker_process} << 32 | z.padding,
       z.maker_start_time, seal_of_bytes(z.name, sizeof z.name)}));
}

/// Which chain a zone of this name belongs to.
u32 zone_bucket_of(std::string_view name) noexcept;

}  // namespace annex
