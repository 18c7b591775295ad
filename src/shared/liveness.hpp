// shared/liveness.hpp - who is alive, by the word of the operating system.
//
// A member holds an exclusive lock on one byte of the segment file, far behind its end, through an open file description
// of its own. The kernel drops the lock when the process is gone, whatever killed it, and only then; the byte can be
// asked about in 0.2 µs from any process, any PID namespace; process ids may be reused. See docs/design/0002.
//
//   free ──lock byte, write record, state = live──▶ live ──process gone: byte unlocked──▶ (dead) ──recovery──▶ dead or free
//
// If a process dies between locking the byte and storing the state, the byte is unlocked again and nothing has happened.
#pragma once
#include "shared/segment.hpp"

namespace annex {

inline constexpr u64 member_lock_position = u64{1} << 40;

/// Claims a member record for this process; 0: every record is taken, or the annex directory is full.
u32 claim_member(const segment& s) noexcept;
/// True when the member's process is gone. A member of this mapping (self) is alive.
bool is_member_gone(const segment& s, u32 member, u32 self) noexcept;

/// Claims a thread slot for a member; no_owner: every slot is taken, or the annex directory is full.
u16 claim_thread_slot(const segment& s, u32 member) noexcept;

}  // namespace annex
