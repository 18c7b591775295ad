// named/zone_chains.cpp - see zone_chains.hpp.
#include "named/zone_chains.hpp"

#include <cstring>

#include "extent/extents.hpp"
#include "named/naming.hpp"
#include "named/pool_rules.hpp"
#include "named/ring_rules.hpp"
#include "named/ring_table.hpp"

namespace annex {

using detail::is_sane_spare_pool;
using detail::sane_spare_capacity;

namespace {

// For a ring's table: as many released rings of other capacities.
constexpr u32 most_spare_looks = 10'000;

}  // namespace

std::string_view kind_name(zone_type type) noexcept {
  return type == zone_type::pool ? "pool" : type == zone_type::ring ? "ring" : "zone";
}

result<zone_record*> find_zone_record(const segment& s, std::string_view heap,
                                      std::string_view name, zone_type type) noexcept {
  list_walk walk(s);
  for (chunk_ref ref = zone_chain(s, zone_bucket_of(name)); ref != 0 && walk.goes_on();
       ref = s.chunk<zone_record>(ref)->next) {
    auto* z = s.chunk<zone_record>(ref);
    if (name != std::string_view(z->name, ::strnlen(z->name, sizeof z->name))) continue;
    if (z->type != type)
      return refuse(errc::wrong_kind, "\"{}\" is a {}, not a {}", name, kind_name(z->type),
                    kind_name(type));
    return z;
  }
  return refuse(errc::no_such_zone, "\"{}\" has no {} \"{}\"", heap, kind_name(type), name);
}

bool is_maker_alive(const segment& s, const zone_record& z, u32 self) noexcept {
  if (z.maker == 0 || z.maker > s.member_limit()) return false;
  const member_record& m = s.member(z.maker);
  // sync(member): what the record says is seen.
  const bool is_there = is_claimed(m.state.load(std::memory_order_acquire));
  if (m.process_id != z.maker_process || m.start_time != z.maker_start_time) return false;
  return z.maker == self || (is_there && is_member_alive(s, z.maker));
}

zone zone_of(const segment& s, region_views& views, const zone_record& z) noexcept {
  zone found;
  found.size_bytes = __atomic_load_n(&z.size_bytes, __ATOMIC_RELAXED);
  const u32 slot = __atomic_load_n(&z.region_slot, __ATOMIC_RELAXED);
  found.generation = z.generation;
  if (slot == no_region) return found;
  local_region& view = views.at(slot);
  const u64 offset = __atomic_load_n(&z.offset_bytes, __ATOMIC_RELAXED);
  const u64 last = view.base != nullptr ? view.length_bytes : view.region_bytes;
  const u32 granule = __atomic_load_n(&z.granule, __ATOMIC_RELAXED);
  if (found.size_bytes > last || offset > last - found.size_bytes ||
      granule >= view.granule_count) {
    s.mark_damaged("a zone lies outside its region");
    return found;
  }
  found.region = region_id{view.id};
  found.where = handle_at(view, offset, count_in(view.extents[granule].name));
  if (view.base != nullptr) found.address = view.base + offset;
  if (const auto bus = view.iovas.at(offset)) found.bus_address = iova{bus->address};
  return found;
}

// A fresh record, or one of a pool that was released.
chunk_ref take_zone_record(transaction& t, zone_type type) noexcept {
  const chunk_ref spare = type == zone_type::pool ? t.seg().header().spare_pools : 0;
  if (!is_sane_spare_pool(t.seg(), spare)) return allocate_chunk(t, sizeof(zone_record));
  t.put(t.seg().header().spare_pools, t.seg().chunk<zone_record>(spare)->next);
  return spare;
}

// A fresh table, or one of a ring of this capacity that was released. Its contents are the maker's
// business.
chunk_ref take_zone_table(transaction& t, zone_type type, u64 bytes) noexcept {
  if (type == zone_type::ring)
    for (chunk_ref *link = &t.seg().header().spare_rings, left = most_spare_looks; left != 0;
         --left) {
      const chunk_ref spare = *link;
      const u64 capacity = sane_spare_capacity(t.seg(), spare);
      if (capacity == 0) break;
      auto* ring = t.seg().chunk<ring_table>(spare);
      if (ring_table_bytes(capacity) != bytes || ring->has_no_positions_left()) {
        link = &ring->next_spare;
        continue;
      }
      t.put(*link, ring->next_spare);
      return spare;
    }
  return allocate_chunk(t, bytes);
}

namespace {

// The record and the table of a zone that is in no chain any more. What says that it is gone comes
// last.
void give_back_views(transaction& t, zone_record& z) noexcept {
  segment_header& h = t.seg().header();
  const chunk_ref ref = t.seg().ref_of(&z);
  t.put(z.seal, ~z.seal);  // a repair that looks for lost records finds none here
  if (z.type == zone_type::ring) {
    auto* ring = t.seg().chunk<ring_table>(z.table);
    t.put(ring->next_spare, h.spare_rings);
    t.put(h.spare_rings, z.table);
    free_chunk(t, ref, sizeof(zone_record));
    t.put(ring->incarnation, 0);  // sync(incarnation)
    return;
  }
  if (z.table != 0) free_chunk(t, z.table, z.table_bytes);
  if (z.type != zone_type::pool) return free_chunk(t, ref, sizeof(zone_record));
  t.put(z.next, h.spare_pools);
  t.put(h.spare_pools, ref);
  t.put(z.incarnation, 0);
}

}  // namespace

// Out of its chain, with its memory, record and table.
void give_back_zone(tenure& t, zone_record& z) noexcept {
  segment_header& h = t.seg().header();
  const chunk_ref ref = t.seg().ref_of(&z);
  const std::string_view name(z.name, ::strnlen(z.name, sizeof z.name));
  chunk_ref* link = &t.seg().zone_buckets()[zone_bucket_of(name)];
  list_walk walk(t.seg());
  while (*link != ref && walk.goes_on())
    link = &t.seg().chunk<zone_record>(*link)->next;
  t.put(*link, z.next);
  t.put(h.zone_count, h.zone_count - 1);
  const u32 slot = z.region_slot, granule = z.granule;
  if (slot != no_region) extents(t.views().at(slot)).free(t, granule);
  give_back_views(t, z);
}

}  // namespace annex
