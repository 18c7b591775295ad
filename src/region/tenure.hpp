// region/tenure.hpp - one holding of the heap lock, with what is needed to look after caches and
// regions meanwhile.
//
// A transaction knows the segment. Whoever puts blocks back from caches into slabs also has to know
// the regions as this process sees them and its files, and counts what turns out to have been freed
// twice: that is said when the lock is free again (attached/locked.hpp).
#pragma once
#include "region/files.hpp"
#include "region/region_views.hpp"
#include "shared/heap_lock.hpp"

namespace annex {

/// Freed or given twice: by this process, whose misuse policy decides; or nobody knows by whom.
struct double_frees {
  u32 ours = 0, anybodys = 0;
};

class tenure : public transaction {
 public:
  /// Waits for the heap lock.
  tenure(const segment& s, lock_identity who, region_views& views,
         const detail::heap_files& files) noexcept
      : transaction(s, who), views_(views), files_(files) {}
  region_views& views() noexcept { return views_; }
  const detail::heap_files& files() const noexcept { return files_; }
  double_frees& found() noexcept { return found_; }
  /// Where doubles out of this member's cache are counted.
  u32* doubles_of(u32 member) noexcept {
    return member == this->member() ? &found_.ours : &found_.anybodys;
  }

 private:
  region_views& views_;
  const detail::heap_files& files_;
  double_frees found_;
};

}  // namespace annex
