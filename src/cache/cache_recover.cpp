// cache/cache_recover.cpp - what a thread that is gone kept: its magazines go back to their slabs,
// its slabs to their regions or to the orphans, large blocks to their regions.
//
// Blocks that the program freed twice are found here as well: heap/free.cpp has the table of who is
// told. What a death left in two places is marked where it lies (moving), and is no mistake.
#include "cache/cache_rules.hpp"
#include "cache/kept_extents.hpp"
#include "cache/orphans.hpp"

namespace annex::detail {
namespace {

constexpr u32 slabs_per_holding = 256;  // of the lock, while others wait for it

// The slabs of a thread that is gone, to their regions or the orphans. Others get the lock in
// between: then it starts again from what is left. False: somebody else has finished it.
bool orphan_slabs_of_gone(tenure& t, thread_slot& slot, thread_cache& c) noexcept {
  const u64 state = slot.state.load(std::memory_order_relaxed);
  u32 done = 0;
  for (u32 lane = 0; lane < limits::lanes; ++lane) {
    if ((c.used_lanes[lane / 64] >> (lane % 64) & 1) == 0) continue;
    list_walk walk(t.seg());
    while (c.lanes[lane] != 0 && walk.goes_on()) {
      auto* slab = t.seg().chunk<slab_record>(c.lanes[lane]);
      collect(t.seg(), slab, &t.found().anybodys);
      recount(t.seg(), slab);
      slab->in_partial = 0;
      if (slab->free_count == slab->capacity) {
        drop_empty_holdings(t, slab);
        release_slab(t, t.views().at(slab->region), slab, &c.lanes[lane]);
      } else {
        orphan_slab(t, slab, &c.lanes[lane]);
      }
      t.commit();
      if (++done % slabs_per_holding != 0 || !t.let_others_in()) continue;
      if (t.stole()) repair_frozen(t);
      // Relaxed: whoever finished it had the lock, which is ours again.
      if (slot.state.load(std::memory_order_relaxed) != state) return false;
    }
  }
  return true;
}

}  // namespace

bool recover_cache(tenure& t, const gone_thread& gone) noexcept {
  thread_slot& slot = t.seg().slot(gone.index);
  if (slot.cache == 0 || t.seg().chunk<thread_cache>(slot.cache)->slot != gone.index) return true;
  auto& c = *t.seg().chunk<thread_cache>(slot.cache);
  const bool counted = c.key != 0;
  c.key = 0;  // its indexes are nobody's any more
  c.frozen.store(frozen_no, std::memory_order_relaxed);
  c.busy.store(0, std::memory_order_relaxed);
  for (u32 i = 1; i < class_count; ++i)
    give_back_magazine(t.seg(), t.views(), c, i, gone.doubles);
  give_back_kept(t, c, any_slot);
  member_record& m = t.seg().member(gone.member);
  if (counted && m.threads > 0) t.put(m.threads, m.threads - 1);
  return orphan_slabs_of_gone(t, slot, c);
}

}  // namespace annex::detail
