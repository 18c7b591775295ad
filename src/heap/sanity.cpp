// heap/sanity.cpp - see sanity.hpp.
#include "heap/sanity.hpp"

#include <cstring>

namespace annex::detail {

bool lies_in_arena(const segment& s, chunk_ref ref, u64 bytes) noexcept {
  const segment_header& h = s.header();
  const u64 at = u64{ref} * chunk_unit_bytes;
  return ref != 0 && at >= h.arena_at && bytes <= h.arena.top && at <= h.arena.top - bytes;
}

bool is_sane_region(const segment& s, const region_record& r, u32 slot) noexcept {
  const u32 limit = s.header().member_limit, id = r.id.value;
  const bool shift_is_known = r.granule_shift == limits::granule_shift || r.granule_shift == limits::small_granule_shift;
  return r.state.value <= region_draining && id != 0 && id % limits::region_slots == slot && shift_is_known && r.length_bytes != 0 && r.length_bytes <= limits::largest_region_bytes &&
         is_power_of_two(r.page_bytes) && r.page_bytes >= limits::smallest_page_bytes && r.page_bytes <= limits::largest_page_bytes && r.length_bytes % r.page_bytes == 0 &&
         r.granule_count == divide_up(r.length_bytes, u64{1} << r.granule_shift) && r.access <= 1 && r.backing <= backing_owned && r.align_shift <= 63 &&
         std::memchr(r.path, 0, sizeof r.path) != nullptr && r.adder <= limit && r.worker <= limit;
}

bool are_sane_runs(const region_record& r, const iova_run* runs) noexcept {
  for (u32 i = 0; i < r.iova_run_count; ++i) {
    const u64 end = i + 1 < r.iova_run_count ? runs[i + 1].offset : r.length_bytes;
    if (runs[i].offset >= end || end > r.length_bytes || (i == 0 && runs[0].offset != 0) || runs[i].address + (end - runs[i].offset) <= runs[i].address) return false;
  }
  return true;
}

bool is_sane_slab(const segment& s, const slab_record& slab, const region_record& r, u32 slot, u32 at, u32 length) noexcept {
  const segment_header& h = s.header();
  const u32 size_class = slab.size_class;
  return size_class != 0 && size_class < class_count && slab.capacity != 0 && slab.capacity <= limits::slab_blocks && slab.words == divide_up(slab.capacity, 64) &&
         u64{slab.capacity} * class_bytes[size_class] <= u64{length} << r.granule_shift && slab.granule == at && slab.region == slot && slab.member <= h.member_limit && slab.member != 0 &&
         slab.lane < limits::lanes && (slab.owner == no_owner || slab.owner < h.thread_limit) && length <= limits::slab_granules &&
         (u64{at} << r.granule_shift) + u64{slab.capacity} * class_bytes[size_class] <= r.length_bytes;
}

bool is_sane_zone(const zone_record& z) noexcept {
  return std::memchr(z.name, 0, sizeof z.name) != nullptr && z.type >= zone_type::plain && z.type <= zone_type::ring &&
         (z.type != zone_type::plain || (z.table == 0 && z.table_bytes == 0));
}

bool is_sane_pool(const segment& s, const zone_record& z, const pool_table& pool) noexcept {
  return pool.object_count != 0 && pool.words == divide_up(pool.object_count, 64) && z.table_bytes == pool_table_bytes(pool.object_count, s.header().thread_limit) && pool.object_bytes != 0 &&
         pool.object_bytes <= z.size_bytes / pool.object_count && pool.cache_objects <= pool_cache_slots;
}

bool is_sane_ring(const zone_record& z, const ring_table& ring) noexcept {
  return z.table_bytes >= sizeof(ring_table) && is_power_of_two(ring.capacity) && ring.capacity <= (u64{1} << 32) && z.table_bytes == ring_table_bytes(ring.capacity);
}

cached_block find_cached_block(const segment& s, u64 entry, u32 size_class, const std::function<bool(chunk_ref)>& is_slab) noexcept {
  const u64 offset = entry & offset_mask;
  const region_record& r = s.at<region_record>(s.header().regions_at)[entry >> region_shift];
  const u64 granule = offset >> r.granule_shift;
  if (granule >= r.granule_count) return {};
  const granule_entry g = s.chunk<granule_entry>(r.granules)[granule];
  const chunk_ref ref = g.distance <= granule ? s.chunk<extent_entry>(r.extents)[granule - g.distance].record : 0;
  if (!is_slab(ref)) return {};
  auto* slab = s.chunk<slab_record>(ref);
  const u64 in_slab = offset - (u64{slab->granule} << r.granule_shift);
  const u32 index = block_index_of(in_slab, class_reciprocal[slab->size_class]);
  if (slab->size_class != size_class || index >= slab->capacity || u64{index} * class_bytes[size_class] != in_slab) return {};
  return {slab, index};
}

u32 zone_bucket_of(std::string_view name) noexcept {
  u64 hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<u8>(c)) * 0x100000001b3;
  return static_cast<u32>((hash ^ hash >> 32) % limits::zone_buckets);
}

}  // namespace annex::detail
