// tests/inside.hpp - a segment by its inside, to change it as a hostile member or a death in the
// middle would.
#pragma once
#include <fcntl.h>

#include <initializer_list>

#include "region/region_record.hpp"
#include "shared/segment.hpp"
#include "support.hpp"

namespace annex {

/// The segment of a heap, mapped writable until the end.
class opened_segment {
 public:
  explicit opened_segment(const std::string& name) {
    fd_ = ::open((directory() + "/" + name + ".annex").c_str(), O_RDWR | O_CLOEXEC);
    struct stat file {};
    if (fd_ < 0 || ::fstat(fd_, &file) != 0) std::abort();
    bytes_ = static_cast<std::size_t>(file.st_size);
    base_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (base_ == MAP_FAILED) std::abort();
  }
  ~opened_segment() {
    for (region_record* r : changed_)
      r->seal = seal_of_region(*r);
    ::munmap(base_, bytes_);
    ::close(fd_);
  }
  opened_segment(const opened_segment&) = delete;
  opened_segment& operator=(const opened_segment&) = delete;
  segment view() const { return segment(base_, fd_, true); }
  /// A record to be changed. Its seal follows when the segment is closed: who may write to it can
  /// write that, too.
  region_record& region(u32 id) const {
    region_record& r = record_of(id);
    changed_.insert(&r);
    return r;
  }

 private:
  region_record& record_of(u32 id) const {
    return view().at<region_record>(
        view().geometry().regions_at)[region_slot_of(id, view().region_limit())];
  }

  mutable std::set<region_record*> changed_;
  int fd_;
  std::size_t bytes_;
  void* base_;
};

/// Entries of the journal, as if a process had died in the middle of a change, with the lock in its
/// hand. The last one is undone first.
struct journaled {
  u64 offset, bytes, old_value;
};
inline void write_journal(const segment& s, std::initializer_list<journaled> entries) {
  u32 count = 0;
  for (const journaled& e : entries)
    s.log().entries[count++] = {e.offset << 4 | e.bytes, e.old_value};
  s.log().count.value = count;
  s.header().lock.value = 3;  // held by the thread in slot 2, which is nobody's
}

}  // namespace annex
