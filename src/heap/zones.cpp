// heap/zones.cpp - blocks with a name: found, committed, waited for, released. reserving.cpp makes
// them.
//
//   bucket[hash(name)] → zone_record → zone_record
//       a reservation (extent, record, link, table) is one transaction: it has happened or it has
//       not, whoever dies
// Zones belong to the heap, not to a member: they outlive their maker. Pools and rings are zones
// with a table in the segment.
//
// A zone may be reserved so that it is found only when it has been filled (docs/design/0016):
//   reserve_zone(on_commit) ──▶ being filled ──commit_zone()──▶ committed      one transaction each
//                                    └── its maker dies: it stays so; whoever reserves the name
//                                        anew, or releases it, frees it
// So a process that dies between any two stores leaves a zone that nobody finds, or one that is
// full. Waiting (wait_zone):
//   waiter     signal = zones_signal; look; sleep while zones_signal == signal, for
//              waiter_looks_again_ns at most
//   committer  commit; ++zones_signal; wake. A look that missed the commit came before the
//              increment: no sleep is entered, or it is woken. A death between the two is made up
//              for by the next look
//
// A pool or ring may be released while others have it open (docs/design/0011). Each has a number no
// other of the heap ever had (incarnation), which everybody who has it open compares before it
// touches anything:
//   pool   in the zone record. Records of released pools become records of pools only. Its caches
//          and its table are freed at once: no thread is inside (they are held still), and each
//          takes a slow path, which compares, before its next hit
//   ring   in the table. Tables of released rings become tables of rings of that capacity only,
//          whose positions begin above all that were ever in them, so that a change begun before
//          finds no slot as it was
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "heap/zones.hpp"

#include "care/recovery.hpp"
#include "named/pool_caches.hpp"
#include "named/ring_table.hpp"
#include "platform/memory.hpp"
#include "platform/waiting.hpp"
#include "region/room.hpp"
#include "shared/names.hpp"
#include "shared/waiting.hpp"

