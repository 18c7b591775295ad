// shared/liveness.cpp - see liveness.hpp.
#include "shared/liveness.hpp"

#include <cerrno>

#include "platform/byte_locks.hpp"
#include "platform/processes.hpp"

namespace annex {
namespace {

bool back_member(const segment& s, u32 id) noexcept {
  return id <= s.members_used() || back_pages(s, s.offset_of(&s.member(id)), sizeof(member_record));
}

void write_record(member_record& m) noexcept {
  m.process_id = os::process_id();
  m.start_time = os::start_time(m.process_id);
  const std::string program = os::program_name();
  const size_t n = program.copy(m.program, sizeof m.program - 1);
  m.program[n] = '\0';
  m.extents_held = m.holdings = m.slabs_orphaned = m.threads = m.pool_objects_held = 0;
}

void raise(shared_word<u32>& most, u32 to) noexcept {
  u32 seen = most.load(std::memory_order_relaxed);
  while (seen < to && !most.compare_exchange(seen, to, std::memory_order_relaxed)) {}
}

// EAGAIN: somebody has the record, or is about to.
int try_to_claim(const segment& s, u32 id, void** life) noexcept {
  member_record& m = s.member(id);
  if (!back_member(s, id)) return ENOSPC;
  if (m.state.load(std::memory_order_relaxed) != member_free) return EAGAIN;  // again below
  *life = nullptr;
  if (s.has_life_file()) {
    const os::life_lock held = os::hold_byte(s.life_fd(), life_position_of(id));
    if (held.pin == nullptr) return held.error;
    *life = held.pin;
  }
  // Claimed, and died, in between: for recovery.
  // sync(member): whoever freed the record is done with it.
  if (m.state.load(std::memory_order_acquire) != member_free) {
    os::let_go_of_byte(*life);
    return EAGAIN;
  }
  write_record(m);
  raise(s.header().member_records_used, id);
  // sync(member): whoever sees it claimed sees what it says.
  m.state.store(member_joining, std::memory_order_release);  // commit
  return 0;
}

// The first free record of [first, end). Without a member and an error: none is free.
member_claim claim_among(const segment& s, u32 first, u32 end) noexcept {
  member_claim claim;
  for (u32 id = first; id < end; ++id) {
    const int why = try_to_claim(s, id, &claim.life);
    if (why == EAGAIN) continue;
    if (why == 0)
      claim.member = id;
    else
      claim.error = why;
    break;
  }
  return claim;
}

bool is_any_dead(const segment& s) noexcept {
  for (u32 id = 1; id <= s.member_limit(); ++id) {
    // sync(member): what the record says is seen.
    const u32 state = s.member(id).state.load(std::memory_order_acquire);
    if (state == member_dead || (is_claimed(state) && !is_member_alive(s, id))) return true;
  }
  return false;
}

bool claim_slot(const segment& s, u32 index, u32 member) noexcept {
  segment_header& h = s.header();
  thread_slot& slot = s.slot(index);
  if (index >= s.slots_used() && !back_pages(s, s.offset_of(&slot), sizeof slot)) return false;
  u64 state = slot.state.load(std::memory_order_relaxed);
  if (member_of_state(state) != 0) return false;
  // The generation in the upper bits outlives the owner, so that a stale name of the slot is not
  // taken for the new one.
  const u64 mine = ((state >> 16) + 1) << 16 | member;
  raise(h.thread_slots_used, index + 1);
  // sync(slot): acquire: what the last owner's recovery left is seen; release: whoever sees the
  // slot claimed sees the record of the member that it names.
  if (!slot.state.compare_exchange(state, mine, std::memory_order_acq_rel)) return false;
  slot.thread_id = os::thread_id();
  return true;
}

// The first free slot of [first, end), but for those that are kept, is claimed; no_owner: there is
// none, or no room for one.
u16 claim_slot_among(const segment& s, u32 member, u32 first, u64 end, u32 hint) noexcept {
  for (u32 i = first; i < end && i + kept_for_mending < s.thread_limit(); ++i)
    if (claim_slot(s, i, member)) {
      // Unless a lower one was freed meanwhile.
      s.header().free_thread_slot.compare_exchange(hint, i + 1, std::memory_order_relaxed);
      return static_cast<u16>(i);
    }
  return no_owner;
}

}  // namespace

member_claim claim_record(const segment& s, bool may_mend) noexcept {
  member_claim claim = claim_among(s, 1, first_record_kept(s));
  if (claim.member == 0 && claim.error == 0 && may_mend && is_any_dead(s))
    claim = claim_among(s, first_record_kept(s), s.member_limit() + 1);
  return claim;
}

// The lowest free one, so that few are ever used. The hint is lowered by whoever frees a slot. A
// race of the two can leave it too high: a slot is missed then until the next search from the
// beginning, once for so many new slots, or before a refusal.
u16 claim_thread_slot(const segment& s, u32 member) noexcept {
  if (is_record_of_mender(s, member)) {
    for (u32 i = s.thread_limit() - kept_for_mending; i < s.thread_limit(); ++i)
      if (claim_slot(s, i, member)) return static_cast<u16>(i);
    return no_owner;
  }
  constexpr u32 new_slots_per_search = 64;
  const u32 used = s.slots_used(),
            hint = s.header().free_thread_slot.load(std::memory_order_relaxed);
  u16 claimed = no_owner;
  if (hint <= used)
    claimed = claim_slot_among(s, member, hint, align_up(used, new_slots_per_search), hint);
  return claimed != no_owner ? claimed : claim_slot_among(s, member, 0, s.thread_limit(), hint);
}

void note_free_slot(const segment& s, u32 index) noexcept {
  shared_word<u32>& hint = s.header().free_thread_slot;
  for (u32 seen = hint.load(std::memory_order_relaxed);
       index < seen && !hint.compare_exchange(seen, index, std::memory_order_relaxed);) {}
}

member_claim claim_membership(const segment& s, bool may_mend) noexcept {
  member_claim claim = claim_record(s, may_mend);
  if (claim.member == 0) return claim;
  claim.slot = claim_thread_slot(s, claim.member);
  if (claim.slot != no_owner) return claim;
  give_up_membership(s, claim);
  claim = {};
  // The slots may be dead threads': the one who mends has a slot of its own.
  if (!may_mend || !is_any_dead(s)) return claim;
  claim = claim_among(s, first_record_kept(s), s.member_limit() + 1);
  if (claim.member == 0) return claim;
  claim.slot = claim_thread_slot(s, claim.member);
  if (claim.slot != no_owner) return claim;
  give_up_membership(s, claim);
  return {};
}

void give_up_membership(const segment& s, const member_claim& claim) noexcept {
  if (claim.member == 0) return;
  if (claim.slot != no_owner) {
    shared_word<u64>& slot = s.slot(claim.slot).state;
    u64 mine = slot.load(std::memory_order_relaxed);
    if (member_of_state(mine) == claim.member)
      // sync(slot): we are done with it.
      slot.compare_exchange(mine, mine >> 16 << 16, std::memory_order_release);
    note_free_slot(s, claim.slot);
  }
  // Unless it was taken back: whoever freed the record died before that was sure.
  if (auto& state = s.member(claim.member).state; is_claimed(state.load(std::memory_order_relaxed)))
    // sync(member): we are done with the record.
    state.store(member_free, std::memory_order_release);
  os::let_go_of_byte(claim.life);
}

bool is_member_alive(const segment& s, u32 member) noexcept {
  // The program may close our descriptor and open something else under its number: a death must
  // have been asked of our file.
  if (const int fd = s.life_fd(); fd >= 0)
    return os::is_byte_locked(fd, life_position_of(member)) || s.life_fd() != fd;
  // Not to be asked now: nobody's caches are taken on a guess.
  if (s.writable() && s.has_life_file()) return true;
  const member_record& m = s.member(member);
  const u64 started = os::start_time(m.process_id);
  return started == 0 || started == m.start_time;
}

bool is_member_gone(const segment& s, u32 member, u32 self) noexcept {
  if (member == self && member != 0) return false;
  if (member == 0 || member > s.member_limit()) return true;
  // sync(member): what the record says is seen.
  return !is_claimed(s.member(member).state.load(std::memory_order_acquire)) ||
         !is_member_alive(s, member);
}

bool is_vouched_for(const segment& s, u32 self) noexcept {
  for (u32 id = 1; id <= s.members_used(); ++id)
    // sync(member): what it repaired before it vouched is seen.
    if (id != self && s.member(id).state.load(std::memory_order_acquire) == member_live &&
        is_member_alive(s, id))
      return true;
  return false;
}

}  // namespace annex
