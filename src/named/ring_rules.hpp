// named/ring_rules.hpp - the rules of rings: slots of one round and the next.
//
// Invariants (audit):
//   Z3  what released rings left belongs to no zone (docs/design/0011)
//   Z5  slots are of one round, or the next, and fit their values; counters are near them
// and Z1, Z4 of their tables (zone_rules.hpp).
//
// Truth: the slots. Counters are an index. Slots that are of no round, or do not fit their values,
// are lost, and the rest keeps its order. A ring has no extent that names it: without its table it
// is lost, and one that is in no chain is found by the seals of its record and of its table.
//
// This is how a structure joins an audit and a repair: check_rings and find_rings stand in its line
// of the list (care/structures.cpp), and find_rings tells the zones whom to ask about rings. No
// other file of an audit or a repair knows what a ring's table is.
#pragma once
#include <span>

#include <annex/types.hpp>

#include "named/ring_table.hpp"
#include "named/zone_rules.hpp"

namespace annex::detail {

/// The capacity of the ring whose zone this is; 0: its table can't be one. What a table says of it
/// is read once.
u64 sane_capacity(const segment& s, const zone_record& z) noexcept;
/// The capacity of a released ring's table; 0: it can't be one.
u64 sane_spare_capacity(const segment& s, chunk_ref ref) noexcept;
/// Full slots with values that fit them, then empty ones, of one round and the next; the counters
/// at the first of each, or behind.
bool are_sane_slots(ring_table& ring, u64 capacity) noexcept;

void check_rings(inspection& in);
/// Tells the zones whom to ask about rings.
void find_rings(rebuilding& rb);

/// A ring's table, with its numbers as they were when it was opened.
struct known_ring {
  ring_table& table;
  u64 capacity, incarnation;
};
/// What dead takers of a ring have in hand goes to another taker of it, a transaction for each of
/// them; what they had is written to values, as far as both have room. Returns how many.
size_t recover_takers(transaction& t, const known_ring& ring, u32 own_taker,
                      std::span<handle> values) noexcept;

}  // namespace annex::detail
