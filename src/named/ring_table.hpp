// named/ring_table.hpp - a bounded queue of handles in the segment that no death can block.
//
//   slot p mod N  {position, check, taker, full?, value}  16 bytes, changed by one compare-and-swap
//
//   put    {empty, p} → {full, p, value}               <- commit; then tail: up to p + 1
//   take   {full, p, value} → {empty, p + N, taker}    <- commit; then head: up to p + 1
//                                                         (anybody may move tail and head)
//
// The slot, not the counter, is the truth; the counter says where to begin to look, and follows a
// burst once, at its end. A process killed after its commits leaves a counter behind, and the next
// one that comes along goes over it and moves it. Positions only grow, so no value is mistaken for
// an older one.
//
// A table that was released is a ring's again or nobody's, so that whoever has it open may look at
// it at any time. Every change is a compare-and-swap of something that was seen before the
// incarnation was compared: in a later ring nothing has the old contents, since positions begin
// above all that were there, and takers' words carry the incarnation.
//
// A taker that wants to be recovered writes what it is about to take into its record first; after
// its death the slot says whether it was taken.
// Sources: the idea of helping lagging counters is Tsigas and Zhang's (2001); the record is
// annex's.
#pragma once
#include "base/seal.hpp"
#include "shared/waiting.hpp"

namespace annex {

inline constexpr u32 ring_takers = 64;
inline constexpr u32 in_hand_limit = 64;

struct alignas(16) ring_slot {
  u64 state, value;
};  // state: position << 17 | check of the value << 8 | taker << 1 | full
inline constexpr u32 position_shift = 17, taker_shift = 1;
inline constexpr u64 is_full = 1;
inline constexpr u32 check_shift = 8, check_bits = position_shift - check_shift;
static_assert(ring_takers < 1u << (check_shift - taker_shift));

/// What a full slot says at this position. Each bit of the value is in one bit of its check: a
/// damaged one shows.
constexpr u64 full_state(u64 position, u64 value) noexcept {
  u64 check = value ^ value >> 4 * check_bits;
  check ^= check >> 2 * check_bits;
  check ^= check >> check_bits;
  return position << position_shift | (check & low_bits(check_bits)) << check_shift | is_full;
}

/// What a slot says, whoever changes it meanwhile.
inline ring_slot look(const ring_slot& slot) noexcept {
  ring_slot seen;
  // sync(ring slot): the value belongs to this state, or change() fails.
  seen.state = __atomic_load_n(&slot.state, __ATOMIC_ACQUIRE);
  seen.value = __atomic_load_n(&slot.value, __ATOMIC_ACQUIRE);
  return seen;
}

struct alignas(16) in_hand_item {
  u64 position, value;
};
struct ring_taker {
  shared_word<u64> claim;  // of_ring(incarnation) | member; 0: unclaimed
  // Of_ring(incarnation) | confirmed << 16 | count of items written; the last may not have been
  // taken.
  shared_word<u64> hand;
  in_hand_item items[in_hand_limit];
};
static_assert(sizeof(ring_taker) % 16 == 0);

/// The upper half of a taker's words.
constexpr u64 of_ring(u64 incarnation) noexcept {
  return incarnation << 32;
}
constexpr u32 member_of_claim(u64 claim) noexcept {
  return static_cast<u32>(claim);
}
constexpr u32 count_in_hand(u64 hand) noexcept {
  return static_cast<u32>(hand & 0xffff);
}
constexpr u32 confirmed_in_hand(u64 hand) noexcept {
  return static_cast<u32>(hand >> 16 & 0xffff);
}
constexpr u64 hand_of(u64 incarnation, u32 confirmed, u32 count) noexcept {
  return of_ring(incarnation) | u64{confirmed} << 16 | count;
}

inline constexpr u64 last_first_position = u64{1} << 46;  // positions have 47 bits

struct ring_table {
  u64 capacity;                  // power of two
  shared_word<u64> incarnation;  // 0: released
  u64 first_position;            // a multiple of the capacity
  chunk_ref next_spare;          // of released ones
  u32 padding0;
  u64 seal;  // of a ring that is there: what it never changes (right_seal)
  u64 right_seal() const noexcept { return seal_of({capacity, incarnation.value, first_position}); }
  // In the line that every put and take reads, and that is not written while nobody waits
  // (shared/waiting.hpp).
  shared_word<u32> handle_signal, room_signal;  // of those who wait for a handle, and for room
  openers opened;
  u64 padding1;
  alignas(64) shared_word<u64> head;
  alignas(64) shared_word<u64> tail;
  alignas(64) ring_taker takers[ring_takers];
  ring_slot* slots() noexcept { return reinterpret_cast<ring_slot*>(this + 1); }
  bool has_no_positions_left() const noexcept {
    return first_position >= last_first_position ||
           head.load(std::memory_order_relaxed) >= last_first_position;
  }
};
static_assert(sizeof(ring_table) % 64 == 0);

constexpr u64 ring_table_bytes(u64 capacity) noexcept {
  return sizeof(ring_table) + capacity * sizeof(ring_slot);
}

}  // namespace annex
