// care/recovery.cpp - see recovery.hpp.
//
// What each structure takes back stands beside it (…_recover.cpp); care/structures.cpp has the
// list.
#include "care/recovery.hpp"

#include <ranges>

#include "care/reclaim.hpp"
#include "care/structures.hpp"
#include "platform/report.hpp"
#include "shared/member_rules.hpp"
#include "shared/members.hpp"

namespace annex {

// The dead recovered and the living held still. Whoever dies in between, in the middle of an
// operation, is recovered too.
frozen_caches recover_and_freeze(tenure& t) noexcept {
  for (int tries = 0;; ++tries) {
    recover_dead(t);
    frozen_caches frozen = freeze_all(t);
    if (!frozen.somebody_died || tries == 3) return frozen;
    frozen.thaw();
  }
}

void recover_thread(tenure& t, u32 index, bool dead) noexcept {
  thread_slot& slot = t.seg().slot(index);
  // sync(slot): the record of the member that it names is seen.
  const u64 state = slot.state.load(std::memory_order_acquire);
  const u32 member = member_of_state(state);
  if (member == 0) return;
  const gone_thread gone{index, member, state, t.doubles_of(member)};
  for (const detail::structure& s : detail::structures() | std::views::reverse)
    if (s.recover_thread != nullptr && !s.recover_thread(t, gone)) return;
  for (auto& hint : slot.hints)
    hint.store(0, std::memory_order_relaxed);
  if (dead) t.seg().header().recovered_threads.fetch_add(1, std::memory_order_relaxed);
  t.commit();
  // sync(slot): the next owner sees all of it.
  slot.state.store(state >> 16 << 16, std::memory_order_release);
  note_free_slot(t.seg(), index);
}

void recover_member(tenure& t, u32 id, bool release_record) noexcept {
  for (const detail::structure& s : detail::structures())
    if (s.recover_member != nullptr) s.recover_member(t, id);
  detail::mark_member_dead(t, id);
  if (release_record) release_member_if_done(t, id);
  t.commit();
}

// The record says live or joining, and the kernel says gone.
bool is_claim_of_the_dead(const segment& s, u32 id, u32 self) noexcept {
  // sync(member): what the record says is seen.
  return is_claimed(s.member(id).state.load(std::memory_order_acquire)) &&
         is_member_gone(s, id, self);
}

void recover_dead(tenure& t) noexcept {
  bool any = false;
  for (u32 id = 1; id <= t.seg().members_used(); ++id) {
    if (!is_claim_of_the_dead(t.seg(), id, t.member())) continue;
    log(log_level::info, "member {} (process {}) of heap {} is dead: taking its caches back", id,
        t.seg().member(id).process_id, t.files().heap());
    for (u32 i = 0; i < t.seg().slots_used(); ++i)
      // Relaxed: recover_thread() acquires it.
      if (member_of_state(t.seg().slot(i).state.load(std::memory_order_relaxed)) == id)
        recover_thread(t, i, true);
    // Others were let in: one of them may have finished this, and the record be somebody else's.
    if (!is_claim_of_the_dead(t.seg(), id, t.member())) continue;
    recover_member(t, id, true);
    any = true;
    if ((t.seg().header().options & option_reclaim_dead) != 0 &&
        t.seg().member(id).state.load(std::memory_order_relaxed) == member_dead)
      free_held_by(t, id, nullptr, nullptr);
  }
  // Members that died while they closed: the record is dead already, the last slot is not free yet.
  for (u32 i = 0; i < t.seg().slots_used(); ++i) {
    // sync(slot): the record of the member that it names is seen.
    const u32 id = member_of_state(t.seg().slot(i).state.load(std::memory_order_acquire));
    // sync(member): what the record says is seen.
    if (id == 0 || id == t.member() || id > t.seg().member_limit() ||
        is_claimed(t.seg().member(id).state.load(std::memory_order_acquire)))
      continue;
    if (!is_member_alive(t.seg(), id)) recover_thread(t, i, true);
  }
  for (u32 id = 1; id <= t.seg().members_used(); ++id)
    // sync(member): what the record says is seen.
    if (t.seg().member(id).state.load(std::memory_order_acquire) == member_dead &&
        !is_member_alive(t.seg(), id))
      release_member_if_done(t, id);
  t.commit();
  if (any) release_empty_orphans(t);
}

}  // namespace annex
