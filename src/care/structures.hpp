// care/structures.hpp - the one list of the structures of a segment, and of what each brings.
//
// A structure is a folder below this one with its rules (…_rules.hpp) and a line here: whoever goes
// over the list knows none of them by name. What another conductor needs of each structure is one
// more pointer in a line, null where there is nothing to do. The order is that of the segment:
// whoever lies in something stands behind it, so that what a line leads to has been looked at.
// docs/design/0017 has the reasons.
#pragma once
#include <span>

#include "region/departure.hpp"

namespace annex::detail {

class inspection;
class rebuilding;
struct counting;

/// Null where there is nothing to do.
struct structure {
  const char* name;
  /// Audit, down the list: what is true of each by itself. It notes what it occupies and leads to.
  void (*check)(inspection&) = nullptr;
  /// Audit, then up the list: sums over what all of them have noted.
  void (*check_whole)(inspection&) = nullptr;
  /// Recovery of a thread that is gone, up the list: what lies in something goes first. False:
  /// somebody else has finished it.
  bool (*recover_thread)(tenure&, const gone_thread&) = nullptr;
  /// Recovery of a member that is gone, down the list; its threads have been recovered.
  void (*recover_member)(tenure&, u32 member) = nullptr;
  /// Reap, down the list: what a dead member holds of it goes back to the heap. Its record is last.
  void (*reclaim)(reclaiming&) = nullptr;
  /// Repair, down the list: which there are by their own seals, before anything is rebuilt, and
  /// whom others ask about them.
  void (*find)(rebuilding&) = nullptr;
  /// Repair, down the list: what is theirs, from the truth.
  void (*rebuild)(rebuilding&) = nullptr;
  /// Repair, then up the list: sums over what all of them hold and occupy.
  void (*rebuild_whole)(rebuilding&) = nullptr;
  /// Figures, down the list, without a lock: what is added to those of the heap.
  void (*count)(counting&) = nullptr;
};

std::span<const structure> structures() noexcept;

}  // namespace annex::detail
