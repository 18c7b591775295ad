// heap/sanity.hpp - may these numbers be believed? What audit and repair ask of every record before
// they use it.
#pragma once
#include "heap/local_heap.hpp"
#include "named/pool_table.hpp"
#include "named/ring_table.hpp"

namespace annex::detail {

bool lies_in_arena(const segment& s, chunk_ref ref, u64 bytes) noexcept;
/// The record's own numbers; not its tables' contents.
bool is_sane_region(const segment& s, const region_record& r, u32 slot) noexcept;
/// Runs in order, inside the region, without wrapping around.
bool are_sane_runs(const region_record& r, const iova_run* runs) noexcept;
/// The record of the slab that is said to begin at this granule and to have so many.
bool is_sane_slab(const segment& s, const slab_record& slab, const region_record& r, u32 slot,
                  u32 granule, u32 length) noexcept;
bool is_sane_zone(const zone_record& z) noexcept;
/// The table of a pool's zone; false: it can't be one.
known_pool sane_pool(const segment& s, const zone_record& z) noexcept;
/// The capacity of the ring whose zone this is; 0: its table can't be one. What a table says of it
/// is read once.
u64 sane_capacity(const segment& s, const zone_record& z) noexcept;
/// Full slots with values that fit them, then empty ones, of one round and the next; the counters
/// at the first of each, or behind.
bool are_sane_slots(ring_table& ring, u64 capacity) noexcept;

/// Where a magazine's entry leads. slab null: nowhere.
struct cached_block {
  slab_record* slab;
  u32 index;
};
cached_block find_cached_block(const segment& s, u64 entry, u32 size_class,
                               const std::function<bool(chunk_ref)>& is_slab) noexcept;

/// A record or table of a pool or ring that was released; its link too.
bool is_sane_spare_pool(const segment& s, chunk_ref ref) noexcept;
/// The capacity of a released ring's table; 0: it can't be one.
u64 sane_spare_capacity(const segment& s, chunk_ref ref) noexcept;

/// Which chain a zone belongs to.
u32 zone_bucket_of(std::string_view name) noexcept;

}  // namespace annex::detail
