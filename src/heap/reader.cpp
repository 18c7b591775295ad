// heap/reader.cpp - see reader.hpp.
#include "heap/reader.hpp"

#include "care/audit.hpp"
#include "platform/memory.hpp"
#include "platform/report.hpp"
#include "shared/heap_lock.hpp"

namespace annex::detail {

namespace {

// A dead process left a change half done. A reader does not undo it in the file, but in a copy of
// the few pages that this takes: its mapping becomes a private one. What it shows is the heap as it
// was before that change; attach again to see what comes after.
result<void> look_at_a_copy(attachment& heap) {
  const u64 bytes = align_up(heap.seg.file_bytes(), os::page_bytes());
  if (const int why = os::map_file_again(heap.seg.base(), heap.seg.fd(), bytes, true); why != 0)
    return refuse_path(why, "can't look at a copy of the segment of", heap.name);
  const bool undone = undo_journal_in_copy(heap.seg);
  (void)os::forbid_writing(heap.seg.base(), bytes);
  if (!undone)
    return refuse(
        errc::corrupt,
        "the segment of \"{}\" is damaged: its journal has entries that no transaction makes",
        heap.name);
  log(log_level::info,
      "a dead process left a change of \"{}\" half done: it is shown as it was before; attach it "
      "writable once to complete it",
      heap.name);
  return {};
}

}  // namespace

result<void> look_before_reading(attachment& heap, bool verify) {
  for (int looks = 0;; ++looks) {
    // Relaxed: where nobody lives, nobody writes; where somebody comes, it is looked at again.
    const bool is_vouched = is_vouched_for(heap.seg, 0),
               is_half_done = heap.seg.log().count.load(std::memory_order_relaxed) != 0 &&
                              heap.seg.header().lock.load(std::memory_order_relaxed) != 0;
    if (is_vouched && !verify) return {};
    const bool died_with_lock = heap.seg.header().lock.load(std::memory_order_relaxed) != 0;
    if (!is_vouched && is_half_done) ANNEX_TRY(look_at_a_copy(heap));
    audit_report report;
    inspect_segment(heap.seg, {}, !is_vouched, &report, died_with_lock);
    if (report.holds()) return {};
    if (looks == 2 || is_vouched || !is_vouched_for(heap.seg, 0))
      return refuse(errc::corrupt, "the segment of \"{}\" is damaged: {}", heap.name,
                    report.broken.front().substr(0, 120));
    if (const int why =
            os::map_file_again(heap.seg.base(), heap.seg.fd(),
                               align_up(heap.seg.file_bytes(), os::page_bytes()), false);
        why != 0)
      return refuse_path(why, "can't map the segment of", heap.name);
  }
}

}  // namespace annex::detail
