// heap/ring_table.hpp - a bounded queue of handles in the segment that no death can block.
//
//   slot p mod N    {position, taker, full?, value}    16 bytes, changed by one compare-and-swap
//
//   put    {empty, p} → {full, p, value}               <- commit        then tail: up to p + 1   (anybody may do it)
//   take   {full, p, value} → {empty, p + N, taker}    <- commit        then head: up to p + 1   (anybody may do it)
//
// The slot, not the counter, is the truth; the counter says where to begin to look, and follows a burst once, at its end. A
// process killed after its commits leaves a counter behind, and the next one that comes along goes over it and moves it. Positions only grow, so no value is mistaken for an older one.
// A taker that wants to be recovered writes what it is about to take into its record first; after its death the slot says
// whether it was taken. Sources: the idea of helping lagging counters is Tsigas and Zhang's (2001); the record is annex's.
#pragma once
#include "shared/layout.hpp"

namespace annex {

inline constexpr u32 ring_takers = 64;
inline constexpr u32 in_hand_limit = 64;

struct alignas(16) ring_slot { u64 state, value; };  // state: position << 17 | taker << 1 | full

struct in_hand_item { u64 position, value; };
struct ring_taker {
  shared_word<u32> member;   // 0: unclaimed
  u32 claim_order;
  shared_word<u32> count;    // items written; the last may not have been taken
  shared_word<u32> confirmed;
  in_hand_item items[in_hand_limit];
};

struct ring_table {
  u64 capacity;              // power of two
  u64 padding0[7];
  alignas(64) shared_word<u64> head;
  alignas(64) shared_word<u64> tail;
  alignas(64) ring_taker takers[ring_takers];
  ring_slot* slots() noexcept { return reinterpret_cast<ring_slot*>(this + 1); }
};
static_assert(sizeof(ring_table) % 64 == 0);

constexpr u64 ring_table_bytes(u64 capacity) noexcept { return sizeof(ring_table) + capacity * sizeof(ring_slot); }

}  // namespace annex
