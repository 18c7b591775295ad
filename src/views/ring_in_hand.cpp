// views/ring_in_hand.cpp - taking from a ring so that it can be had back, see annex/ring.hpp: a
// taker writes into its record what it is about to take.
//
// One thread per ring object. If the process dies here: the record says what it was about to take,
// the slot whether it did (named/ring_table.hpp); recover_in_hand() of another gives it out again
// (named/ring_recover.cpp).
#include <annex/ring.hpp>

#include "base/race_checker.hpp"
#include "heap/local_heap.hpp"
#include "named/ring_rules.hpp"
#include "views/ring_slots.hpp"

namespace annex {

std::uint64_t ring::take_remembered() noexcept {
  ring_table& table = table_of(table_);
  ring_slot* const slots = table.slots();
  ring_taker& mine = table.takers[taker_ - 1];
  for (;;) {
    // sync(counter): what it has passed is seen as taken.
    const u64 position = table.head.load(std::memory_order_acquire);
    ring_slot& slot = slots[position & (capacity_ - 1)];
    const ring_slot seen = look(slot);
    const u64 at = seen.state >> position_shift;
    u64 hand = mine.hand.load(std::memory_order_relaxed);
    const u32 n = confirmed_in_hand(hand);
    if (n >= in_hand_limit) return 0;
    const in_hand_item before{__atomic_load_n(&mine.items[n].position, __ATOMIC_RELAXED),
                              __atomic_load_n(&mine.items[n].value, __ATOMIC_RELAXED)};
    if (is_gone(table, incarnation_)) {  // after everything that is changed below was looked at
      if (is_open()) continue;
      return 0;
    }
    if (at == position) {
      if ((seen.state & is_full) == 0) return 0;  // nothing was put here yet: empty
      // Before the commit, so that after our death the slot can say whether it happened. Each fails
      // in a later ring.
      const u64 perhaps = hand_of(incarnation_, n, n + 1);
      if (!change(mine.items[n], before, {position, seen.value})) continue;
      compiler_fence();
      if (!mine.hand.compare_exchange(hand, perhaps, std::memory_order_relaxed)) continue;
      compiler_fence();
      race_checker::passed_on(incarnation_, position);
      // Commit.
      if (!change(
              slot, seen,
              {(position + capacity_) << position_shift | u64{taker_} << taker_shift, seen.value}))
        continue;
      race_checker::taken_over(incarnation_, position);
      compiler_fence();
      hand = perhaps;
      mine.hand.compare_exchange(hand, hand_of(incarnation_, n + 1, n + 1),
                                 std::memory_order_relaxed);
      catch_up(table.head, position, position + 1);
      tell_waiters(table.room_signal);  // sync(signal): change() is a full barrier
      return seen.value;
    }
    if (at < position) {
      heap_->here.seg.mark_damaged("the head of a ring is ahead of its slots");
      return 0;
    }
    catch_up(table.head, position, walk_on(position, at, capacity_));
  }
}

bool ring::claim_taker() noexcept {
  if (!heap_->membership.ensure_member()) return false;
  if (taker_ != 0) return true;
  ring_table& table = table_of(table_);
  for (u32 i = 0; i < ring_takers; ++i) {
    u64 nobody = of_ring(incarnation_);
    // sync(taker): what a dead one had in hand has been moved.
    if (!table.takers[i].claim.compare_exchange(
            nobody, of_ring(incarnation_) | heap_->here.self.member, std::memory_order_acq_rel))
      continue;
    taker_ = i + 1;
    return true;
  }
  return false;
}

std::size_t ring::take_in_hand(std::span<handle> values) noexcept {
  if (!claim_taker()) return 0;
  std::size_t n = 0;
  while (n < values.size() && (values[n] = handle{take_remembered()}) != null_handle)
    ++n;
  return n;
}

void ring::settle() noexcept {
  if (taker_ == 0) return;
  shared_word<u64>& hand = table_of(table_).takers[taker_ - 1].hand;
  u64 seen = hand.load(std::memory_order_relaxed);
  // Commit.
  if (seen >> 32 == of_ring(incarnation_) >> 32)
    hand.compare_exchange(seen, hand_of(incarnation_, 0, 0), std::memory_order_relaxed);
}

std::size_t ring::recover_in_hand(std::span<handle> values) noexcept {
  if (!claim_taker()) return 0;
  heap_->care.recover();
  ring_table& table = table_of(table_);
  detail::locked t(heap_->here);
  if (is_gone(table, incarnation_)) return 0;
  return detail::recover_takers(*t, {table, capacity_, incarnation_}, taker_, values);
}

}  // namespace annex
