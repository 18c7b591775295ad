// heap/repair_views.cpp - zones, pools and rings of a damaged segment.
//
//   zone     by its seal; else by the extent that names its record, and then its name, size or
//            table are doubted
//   pool     an object is in it only if its bit is set and no member holds it; what caches kept
//            stays with its members, unless the audit found nothing broken
//   ring     the slots of one round and the next; those that are of none, or do not fit their
//            values, are lost, and the rest keeps its order
#include <algorithm>
#include <cstring>

#include "base/mend.hpp"
#include "heap/rebuilder.hpp"

namespace annex::detail {
namespace {

// How many objects a pool has whose table has so many bytes; 0: none could.
u32 objects_of_table(u64 table_bytes, u32 thread_limit) noexcept {
  u32 low = 0, high = u32{1} << 30;
  while (low < high) {
    const u32 middle = low + (high - low + 1) / 2;
    if (pool_table_bytes(middle, thread_limit) <= table_bytes)
      low = middle;
    else
      high = middle - 1;
  }
  return pool_table_bytes(low, thread_limit) == table_bytes ? low : 0;
}

std::string name_of(const zone_record& z) {
  return std::string(z.name, ::strnlen(z.name, sizeof z.name));
}

}  // namespace

// What zones say of themselves, before the extents are looked at. Nothing is linked or taken yet.
void rebuilder::find_zones() {
  std::unordered_set<chunk_ref> seen;
  chunk_ref* const buckets = s_.zone_buckets();
  for (u32 bucket = 0; bucket < limits::zone_buckets; ++bucket)
    for (chunk_ref ref = buckets[bucket]; ref != 0;) {
      if (!lies_in_arena(s_, ref, sizeof(zone_record)) ||
          is_taken(u64{ref} * chunk_unit_bytes,
                   u64{ref} * chunk_unit_bytes + sizeof(zone_record)) ||
          !seen.insert(ref).second)
        break;
      auto* z = s_.chunk<zone_record>(ref);
      const mending done =
          mend_by_seal(z->seal,
                       {{&z->type, offsetof(zone_record, seal) - offsetof(zone_record, type)},
                        {&z->table_bytes, sizeof *z - offsetof(zone_record, table_bytes)}},
                       [&] { return seal_of_zone(*z); });
      if (done == mending::byte || done == mending::seal)
        say("zone \"{}\": its record is right again, by its seal", name_of(*z));
      if (done != mending::failed && z->region_slot != no_region)
        zones_at_[{z->region_slot, z->granule}] = ref;
      ref = z->next;
    }
}

void rebuilder::rebuild_zones() {
  chunk_ref* const buckets = s_.zone_buckets();
  bool are_chains_right = true;
  u64 pages = 0;
  for (u32 bucket = 0; bucket < limits::zone_buckets; ++bucket)
    for (chunk_ref ref = buckets[bucket]; ref != 0;) {
      const bool is_one = lies_in_arena(s_, ref, sizeof(zone_record)) && restore_zone(ref);
      are_chains_right = are_chains_right && is_one &&
                         zone_bucket_of(name_of(*s_.chunk<zone_record>(ref))) == bucket;
      if (!lies_in_arena(s_, ref, sizeof(zone_record)) || (!is_one && zones_seen_.contains(ref)))
        break;
      if (!zones_seen_.insert(ref).second && !is_one) break;
      ref = s_.chunk<zone_record>(ref)->next;
    }
  for (const auto& [ref, where] : zone_extents_)  // in memory, but in no chain
    if (lies_in_arena(s_, ref, sizeof(zone_record)) && restore_zone(ref)) are_chains_right = false;
  rebuild_spares();
  if (zones_.size() < h_.zone_count) find_lost_rings();
  if (zones_.size() < h_.zone_count)
    doubt("{} of {} zones, pools and rings are lost: no record of them can be found",
          h_.zone_count - zones_.size(), h_.zone_count);
  if (!are_chains_right || zones_.size() != h_.zone_count) {
    say("the chains of {} zones were built anew", zones_.size());
    for (u32 bucket = 0; bucket < limits::zone_buckets; ++bucket)
      if (buckets[bucket] != 0) buckets[bucket] = 0;
    for (const chunk_ref ref : zones_) {
      auto* z = s_.chunk<zone_record>(ref);
      chunk_ref& head = buckets[zone_bucket_of(name_of(*z))];
      z->next = head;
      head = ref;
    }
  }
  number_views();
  number_zones();
  for (const chunk_ref ref : zones_)
    pages |= u64{1} << (zone_bucket_of(name_of(*s_.chunk<zone_record>(ref))) /
                        (limits::zone_buckets / 64));
  fix(h_.zone_count, zones_.size(), "the count of zones");
  fix(h_.zone_pages.value, h_.zone_pages.value | pages, "the pages of zone chains");
  keep_zones_without_records();
}

// False: it is none, or it has been restored already. What an extent says of it is believed before
// what it says itself.
bool rebuilder::restore_zone(chunk_ref ref) {
  auto* z = s_.chunk<zone_record>(ref);
  if (std::find(zones_.begin(), zones_.end(), ref) != zones_.end()) return false;
  const bool is_sealed = z->seal == seal_of_zone(*z);
  const auto found = zone_extents_.find(ref);
  if (found == zone_extents_.end() && (!is_sealed || z->type != zone_type::ring)) {
    if (is_sealed)
      doubt("zone \"{}\" is lost: the memory it had is somebody else's, or nobody's", name_of(*z));
    return false;
  }
  if (!take(ref, sizeof(zone_record))) return false;
  z->name[sizeof z->name - 1] = '\0';
  if (!is_sealed) {
    const place& p = found->second;
    const region_record& r = region(p.slot);
    const u64 offset = (u64{p.granule} << r.granule_shift) +
                       u64{s_.chunk<extent_entry>(r.extents)[p.granule].lead} * 64;
    const u64 room =
        std::min((u64{p.granule} + p.length) << r.granule_shift, r.length_bytes) - offset;
    if (z->name[0] == '\0')
      std::strncpy(z->name, fmt::format("uncertain-{}-{:x}", r.id.value, offset).c_str(),
                   sizeof z->name - 1);
    doubt(
        "zone \"{}\": its record does not fit its seal: its name, its size or what it is may not "
        "be what they were",
        name_of(*z));
    if (z->state.value != zone_committed) {  // nobody finds what may be half filled
      z->state.value = zone_being_filled;
      z->maker = 0;
    }
    z->region_slot = p.slot;
    z->granule = p.granule;
    z->offset_bytes = offset;
    z->size_bytes = std::min(z->size_bytes, room);
    if (z->type != zone_type::pool) {
      z->type = zone_type::plain;
      z->table = 0;
      z->table_bytes = 0;
    }
  }
  const bool has_table = z->type != zone_type::plain && z->table_bytes >= sizeof(pool_table) &&
                         take(z->table, z->table_bytes);
  const bool is_view =
      has_table && (z->type == zone_type::pool ? rebuild_pool(*z) : rebuild_ring(*z));
  if (z->type != zone_type::plain && !is_view) {
    if (z->type == zone_type::ring) {
      doubt("ring \"{}\" is lost: its table can't be believed", name_of(*z));
      return false;
    }
    doubt("pool \"{}\": its table can't be believed; its memory is kept as a zone of that name",
          name_of(*z));
    z->type = zone_type::plain;
    z->table = 0;
    z->table_bytes = 0;
  }
  if (z->type != zone_type::plain) z->state.value = zone_committed;
  z->seal = seal_of_zone(*z);
  zones_.push_back(ref);
  return true;
}

// Rings have no extent that names them: by the seals of their records and of their tables, which a
// release breaks.
void rebuilder::find_lost_rings() {
  for (u64 at = s_.geometry().arena_at; at + sizeof(zone_record) <= h_.arena.top;
       at += chunk_unit_bytes) {
    const auto after = taken_.upper_bound(at);
    if (after != taken_.begin() && std::prev(after)->second > at) {
      at = align_up(std::prev(after)->second, chunk_unit_bytes) - chunk_unit_bytes;
      continue;
    }
    const auto& z = *s_.at<zone_record>(at);
    if (z.type != zone_type::ring || z.region_slot != no_region || z.seal != seal_of_zone(z) ||
        !lies_in_arena(s_, z.table, sizeof(ring_table)))
      continue;
    if (const auto& table = *s_.chunk<ring_table>(z.table);
        table.incarnation.value == 0 || table.seal != table.right_seal())
      continue;
    if (restore_zone(static_cast<chunk_ref>(at / chunk_unit_bytes)))
      say("ring \"{}\" was in no chain", name_of(z));
  }
}

// Each pool and ring has a number of its own (docs/design/0011); nobody has one open now, so any
// will do that nobody else has.
void rebuilder::number_views() {
  std::unordered_set<u64> seen{0};
  u64 highest = 0;
  auto number_of = [&](zone_record& z) -> shared_word<u64>* {
    return z.type == zone_type::pool   ? &z.incarnation
           : z.type == zone_type::ring ? &s_.chunk<ring_table>(z.table)->incarnation
                                       : nullptr;
  };
  for (const chunk_ref ref : zones_)
    if (const auto* number = number_of(*s_.chunk<zone_record>(ref)); number != nullptr)
      highest = std::max(highest, number->value);
  if (h_.incarnations < highest)
    fix(h_.incarnations, highest, "the count of pools and rings that were ever made");
  for (const chunk_ref ref : zones_) {
    auto* z = s_.chunk<zone_record>(ref);
    shared_word<u64>* const number = number_of(*z);
    if (number == nullptr || seen.insert(number->value).second) continue;
    fix(*number, ++h_.incarnations, fmt::format("{}: its number", name_of(*z)));
    if (z->type == zone_type::pool)
      z->seal = seal_of_zone(*z);
    else
      number_ring(*s_.chunk<ring_table>(z->table));
  }
}

// Generations only grow. Two words keep the highest; the higher one is believed, if that many can
// ever have been reserved.
void rebuilder::number_zones() {
  constexpr u64 most = u64{1} << 56;
  u64 highest = 0;
  for (const u64 kept : {h_.zone_generations, h_.zone_generations_again})
    if (kept <= most) highest = std::max(highest, kept);
  for (const chunk_ref ref : zones_)
    if (const auto* z = s_.chunk<zone_record>(ref); z->generation <= most)
      highest = std::max(highest, z->generation);
  for (const chunk_ref ref : zones_) {
    auto* z = s_.chunk<zone_record>(ref);
    if (z->generation != 0 && z->generation <= most) continue;
    fix(z->generation, ++highest, fmt::format("{}: its generation", name_of(*z)));
    z->seal = seal_of_zone(*z);
  }
  fix(h_.zone_generations, highest, "the count of zones that were ever reserved");
  fix(h_.zone_generations_again, highest, "the second count of zones that were ever reserved");
}

// What carries a ring's number: its seal and its takers.
void rebuilder::number_ring(ring_table& ring) {
  ring.seal = ring.right_seal();
  for (ring_taker& taker : ring.takers) {
    taker.claim.value = of_ring(ring.incarnation.value) | member_of_claim(taker.claim.value);
    taker.hand.value = hand_of(ring.incarnation.value, confirmed_in_hand(taker.hand.value),
                               count_in_hand(taker.hand.value));
  }
}

// Of released pools and rings. A list that leads astray ends there; what was behind is free
// metadata.
void rebuilder::rebuild_spares() {
  for (chunk_ref* link = &h_.spare_pools; *link != 0; link = &s_.chunk<zone_record>(*link)->next)
    if (!is_sane_spare_pool(s_, *link) || !take(*link, sizeof(zone_record))) {
      fix(*link, 0, "the list of released pools' records");
      break;
    }
  for (chunk_ref* link = &h_.spare_rings; *link != 0;
       link = &s_.chunk<ring_table>(*link)->next_spare)
    if (sane_spare_capacity(s_, *link) == 0 ||
        !take(*link, ring_table_bytes(s_.chunk<ring_table>(*link)->capacity))) {
      fix(*link, 0, "the list of released rings' tables");
      break;
    }
}

// Extents of zones whose records are lost: their memory is in use, and nobody's.
void rebuilder::keep_zones_without_records() {
  for (const auto& [ref, where] : zone_extents_) {
    if (std::find(zones_.begin(), zones_.end(), ref) != zones_.end()) continue;
    region_record& r = region(where.slot);
    extent_entry& e = s_.chunk<extent_entry>(r.extents)[where.granule];
    doubt(
        "region {}: the {} bytes at offset {:#x} were a zone whose record is lost; they are kept "
        "for member {}",
        r.id.value, u64{where.length} << r.granule_shift, u64{where.granule} << r.granule_shift,
        nobody());
    s_.chunk<granule_entry>(r.granules)[where.granule] =
        granule_entry{no_owner, granule_large, 0, 0, 0};
    e.holder = static_cast<u16>(nobody());
    e.record = 0;
    e.seal = seal_of_extent(e, granule_large, where.granule, r.id.value);
    ++tallies_[nobody()].extents;
  }
}

// ---- pools --------------------------------------------------------------------------------------

bool rebuilder::rebuild_pool(zone_record& z) {
  auto* table = s_.chunk<pool_table>(z.table);
  const std::string name = fmt::format("pool \"{}\"", name_of(z));
  if (table->seal != table->right_seal()) {
    const u32 objects = objects_of_table(z.table_bytes, s_.thread_limit());
    if (objects == 0) return false;
    table->object_count = objects;
    table->words = static_cast<u32>(divide_up(objects, 64));
    table->object_bytes =
        z.size_bytes / objects;  // a pool's memory is its objects, one behind the other
    for (u32 cached = 0; cached <= pool_cache_slots && table->seal != table->right_seal(); ++cached)
      table->cache_objects = cached;
    if (table->seal == table->right_seal()) {
      say("{}: its table is right again, by its seal", name);
    } else {
      table->cache_objects = 0;
      doubt(
          "{}: its table does not fit its seal; it has {} objects of {} bytes, by the bytes of its "
          "table and of its memory",
          name, objects, table->object_bytes);
    }
    table->seal = table->right_seal();
  }
  const known_pool pool = sane_pool(s_, z);
  if (!pool) return false;
  u16* const holders = pool.holders(s_.thread_limit());
  table->only_member = several_members;  // slower, and never wrong
  if (table->generations != 0) {
    const bool has_place =
        usable_.contains(z.region_slot) && z.granule < region(z.region_slot).granule_count;
    const bool can_be = has_place && take_words(region(z.region_slot), z.region_slot,
                                                table->generations, pool.object_count);
    if (!can_be) {
      doubt("{}: its generations are impossible: handles of its objects are stale", name);
      table->generations = 0;
    }
    if (!can_be && has_place) {
      region_record& r = region(z.region_slot);
      extent_entry& e = s_.chunk<extent_entry>(r.extents)[z.granule];
      forget_table(r, z.region_slot, z.granule, e);
      e.seal = seal_of_extent(e, granule_zone, z.granule, r.id.value);
    }
  }
  bool had_caches = false;
  for (u32 i = 0; i < s_.thread_limit(); ++i) {
    chunk_ref& ref = pool.caches()[i];
    if (ref == 0) continue;
    if (!take(ref, sizeof(pool_cache))) {
      doubt(
          "{}: thread {} had a cache that is not where it should be: what it kept stays with its "
          "member",
          name, i);
      ref = 0;
      continue;
    }
    auto* cache = s_.chunk<pool_cache>(ref);
    cache->capacity = pool_cache_slots;
    const u32 n = cache->count.value;
    if (caches_are_believed_)
      for (u32 at = 0; at < std::min(n, pool_cache_slots); ++at) {
        const u64 object = cache->entries[at] / pool.object_bytes;
        if (object >= pool.object_count) continue;
        pool.bits()[object / 64] |= u64{1} << (object % 64);
        holders[object] = 0;
      }
    else if (n != 0)
      doubt("{}: thread {} kept {} objects, which nothing vouches for: they stay with its member",
            name, i, n);
    had_caches |= n != 0;
    cache->count.value = 0;
  }
  u32 in_bits = 0, first = pool.words;
  for (u32 w = 0; w < pool.words; ++w) {
    u64& word = pool.bits()[w];
    word &= low_bits(std::min<u32>(64, pool.object_count - w * 64));
    for (u32 bit = 0; bit < 64 && w * 64 + bit < pool.object_count; ++bit) {
      const u32 object = w * 64 + bit;
      const bool is_in = (word >> bit & 1) != 0;
      u16& holder = holders[object];
      if (is_in && holder == 0) continue;
      if (is_in || !is_member(holder)) {
        const u32 keeper = is_member(holder) ? holder : nobody();
        if (is_in)
          doubt(
              "{}: object {} is in it by its bit, and with member {} by its holder: it is kept for "
              "member {}",
              name, object, holder, keeper);
        else
          doubt(
              "{}: object {} is not in it, and member {} does not exist: it is kept for member {}",
              name, object, holder, keeper);
        word &= ~(u64{1} << bit);
        holder = static_cast<u16>(keeper);
      }
      if (const u32 keeper = holder; is_member(keeper)) ++tallies_[keeper].objects;
    }
    in_bits += static_cast<u32>(std::popcount(word));
    if (word != 0) first = std::min(first, w);
  }
  if (!had_caches) fix(table->in_bits, in_bits, name + ": the count of objects in it");
  table->in_bits.value = in_bits;
  if (table->first_word > first)
    fix(table->first_word, first, name + ": the first word with objects");
  table->first_word = first;
  return true;
}

// ---- rings --------------------------------------------------------------------------------------

bool rebuilder::rebuild_ring(zone_record& z) {
  auto* ring = s_.chunk<ring_table>(z.table);
  const std::string name = fmt::format("ring \"{}\"", name_of(z));
  const u64 capacity =
      (z.table_bytes - std::min<u64>(z.table_bytes, sizeof(ring_table))) / sizeof(ring_slot);
  if (capacity == 0 || z.table_bytes != ring_table_bytes(capacity)) return false;
  fix(ring->capacity, capacity, name + ": its capacity");
  if (mend_by_seal(ring->seal,
                   {{&ring->incarnation, sizeof ring->incarnation},
                    {&ring->first_position, sizeof ring->first_position}},
                   [&] { return ring->right_seal(); }) == mending::failed) {
    fix(ring->first_position, 0, name + ": its first position");
    ring->incarnation.value = 0;  // number_views() gives it one
  }
  if (sane_capacity(s_, z) != capacity) return false;
  const u64 own = of_ring(ring->incarnation.value);
  for (ring_taker& taker : ring->takers) {
    if (taker.claim.value >> 32 << 32 != own ||
        member_of_claim(taker.claim.value) > s_.member_limit())
      fix(taker.claim,
          own | (is_member(member_of_claim(taker.claim.value)) ? member_of_claim(taker.claim.value)
                                                               : 0),
          name + ": a taker");
    const u32 count = count_in_hand(taker.hand.value),
              confirmed = confirmed_in_hand(taker.hand.value);
    const bool is_possible = count <= in_hand_limit && confirmed <= count;
    if (!is_possible || taker.hand.value >> 32 << 32 != own)
      fix(taker.hand,
          hand_of(ring->incarnation.value, is_possible ? confirmed : 0, is_possible ? count : 0),
          name + ": items in hand");
    if (!is_possible)
      doubt("{}: what member {} had taken and not settled can't be told any more", name,
            member_of_claim(taker.claim.value));
  }
  if (are_sane_slots(*ring, capacity)) return true;
  // Of the slots in their right place the middle one tells which round it is; what is further than
  // a round away is of none.
  const u64 n = capacity;
  ring_slot* const slots = ring->slots();
  auto is_right = [&](u64 i) {
    const u64 at = slots[i].state >> position_shift;
    return at % n == i &&
           ((slots[i].state & is_full) == 0 || slots[i].state == full_state(at, slots[i].value));
  };
  std::vector<u64> positions;
  for (u64 i = 0; i < n; ++i)
    if (const u64 at = slots[i].state >> position_shift; is_right(i)) positions.push_back(at);
  std::vector<std::pair<u64, u64>> values;
  u64 lost = n - positions.size();
  if (!positions.empty()) {
    std::nth_element(positions.begin(),
                     positions.begin() + static_cast<std::ptrdiff_t>(positions.size() / 2),
                     positions.end());
    const u64 middle = positions[positions.size() / 2];
    for (u64 i = 0; i < n; ++i) {
      const u64 at = slots[i].state >> position_shift;
      if (!is_right(i)) continue;
      if (at > middle + n || at + n < middle)
        ++lost;
      else if ((slots[i].state & is_full) != 0)
        values.emplace_back(at, slots[i].value);
    }
    std::sort(values.begin(), values.end());
  }
  if (lost != 0)
    doubt(
        "{}: {} of its {} slots are of no round, or their values do not fit: a handle that lay "
        "there is lost; {} others keep their order",
        name, lost, n, values.size());
  else
    doubt(
        "{}: its slots or counters do not fit each other: a handle may be missing; {} keep their "
        "order",
        name, values.size());
  const u64 first = ring->first_position % n == 0 && ring->first_position < last_first_position
                        ? ring->first_position
                        : 0;
  ring->first_position = first;
  for (u64 i = 0; i < n; ++i)
    slots[i] = i < values.size()
                   ? ring_slot{full_state(first + i, values[i].second), values[i].second}
                   : ring_slot{(first + i) << position_shift, 0};
  ring->head.value = first;
  ring->tail.value = first + values.size();
  for (ring_taker& taker : ring->takers) {  // its last item's slot tells no more
    const u32 confirmed = confirmed_in_hand(taker.hand.value);
    taker.hand.value = hand_of(ring->incarnation.value, confirmed, confirmed);
  }
  ring->seal = ring->right_seal();
  return true;
}

}  // namespace annex::detail
