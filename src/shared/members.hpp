// shared/members.hpp - a member's record goes when nothing is held in its name any more.
//
// Under the heap lock; part of the caller's transaction.
#pragma once
#include "shared/heap_lock.hpp"

namespace annex {

/// Of a member that is dead and holds neither large blocks, holdings, orphan slabs nor objects of
/// pools: its record is free for another process. Else nothing.
void release_member_if_done(transaction& t, u32 member) noexcept;

}  // namespace annex
