// heap/audit.cpp - an audit by a member, with every cache held still, or by a reader, as it moves.
#include "care/audit.hpp"
#include "heap/local_heap.hpp"

namespace annex::detail {

result<audit_report> local_heap::audit() {
  audit_report report;
  if (is_read_only() || !ensure_member()) {
    // Looked at while it moves: a finding counts only if nobody changed the heap meanwhile.
    for (int tries = 0; tries < 20; ++tries) {
      const u64 before = segment_.header().lock_sequence.load(std::memory_order_acquire);
      report = {};
      inspect_segment(segment_, {}, false, &report);
      if (report.holds() ||
          (before == segment_.header().lock_sequence.load(std::memory_order_acquire) &&
           before % 2 == 0))
        return report;
    }
    report.broken.clear();
    return report;
  }
  locked t(*this);
  frozen_caches frozen = recover_and_freeze(*t);
  std::vector<bool> still(segment_.slots_used(), false);
  for (const thread_cache* c : frozen.caches)
    still[c->slot] = true;
  report.exact = frozen.not_still == 0;
  inspect_segment(segment_, still, true, &report);
  thaw(frozen);
  return report;
}

}  // namespace annex::detail
