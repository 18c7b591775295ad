// cache/cache_rules.hpp - the rules of threads and of what they keep.
//
// Invariants (audit):
//   M1, M3  thread slots (shared/member_rules.hpp)
//   C1      a still thread's magazines hold free blocks of its own slabs, each once
//   C2      a large block that is kept is in the list of the thread that keeps it
//   S2, S4  of slabs, as far as threads keep them: lanes, partial lists (slab/slab_record.hpp)
//
// Count and entries of a magazine are written by the hits, which can't afford a witness: a repair
// believes them only where the audit found nothing broken. Lanes and lists are an index.
#pragma once
#include <vector>
#include "base/function_ref.hpp"
#include "region/departure.hpp"

#include "cache/thread_cache.hpp"
#include "slab/slab_rules.hpp"

namespace annex::detail {

/// Where a magazine's entry leads. slab null: nowhere.
struct cached_block {
  slab_record* slab;
  u32 index;
};
cached_block find_cached_block(const segment& s, u64 entry, u32 size_class,
                               function_ref<bool(chunk_ref)> is_slab) noexcept;

/// What the cache of a thread slot says of whoever worked with it last: nothing, or that it was in
/// the middle of a slow path, or that it was not.
enum class owner_state : u8 { unknown, busy, at_rest };
owner_state state_of_owner(const segment& s, u32 slot) noexcept;

/// Without a lock, as of now: how many blocks of a class a cache keeps.
inline u32 kept_in(const thread_cache& c, u32 size_class) noexcept {
  return std::min(c.magazines[size_class].count.load(std::memory_order_relaxed), magazine_slots);
}
/// Of every thread, without a lock: visit(member, cache).
void for_each_cache(const segment& s, auto&& visit) {
  for (u32 i = 0; i < s.slots_used(); ++i) {
    const thread_slot& slot = s.slot(i);
    const u32 member = member_of_state(slot.state.load(std::memory_order_relaxed));
    if (member == 0 || slot.cache == 0) continue;
    const auto* c = s.chunk<thread_cache>(slot.cache);
    if (c->slot == i && c->key != 0) visit(member, *c);
  }
}

/// M1 and M3 of thread slots; C1, S2 and S4 of their caches.
void check_caches(inspection& in);

/// Before anything is changed: which owners of slabs were busy.
void find_caches(rebuilding& rb);
/// All threads are dead: their caches are empty, and their slabs are linked anew.
void rebuild_caches(rebuilding& rb);

/// The cache of a thread that is gone. Lets others have the lock in between; false: somebody else
/// has finished it.
bool recover_cache(tenure& t, const gone_thread& gone) noexcept;

/// Blocks of slabs that a dead member holds: in caches that can be held still, and in orphans.
void reclaim_slab_blocks(reclaiming& r) noexcept;

/// Threads, and what they keep: it is neither live nor used.
void count_caches(counting& c);

}  // namespace annex::detail
