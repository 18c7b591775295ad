// named/ring_recover.cpp - items that a taker took from a ring and had not settled when it died.
//
// The application asks for them (ring::recover_in_hand): only it knows what they are. So a ring
// does nothing by itself when a member is recovered.
#include <algorithm>

#include "base/race_checker.hpp"
#include "named/ring_rules.hpp"
#include "platform/cpu.hpp"
#include "shared/liveness.hpp"

namespace annex::detail {
namespace {

// Nobody is a taker by this record, or the process that was is gone.
bool is_dead_taker(const segment& s, u32 member, u32 self) noexcept {
  const member_record& who = s.member(member);
  // sync(member): whoever has left has written down all that it took.
  return who.state.load(std::memory_order_acquire) != member_live ||
         is_member_gone(s, member, self);
}

}  // namespace

size_t recover_takers(transaction& t, const known_ring& ring, u32 own_taker,
                      std::span<handle> values) noexcept {
  ring_taker& mine = ring.table.takers[own_taker - 1];
  size_t n = 0;
  for (u32 i = 0; i < ring_takers; ++i) {
    ring_taker& other = ring.table.takers[i];
    // sync(taker): the record of the member that it names is seen.
    const u32 member = member_of_claim(other.claim.load(std::memory_order_acquire));
    if (member == 0 || i + 1 == own_taker || !is_dead_taker(t.seg(), member, t.member())) continue;
    const u64 hand = other.hand.load(std::memory_order_relaxed);
    const u32 count = std::min(count_in_hand(hand), in_hand_limit), sure = confirmed_in_hand(hand);
    // One transaction moves all of it: no item is lost or given out twice if we die here.
    u32 mine_count = confirmed_in_hand(mine.hand.load(std::memory_order_relaxed));
    if (n + count > values.size() || mine_count + count > in_hand_limit) break;
    for (u32 item = 0; item < count; ++item) {
      const in_hand_item& it = other.items[item];
      // Only the slot knows whether the last one was taken.
      const u64 taken = (it.position + ring.capacity) << position_shift | u64{i + 1} << taker_shift;
      if (item >= sure &&
          look(ring.table.slots()[it.position & (ring.capacity - 1)]).state != taken)
        continue;
      race_checker::taken_over(ring.incarnation, it.position);
      t.put(mine.items[mine_count].position, it.position);
      t.put(mine.items[mine_count].value, it.value);
      ++mine_count;
      values[n++] = handle{it.value};
    }
    t.put(mine.hand, hand_of(ring.incarnation, mine_count, mine_count));
    t.put(other.hand, hand_of(ring.incarnation, 0, 0));
    // sync(taker): after what was in its hand.
    t.put(other.claim, of_ring(ring.incarnation));
    t.commit();
  }
  return n;
}

}  // namespace annex::detail
