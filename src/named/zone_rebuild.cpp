// named/zone_rebuild.cpp - the zones of a damaged segment (zone_rules.hpp).
//
// Records are found in their chains, by the extents that name them, and, where those of rings are
// missing, by their seals. Extents whose records are lost stay in use, and are nobody's that is
// known. A death in the middle: repair again.
#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/mend.hpp"
#include "named/zone_rules.hpp"
#include "shared/member_rules.hpp"

namespace annex::detail {
namespace {

// ---- what records say of the extents they lie in (extent_user) --------------------------------

const zone_record* find_record(rebuilding& rb, const known_region& region, u32 at) {
  const auto& by_place = rb.notes<zones_rebuilt>().by_place;
  const auto found = by_place.find({region.slot, at});
  return found != by_place.end() ? rb.s.chunk<zone_record>(found->second) : nullptr;
}

bool has_record(rebuilding& rb, const known_region& region, u32 at) {
  return find_record(rb, region, at) != nullptr;
}

bool write_entry(rebuilding& rb, const known_region& region, u32 at, u32 length) {
  const zone_record* const z = find_record(rb, region, at);
  if (z == nullptr) return false;
  rb.say("region {}: zone \"{}\" at granule {} was found by its record", region.id, name_of(*z),
         at);
  const u64 lead_bytes = z->offset_bytes - region.offset_of(at);
  set_in_use(region.extents[at], length, 0, static_cast<u16>(lead_bytes / 64), rb.s.ref_of(z));
  return true;
}

// The record itself is restored later: its extent is noted.
bool note_extent(rebuilding& rb, const known_region& region, u32 at, u32 length) {
  rb.notes<zones_rebuilt>().extents[region.extents[at].record] = {region.slot, at, length};
  return true;
}

// ---- one zone ---------------------------------------------------------------------------------

// A record that does not fit its seal, by the extent that names it.
void mend_by_extent(rebuilding& rb, zone_record& z, const extent_run& where) {
  const known_region& region = *rb.notes<regions_known>().find(where.slot);
  const u64 offset = region.offset_of(where.granule) + u64{region.extents[where.granule].lead} * 64;
  const u64 room = region.end_of(where.granule, where.length) - offset;
  if (z.name[0] == '\0')
    std::strncpy(z.name, fmt::format("uncertain-{}-{:x}", region.id, offset).c_str(),
                 sizeof z.name - 1);
  rb.doubt(
      "zone \"{}\": its record does not fit its seal: its name, its size or what it is may not "
      "be what they were",
      name_of(z));
  if (z.state.value != zone_committed) {  // nobody finds what may be half filled
    z.state.value = zone_being_filled;
    z.maker = 0;
  }
  z.region_slot = where.slot;
  z.granule = where.granule;
  z.offset_bytes = offset;
  z.size_bytes = std::min(z.size_bytes, room);
  if (z.type != zone_type::pool) {
    z.type = zone_type::plain;
    z.table = 0;
    z.table_bytes = 0;
  }
}

// False: nothing is left of it.
bool rebuild_view(rebuilding& rb, zone_record& z) {
  if (z.type == zone_type::plain) return true;
  const view_kind* const kind = rb.notes<zones_rebuilt>().kind_of(z.type);
  if (kind == nullptr) return keep_as_plain(rb, z);
  const bool is_right = z.table_bytes >= kind->smallest_table_bytes &&
                        rb.take(z.table, z.table_bytes) && kind->rebuild(rb, z);
  return is_right || kind->keep_without_table(rb, z);
}

// ---- all of them ------------------------------------------------------------------------------

// Returns whether every chain leads to the zones of its names, each once, and ends.
bool restore_chains(rebuilding& rb) {
  chunk_ref* const buckets = rb.s.zone_buckets();
  std::unordered_set<chunk_ref> seen;
  bool are_right = true;
  for (u32 bucket = 0; bucket < limits::zone_buckets; ++bucket)
    for (chunk_ref ref = buckets[bucket]; ref != 0;) {
      const bool lies_there = lies_in_arena(rb.s, ref, sizeof(zone_record));
      const bool is_one = lies_there && restore_zone(rb, ref);
      are_right =
          are_right && is_one && zone_bucket_of(name_of(*rb.s.chunk<zone_record>(ref))) == bucket;
      if (!lies_there || (!seen.insert(ref).second && !is_one)) break;
      ref = rb.s.chunk<zone_record>(ref)->next;
    }
  return are_right;
}

void build_chains(rebuilding& rb) {
  chunk_ref* const buckets = rb.s.zone_buckets();
  const auto& restored = rb.notes<zones_rebuilt>().restored;
  rb.say("the chains of {} zones were built anew", restored.size());
  for (u32 bucket = 0; bucket < limits::zone_buckets; ++bucket)
    if (buckets[bucket] != 0) buckets[bucket] = 0;
  for (const chunk_ref ref : restored) {
    auto* z = rb.s.chunk<zone_record>(ref);
    chunk_ref& head = buckets[zone_bucket_of(name_of(*z))];
    z->next = head;
    head = ref;
  }
}

// Each pool and ring has a number of its own (docs/design/0011); nobody has one open now, so any
// will do that nobody else has.
void number_views(rebuilding& rb) {
  const auto& zones = rb.notes<zones_rebuilt>();
  std::unordered_set<u64> seen{0};
  u64 highest = 0;
  auto number_of = [&](zone_record& z) -> shared_word<u64>* {
    const view_kind* const kind = zones.kind_of(z.type);
    return kind != nullptr ? kind->number_of(rb.s, z) : nullptr;
  };
  for (const chunk_ref ref : zones.restored)
    if (const auto* number = number_of(*rb.s.chunk<zone_record>(ref)); number != nullptr)
      highest = std::max(highest, number->value);
  if (rb.h.incarnations < highest)
    rb.fix(rb.h.incarnations, highest, "the count of pools and rings that were ever made");
  for (const chunk_ref ref : zones.restored) {
    auto* z = rb.s.chunk<zone_record>(ref);
    shared_word<u64>* const number = number_of(*z);
    if (number == nullptr || seen.insert(number->value).second) continue;
    rb.fix(*number, ++rb.h.incarnations, fmt::format("{}: its number", name_of(*z)));
    zones.kind_of(z->type)->renumber(rb.s, *z);
  }
}

// Generations only grow. Two words keep the highest; the higher one is believed, if that many can
// ever have been reserved.
void number_zones(rebuilding& rb) {
  constexpr u64 most = u64{1} << 56;
  const auto& restored = rb.notes<zones_rebuilt>().restored;
  u64 highest = 0;
  for (const u64 kept : {rb.h.zone_generations, rb.h.zone_generations_again})
    if (kept <= most) highest = std::max(highest, kept);
  for (const chunk_ref ref : restored)
    if (const auto* z = rb.s.chunk<zone_record>(ref); z->generation <= most)
      highest = std::max(highest, z->generation);
  for (const chunk_ref ref : restored) {
    auto* z = rb.s.chunk<zone_record>(ref);
    if (z->generation != 0 && z->generation <= most) continue;
    rb.fix(z->generation, ++highest, fmt::format("{}: its generation", name_of(*z)));
    z->seal = seal_of_zone(*z);
  }
  rb.fix(rb.h.zone_generations, highest, "the count of zones that were ever reserved");
  rb.fix(rb.h.zone_generations_again, highest, "the second count of zones that were ever reserved");
}

void count_zones(rebuilding& rb) {
  const auto& restored = rb.notes<zones_rebuilt>().restored;
  u64 pages = 0;
  for (const chunk_ref ref : restored)
    pages |= u64{1} << (zone_bucket_of(name_of(*rb.s.chunk<zone_record>(ref))) /
                        (limits::zone_buckets / 64));
  rb.fix(rb.h.zone_count, restored.size(), "the count of zones");
  rb.fix(rb.h.zone_pages.value, rb.h.zone_pages.value | pages, "the pages of zone chains");
}

// Extents of zones whose records are lost: their memory is in use, and nobody's.
void keep_extents_without_records(rebuilding& rb) {
  const auto& zones = rb.notes<zones_rebuilt>();
  for (const auto& [ref, where] : zones.extents) {
    if (zones.are_restored.contains(ref)) continue;
    const known_region& region = *rb.notes<regions_known>().find(where.slot);
    extent_entry& e = region.extents[where.granule];
    rb.doubt(
        "region {}: the {} bytes at offset {:#x} were a zone whose record is lost; they are kept "
        "for member {}",
        region.id, u64{where.length} << region.granule_shift, region.offset_of(where.granule),
        nobody_known(rb));
    region.granules[where.granule] = granule_entry{no_owner, granule_large, 0, 0, 0};
    e.holder = static_cast<u16>(nobody_known(rb));
    e.record = 0;
    e.seal = seal_of_extent(e, granule_large, where.granule, region.id);
    ++held_by(rb, nobody_known(rb)).extents;
  }
}

}  // namespace

void find_zones(rebuilding& rb) {
  rb.notes<extent_users>().all.push_back({granule_zone, has_record, write_entry, note_extent});
  auto& by_place = rb.notes<zones_rebuilt>().by_place;
  std::unordered_set<chunk_ref> seen;
  chunk_ref* const buckets = rb.s.zone_buckets();
  for (u32 bucket = 0; bucket < limits::zone_buckets; ++bucket)
    for (chunk_ref ref = buckets[bucket]; ref != 0;) {
      if (!lies_in_arena(rb.s, ref, sizeof(zone_record)) ||
          rb.is_chunk_taken(ref, sizeof(zone_record)) || !seen.insert(ref).second)
        break;
      auto* z = rb.s.chunk<zone_record>(ref);
      const mending done =
          mend_by_seal(z->seal,
                       {{&z->type, offsetof(zone_record, seal) - offsetof(zone_record, type)},
                        {&z->table_bytes, sizeof *z - offsetof(zone_record, table_bytes)}},
                       [&] { return seal_of_zone(*z); });
      if (done == mending::byte || done == mending::seal)
        rb.say("zone \"{}\": its record is right again, by its seal", name_of(*z));
      if (done != mending::failed && z->region_slot != no_region)
        by_place[{z->region_slot, z->granule}] = ref;
      ref = z->next;
    }
}

bool keep_as_plain(rebuilding& rb, zone_record& z) {
  rb.doubt("pool \"{}\": its table can't be believed; its memory is kept as a zone of that name",
           name_of(z));
  z.type = zone_type::plain;
  z.table = 0;
  z.table_bytes = 0;
  return true;
}

bool restore_zone(rebuilding& rb, chunk_ref ref) {
  auto& zones = rb.notes<zones_rebuilt>();
  if (zones.are_restored.contains(ref)) return false;
  zone_record& z = *rb.s.chunk<zone_record>(ref);
  const bool is_sealed = z.seal == seal_of_zone(z);
  const auto found = zones.extents.find(ref);
  if (found == zones.extents.end() && (!is_sealed || z.type != zone_type::ring)) {
    if (is_sealed)
      rb.doubt("zone \"{}\" is lost: the memory it had is somebody else's, or nobody's",
               name_of(z));
    return false;
  }
  if (!rb.take(ref, sizeof(zone_record))) return false;
  z.name[sizeof z.name - 1] = '\0';
  if (!is_sealed) mend_by_extent(rb, z, found->second);
  if (!rebuild_view(rb, z)) return false;
  if (z.type != zone_type::plain) z.state.value = zone_committed;
  z.seal = seal_of_zone(z);
  zones.restored.push_back(ref);
  zones.are_restored.insert(ref);
  return true;
}

void rebuild_zones(rebuilding& rb) {
  auto& zones = rb.notes<zones_rebuilt>();
  const u32& count = rb.h.zone_count;
  bool are_chains_right = restore_chains(rb);
  for (const auto& [ref, where] : zones.extents)  // in memory, but in no chain
    if (lies_in_arena(rb.s, ref, sizeof(zone_record)) && restore_zone(rb, ref))
      are_chains_right = false;
  for (const view_kind& kind : zones.kinds)
    kind.rebuild_spares(rb);
  for (const view_kind& kind : zones.kinds)
    if (kind.find_lost != nullptr && zones.restored.size() < count) kind.find_lost(rb);
  if (zones.restored.size() < count)
    rb.doubt("{} of {} zones, pools and rings are lost: no record of them can be found",
             count - zones.restored.size(), count);
  if (!are_chains_right || zones.restored.size() != count) build_chains(rb);
  number_views(rb);
  number_zones(rb);
  count_zones(rb);
  keep_extents_without_records(rb);
}

}  // namespace annex::detail
