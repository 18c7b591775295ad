// cache/still.hpp - holding every thread's cache still for a moment (rule C1), without waiting for
// anybody's leave.
//
//   frozen = asked ──▶ process barrier ──▶ wait until not busy, 20 ms at most ──▶ held ──▶ … ──▶ no
//
// Everything here runs under the heap lock. A thread that is stopped in the middle of an operation
// is not still: it is counted, and its cache left alone. If the holder dies while caches are held,
// the one who takes the lock over completes what was done in their names (repair_frozen).
#pragma once
#include <vector>

#include "cache/thread_cache.hpp"
#include "region/tenure.hpp"

namespace annex {

struct frozen_caches {
  std::vector<thread_cache*> caches;
  u32 not_still = 0;
  bool somebody_died = false;
};

/// only_member: the caches of its threads; 0: all.
frozen_caches freeze_all(transaction& t, u32 only_member = 0) noexcept;
void thaw(frozen_caches& frozen) noexcept;
/// Every thread takes a slow path next, and forgets which pool it used last.
void make_all_look(const segment& s) noexcept;

/// Of a cache that nobody holds still any more: whatever was done in its name is completed.
void take_back(tenure& t, thread_cache& c) noexcept;
/// The freezer died: take_back() for every cache, and slabs without owner are counted anew.
void repair_frozen(tenure& t) noexcept;
/// From the truth (lanes, bitmaps, magazines) to the indexes (counts, partial lists), and every
/// magazine emptied.
void repair_cache(tenure& t, thread_cache& c) noexcept;

}  // namespace annex
