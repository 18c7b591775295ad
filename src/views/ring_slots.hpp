// views/ring_slots.hpp - the steps of which putting and taking are made: a slot changed, a counter
// moved, a later ring noticed.
//
// The protocol is in named/ring_table.hpp. Any thread of any process, nothing locked; a death
// between two of them leaves a counter behind, which the next one that comes along moves.
#pragma once
#include "named/ring_table.hpp"
#include "platform/cpu.hpp"

namespace annex {

inline ring_table& table_of(void* table) noexcept {
  return *static_cast<ring_table*>(table);
}

// Both words at once. sync(ring slot): a full barrier: whoever sees the value sees what was done
// before it was put.
template <class T>
inline bool change(T& words, T expected, T desired) noexcept {
  return cpu::compare_and_swap_pair(words, expected, desired);
}

// Whether the table is still, or again, another ring's than this incarnation, or nobody's. To be
// asked after what is about to be changed was looked at: no slot of a later ring has the contents
// of an earlier one.
inline bool is_gone(const ring_table& table, u64 incarnation) noexcept {
  return table.incarnation.load(std::memory_order_acquire) != incarnation;  // sync(incarnation)
}

// A slot of this position or a later one has been put, or taken, up to here: what lies before it in
// the ring has been too, in the rounds before. So the walk goes on at once where the counter is far
// behind.
inline u64 walk_on(u64 position, u64 at, u64 capacity) noexcept {
  return at >= position + capacity ? at - capacity + 1 : position + 1;
}

// Every slot before position is past what the counter counts; seen: what it was a moment ago.
inline void catch_up(shared_word<u64>& counter, u64 seen, u64 position) noexcept {
  // sync(counter): whoever begins here sees the slots that it has passed.
  while (seen < position && !counter.compare_exchange(seen, position, std::memory_order_acq_rel)) {}
}

}  // namespace annex
