// named/ring_rules.cpp - see ring_rules.hpp: what an audit asks of rings.
#include "named/ring_rules.hpp"

#include <algorithm>

namespace annex::detail {

u64 sane_capacity(const segment& s, const zone_record& z) noexcept {
  const u64 table_bytes = z.table_bytes;
  const auto* ring = s.find_chunk<ring_table>(z.table, std::max(table_bytes, sizeof(ring_table)));
  const u64 capacity = ring != nullptr ? __atomic_load_n(&ring->capacity, __ATOMIC_RELAXED) : 0;
  const bool is_sane = is_power_of_two(capacity) && capacity <= (u64{1} << 32) &&
                       table_bytes == ring_table_bytes(capacity);
  return is_sane ? capacity : 0;
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

bool are_sane_slots(ring_table& ring, u64 capacity) noexcept {
  // Rounds: each death leaves a counter behind by one at most.
  constexpr u64 furthest_behind = 1024;
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

namespace {

void check_takers(inspection& in, const zone_record& z, const ring_table& ring) {
  for (const ring_taker& taker : ring.takers)
    if (count_in_hand(taker.hand.value) > in_hand_limit ||
        confirmed_in_hand(taker.hand.value) > in_hand_limit ||
        member_of_claim(taker.claim.value) > in.s.member_limit())
      in.broken("Z1: ring \"{}\" has an impossible taker", z.name);
}

void check_ring(inspection& in, const zone_record& z) {
  const u64 capacity = sane_capacity(in.s, z);
  if (capacity == 0) return in.broken("Z1: ring \"{}\" has an impossible table", z.name);
  auto& ring = *in.s.chunk<ring_table>(z.table);
  if (in.locked && !are_sane_slots(ring, capacity))
    in.broken("Z5: ring \"{}\" has slots that are of no round, or counters that are not near them",
              z.name);
  if (in.locked && (ring.incarnation.value == 0 || ring.incarnation.value > in.h.incarnations))
    in.broken("Z1: ring \"{}\" has number {}, and {} were made", z.name, ring.incarnation.value,
              in.h.incarnations);
  if (in.locked && ring.seal != ring.right_seal())
    in.broken("Z4: the table of ring \"{}\" does not fit its seal", z.name);
  check_takers(in, z, ring);
}

void check_spares(inspection& in) {
  const u64 most = in.h.arena.top / chunk_unit_bytes;
  u64 steps = 0;
  for (chunk_ref ref = in.h.spare_rings; ref != 0; ref = in.s.chunk<ring_table>(ref)->next_spare) {
    if (sane_spare_capacity(in.s, ref) == 0 || ++steps > most)
      return in.broken("Z3: the list of released rings' tables leads to something else");
    in.take(ref, ring_table_bytes(in.s.chunk<ring_table>(ref)->capacity), "spare ring table");
  }
}

}  // namespace

void check_rings(inspection& in) {
  for (const zone_record& z : in.notes<zones_seen>().views)
    if (z.type == zone_type::ring && take_table(in, z, sizeof(ring_table))) check_ring(in, z);
  if (in.locked) check_spares(in);
}

}  // namespace annex::detail
