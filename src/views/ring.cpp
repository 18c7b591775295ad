// views/ring.cpp - see annex/ring.hpp; the protocol is in named/ring_table.hpp.
#include <annex/ring.hpp>

#include <algorithm>

#include "base/race_checker.hpp"
#include "heap/local_heap.hpp"
#include "named/ring_rules.hpp"
#include "named/ring_table.hpp"
#include "platform/cpu.hpp"
#include "shared/names.hpp"
#include "views/waiting.hpp"

namespace annex {
namespace {

constexpr u64 largest_capacity = 1u << 24;

ring_table& table_of(void* table) noexcept {
  return *static_cast<ring_table*>(table);
}

// Both words at once. sync(ring slot): a full barrier: who sees the value sees what was done before
// it was put.
template <class T>
bool change(T& words, T expected, T desired) noexcept {
  return cpu::compare_and_swap_pair(words, expected, desired);
}

// Whether the table is still, or again, another ring's than this incarnation, or nobody's. To be
// asked after what is about to be changed was looked at: no slot of a later ring has the contents
// of an earlier one.
bool is_gone(const ring_table& table, u64 incarnation) noexcept {
  return table.incarnation.load(std::memory_order_acquire) != incarnation;  // sync(incarnation)
}

// For a new ring, from nothing or from a released one of the same capacity: positions above all
// that were there, also in the hands of those who looked before. Seen by nobody but them, until the
// transaction that says the incarnation commits.
void number_slots(ring_table& table, u64 capacity) noexcept {
  u64 highest = 0;
  const bool is_used_again = table.capacity != 0;  // of this capacity: nothing else is taken for it
  for (u64 i = 0; is_used_again && i < capacity; ++i)
    highest = std::max(highest, look(table.slots()[i]).state >> position_shift);
  const u64 first = !is_used_again ? 0 : align_up(highest + 2 * capacity + 1, capacity);
  table.capacity = capacity;
  table.first_position = first;
  for (u64 i = 0; i < capacity; ++i)
    std::atomic_ref(table.slots()[i].state)
        .store((first + i) << position_shift, std::memory_order_relaxed);
  table.head.store(first, std::memory_order_relaxed);
  table.tail.store(first, std::memory_order_relaxed);
}

// A slot of this position or a later one has been put, or taken, up to here: what lies before it in
// the ring has been too, in the rounds before. So the walk goes on at once where the counter is far
// behind.
u64 walk_on(u64 position, u64 at, u64 capacity) noexcept {
  return at >= position + capacity ? at - capacity + 1 : position + 1;
}

// Every slot before position is past what the counter counts; seen: what it was a moment ago.
void catch_up(shared_word<u64>& counter, u64 seen, u64 position) noexcept {
  // sync(counter): who begins here sees the slots that it has passed.
  while (seen < position && !counter.compare_exchange(seen, position, std::memory_order_acq_rel)) {}
}

}  // namespace

result<ring> ring::create(heap& h, std::string_view name, std::uint64_t capacity) {
  if (!is_power_of_two(capacity) || capacity < 2 || capacity > largest_capacity)
    return refuse(errc::invalid_argument, "a ring of {}: use a power of two from 2 to {}", capacity,
                  largest_capacity);
  auto made = h.internal()->zones.reserve_zone(
      name, {}, {zone_type::ring, ring_table_bytes(capacity)},
      [&](transaction& t, zone_record&, void* chunk) {
        auto& table = *static_cast<ring_table*>(chunk);
        segment_header& header = t.seg().header();
        const u64 incarnation = header.incarnations + 1;
        number_slots(table, capacity);
        for (ring_taker& taker : table.takers) {
          taker.claim.store(of_ring(incarnation), std::memory_order_relaxed);
          taker.hand.store(hand_of(incarnation, 0, 0), std::memory_order_relaxed);
        }
        table.opened = {};  // of the last ring here
        t.put(header.incarnations, incarnation);
        t.put(table.incarnation, incarnation);  // sync(incarnation)
        table.seal = table.right_seal();
      });
  if (!made) return std::unexpected(made.error());
  return open(h, name);
}

result<ring> ring::open(heap& h, std::string_view name) {
  detail::local_heap& heap = *h.internal();
  ANNEX_TRY(detail::check_zone_name(name));
  if (heap.here.is_read_only())
    return refuse(errc::read_only, "\"{}\" is attached read-only; a ring needs a writable attach",
                  heap.here.name);
  if (!heap.membership.ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  const bool has_living_others = heap.membership.has_living_others();
  detail::locked t(heap.here);
  auto record = heap.zones.find_record(name, zone_type::ring);
  if (!record) return std::unexpected(record.error());
  ring r;
  r.heap_ = &heap;
  auto* table = heap.here.seg.chunk<ring_table>((*record)->table);
  const u64 capacity = table->capacity;
  if (!is_power_of_two(capacity) || capacity > largest_capacity ||
      !heap.here.seg.has_chunk((*record)->table, ring_table_bytes(capacity))) {
    heap.here.seg.mark_damaged("the table of a ring can't be");
    return std::unexpected(heap.here.refuse_if_damaged().error());
  }
  r.table_ = table;
  r.capacity_ = capacity;
  r.incarnation_ = table->incarnation.load(std::memory_order_relaxed);
  r.had_others_ = table->opened.enter(heap.here.self.member) && has_living_others;
  r.changes_at_open_ = table->opened.changes.load(std::memory_order_relaxed);
  return r;
}

result<void> ring::release(heap& h, std::string_view name) {
  return h.internal()->zones.release_zone(name, zone_type::ring);
}

bool ring::is_open() const noexcept {
  if (table_ == nullptr) return false;
  if (!is_gone(table_of(table_), incarnation_)) return true;
  if (!heap_->membership.ensure_member()) return false;
  detail::locked t(heap_->here);  // whoever was releasing it may have died, and be undone
  return !is_gone(table_of(table_), incarnation_);
}

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

// ---- waiting ------------------------------------------------------------------------------------

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

std::uint64_t ring::capacity() const noexcept {
  return capacity_;
}

std::uint64_t ring::count() const noexcept {
  const ring_table& table = table_of(table_);
  // sync(incarnation): both are read before it is asked whose they are.
  const u64 head = table.head.load(std::memory_order_acquire),
            tail = table.tail.load(std::memory_order_acquire);
  return tail > head && !is_gone(table, incarnation_) ? tail - head : 0;
}

}  // namespace annex
