// views/ring_waiting.cpp - waiting for a handle or for room, see annex/ring.hpp; the loop is in
// views/waiting.hpp, the protocol in shared/waiting.hpp.
//
// Any thread, nothing locked while it sleeps. If the process dies here: its mark stays in the
// signal; whoever adds next wakes nobody, once, and clears it.
#include <annex/ring.hpp>

#include "heap/local_heap.hpp"
#include "views/ring_slots.hpp"
#include "views/waiting.hpp"

namespace annex {

// The slot where the counter leads says whether there is something; what lies before it has been
// put or taken already. Bounded, whatever lies there.
bool ring::has_handle() const noexcept {
  ring_table& table = table_of(table_);
  // sync(counter): what it has passed is seen as taken.
  u64 position = table.head.load(std::memory_order_acquire);
  for (u64 steps = 0; steps <= 2 * capacity_; ++steps) {
    const ring_slot seen = look(table.slots()[position & (capacity_ - 1)]);
    const u64 at = seen.state >> position_shift;
    if (at <= position) return at == position && (seen.state & is_full) != 0;
    position = walk_on(position, at, capacity_);
  }
  return true;  // it moves as fast as it is looked at
}

bool ring::has_room() const noexcept {
  ring_table& table = table_of(table_);
  // sync(counter): what it has passed is seen as full, or as taken again.
  u64 position = table.tail.load(std::memory_order_acquire);
  for (u64 steps = 0; steps <= 2 * capacity_; ++steps) {
    const ring_slot seen = look(table.slots()[position & (capacity_ - 1)]);
    const u64 at = seen.state >> position_shift;
    if (at < position) return false;  // full of the last round
    if (at == position && (seen.state & is_full) == 0) return true;
    position = walk_on(position, at, capacity_);
  }
  return true;
}

// The mark may be set in a ring that has been released meanwhile, or in the next one there: that
// wakes somebody once too often.
struct ring::waits {
  static detail::waiting_place at(const ring& r, shared_word<u32>& signal,
                                  std::function<bool()> look) {
    return {.heap = r.heap_,
            .signal = &signal,
            .changes = &table_of(r.table_).opened.changes,
            .changes_at_open = r.changes_at_open_,
            .had_others = r.had_others_,
            .begin = [own = r, &signal]() -> result<u32> {
              const u32 word = begin_waiting(signal);
              if (!own.is_open()) return refuse(errc::no_such_zone, "the ring has been released");
              return word;
            },
            .look = std::move(look)};
  }
  static result<void> check(const ring& r) {
    if (r.table_ != nullptr) return {};
    return refuse(errc::no_such_zone, "the ring was never opened");
  }
};

result<handle> ring::take(std::chrono::nanoseconds deadline) {
  ANNEX_TRY(waits::check(*this));
  handle taken = take();
  if (taken != null_handle) return taken;
  ANNEX_TRY(detail::wait_at(waits::at(*this, table_of(table_).handle_signal,
                                      [this, &taken] { return (taken = take()) != null_handle; }),
                            deadline, nullptr));
  return taken;
}

result<void> ring::put(handle value, std::chrono::nanoseconds deadline) {
  ANNEX_TRY(waits::check(*this));
  if (put(value)) return {};
  return detail::wait_at(
      waits::at(*this, table_of(table_).room_signal, [this, value] { return put(value); }),
      deadline, nullptr);
}

result<void> ring::wait_for_handle(std::chrono::nanoseconds deadline) const {
  ANNEX_TRY(waits::check(*this));
  return detail::wait_at(
      waits::at(*this, table_of(table_).handle_signal, [this] { return has_handle(); }), deadline,
      nullptr);
}

result<void> ring::wait_for_room(std::chrono::nanoseconds deadline) const {
  ANNEX_TRY(waits::check(*this));
  return detail::wait_at(
      waits::at(*this, table_of(table_).room_signal, [this] { return has_room(); }), deadline,
      nullptr);
}

result<ready_event> ring::watch_handles() const {
  ANNEX_TRY(waits::check(*this));
  return detail::watch_at(
      waits::at(*this, table_of(table_).handle_signal, [own = *this] { return own.has_handle(); }));
}

result<ready_event> ring::watch_room() const {
  ANNEX_TRY(waits::check(*this));
  return detail::watch_at(
      waits::at(*this, table_of(table_).room_signal, [own = *this] { return own.has_room(); }));
}

}  // namespace annex
