// cache/still.cpp - see still.hpp; the protocol is in thread_cache.hpp (rule C1).
#include "cache/still.hpp"

#include "base/race_checker.hpp"
#include "platform/processes.hpp"
#include "platform/waiting.hpp"

namespace annex {

namespace {

// With a thread that is in the middle of an operation: it may be stopped.
constexpr u64 patience_ns = 20'000'000;
constexpr int spins_before_look = 1000;  // then it may be dead

}  // namespace

thread_cache* frozen_caches::started(u32 slot) const noexcept {
  const thread_slot& of = segment_->slot(slot);
  // sync(slot): what whoever had it before left is seen.
  const u32 member = member_of_state(of.state.load(std::memory_order_acquire));
  if (member == 0 || (only_member_ != 0 && member != only_member_) || of.cache == 0) return nullptr;
  auto* const cache = segment_->chunk<thread_cache>(of.cache);
  return cache->key != 0 ? cache : nullptr;  // 0: not started, or being recovered
}

thread_cache* frozen_caches::of(u32 slot) const noexcept {
  if (slot >= slots_) return nullptr;
  thread_cache* const cache = started(slot);
  if (cache == nullptr || cache->slot != slot) return nullptr;
  return slot == holder_ || frozen_of(*cache) == frozen_held ? cache : nullptr;
}

void frozen_caches::thaw() noexcept {
  for (thread_cache* cache : *this)
    set_frozen(*cache, frozen_no);
  slots_ = 0;
}

namespace {

enum class stillness { held, moves, dead };

// A thread that has been asked to keep out of its cache, and may be in it.
stillness wait_for(const transaction& t, const thread_cache& cache, u64 until_ns) noexcept {
  for (int spins = 0; cache.busy.load(std::memory_order_acquire) != 0; ++spins) {  // sync(busy)
    if (spins < spins_before_look) continue;
    if (is_member_gone(t.seg(), cache.member, t.member())) return stillness::dead;
    if (os::now_ns() > until_ns) return stillness::moves;
    os::yield();
  }
  return stillness::held;
}

}  // namespace

frozen_caches freeze_all(transaction& t, u32 only_member) noexcept {
  frozen_caches frozen(t, only_member);
  segment_header& h = t.seg().header();
  bool has_barrier = h.no_barrier.load(std::memory_order_relaxed) == 0;
  u32 asked = 0;
  for (u32 slot = 0; slot < frozen.slots_; ++slot) {
    thread_cache* const cache = frozen.started(slot);
    if (cache == nullptr || slot == t.slot()) continue;
    if (cache->slot != slot || !has_barrier) {
      ++frozen.not_still;
      continue;
    }
    set_frozen(*cache, frozen_asked);
    ++asked;
  }
  if (asked == 0) return frozen;
  // Taken away since it was prepared: nobody can be held still any more.
  if (!os::process_barrier()) {
    has_barrier = false;
    h.no_barrier.store(1, std::memory_order_relaxed);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const u64 until_ns = os::now_ns() + patience_ns;
  for (u32 slot = 0; slot < frozen.slots_; ++slot) {
    thread_cache* const cache = frozen.started(slot);
    if (cache == nullptr || slot == t.slot() || frozen_of(*cache) != frozen_asked) continue;
    const stillness found = has_barrier ? wait_for(t, *cache, until_ns) : stillness::moves;
    frozen.somebody_died |= found == stillness::dead;
    frozen.not_still += found != stillness::held;
    set_frozen(*cache, found == stillness::held ? frozen_held : frozen_no);
    compiler_fence();  // whoever takes over from us must know before we touch anything
  }
  race_checker::all_taken_over();  // their last hits came before
  return frozen;
}

void make_all_look(const segment& s) noexcept {
  for (u32 i = 0; i < s.slots_used(); ++i) {
    const thread_slot& slot = s.slot(i);
    // sync(slot): as in freeze_all().
    if (member_of_state(slot.state.load(std::memory_order_acquire)) == 0 || slot.cache == 0)
      continue;
    auto* c = s.chunk<thread_cache>(slot.cache);
    // sync(frozen).
    c->frozen.store(c->frozen.load(std::memory_order_relaxed) | frozen_look,
                    std::memory_order_release);
  }
}

void take_back(tenure& t, thread_cache& c) noexcept {
  if (frozen_of(c) == frozen_held && !t.seg().is_damaged()) repair_cache(t, c);
  set_frozen(c, frozen_no);
}

// The freezer died: whatever it did in a cache's name is completed by giving everything back. Slabs
// without owner are counted anew.
void repair_frozen(tenure& t) noexcept {
  for (u32 i = 0; i < t.seg().slots_used(); ++i) {
    const thread_slot& slot = t.seg().slot(i);
    // sync(slot): as in freeze_all().
    if (member_of_state(slot.state.load(std::memory_order_acquire)) == 0 || slot.cache == 0)
      continue;
    take_back(t, *t.seg().chunk<thread_cache>(slot.cache));
  }
  for (const chunk_ref head :
       t.seg().header().orphans)  // it may have been in the middle of one of these
    for (auto [ref, walk] = std::pair{head, list_walk(t.seg())}; ref != 0 && walk.goes_on();
         ref = t.seg().chunk<slab_record>(ref)->lane_next)
      recount(t.seg(), t.seg().chunk<slab_record>(ref));
  t.commit();
}

// From the truth (lanes, bitmaps, magazines) to the indexes (counts, partial lists), and every
// magazine emptied.
void repair_cache(tenure& t, thread_cache& c) noexcept {
  for (u32 i = 1; i < class_count; ++i)
    c.magazines[i].partial = c.magazines[i].empties = 0;
  for_each_lane(c, [&](chunk_ref lane) {
    list_walk walk(t.seg());
    for (chunk_ref ref = lane; ref != 0 && walk.goes_on();) {
      auto* slab = t.seg().chunk<slab_record>(ref);
      ref = slab->lane_next;
      slab->in_partial = 0;
      recount(t.seg(), slab);
      if (slab->free_count == 0) continue;
      add_partial(t.seg(), c, slab);
      if (slab->free_count == slab->capacity) ++c.magazines[slab->size_class].empties;
    }
  });
  for (u32 i = 1; i < class_count; ++i)
    flush(t.seg(), t.views(), c, i, 0, t.doubles_of(c.member));
}

}  // namespace annex
