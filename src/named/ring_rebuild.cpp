// named/ring_rebuild.cpp - the rings of a damaged segment (ring_rules.hpp).
//
// A death in the middle: repair again.
#include <algorithm>

#include "base/mend.hpp"
#include "named/ring_rules.hpp"
#include "shared/member_rules.hpp"

namespace annex::detail {
namespace {

class ring_rebuild {
 public:
  ring_rebuild(rebuilding& rb, const zone_record& z)
      : rb_(rb),
        z_(z),
        ring_(*rb.s.chunk<ring_table>(z.table)),
        n_((z.table_bytes - std::min<u64>(z.table_bytes, sizeof(ring_table))) / sizeof(ring_slot)),
        name_(fmt::format("ring \"{}\"", name_of(z))) {}

  // False: its table can't be believed.
  bool run() {
    if (n_ == 0 || z_.table_bytes != ring_table_bytes(n_)) return false;
    mend_table();
    if (sane_capacity(rb_.s, z_) != n_) return false;
    for (ring_taker& taker : ring_.takers)
      rebuild_taker(taker);
    if (!are_sane_slots(ring_, n_)) rebuild_slots();
    return true;
  }

 private:
  void mend_table() {
    rb_.fix(ring_.capacity, n_, name_ + ": its capacity");
    if (mend_by_seal(ring_.seal,
                     {{&ring_.incarnation, sizeof ring_.incarnation},
                      {&ring_.first_position, sizeof ring_.first_position}},
                     [&] { return ring_.right_seal(); }) != mending::failed)
      return;
    rb_.fix(ring_.first_position, 0, name_ + ": its first position");
    ring_.incarnation.value = 0;  // the zones give it a number
  }

  void rebuild_taker(ring_taker& taker) {
    const u64 own = of_ring(ring_.incarnation.value);
    const u32 member = member_of_claim(taker.claim.value);
    if (taker.claim.value >> 32 << 32 != own || member > rb_.s.member_limit())
      rb_.fix(taker.claim, own | (is_member(rb_.s, member) ? member : 0), name_ + ": a taker");
    const u32 count = count_in_hand(taker.hand.value),
              confirmed = confirmed_in_hand(taker.hand.value);
    const bool is_possible = count <= in_hand_limit && confirmed <= count;
    if (!is_possible || taker.hand.value >> 32 << 32 != own)
      rb_.fix(
          taker.hand,
          hand_of(ring_.incarnation.value, is_possible ? confirmed : 0, is_possible ? count : 0),
          name_ + ": items in hand");
    if (!is_possible)
      rb_.doubt("{}: what member {} had taken and not settled can't be told any more", name_,
                member_of_claim(taker.claim.value));
  }

  // ---- slots that are not of one round and the next

  struct kept_value {
    u64 position, value;
  };

  // In its own place, and fitting its value.
  bool is_right(u64 i) const {
    const ring_slot& slot = ring_.slots()[i];
    const u64 at = slot.state >> position_shift;
    return at % n_ == i &&
           ((slot.state & is_full) == 0 || slot.state == full_state(at, slot.value));
  }

  void rebuild_slots() {
    std::vector<kept_value> values;
    if (const u64 lost = find_values(&values); lost != 0)
      rb_.doubt(
          "{}: {} of its {} slots are of no round, or their values do not fit: a handle that lay "
          "there is lost; {} others keep their order",
          name_, lost, n_, values.size());
    else
      rb_.doubt(
          "{}: its slots or counters do not fit each other: a handle may be missing; {} keep their "
          "order",
          name_, values.size());
    write_slots(values);
    for (ring_taker& taker : ring_.takers) {  // its last item's slot tells no more
      const u32 confirmed = confirmed_in_hand(taker.hand.value);
      taker.hand.value = hand_of(ring_.incarnation.value, confirmed, confirmed);
    }
    ring_.seal = ring_.right_seal();
  }

