// shared/inspection.hpp - one audit of a segment, as the structures' checks see it.
//
//   care/audit.cpp ── inspection ──▶ check_…(inspection&) of each structure, in the order of
//                                    care/structures.cpp
//
// A check compares each number of its structure with what it may be before it uses it, says each
// broken invariant in one sentence that begins with its number, and notes which bytes of the arena
// are whose (take). Nothing is written to the segment: if the process dies, nothing is left.
#pragma once
#include <fmt/format.h>

#include <string>
#include <vector>

#include <annex/types.hpp>

#include "shared/arena.hpp"
#include "shared/notes.hpp"

namespace annex::detail {

class inspection {
 public:
  /// still: threads whose caches do not move (empty: all threads are dead); settled: those whose
  /// slabs nobody can have left in the middle of a change; is_locked: nobody changes anything else;
  /// after_a_death: whoever had the lock died with it.
  inspection(const segment& looked_at, const std::vector<bool>& still,
             const std::vector<bool>& settled, bool is_locked, bool after_a_death,
             audit_report* report)
      : s(looked_at),
        h(looked_at.header()),
        locked(is_locked),
        report_(*report),
        still_(still),
        settled_(settled),
        after_a_death_(after_a_death) {}

  /// Names a broken invariant; a hundred of them are enough.
  template <class... Args>
  void broken(fmt::format_string<Args...> format, Args&&... args) {
    if (!gave_up()) report_.broken.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  bool gave_up() const { return report_.broken.size() >= most_sentences; }
  /// Nothing is broken so far.
  bool holds() const { return report_.holds(); }
  void count_one() { ++report_.checked; }
  /// Everything was held still.
  bool is_exact() const { return report_.exact; }

  /// The chunk lies in the arena; if not, that is said.
  bool reach(chunk_ref ref, u64 bytes, const char* what) {
    if (lies_in_arena(s, ref, bytes)) return true;
    broken("A1: chunk {} of {} bytes ({}) lies outside the arena [{}, {})", ref, bytes, what,
           s.geometry().arena_at, h.arena.top);
    return false;
  }
  /// The same, and its bytes are noted as taken.
  bool take(chunk_ref ref, u64 bytes, const char* what) {
    if (!reach(ref, bytes, what)) return false;
    const u64 at = u64{ref} * chunk_unit_bytes;
    taken.push_back({at, at + chunk_bytes(bytes), what});
    return true;
  }

  bool is_still(u32 thread) const { return thread < still_.size() && still_[thread]; }
  /// Nobody died while it changed the slabs of this owner, and nobody changes them now.
  bool is_settled(u16 owner) const {
    return owner == no_owner ? !after_a_death_ : owner < settled_.size() && settled_[owner];
  }

  template <class Notes>
  Notes& notes() {
    return notes_.of<Notes>();
  }

  const segment& s;
  const segment_header& h;
  const bool locked;
  /// Bytes of the arena that belong to somebody, in the order they were met.
  struct piece {
    u64 begin, end;
    const char* what;
  };
  std::vector<piece> taken;

 private:
  static constexpr size_t most_sentences = 100;
  audit_report& report_;
  const std::vector<bool>& still_;
  const std::vector<bool>& settled_;
  const bool after_a_death_;
  notebook notes_;
};

}  // namespace annex::detail
