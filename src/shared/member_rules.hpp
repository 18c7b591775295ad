// shared/member_rules.hpp - the rules of members: states that can be, and counts of what they hold.
//
// Invariants (audit):
//   M1  members and threads: states, counts and links are sane (threads: cache/cache_rules.hpp)
//   M2  a member's record counts what it holds: large blocks, holdings, orphan slabs, and, when
//       dead, objects of pools
//   M3  a large block on its way is named by a thread's slot and its seal (cache/cache_rules.hpp)
//
// What a member holds is counted by the structures that it holds something of, in member_tallies.
// Who a member is is truth; its counts are an index.
#pragma once
#include <unordered_map>
#include "shared/heap_lock.hpp"

#include "shared/counting.hpp"
#include "shared/inspection.hpp"
#include "shared/rebuilding.hpp"

namespace annex::detail {

/// Notes: what each member holds, as far as it has been looked at. 0: nobody.
struct member_tallies {
  struct tally {
    u32 extents = 0, holdings = 0, orphans = 0, objects = 0;
    bool is_nothing() const noexcept { return extents + holdings + orphans + objects == 0; }
  };
  std::unordered_map<u32, tally> of;
  u32 nobody = 0;  ///< who keeps what belongs to nobody; 0: not asked for yet
};

inline member_tallies::tally& held_by(inspection& in, u32 member) {
  return in.notes<member_tallies>().of[member];
}
inline member_tallies::tally& held_by(rebuilding& rb, u32 member) {
  return rb.notes<member_tallies>().of[member];
}

/// Whether a record of this number can be somebody's.
inline bool is_member(const segment& s, u32 id) noexcept {
  return id != 0 && id <= s.member_limit();
}
/// A dead member, made for it, that keeps what belongs to nobody that is known.
u32 nobody_known(rebuilding& rb);

/// M1 of records; M2, if nothing else is broken: what a broken table leads to was not counted.
void check_members(inspection& in);
/// Records' states and counts, when all that is held has been counted.
void rebuild_members(rebuilding& rb);

/// What a member that is gone said of regions.
void recover_claims(transaction& t, u32 member) noexcept;
/// Its state, when every structure has been asked.
void mark_member_dead(transaction& t, u32 member) noexcept;

void count_members(counting& c);

}  // namespace annex::detail
