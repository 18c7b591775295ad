// region/directory.hpp - the annex directory and the segments in it.
//
//   NAME.annex   the segment of a heap
//
// Whose directory it may be is rule F1 of files.hpp.
// Threads: everything here may be called from any thread.
#pragma once
#include <annex/error.hpp>

#include <string>
#include <string_view>

#include "base/units.hpp"
#include "platform/files.hpp"
#include "platform/own_memory.hpp"

namespace annex::detail {

/// Bits of a mode: group or others may write; a directory in which each removes only his own.
inline constexpr u32 others_may_write = 022, is_sticky = 01000;
inline constexpr std::string_view segment_suffix = ".annex";

/// A directory that has been looked at, open for names in it.
class open_directory {
 public:
  open_directory(int fd, std::string_view path) : fd_(fd), path_(own_string(path)) {}
  open_directory(open_directory&& other) noexcept : fd_(other.fd_), path_(std::move(other.path_)) {
    other.fd_ = -1;
  }
  open_directory(const open_directory&) = delete;
  open_directory& operator=(const open_directory&) = delete;
  ~open_directory() { os::close_file(fd_); }
  int fd() const noexcept { return fd_; }
  std::string_view path() const noexcept { return path_; }
  std::string path_of(std::string_view name) const {
    return std::string(path_) + "/" + std::string(name);
  }

 private:
  int fd_;
  std::pmr::string path_;
};

/// The annex directory of this process (F1). make: makes it when it is not there. Errors:
/// no_such_heap (it is not there), permission, os_failure.
result<open_directory> open_annex_directory(bool make);

/// The segment of a heap. Errors: no_such_heap, corrupt (the name is that of something else),
/// permission, os_failure.
result<int> open_segment_file(const open_directory& where, std::string_view name, bool writable);
inline std::string segment_path(std::string_view directory, std::string_view name) {
  return std::string(directory) + "/" + std::string(name) + std::string(segment_suffix);
}
/// "a directory", "a pipe", for sentences.
std::string_view words_for(os::file_kind kind) noexcept;
/// A refusal of the system about a path.
std::unexpected<error> refuse_path(int why, std::string_view doing, std::string_view path);

}  // namespace annex::detail