  // Of the slots in their right place the middle one tells which round it is; what is further than
  // a round away is of none. Returns how many are of none; the others' values in order.
  u64 find_values(std::vector<kept_value>* values) const {
    const ring_slot* const slots = ring_.slots();
    std::vector<u64> positions;
    for (u64 i = 0; i < n_; ++i)
      if (is_right(i)) positions.push_back(slots[i].state >> position_shift);
    u64 lost = n_ - positions.size();
    if (positions.empty()) return lost;
    const auto half = positions.begin() + static_cast<std::ptrdiff_t>(positions.size() / 2);
    std::nth_element(positions.begin(), half, positions.end());
    const u64 middle = *half;
    for (u64 i = 0; i < n_; ++i) {
      if (!is_right(i)) continue;
      const u64 at = slots[i].state >> position_shift;
      if (at > middle + n_ || at + n_ < middle)
        ++lost;
      else if ((slots[i].state & is_full) != 0)
        values->push_back({at, slots[i].value});
    }
    std::sort(values->begin(), values->end(), [](const kept_value& a, const kept_value& b) {
      return a.position != b.position ? a.position < b.position : a.value < b.value;
    });
    return lost;
  }

  void write_slots(const std::vector<kept_value>& values) {
    const bool can_be =
        ring_.first_position % n_ == 0 && ring_.first_position < last_first_position;
    const u64 first = can_be ? ring_.first_position : 0;
    ring_.first_position = first;
    ring_slot* const slots = ring_.slots();
    for (u64 i = 0; i < n_; ++i)
      slots[i] = i < values.size()
                     ? ring_slot{full_state(first + i, values[i].value), values[i].value}
                     : ring_slot{(first + i) << position_shift, 0};
    ring_.head.value = first;
    ring_.tail.value = first + values.size();
  }

  rebuilding& rb_;
  const zone_record& z_;
  ring_table& ring_;
  const u64 n_;  // its capacity, by the bytes of its table
  const std::string name_;
};

bool rebuild(rebuilding& rb, zone_record& z) {
  return ring_rebuild(rb, z).run();
}

bool lose(rebuilding& rb, zone_record& z) {
  rb.doubt("ring \"{}\" is lost: its table can't be believed", name_of(z));
  return false;
}

shared_word<u64>* number_of(const segment& s, zone_record& z) {
  return &s.chunk<ring_table>(z.table)->incarnation;
}

// What carries a ring's number: its seal and its takers.
void renumber(const segment& s, zone_record& z) {
  ring_table& ring = *s.chunk<ring_table>(z.table);
  ring.seal = ring.right_seal();
  for (ring_taker& taker : ring.takers) {
    taker.claim.value = of_ring(ring.incarnation.value) | member_of_claim(taker.claim.value);
    taker.hand.value = hand_of(ring.incarnation.value, confirmed_in_hand(taker.hand.value),
                               count_in_hand(taker.hand.value));
  }
}

// A list that leads astray ends there; what was behind is free metadata.
void rebuild_spares(rebuilding& rb) {
  for (chunk_ref* link = &rb.h.spare_rings; *link != 0;
       link = &rb.s.chunk<ring_table>(*link)->next_spare)
    if (sane_spare_capacity(rb.s, *link) == 0 ||
        !rb.take(*link, ring_table_bytes(rb.s.chunk<ring_table>(*link)->capacity))) {
      rb.fix(*link, 0, "the list of released rings' tables");
      break;
    }
}

// By the seals of their records and of their tables, which a release breaks.
void find_lost(rebuilding& rb) {
  for (u64 at = rb.s.geometry().arena_at; at + sizeof(zone_record) <= rb.h.arena.top;
       at += chunk_unit_bytes) {
    if (const u64 behind = rb.end_of_taken(at); behind != 0) {
      at = align_up(behind, chunk_unit_bytes) - chunk_unit_bytes;
      continue;
    }
    const auto& z = *rb.s.at<zone_record>(at);
    if (z.type != zone_type::ring || z.region_slot != no_region || z.seal != seal_of_zone(z) ||
        !lies_in_arena(rb.s, z.table, sizeof(ring_table)))
      continue;
    if (const auto& table = *rb.s.chunk<ring_table>(z.table);
        table.incarnation.value == 0 || table.seal != table.right_seal())
      continue;
    if (restore_zone(rb, static_cast<chunk_ref>(at / chunk_unit_bytes)))
      rb.say("ring \"{}\" was in no chain", name_of(z));
  }
}

}  // namespace

void find_rings(rebuilding& rb) {
  rb.notes<zones_rebuilt>().kinds.push_back({zone_type::ring, sizeof(ring_table), rebuild, lose,
                                             number_of, renumber, rebuild_spares, find_lost});
}

}  // namespace annex::detail
