// heap/sanity.cpp - see sanity.hpp.
#include "heap/sanity.hpp"

#include <algorithm>
#include <cstring>

namespace annex::detail {

bool lies_in_arena(const segment& s, chunk_ref ref, u64 bytes) noexcept {
  const segment_header& h = s.header();
  const u64 at = u64{ref} * chunk_unit_bytes;
  return ref != 0 && at >= s.geometry().arena_at && bytes <= h.arena.top &&
         at <= h.arena.top - bytes;
}

bool is_sane_region(const segment& s, const region_record& r, u32 slot) noexcept {
  const u32 limit = s.member_limit(), id = r.id.value;
  const bool shift_is_known =
      r.granule_shift == limits::granule_shift || r.granule_shift == limits::small_granule_shift;
  return r.state.value <= region_draining && id != 0 &&
         region_slot_of(id, s.region_limit()) == slot && shift_is_known && r.length_bytes != 0 &&
         r.length_bytes <= limits::largest_region_bytes && is_power_of_two(r.page_bytes) &&
         r.page_bytes >= limits::smallest_page_bytes &&
         r.page_bytes <= limits::largest_page_bytes && r.length_bytes % r.page_bytes == 0 &&
         r.granule_count == divide_up(r.length_bytes, u64{1} << r.granule_shift) && r.access <= 1 &&
         r.backing <= backing_owned && r.align_shift <= 63 &&
         std::memchr(r.path, 0, sizeof r.path) != nullptr && r.adder <= limit && r.worker <= limit;
}

bool are_sane_runs(const region_record& r, const iova_run* runs) noexcept {
  for (u32 i = 0; i < r.iova_run_count; ++i) {
    const u64 end = i + 1 < r.iova_run_count ? runs[i + 1].offset : r.length_bytes;
    if (runs[i].offset >= end || end > r.length_bytes || (i == 0 && runs[0].offset != 0) ||
        runs[i].address + (end - runs[i].offset - 1) < runs[i].address)
      return false;
  }
  return true;
}

bool is_sane_slab(const segment& s, const slab_record& slab, const region_record& r, u32 slot,
                  u32 at, u32 length) noexcept {
  const u32 size_class = slab.size_class;
  return size_class != 0 && size_class < class_count && slab.capacity != 0 &&
         slab.capacity <= limits::slab_blocks && slab.words == divide_up(slab.capacity, 64) &&
         u64{slab.capacity} * class_bytes[size_class] <= u64{length} << r.granule_shift &&
         slab.granule == at && slab.region == slot && slab.member <= s.member_limit() &&
         slab.member != 0 && slab.lane < limits::lanes &&
         (slab.owner == no_owner || slab.owner < s.thread_limit()) &&
         length <= limits::slab_granules &&
         (u64{at} << r.granule_shift) + u64{slab.capacity} * class_bytes[size_class] <=
             r.length_bytes;
}

bool is_sane_zone(const zone_record& z) noexcept {
  return std::memchr(z.name, 0, sizeof z.name) != nullptr && z.type >= zone_type::plain &&
         z.type <= zone_type::ring &&
         (z.type != zone_type::plain || (z.table == 0 && z.table_bytes == 0)) &&
         (z.state.load(std::memory_order_relaxed) == zone_committed ||
          (z.state.load(std::memory_order_relaxed) == zone_being_filled &&
           z.type == zone_type::plain));
}

known_pool sane_pool(const segment& s, const zone_record& z) noexcept {
  const u64 table_bytes = z.table_bytes;
  const known_pool pool = look_for_pool_table(s, z.table, table_bytes);
  const bool is_sane = pool &&
                       table_bytes == pool_table_bytes(pool.object_count, s.thread_limit()) &&
                       pool.object_bytes <= z.size_bytes / pool.object_count &&
                       pool.table->cache_objects <= pool_cache_slots;
  return is_sane ? pool : known_pool{};
}

u64 sane_capacity(const segment& s, const zone_record& z) noexcept {
  const u64 table_bytes = z.table_bytes;
  const auto* ring = s.find_chunk<ring_table>(z.table, std::max(table_bytes, sizeof(ring_table)));
  const u64 capacity = ring != nullptr ? __atomic_load_n(&ring->capacity, __ATOMIC_RELAXED) : 0;
  const bool is_sane = is_power_of_two(capacity) && capacity <= (u64{1} << 32) &&
                       table_bytes == ring_table_bytes(capacity);
  return is_sane ? capacity : 0;
}

bool are_sane_slots(ring_table& ring, u64 capacity) noexcept {
  constexpr u64 furthest_behind =
      1024;  // rounds: each death leaves a counter behind by one at most
  const u64 n = capacity;
  const ring_slot* const slots = ring.slots();
  auto position_of = [&](u64 i) { return slots[i].state >> position_shift; };
  u64 first = position_of(0), full = 0;
  for (u64 i = 0; i < n; ++i) {
    if (position_of(i) % n != i) return false;
    first = std::min(first, position_of(i));
    full += slots[i].state & is_full;
  }
  // From the first position on each of the next n is in its slot: those that were put, then those
  // that will be.
  for (u64 i = 0; i < n; ++i)
    if (const ring_slot& slot = slots[(first + i) % n];
        i < full ? slot.state != full_state(first + i, slot.value)
                 : slot.state >> position_shift != first + i)
      return false;
  const u64 head = ring.head.load(std::memory_order_relaxed),
            tail = ring.tail.load(std::memory_order_relaxed);
  return head <= first && first - head <= furthest_behind * n && tail <= first + full &&
         first + full - tail <= furthest_behind * n;
}

bool is_sane_spare_pool(const segment& s, chunk_ref ref) noexcept {
  return lies_in_arena(s, ref, sizeof(zone_record)) &&
         s.chunk<zone_record>(ref)->incarnation.value == 0;
}

u64 sane_spare_capacity(const segment& s, chunk_ref ref) noexcept {
  if (!lies_in_arena(s, ref, sizeof(ring_table))) return 0;
  const auto* ring = s.chunk<ring_table>(ref);
  const u64 capacity = __atomic_load_n(&ring->capacity, __ATOMIC_RELAXED);
  const bool is_sane = ring->incarnation.value == 0 && is_power_of_two(capacity) &&
                       capacity <= (u64{1} << 32) &&
                       lies_in_arena(s, ref, ring_table_bytes(capacity));
  return is_sane ? capacity : 0;
}

cached_block find_cached_block(const segment& s, u64 entry, u32 size_class,
                               const std::function<bool(chunk_ref)>& is_slab) noexcept {
  const u64 offset = entry & offset_mask;
  const region_record& r = s.at<region_record>(s.geometry().regions_at)[entry >> region_shift];
  const u64 granule = offset >> (r.granule_shift & 63);
  const u64 granules = __atomic_load_n(&r.granule_count, __ATOMIC_RELAXED);
  if (granule >= granules) return {};
  const auto* const kinds =
      s.find_chunk<granule_entry>(r.granules, granules * sizeof(granule_entry));
  const auto* const extents =
      s.find_chunk<extent_entry>(r.extents, granules * sizeof(extent_entry));
  if (kinds == nullptr || extents == nullptr) return {};
  const granule_entry g = kinds[granule];
  const u64 distance = g.distance;
  const chunk_ref ref = distance <= granule ? extents[granule - distance].record : 0;
  if (!is_slab(ref)) return {};
  auto* slab = s.chunk<slab_record>(ref);
  const u64 in_slab = offset - (u64{slab->granule} << r.granule_shift);
  if (slab->size_class != size_class) return {};
  const u32 index = block_index_of(in_slab, class_reciprocal[size_class]);
  if (index >= slab->capacity || u64{index} * class_bytes[size_class] != in_slab) return {};
  return {slab, index};
}

result<void> local_heap::refuse_if_damaged() const {
  if (!segment_.is_damaged()) return {};
  return refuse(errc::corrupt,
                "\"{}\" is damaged: words in its segment can't be; close it everywhere, then "
                "`annex check --repair`",
                name_);
}

u32 zone_bucket_of(std::string_view name) noexcept {
  u64 hash = 0xcbf29ce484222325;
  for (const char c : name)
    hash = (hash ^ static_cast<u8>(c)) * 0x100000001b3;
  return static_cast<u32>((hash ^ hash >> 32) % limits::zone_buckets);
}

}  // namespace annex::detail
