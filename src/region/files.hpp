// region/files.hpp - the files of a heap: the segment and its directory (region/directory.hpp), the
// memory of its regions.
//
//   NAME.annex                    the segment                              in the annex directory
//   .NAME.ID.alive                the file of lives (shared/liveness.hpp)  in the annex directory
//   NAME.annex.0123456789abcdef   memory annex made for a region: "own"    there, or on a hugetlbfs
//   anything else                 memory somebody brought: "foreign"       anywhere, or another
//                                                                          process's descriptor
//
// Whoever may write to a segment may write any path, inode, process and address into it. So none of
// them is followed on its word; whoever reads a record maps only what every writer of the record
// could have opened itself:
//
//   F1  The directory is one that this user named (ANNEX_DIR), or one of his own that nobody else
//       may write to and that no link leads to. It is opened by its path each time and compared
//       (device, inode) with what it was: nothing is kept open that the program could close. Names
//       in it are used relative to that descriptor and not followed through links.
//   F2  A file is used only if device and inode are as recorded, its kind can be mapped, and it is
//       long enough. It is looked at before it is opened: no pipe is waited for, no device woken.
//   F3  The record is this user's own when the segment is his and neither group nor others may
//       write to it: then it is believed. So it is when he says so
//       (attach_options::foreign_memory).
//   F4  Else an own file is mapped only from the annex directory or a hugetlbfs, under a name that
//       annex makes for this heap, with no second name, and only if everybody who may write to the
//       segment may read and write the file.
//   F5  Else a foreign file is mapped only from a segment that its owner alone may write to, and
//       only if the file is the owner's. A process's descriptor: besides, only of a process of the
//       owner's or of this user's. An address (memory_range::same_address): never.
//   F6  Removed are own files alone: from the annex directory; from a hugetlbfs under F4.
//
// docs/security.md says the same for users.
// Threads: everything here may be called from any thread.
#pragma once
#include <annex/error.hpp>

#include <atomic>
#include <optional>
#include <string>

#include "platform/files.hpp"
#include "region/directory.hpp"
#include "region/region_record.hpp"
#include "shared/segment.hpp"

namespace annex::detail {

/// Whether it is a name that annex gives to memory of this heap.
bool is_own_name(std::string_view file, std::string_view heap) noexcept;
/// Where a region's file lies, when annex made it and it does not lie in that directory; -1:
/// nowhere else, or not to be had.
open_directory open_other_place(const region_record& r, std::string_view directory);

/// What a heap knows of its files, none of it from the segment.
class heap_files {
 public:
  heap_files() = default;
  heap_files(std::string_view heap, const open_directory& where);
  heap_files& operator=(const heap_files& other) noexcept;

  /// The segment as it was opened.
  void keep_segment(const os::file_identity& segment, bool is_private) noexcept;
  void trust_foreign_memory() noexcept { is_trusting_.store(true, std::memory_order_relaxed); }
  /// The heap's name; empty: a private one.
  std::string_view heap() const noexcept { return heap_; }
  const std::string& directory() const noexcept { return directory_; }
  const os::file_identity& segment_file() const noexcept { return segment_; }
  /// The heap's directory, unless another one has taken its place.
  result<open_directory> open() const;

  /// F3. An address in a record is believed then.
  bool believes_record(const segment& s) const noexcept;
  /// Permissions, owner and group that a new file of the heap gets: those of the segment.
  u32 new_mode(const segment& s) const noexcept { return segment_now(s).mode & 0666; }
  void give_to_heap(const segment& s, int fd) const noexcept;

  /// A name for new memory.
  std::string new_name() const;
  /// Gives an unnamed file its path, which lies in the annex directory or on a hugetlbfs.
  int publish(int fd, const std::string& path) const noexcept;
  struct opened {
    int fd = -1;
    std::string_view against;  // why it may not be opened; empty: it can't be
    int error = 0;             // this process is short of something (descriptors, memory)
  };
  /// The file of a region, by its path. The record is a copy nobody changes.
  opened open_memory(const segment& s, const region_record& r, bool writable) const;
  /// The same through another process's descriptor.
  opened open_memory_of(const segment& s, const region_record& r, u32 process, u32 fd,
                        bool writable) const;
  /// The directories in which the file of a region may be, open before the region goes: so that its
  /// file can go with it.
  struct places {
    std::optional<open_directory> own, other;
  };
  result<places> places_of(const region_record& r) const;
  /// F6, when the region is gone. Leaves what is not its own, and says so in the log.
  void remove_memory(const places& in, const segment& s, const region_record& r) const noexcept {
    remove_memory(in.own ? &*in.own : nullptr, in.other ? &*in.other : nullptr, s, r);
  }
  void remove_memory(const open_directory* own, const open_directory* other, const segment& s,
                     const region_record& r) const noexcept;

 private:
  os::file_identity segment_now(const segment& s) const noexcept;
  std::string_view what_speaks_against_own(const segment& s,
                                           const os::file_identity& file) const noexcept;
  std::string_view what_speaks_against_foreign(const segment& s,
                                               const os::file_identity& file) const noexcept;

  std::string heap_, directory_;
  u64 device_ = 0, inode_ = 0;  // of the directory; 0: the system would not say
  os::file_identity segment_;
  bool is_private_ = false;
  std::atomic<bool> is_trusting_{false};
};

}  // namespace annex::detail
