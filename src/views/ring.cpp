// views/ring.cpp - a ring's life, see annex/ring.hpp: made, opened, released; how many are in it.
// The protocol is in named/ring_table.hpp; ring_passing.cpp has what goes through it,
// ring_in_hand.cpp what is remembered on the way, ring_waiting.cpp those who wait.
//
// If the process dies here: a ring is there once the transaction that names its zone has committed,
// empty, and gone by the one that releases the zone (heap/zones.cpp).
#include <annex/ring.hpp>

#include <algorithm>

#include "heap/local_heap.hpp"
#include "shared/names.hpp"
#include "views/ring_slots.hpp"

namespace annex {
namespace {

constexpr u64 largest_capacity = 1u << 24;

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
