// shared/rebuilding.hpp - one repair of a segment, as the structures' rebuilders see it.
//
//   care/repair.cpp ── rebuilding ──▶ find_…, rebuild_…(rebuilding&) of each structure, in the
//                                     order of care/structures.cpp
//
// No number is used before it was compared with what it may be. A record that does not fit its seal
// is tried with one byte changed back (base/mend.hpp), then with what its neighbours say. Nothing
// is handed out on the word of one witness: what may be in use by one and free by another stays in
// use, and doubt() names it. What belongs to nobody that is known is kept for a dead member of its
// own (nobody_known in shared/member_rules.hpp), so that `who` lists it and `reap` frees it, once
// somebody has looked.
//
// For whoever is alone with the segment and keeps others out. A death in the middle: repair again.
#pragma once
#include <fmt/format.h>

#include <map>
#include <string>

#include <annex/types.hpp>

#include "base/bounded.hpp"
#include "shared/arena.hpp"
#include "shared/notes.hpp"

namespace annex::detail {

class rebuilding {
 public:
  /// report: with what the audit found before.
  rebuilding(const segment& repaired, repair_report* report, bool believes_caches,
             bool (*does_arena_hold)(const segment&))
      : s(repaired),
        h(repaired.header()),
        found(report->found),
        caches_are_believed(believes_caches),
        arena_holds(does_arena_hold),
        report_(*report) {}

  /// Names what was changed.
  template <class... Args>
  void say(fmt::format_string<Args...> format, Args&&... args) {
    if (report_.changed.size() < most_sentences)
      report_.changed.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  /// Names what nothing vouches for.
  template <class... Args>
  void doubt(fmt::format_string<Args...> format, Args&&... args) {
    if (report_.uncertain.size() < most_doubts)
      report_.uncertain.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  /// The word is this from now on; said, if it was not.
  template <class T, class V>
  void fix(T& word, V right, std::string_view what) {
    const T value = static_cast<T>(right);
    if (word == value) return;
    say("{}: {} instead of {}", what, value, word);
    word = value;
  }
  template <class T, T most, class V>
  void fix(at_most<T, most>& word, V right, std::string_view what) {
    fix(word.value, right, what);
  }
  template <class T, class V>
  void fix(shared_word<T>& word, V right, std::string_view what) {
    fix(word.value, right, what);
  }

  /// The chunk lies in the arena and is nobody else's; from now on it is taken.
  bool take(chunk_ref ref, u64 bytes);
  bool is_taken(u64 begin, u64 end) const;
  /// So many bytes at the chunk are somebody's.
  bool is_chunk_taken(chunk_ref ref, u64 bytes) const {
    return is_taken(u64{ref} * chunk_unit_bytes, u64{ref} * chunk_unit_bytes + bytes);
  }
  /// Where what is taken at this place ends; 0: nothing is.
  u64 end_of_taken(u64 at) const;

  template <class Notes>
  Notes& notes() {
    return notes_.of<Notes>();
  }

  const segment& s;
  segment_header& h;
  const std::vector<std::string>& found;  ///< what the audit said before
  /// The audit found nothing: caches are as good as for an attach.
  const bool caches_are_believed;
  /// Whether the lists of free metadata are right, by an audit.
  bool (*const arena_holds)(const segment&);
  std::map<u64, u64> taken;  ///< begin → end, in bytes

 private:
  static constexpr size_t most_sentences = 200, most_doubts = 10'000;
  repair_report& report_;
  notebook notes_;
};

}  // namespace annex::detail
