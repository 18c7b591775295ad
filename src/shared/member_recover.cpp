// shared/member_recover.cpp - the record of a member that is gone: what it said of regions goes,
// and it is dead.
//
// Whoever recovers it has asked every other structure before: what is still held in its name keeps
// the record.
#include "shared/arena.hpp"
#include "shared/member_rules.hpp"

namespace annex::detail {

void recover_claims(transaction& t, u32 member) noexcept {
  member_record& m = t.seg().member(member);
  if (m.region_claims == 0) return;
  const chunk_ref claims = m.region_claims;
  t.put(m.region_claims, 0);
  free_chunk(t, claims, u64{t.seg().region_limit()} * sizeof(region_claim));
}

void mark_member_dead(transaction& t, u32 member) noexcept {
  member_record& m = t.seg().member(member);
  t.put(m.threads, 0);
  t.put(m.state, member_dead);  // sync(member)
}

}  // namespace annex::detail
