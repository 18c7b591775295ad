// views/ring.cpp - see annex/ring.hpp; the protocol is in heap/ring_table.hpp.
#include <annex/ring.hpp>

#include "heap/local_heap.hpp"
#include "heap/ring_table.hpp"

namespace annex {
namespace {

constexpr u32 position_shift = 17, taker_shift = 1;
constexpr u64 is_full = 1;
constexpr u64 largest_capacity = 1u << 24;

ring_table& table_of(void* table) noexcept { return *static_cast<ring_table*>(table); }

// Both words at once. The failed compare reads nothing back: the caller looks again.
bool change(ring_slot& slot, ring_slot expected, ring_slot desired) noexcept {
  return __sync_bool_compare_and_swap(reinterpret_cast<unsigned __int128*>(&slot), std::bit_cast<unsigned __int128>(expected), std::bit_cast<unsigned __int128>(desired));
}

ring_slot look(const ring_slot& slot) noexcept {
  ring_slot seen;
  seen.state = __atomic_load_n(&slot.state, __ATOMIC_ACQUIRE);  // sync(slot): the value belongs to this state, or change() fails
  seen.value = __atomic_load_n(&slot.value, __ATOMIC_ACQUIRE);
  return seen;
}

// Every slot before position is past what the counter counts.
void catch_up(shared_word<u64>& counter, u64 position) noexcept {
  for (u64 seen = counter.load(std::memory_order_acquire); seen < position && !counter.compare_exchange(seen, position, std::memory_order_acq_rel);) seen = counter.load(std::memory_order_acquire);
}

}  // namespace

result<ring> ring::create(heap& h, std::string_view name, std::uint64_t capacity) {
  if (!is_power_of_two(capacity) || capacity < 2 || capacity > largest_capacity)
    return refuse(errc::invalid_argument, "a ring of {}: use a power of two from 2 to {}", capacity, largest_capacity);
  auto made = h.internal()->reserve_zone(name, {}, {zone_type::ring, ring_table_bytes(capacity)}, nullptr, [&](transaction&, zone_record&, void* chunk) {
    auto* table = static_cast<ring_table*>(chunk);
    table->capacity = capacity;
    for (u64 i = 0; i < capacity; ++i) table->slots()[i].state = i << position_shift;
  });
  if (!made) return std::unexpected(made.error());
  return open(h, name);
}

result<ring> ring::open(heap& h, std::string_view name) {
  detail::local_heap& heap = *h.internal();
  ANNEX_TRY(detail::check_zone_name(name));
  if (heap.is_read_only()) return refuse(errc::read_only, "\"{}\" is attached read-only; a ring needs a writable attach", heap.name());
  detail::local_heap::locked t(heap);
  auto record = heap.find_zone_record(name, zone_type::ring);
  if (!record) return std::unexpected(record.error());
  ring r;
  r.heap_ = &heap;
  r.table_ = heap.seg().chunk<ring_table>((*record)->table);
  return r;
}

result<void> ring::release(heap& h, std::string_view name) { return h.internal()->release_zone(name, zone_type::ring); }

// One change() per value is the commit; the counter follows once, since it is only where others begin to look.
std::size_t ring::put(std::span<const handle> values) noexcept {
  ring_table& table = table_of(table_);
  ring_slot* const slots = table.slots();
  u64 position = table.tail.load(std::memory_order_acquire);
  std::size_t n = 0;
  while (n < values.size()) {
    ring_slot& slot = slots[position & (table.capacity - 1)];
    const ring_slot seen = look(slot);
    const u64 at = seen.state >> position_shift;
    if (at == position && (seen.state & is_full) == 0) {
      if (!change(slot, seen, {position << position_shift | is_full, static_cast<u64>(values[n])})) continue;  // commit, or somebody was faster
      ++n;
      ++position;
    } else if (at >= position) {
      ++position;  // put, perhaps taken: whoever did it died before the counter followed, or has not come to it yet
    } else {       // still full of the last round
      catch_up(table.tail, position);
      const u64 now = table.tail.load(std::memory_order_acquire);
      if (now == position) return n;
      position = now;
    }
  }
  catch_up(table.tail, position);
  return n;
}

bool ring::put(handle value) noexcept { return put(std::span<const handle>(&value, 1)) == 1; }

std::uint64_t ring::take_remembered() noexcept {
  ring_table& table = table_of(table_);
  ring_slot* const slots = table.slots();
  ring_taker& mine = table.takers[taker_ - 1];
  for (;;) {
    const u64 position = table.head.load(std::memory_order_acquire);
    ring_slot& slot = slots[position & (table.capacity - 1)];
    const ring_slot seen = look(slot);
    const u64 at = seen.state >> position_shift;
    if (at == position) {
      if ((seen.state & is_full) == 0) return 0;  // nothing was put here yet: empty
      // Before the commit, so that after our death the slot can say whether it happened.
      const u32 n = mine.confirmed.load(std::memory_order_relaxed);
      mine.items[n] = {position, seen.value};
      compiler_fence();
      mine.count.store(n + 1, std::memory_order_relaxed);
      compiler_fence();
      if (!change(slot, seen, {(position + table.capacity) << position_shift | u64{taker_} << taker_shift, seen.value})) continue;  // commit
      compiler_fence();
      mine.confirmed.store(n + 1, std::memory_order_relaxed);
      catch_up(table.head, position + 1);
      return seen.value;
    }
    catch_up(table.head, position + 1);
  }
}

std::size_t ring::take(std::span<handle> values) noexcept {
  ring_table& table = table_of(table_);
  ring_slot* const slots = table.slots();
  u64 position = table.head.load(std::memory_order_acquire);
  std::size_t n = 0;
  while (n < values.size()) {
    ring_slot& slot = slots[position & (table.capacity - 1)];
    const ring_slot seen = look(slot);
    const u64 at = seen.state >> position_shift;
    if (at == position) {
      if ((seen.state & is_full) == 0) break;  // nothing was put here yet: empty
      if (!change(slot, seen, {(position + table.capacity) << position_shift, seen.value})) continue;  // commit
      values[n++] = handle{seen.value};
      ++position;
    } else if (at > position) {
      ++position;  // taken, and the counter has not followed
    } else {
      catch_up(table.head, position);
      position = table.head.load(std::memory_order_acquire);
    }
  }
  catch_up(table.head, position);
  return n;
}

handle ring::take() noexcept {
  handle value{};
  return take(std::span<handle>(&value, 1)) == 1 ? value : null_handle;
}

bool ring::claim_taker() noexcept {
  if (taker_ != 0) return true;
  ring_table& table = table_of(table_);
  for (u32 i = 0; i < ring_takers; ++i) {
    u32 nobody = 0;
    if (!table.takers[i].member.compare_exchange(nobody, heap_->self(), std::memory_order_acq_rel)) continue;
    table.takers[i].count.store(0, std::memory_order_relaxed);
    table.takers[i].confirmed.store(0, std::memory_order_relaxed);
    taker_ = i + 1;
    return true;
  }
  return false;
}

std::size_t ring::take_in_hand(std::span<handle> values) noexcept {
  if (!claim_taker()) return 0;
  const ring_taker& mine = table_of(table_).takers[taker_ - 1];
  std::size_t n = 0;
  for (; n < values.size() && mine.confirmed.load(std::memory_order_relaxed) < in_hand_limit; ++n)
    if ((values[n] = handle{take_remembered()}) == null_handle) break;
  return n;
}

void ring::settle() noexcept {
  if (taker_ == 0) return;
  ring_taker& mine = table_of(table_).takers[taker_ - 1];
  mine.count.store(0, std::memory_order_relaxed);  // commit: count decides, confirmed only settles doubt about the last
  compiler_fence();
  mine.confirmed.store(0, std::memory_order_relaxed);
}

std::size_t ring::recover_in_hand(std::span<handle> values) noexcept {
  if (!claim_taker()) return 0;
  heap_->recover();
  ring_table& table = table_of(table_);
  ring_taker& mine = table.takers[taker_ - 1];
  detail::local_heap::locked t(*heap_);
  std::size_t n = 0;
  for (u32 i = 0; i < ring_takers; ++i) {
    ring_taker& other = table.takers[i];
    const u32 member = other.member.load(std::memory_order_acquire);
    if (member == 0 || i + 1 == taker_) continue;
    const member_record& who = heap_->seg().member(member);
    if (who.state.load(std::memory_order_acquire) == member_live && !is_member_gone(heap_->seg(), member, heap_->self())) continue;
    const u32 count = other.count.load(std::memory_order_relaxed), sure = other.confirmed.load(std::memory_order_relaxed);
    if (n + count > values.size() || mine.confirmed.load(std::memory_order_relaxed) + count > in_hand_limit) break;
    // One transaction moves all of it: no item is lost or given out twice if we die here.
    u32 mine_count = mine.confirmed.load(std::memory_order_relaxed);
    for (u32 item = 0; item < count && item < in_hand_limit; ++item) {
      const in_hand_item& it = other.items[item];
      if (item >= sure) {  // only the slot knows whether the last one was taken
        const ring_slot seen = look(table.slots()[it.position & (table.capacity - 1)]);
        if (seen.state != ((it.position + table.capacity) << position_shift | u64{i + 1} << taker_shift)) continue;
      }
      t->put(mine.items[mine_count].position, it.position);
      t->put(mine.items[mine_count].value, it.value);
      ++mine_count;
      values[n++] = handle{it.value};
    }
    t->put(mine.confirmed, mine_count);
    t->put(mine.count, mine_count);
    t->put(other.count, 0);
    t->put(other.confirmed, 0);
    t->put(other.member, 0);
    t->commit();
  }
  return n;
}

std::uint64_t ring::capacity() const noexcept { return table_of(table_).capacity; }

std::uint64_t ring::count() const noexcept {
  const ring_table& table = table_of(table_);
  const u64 head = table.head.load(std::memory_order_acquire), tail = table.tail.load(std::memory_order_acquire);
  return tail > head ? tail - head : 0;
}

}  // namespace annex
