// care/recovery.hpp - taking back what the dead left, so that the living go on with it.
//
//   dead member   its threads' caches → slabs; slabs: empty → region, else → orphans (or freed,
//                 with reclaim_dead); half-added regions undone; leases and claims dropped; record
//                 freed when it holds nothing
//
// Everything here runs under the heap lock, in transactions of bounded size, and is idempotent: if
// the one who recovers dies, the next one begins again. A dead thread's slot is freed last, by one
// store. docs/design/0005 has the whole argument.
#pragma once
#include "cache/orphans.hpp"

namespace annex {

/// The record says live or joining, and the kernel says gone. self: our own member.
bool is_claim_of_the_dead(const segment& s, u32 member, u32 self) noexcept;
/// Every dead member that was not recovered yet. Lets others have the lock in between.
void recover_dead(tenure& t) noexcept;
/// The dead recovered and the living held still. Whoever dies in between, in the middle of an
/// operation, is recovered too.
frozen_caches recover_and_freeze(tenure& t) noexcept;
/// A thread that ended, or is dead: its cache back to slabs and pools, its slot free.
void recover_thread(tenure& t, u32 slot, bool dead) noexcept;
/// The member is gone or leaves; its threads have been recovered. release_record: once it holds
/// nothing.
void recover_member(tenure& t, u32 member, bool release_record) noexcept;

}  // namespace annex
