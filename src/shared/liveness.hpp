// shared/liveness.hpp - who is alive, by the word of the operating system.
//
// Beside the segment lies an empty file, .NAME.ID.alive. A member holds an exclusive lock on one
// byte of it, through an open file description that only a mapping of this process refers to
// (os::life_lock). The kernel drops the lock when the process is gone, whatever killed it, and only
// then: not when it forks and its child lives on, not when the program closes descriptors that are
// not its own. The byte can be asked about in 0.2 µs from any process, in any PID namespace;
// process ids may be reused. The file may be opened by those alone who may write to the heap, so
// that whoever may only read it can't lock a byte and make a dead member look alive, or keep others
// out. See docs/design/0002.
//
//   position           held by
//   door − 1           whoever removes the heap's name (exclusive)
//   door               whoever attaches (shared); whoever repairs (exclusive)
//   door + member id   the member
//
//   free ──lock byte, write record, state = joining──▶ joining ──heap lock, inspected──▶ live
//     ▲                                                   │                               │
//     └───────────────────────── recovery: the byte is unlocked, so the process is gone ──┴──▶ dead
//                                                                              (it holds blocks)
//
// If a process dies between locking the byte and storing the state, the byte is unlocked again and
// nothing has happened.
//
// The last few member records and thread slots are kept for those who mend: when every other record
// is taken and some of them are dead members', whoever attaches takes one of these, recovers the
// dead, and moves to a record that became free. If none did, it stays there, and can do everything
// but hold blocks: so its own death takes nothing away once the next one has seen it. They are
// several because that next one must come in before it can see.
#pragma once
#include "shared/segment.hpp"

namespace annex {

inline constexpr u64 door_position = u64{1} << 40;
constexpr u64 life_position_of(u32 member) noexcept {
  return door_position + member;
}

/// Records and slots beside those that were asked for.
inline constexpr u32 kept_for_mending = 4;
inline u32 first_record_kept(const segment& s) noexcept {
  return s.member_limit() - kept_for_mending + 1;
}
inline bool is_record_of_mender(const segment& s, u32 member) noexcept {
  return member != 0 && member >= first_record_kept(s);
}

struct member_claim {
  u32 member = 0;       // 0: none
  u16 slot = no_owner;  // that threads without a cache lock with
  // Of os::hold_byte(); null where nobody else can ever come (a private heap).
  void* life = nullptr;
  // Why there is none: 0: every record or slot is taken; ENOSPC: the annex directory is full;
  // others: no lock.
  int error = 0;
};

/// Claims a record and a slot for this process, in state joining. may_mend: the kept ones, if the
/// others are taken and one is dead.
member_claim claim_membership(const segment& s, bool may_mend) noexcept;
/// A record only.
member_claim claim_record(const segment& s, bool may_mend = false) noexcept;
/// Gives up a claim that holds nothing. The byte last: until then the record is nobody else's.
void give_up_membership(const segment& s, const member_claim& claim) noexcept;

/// Whether the process behind this record lives, whatever the record's state. Where nothing can be
/// asked (a reader who may not open the file of lives), the process table is, and whoever is not
/// known there counts as alive.
bool is_member_alive(const segment& s, u32 member) noexcept;
/// True when the record is not that of a living member, joining ones included. A member of this
/// mapping (self) is alive.
bool is_member_gone(const segment& s, u32 member, u32 self) noexcept;
/// Whether a living member has inspected the segment, or has seen one who had.
bool is_vouched_for(const segment& s, u32 self) noexcept;

/// Claims a thread slot for a member; no_owner: every slot is taken, or the annex directory is
/// full.
u16 claim_thread_slot(const segment& s, u32 member) noexcept;
/// The slot's state says free: it is a good one to try next.
void note_free_slot(const segment& s, u32 index) noexcept;

}  // namespace annex
