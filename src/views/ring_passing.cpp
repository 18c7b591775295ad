// views/ring_passing.cpp - handles into a ring and out of it, see annex/ring.hpp. The protocol is
// in named/ring_table.hpp.
//
// Any thread of any process, nothing locked. If the process dies here: what it put before its last
// change() is in the ring, what it took is gone with it (ring_in_hand.cpp has the other way); the
// counter that did not follow is moved by the next one that comes along.
#include <annex/ring.hpp>

#include "base/race_checker.hpp"
#include "heap/local_heap.hpp"
#include "views/ring_slots.hpp"

namespace annex {

std::size_t ring::put_if_open(std::span<const handle> values, std::size_t n) noexcept {
  return is_open() ? n + put(values.subspan(n)) : n;
}
std::size_t ring::take_if_open(std::span<handle> values, std::size_t n) noexcept {
  return is_open() ? n + take(values.subspan(n)) : n;
}

// One change() per value is the commit; the counter follows once, since it is only where others
// begin to look.
[[gnu::always_inline]] inline std::size_t ring::put_all(const handle* values,
                                                        std::size_t count) noexcept {
  ring_table& table = table_of(table_);
  ring_slot* const slots = table.slots();
  const u64 mask = capacity_ - 1;
  // sync(counter): what it has passed is seen as full, or as taken again.
  u64 begun = table.tail.load(std::memory_order_acquire), position = begun;
  std::size_t n = 0;
  while (n < count) {
    ring_slot& slot = slots[position & mask];
    const ring_slot seen = look(slot);
    const u64 at = seen.state >> position_shift;
    if (is_gone(table, incarnation_)) [[unlikely]] {
      if (n != 0) tell_waiters(table.handle_signal);
      return put_if_open({values, count}, n);
    }
    if (at == position && (seen.state & is_full) == 0) {
      race_checker::passed_on(incarnation_, position);
      if (!change(slot, seen,
                  {full_state(position, static_cast<u64>(values[n])), static_cast<u64>(values[n])}))
        continue;  // commit, or somebody was faster
      race_checker::taken_over(incarnation_, position - capacity_);  // who emptied the slot
      ++n;
      ++position;
    } else if (at >= position) {
      // Put, perhaps taken: whoever did it died before the counter followed, or has not come to it
      // yet.
      position = walk_on(position, at, capacity_);
    } else {  // still full of the last round
      catch_up(table.tail, begun, position);
      // sync(counter).
      begun = table.tail.load(std::memory_order_acquire);
      if (begun == position) break;
      position = begun;
    }
  }
  catch_up(table.tail, begun, position);
  // sync(signal): the last change() is a full barrier.
  if (n != 0) tell_waiters(table.handle_signal);
  return n;
}

std::size_t ring::put(std::span<const handle> values) noexcept {
  return put_all(values.data(), values.size());
}
bool ring::put(handle value) noexcept {
  return put_all(&value, 1) == 1;
}

[[gnu::always_inline]] inline std::size_t ring::take_all(handle* values,
                                                         std::size_t count) noexcept {
  ring_table& table = table_of(table_);
  ring_slot* const slots = table.slots();
  const u64 mask = capacity_ - 1;
  // sync(counter): what it has passed is seen as taken.
  u64 begun = table.head.load(std::memory_order_acquire), position = begun;
  std::size_t n = 0;
  while (n < count) {
    ring_slot& slot = slots[position & mask];
    const ring_slot seen = look(slot);
    const u64 at = seen.state >> position_shift;
    if (is_gone(table, incarnation_)) [[unlikely]] {
      if (n != 0) tell_waiters(table.room_signal);
      return take_if_open({values, count}, n);
    }
    if (at == position) {
      if ((seen.state & is_full) == 0) break;  // nothing was put here yet: empty
      race_checker::passed_on(incarnation_, position);
      // Commit.
      if (!change(slot, seen, {(position + capacity_) << position_shift, seen.value})) continue;
      race_checker::taken_over(incarnation_, position);
      values[n++] = handle{seen.value};
      ++position;
    } else if (at > position) {
      position = walk_on(position, at, capacity_);  // taken, and the counter has not followed
    } else if (begun != position) {
      catch_up(table.head, begun, position);
      // sync(counter).
      position = begun = table.head.load(std::memory_order_acquire);
    } else {
      heap_->here.seg.mark_damaged("the head of a ring is ahead of its slots");
      break;
    }
  }
  catch_up(table.head, begun, position);
  if (n != 0) tell_waiters(table.room_signal);  // sync(signal): the last change() is a full barrier
  return n;
}

std::size_t ring::take(std::span<handle> values) noexcept {
  return take_all(values.data(), values.size());
}
handle ring::take() noexcept {
  handle value{};
  return take_all(&value, 1) == 1 ? value : null_handle;
}

}  // namespace annex
