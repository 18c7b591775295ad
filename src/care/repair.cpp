// care/repair.cpp - see repair.hpp.
#include "care/repair.hpp"

#include <algorithm>
#include <ranges>

#include "care/audit.hpp"
#include "care/structures.hpp"
#include "shared/rebuilding.hpp"

namespace annex::detail {
namespace {

bool names(const std::vector<std::string>& sentences, std::string_view invariant) {
  return std::any_of(sentences.begin(), sentences.end(),
                     [&](const std::string& sentence) { return sentence.starts_with(invariant); });
}

// By an audit: its findings about the arena count here. What else is broken keeps it from asking
// whether every byte is somebody's, so the lists are not known to be right.
bool does_arena_hold(const segment& s) {
  audit_report report;
  inspect_segment(s, {}, true, &report);
  return report.holds();
}

}  // namespace

repair_report rebuild_indexes(const segment& s) {
  repair_report report;
  audit_report before;
  inspect_segment(s, {}, true, &before, s.header().lock.value != 0);
  report.found = before.broken;
  rebuilding rb(s, &report, before.holds(), does_arena_hold);
  for (const structure& one : structures())
    if (one.find != nullptr) one.find(rb);
  for (const structure& one : structures())
    if (one.rebuild != nullptr) one.rebuild(rb);
  for (const structure& one : structures() | std::views::reverse)
    if (one.rebuild_whole != nullptr) one.rebuild_whole(rb);
  if (names(report.found, "S4")) report.changed.emplace_back("the lists of slabs were built anew");
  inspect_segment(s, {}, true, &report.after);
  return report;
}

}  // namespace annex::detail