namespace annex::detail {
namespace {

constexpr int reader_looks = 1000;  // at a record that others are changing

}  // namespace

result<zone> zones::find_zone(std::string_view name, zone_type type) {
  ANNEX_TRY(check_zone_name(name));
  u32 slot = no_region;
  for (int tries = 0; tries < 2; ++tries) {
    std::optional<locked> t;
    if (!is_read_only() && member_.ensure_member()) t.emplace(heap_);
    auto found = find_as_reader(name, type, &slot);
    if (!found || slot == no_region || found->address != nullptr || tries == 1) return found;
    t.reset();
    if (auto attached = memory_.ensure_attached(slot); !attached)
      return refuse(errc::cannot_attach, "zone \"{}\": {}", name, attached.error().message());
  }
  return refuse(errc::no_such_zone, "unreachable");
}

bool zones::is_maker_alive(const zone_record& z) const noexcept {
  return annex::is_maker_alive(segment_, z, self());
}

// With the lock nobody changes the record. Without it (read-only) a copy counts if its seal fits:
// it is of one moment.
result<zone> zones::find_as_reader(std::string_view name, zone_type type, u32* slot) noexcept {
  for (int looks = 0; looks < reader_looks; ++looks) {
    auto found = find_record(name, type);
    if (!found) return std::unexpected(found.error());
    zone_record z;
    // sync(committed): what the maker wrote is seen.
    const u32 state = (*found)->state.load(std::memory_order_acquire);
    std::memcpy(static_cast<void*>(&z), *found, sizeof z);
    const bool is_of_one_moment =
        z.seal == seal_of_zone(z) && z.state.value == state &&
        name == std::string_view(z.name, ::strnlen(z.name, sizeof z.name));
    if (is_read_only() && !is_of_one_moment) {
      os::yield();
      continue;
    }
    if (state != zone_committed)
      return refuse(errc::not_committed, "zone \"{}\" is not committed: process {} (member {}) {}",
                    name, z.maker_process, z.maker,
                    is_maker_alive(z)
                        ? "is filling it"
                        : "was filling it and is gone; reserve it anew, or release it");
    *slot = z.region_slot;
    return zone_of(segment_, views_, z);
  }
  return refuse(errc::no_such_zone,
                "the record of zone \"{}\" is being changed, or damaged; look again", name);
}

result<void> zones::commit_zone(std::string_view name, u64 generation) {
  ANNEX_TRY(check_zone_name(name));
  if (is_read_only())
    return refuse(errc::read_only,
                  "\"{}\" is attached read-only; attach it writable to commit zones", name_);
  if (!member_.ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(refuse_if_damaged());
  {
    locked t(heap_);
    auto found = find_record(name, zone_type::plain);
    if (!found) return std::unexpected(found.error());
    zone_record& z = **found;
    if (z.generation != generation)
      return refuse(
          errc::no_such_zone,
          "zone \"{}\" is of generation {} by now, not {}: the one to commit was released", name,
          z.generation, generation);
    if (z.state.load(std::memory_order_relaxed) == zone_committed) return {};
    const bool is_mine = z.maker == self() && is_maker_alive(z);
    if (!is_mine)
      return refuse(
          errc::heap_in_use, "process {} (member {}) {} zone \"{}\", and it alone may commit it",
          z.maker_process, z.maker, is_maker_alive(z) ? "is filling" : "was filling", name);
    // sync(committed): all that this thread wrote into it comes before.
    t->put(z.state, zone_committed);
    t->put(z.seal, seal_of_zone(z));
    t->commit();
    ANNEX_TRY(refuse_if_damaged());
  }
  tell_of_zone();
  return {};
}

// Something can be found that could not before.
void zones::tell_of_zone() noexcept {
  // sync(zones): after the commit.
  segment_.header().zones_signal.fetch_add(1, std::memory_order_release);
  os::wake_all(&segment_.header().zones_signal.value);
}

result<zone> zones::wait_zone(std::string_view name, std::chrono::nanoseconds deadline,
                              u64 after_generation) {
  const u64 begun_ns = os::now_ns(),
            longest_ns = deadline.count() > 0 ? static_cast<u64>(deadline.count()) : 0;
  for (;;) {
    // sync(zones): before the look.
    const u32 signal = segment_.header().zones_signal.load(std::memory_order_acquire);
    auto found = find_zone(name, zone_type::plain);
    if (found && found->generation > after_generation) return found;
    if (!found && found.error().code != errc::no_such_zone &&
        found.error().code != errc::not_committed)
      return found;
    ANNEX_TRY(refuse_if_damaged());
    // Relaxed: nothing is read because of it.
    if (segment_.header().state.load(std::memory_order_relaxed) != segment_ready)
      return refuse(errc::no_such_heap, "the heap \"{}\" has been destroyed", name_);
    const u64 waited_ns = os::now_ns() - begun_ns;
    if (waited_ns >= longest_ns && found)
      return refuse(errc::deadline_passed,
                    "zone \"{}\" is of generation {} still, and {} was to be passed", name,
                    found->generation, after_generation);
    if (waited_ns >= longest_ns)
      return refuse(errc::deadline_passed, "nothing to find in {} ms: {}", longest_ns / 1'000'000,
                    found.error().message());
    os::wait_on(&segment_.header().zones_signal.value, signal,
                std::min(longest_ns - waited_ns, waiter_looks_again_ns));
  }
}

result<void> zones::release_zone(std::string_view name, zone_type type) {
  ANNEX_TRY(check_zone_name(name));
  if (is_read_only())
    return refuse(errc::read_only,
                  "\"{}\" is attached read-only; attach it writable to release zones", name_);
  if (!member_.ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(refuse_if_damaged());
  locked t(heap_);
  struct still {  // until it has happened, or is refused
    frozen_caches caches;
    ~still() { caches.thaw(); }
  } frozen{type == zone_type::pool ? recover_and_freeze(*t) : frozen_caches{}};
  auto found = find_record(name, type);
  if (!found) return std::unexpected(found.error());
  zone_record* z = *found;
  if (z->state.load(std::memory_order_relaxed) != zone_committed && z->maker != self() &&
      is_maker_alive(*z))
    return refuse(errc::heap_in_use,
                  "process {} (member {}) is filling zone \"{}\"; it commits or releases it, or "
                  "end that process",
                  z->maker_process, z->maker, name);
  if (type == zone_type::pool) {
    const known_pool pool = find_pool_table(segment_, z->table, z->table_bytes);
    if (!pool) return refuse_if_damaged();
    flush_pool_caches(*t, pool, frozen.caches);
    if (const u32 member = busy_member_of(segment_, pool, frozen.caches, t->slot()); member != 0)
      return refuse(errc::heap_in_use,
                    "a thread of process {} (member {}) is in the middle of using pool \"{}\", and "
                    "may be stopped; continue or kill it",
                    segment_.member(member).process_id, member, name);
    if (const u32 out = pool.object_count - pool.table->in_bits.load(std::memory_order_relaxed);
        out != 0)
      return refuse(errc::blocks_live,
                    "{} of {} objects of pool \"{}\" are still out; give them back, or reap dead "
                    "members first",
                    out, pool.object_count, name);
    make_all_look(segment_);
    release_pool_caches(*t, *z);
  }
  if (type == zone_type::pool)
    // They wait for the lock, and see that it is gone.
    if (const known_pool pool = find_pool_table(segment_, z->table, z->table_bytes))
      wake_waiters(pool.table->object_signal);
  auto* const ring = type == zone_type::ring ? segment_.chunk<ring_table>(z->table) : nullptr;
  give_back_zone(*t, *z);
  t->commit();
  if (ring != nullptr) {
    wake_waiters(ring->handle_signal);
    wake_waiters(ring->room_signal);
  }
  return {};
}

}  // namespace annex::detail
