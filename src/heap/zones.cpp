// heap/zones.cpp - blocks with a name.
//
//   bucket[hash(name)] → zone_record → zone_record        a reservation (extent, record, link, table) is one transaction:
//                                                         it has happened or it has not, whoever dies
// Zones belong to the heap, not to a member: they outlive their maker. Pools and rings are zones with a table in the segment.
#include <algorithm>
#include <cstring>

#include "heap/sanity.hpp"
#include "platform/os.hpp"

namespace annex::detail {
namespace {

std::string_view kind_name(zone_type type) noexcept { return type == zone_type::pool ? "pool" : type == zone_type::ring ? "ring" : "zone"; }

}  // namespace

zone local_heap::zone_of(const zone_record& z) noexcept {
  zone found;
  found.size_bytes = z.size_bytes;
  if (z.region_slot == no_region) return found;
  local_region& view = views_.at(z.region_slot);
  found.region = region_id{view.id};
  found.where = handle_at(view.id, z.offset_bytes);
  if (view.base != nullptr) found.address = view.base + z.offset_bytes;
  if (const auto bus = view.iovas.at(z.offset_bytes)) found.bus_address = iova{bus->address};
  return found;
}

result<zone_record*> local_heap::find_zone_record(std::string_view name, zone_type type) noexcept {
  for (chunk_ref ref = zone_chain(segment_, zone_bucket_of(name)); ref != 0; ref = segment_.chunk<zone_record>(ref)->next) {
    auto* z = segment_.chunk<zone_record>(ref);
    if (name != std::string_view(z->name, ::strnlen(z->name, sizeof z->name))) continue;
    if (z->type != type) return refuse(errc::wrong_kind, "\"{}\" is a {}, not a {}", name, kind_name(z->type), kind_name(type));
    return z;
  }
  return refuse(errc::no_such_zone, "\"{}\" has no {} \"{}\"", name_, kind_name(type), name);
}

result<zone> local_heap::reserve_zone(std::string_view name, const placement& asked, zone_table table, chunk_ref* table_ref,
                                      const std::function<void(transaction&, zone_record&, void*)>& fill_table) {
  ANNEX_TRY(check_zone_name(name));
  if (is_read_only()) return refuse(errc::read_only, "\"{}\" is attached read-only; attach it writable to reserve zones", name_);
  if (!ensure_member()) return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  placement p = asked;
  if (p.align_bytes == 0) p.align_bytes = 64;
  if (!is_power_of_two(p.align_bytes) || p.align_bytes > limits::largest_align_bytes)
    return refuse(errc::invalid_argument, "alignment {} is no power of two up to {}", p.align_bytes, limits::largest_align_bytes);
  if (p.boundary_bytes != 0 && (!is_power_of_two(p.boundary_bytes) || p.boundary_bytes < p.size_bytes))
    return refuse(errc::invalid_argument, "boundary {} is no power of two that is at least the size {}", p.boundary_bytes, p.size_bytes);
  if (p.size_bytes > limits::largest_region_bytes) return refuse(errc::invalid_argument, "{} bytes are more than a region may have ({})", p.size_bytes, limits::largest_region_bytes);
  const bool has_memory = table.type != zone_type::ring, largest = has_memory && p.size_bytes == 0;
  segment_header& h = segment_.header();
  synchronize();
  for (u32 stage = 0, looks = 0;; ++looks) {
    {
      locked t(*this);
      u32& bucket = segment_.zone_buckets()[zone_bucket_of(name)];
      const u64 pages = h.zone_pages.load(std::memory_order_relaxed), page = u64{1} << (zone_bucket_of(name) / (limits::zone_buckets / 64));
      if ((pages & page) == 0) {
        if (!back_pages(segment_, segment_.offset_of(&bucket), sizeof bucket))
          return refuse(errc::limit_reached, "the annex directory is full: no metadata for zone \"{}\" of \"{}\"", name, name_);
        t->put(h.zone_pages, pages | page);
      }
      for (const zone_type type : {zone_type::plain, zone_type::pool, zone_type::ring})
        if (find_zone_record(name, type)) return refuse(errc::zone_exists, "\"{}\" has a {} \"{}\" already", name_, kind_name(type), name);
      if (h.zone_count >= h.zone_limit)
        return refuse(errc::limit_reached, "\"{}\" has its limit of {} zones; release some, or create it with a higher zone_limit", name_, h.zone_limit);
      local_region* view = nullptr;
      std::optional<extent_place> place;
      extent_request q{p.size_bytes, p.align_bytes, p.boundary_bytes, p.iova_contiguous, granule_zone, 0};
      if (largest) {
        for (const u32 slot : used_region_slots(segment_)) {
          if (views_.record(slot).state.load(std::memory_order_relaxed) != region_active) continue;
          local_region& candidate = views_.at(slot);
          if (candidate.base == nullptr || candidate.joining || (p.zeroed && candidate.access == touch::none)) continue;
          q.size_bytes = std::max(q.size_bytes, extents(candidate).largest_block(q));
        }
      }
      if (has_memory && q.size_bytes != 0 && !(largest && looks == 0)) place = find_extent(*t, p, q, &view);
      if (place || !has_memory) {
        const chunk_ref ref = allocate_chunk(*t, sizeof(zone_record));
        const chunk_ref table_chunk = table.bytes != 0 ? allocate_chunk(*t, table.bytes) : 0;
        if (ref == 0 || (table.bytes != 0 && table_chunk == 0)) {
          t->roll_back();
          return refuse(errc::limit_reached, "\"{}\" has no metadata left for a {} with a table of {} bytes (metadata_limit_bytes {}, or the annex directory is full)",
                        name_, kind_name(table.type), table.bytes, h.reserve_bytes);
        }
        auto* z = segment_.chunk<zone_record>(ref);
        z->type = table.type;
        z->region_slot = place ? view->slot : no_region;
        z->granule = place ? place->granule : 0;
        z->offset_bytes = place ? place->offset_bytes : 0;
        z->size_bytes = q.size_bytes;
        z->table = table_chunk;
        z->table_bytes = table.bytes;
        name.copy(z->name, sizeof z->name - 1);
        z->next = bucket;
        if (place) t->put(view->extents[place->granule].record, ref);
        if (fill_table) fill_table(*t, *z, segment_.chunk<void>(table_chunk));
        if (place && p.zeroed && !largest) std::memset(view->base + place->offset_bytes, 0, std::min(place->dirty_bytes(), q.size_bytes));
        t->put(h.zone_count, h.zone_count + 1);
        t->put(bucket, ref);
        t->commit();
        if (table_ref != nullptr) *table_ref = table_chunk;
        zone made = zone_of(*z);
        if (place && p.zeroed && largest) std::memset(made.address, 0, std::min(place->dirty_bytes(), made.size_bytes));
        return made;
      }
    }
    if (!make_room(stage, p, largest ? 1 : p.size_bytes)) break;
  }
  explain(explanation::cause::no_fit, p);
  return std::unexpected(make_error(errc::out_of_memory, 0, "{}", last_failure().message()));
}

result<zone> local_heap::find_zone(std::string_view name, zone_type type) {
  ANNEX_TRY(check_zone_name(name));
  u32 slot = no_region;
  for (int tries = 0; tries < 2; ++tries) {
    std::optional<locked> t;
    if (!is_read_only() && ensure_member()) t.emplace(*this);
    auto found = find_zone_record(name, type);
    if (!found) return std::unexpected(found.error());
    const zone z = zone_of(**found);
    slot = (*found)->region_slot;
    if (slot == no_region || z.address != nullptr || tries == 1) return z;
    t.reset();
    if (auto attached = ensure_attached(slot); !attached) return refuse(errc::cannot_attach, "zone \"{}\": {}", name, attached.error().message());
  }
  return refuse(errc::no_such_zone, "unreachable");
}

result<void> local_heap::release_zone(std::string_view name, zone_type type) {
  ANNEX_TRY(check_zone_name(name));
  if (is_read_only()) return refuse(errc::read_only, "\"{}\" is attached read-only; attach it writable to release zones", name_);
  if (!ensure_member()) return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  segment_header& h = segment_.header();
  locked t(*this);
  frozen_caches frozen = type == zone_type::pool ? recover_and_freeze(*t) : frozen_caches{};
  auto found = find_zone_record(name, type);
  if (found && type == zone_type::pool) note_doubles(flush_pool_caches(*t, *segment_.chunk<pool_table>((*found)->table), frozen));
  thaw(frozen);
  if (!found) return std::unexpected(found.error());
  zone_record* z = *found;
  const chunk_ref ref = segment_.ref_of(z);
  if (type == zone_type::pool) {
    auto* pool = segment_.chunk<pool_table>(z->table);
    if (const u32 out = pool->object_count - pool->in_bits.load(std::memory_order_relaxed); out != 0)
      return refuse(errc::blocks_live, "{} of {} objects of pool \"{}\" are still out; give them back, or reap dead members first", out, pool->object_count, name);
    release_pool_caches(*t, *z);
  }
  chunk_ref* link = &segment_.zone_buckets()[zone_bucket_of(name)];
  while (*link != ref) link = &segment_.chunk<zone_record>(*link)->next;
  t->put(*link, z->next);
  t->put(h.zone_count, h.zone_count - 1);
  const u32 slot = z->region_slot, granule = z->granule;
  if (z->table != 0) free_chunk(*t, z->table, z->table_bytes);
  free_chunk(*t, ref, sizeof(zone_record));
  if (slot != no_region) extents(views_.at(slot)).free(*t, granule);
  return {};
}

}  // namespace annex::detail
