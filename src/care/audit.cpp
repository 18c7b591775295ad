// care/audit.cpp - see audit.hpp.
#include "care/audit.hpp"

#include <ranges>

#include "cache/cache_rules.hpp"
#include "care/structures.hpp"
#include "shared/inspection.hpp"

namespace annex::detail {
namespace {

// Threads that nobody can have left in the middle of a change of their slabs. Of the dead their
// caches tell, unless somebody died who may have stood in for any of them.
std::vector<bool> settled_threads(const segment& s, const std::vector<bool>& still,
                                  bool after_a_death) {
  if (!still.empty()) return still;
  std::vector<bool> settled(s.slots_used(), false);
  for (u32 slot = 0; slot < settled.size() && !after_a_death; ++slot)
    settled[slot] = state_of_owner(s, slot) == owner_state::at_rest;
  return settled;
}

}  // namespace

void inspect_segment(const segment& s, const std::vector<bool>& still, bool locked,
                     audit_report* report, bool after_a_death) {
  const std::vector<bool> settled = settled_threads(s, still, after_a_death);
  inspection in(s, still, settled, locked, after_a_death, report);
  for (const structure& one : structures())
    if (one.check != nullptr) one.check(in);
  for (const structure& one : structures() | std::views::reverse)
    if (one.check_whole != nullptr) one.check_whole(in);
}

}  // namespace annex::detail
