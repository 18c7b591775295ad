// shared/member_rules.cpp - see member_rules.hpp.
#include "shared/member_rules.hpp"

#include <algorithm>
#include <cstring>

#include "shared/liveness.hpp"

namespace annex::detail {
namespace {

// A record that nobody ever used, before one that is free; never one of those kept for whoever
// mends.
u32 find_free_record(const segment& s) {
  const u32 last = s.member_limit() - kept_for_mending;
  u32 found = 0;
  for (u32 id = last; id > s.members_used() && id != 0; --id)
    if (s.member(id).state.value == member_free) found = id;
  for (u32 id = last; id != 0 && found == 0; --id)
    if (s.member(id).state.value == member_free) found = id;
  return found;
}

void check_record(inspection& in, u32 id) {
  const member_record& m = in.s.member(id);
  in.count_one();
  if (m.state.value > member_joining) in.broken("M1: member {} has state {}", id, m.state.value);
  if (m.region_claims != 0 && m.state.value != member_free)
    in.take(m.region_claims, u64{in.s.region_limit()} * sizeof(region_claim), "claims");
}

void check_counts(inspection& in, u32 id, const member_tallies::tally& held) {
  const member_record& m = in.s.member(id);
  const bool objects_hold = m.state.value != member_dead || m.pool_objects_held == held.objects;
  if (m.state.value == member_free && !held.is_nothing())
    in.broken("M2: member {} holds something, but its record is free", id);
  if (m.extents_held != held.extents || m.holdings != held.holdings ||
      m.slabs_orphaned != held.orphans || !objects_hold)
    in.broken(
        "M2: member {} holds {} large blocks, {} holdings, {} orphan slabs and {} objects, its "
        "record says {}, {}, {} and {}",
        id, held.extents, held.holdings, held.orphans, held.objects, m.extents_held, m.holdings,
        m.slabs_orphaned, m.pool_objects_held);
}

void rebuild_record(rebuilding& rb, u32 id) {
  member_record& m = rb.s.member(id);
  const member_tallies::tally& held = held_by(rb, id);
  const std::string name = fmt::format("member {}", id);
  // Live is always right: the kernel says that it is gone, and the next attach recovers it.
  if (m.state.value > member_joining || (m.state.value == member_free && !held.is_nothing()))
    rb.fix(m.state, member_live, name + ": its state");
  if (m.holdings > held.holdings)
    rb.doubt(
        "{} was said to hold blocks in {} slabs that others own, and {} are found: what it held "
        "in others is listed under the members of those slabs",
        name, m.holdings, held.holdings);
  rb.fix(m.extents_held, held.extents, name + ": large blocks it holds");
  rb.fix(m.holdings, held.holdings, name + ": slabs it holds blocks in");
  rb.fix(m.slabs_orphaned, held.orphans, name + ": slabs it left behind");
  if (m.state.value == member_dead) m.pool_objects_held = held.objects;
  if (m.region_claims != 0 &&
      !rb.take(m.region_claims, u64{rb.s.region_limit()} * sizeof(region_claim)))
    rb.fix(m.region_claims, 0, name + ": its claims");
}

}  // namespace

u32 nobody_known(rebuilding& rb) {
  u32& nobody = rb.notes<member_tallies>().nobody;
  if (nobody != 0) return nobody;
  nobody = find_free_record(rb.s);
  if (nobody == 0) {  // everybody holds something: the last one of them takes it over
    for (u32 id = rb.s.member_limit() - kept_for_mending; id != 0 && nobody == 0; --id)
      if (rb.s.member(id).state.value != member_free) nobody = id;
    rb.doubt("no member's record is free for what belongs to nobody: it is listed under member {}",
             nobody);
    return nobody;
  }
  member_record& m = rb.s.member(nobody);
  m.process_id = 0;
  m.start_time = 0;
  m.region_claims = 0;
  m.threads = 0;
  std::memset(m.program, 0, sizeof m.program);
  std::memcpy(m.program, "(uncertain)", sizeof "(uncertain)");
  m.state.value = member_dead;
  rb.say("member {}, \"(uncertain)\", is made to hold what belongs to nobody that is known",
         nobody);
  return nobody;
}

void check_members(inspection& in) {
  for (u32 id = 1; id <= in.s.members_used(); ++id)
    check_record(in, id);
  if (!in.locked || !in.holds()) return;
  auto& tallies = in.notes<member_tallies>().of;
  for (u32 id = 1; id <= in.s.members_used(); ++id)
    check_counts(in, id, tallies[id]);
  for (const auto& [id, held] : tallies)
    if (id > in.s.members_used() && !held.is_nothing())
      in.broken("M2: member {} holds something, but only {} records were ever used", id,
                in.s.members_used());
}

void rebuild_members(rebuilding& rb) {
  const segment& s = rb.s;
  u32 used =
      rb.h.member_records_used.value <= s.member_limit() ? rb.h.member_records_used.value : 0;
  for (u32 id = used + 1; id <= s.member_limit(); ++id)
    if (s.member(id).state.value != member_free) used = id;
  for (const auto& [id, held] : rb.notes<member_tallies>().of)
    if (id <= s.member_limit()) used = std::max(used, id);
  rb.fix(rb.h.member_records_used, used, "the member records that were ever used");
  for (u32 id = 1; id <= used; ++id)
    rebuild_record(rb, id);
}

void count_members(counting& c) {
  for (u32 id = 1; id <= c.s.members_used(); ++id)
    c.out.member_count += c.s.member(id).state.load(std::memory_order_relaxed) == member_live;
}

}  // namespace annex::detail
