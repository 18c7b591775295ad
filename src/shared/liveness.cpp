// shared/liveness.cpp - see liveness.hpp.
#include "shared/liveness.hpp"

#include "platform/os.hpp"

namespace annex {

u32 claim_member(const segment& s) noexcept {
  segment_header& h = s.header();
  for (u32 id = 1; id <= h.member_limit; ++id) {
    member_record& m = s.member(id);
    if (id > h.member_records_used.load(std::memory_order_relaxed) && !back_pages(s, s.offset_of(&m), sizeof m)) return 0;
    if (m.state.load(std::memory_order_acquire) != member_free) continue;
    if (os::lock_byte(s.fd(), member_lock_position + id) != 0) continue;
    if (m.state.load(std::memory_order_acquire) != member_free) {  // claimed, and died, in between: for recovery
      os::unlock_byte(s.fd(), member_lock_position + id);
      continue;
    }
    m.process_id = os::process_id();
    m.start_time = os::start_time(m.process_id);
    const std::string program = os::program_name();
    const size_t n = program.copy(m.program, sizeof m.program - 1);
    m.program[n] = '\0';
    m.extents_held = m.holdings = m.slabs_orphaned = m.threads = 0;
    u32 used = h.member_records_used.load(std::memory_order_relaxed);
    while (used < id && !h.member_records_used.compare_exchange(used, id, std::memory_order_relaxed)) {}
    m.state.store(member_live, std::memory_order_release);  // commit
    return id;
  }
  return 0;
}

bool is_member_gone(const segment& s, u32 member, u32 self) noexcept {
  if (member == 0 || member > s.header().member_limit || member == self) return member != self;
  const u32 state = s.member(member).state.load(std::memory_order_acquire);
  if (state != member_live) return true;
  return !os::is_byte_locked(s.fd(), member_lock_position + member);
}

u16 claim_thread_slot(const segment& s, u32 member) noexcept {
  segment_header& h = s.header();
  for (u32 i = 0; i < h.thread_limit; ++i) {
    thread_slot& slot = s.slot(i);
    if (i >= h.thread_slots_used.load(std::memory_order_relaxed) && !back_pages(s, s.offset_of(&slot), sizeof slot)) return no_owner;
    u64 state = slot.state.load(std::memory_order_relaxed);
    if (member_of_state(state) != 0) continue;
    // The generation in the upper bits outlives the owner, so that a stale name of the slot is not taken for the new one.
    const u64 mine = ((state >> 16) + 1) << 16 | member;
    u32 used = h.thread_slots_used.load(std::memory_order_relaxed);
    while (used < i + 1 && !h.thread_slots_used.compare_exchange(used, i + 1, std::memory_order_relaxed)) {}
    // sync(slot): acquire: what the last owner's recovery left is seen
    if (!slot.state.compare_exchange(state, mine, std::memory_order_acq_rel)) continue;
    slot.thread_id = os::thread_id();
    return static_cast<u16>(i);
  }
  return no_owner;
}

}  // namespace annex
