// heap/source_file.hpp - the file behind memory that is brought: one of the heap's own, a memfd, a
// file of the caller's, a device, a descriptor.
//
//   open → identify → set_length → seal_length → kept by a region, or put right again: cut to the
//   length it had, gone if it was made here
//
// An own file gets its name when the region's record knows it, where its file system can do that: a
// death before leaves no file.
// Threads: one. No lock is needed.
#pragma once
#include <optional>

#include <annex/types.hpp>

#include "platform/open_result.hpp"
#include "region/files.hpp"

namespace annex::detail {

class source_file {
 public:
  source_file(const memory_source& source, const heap_files& files, const segment& s,
              bool is_private) noexcept
      : m_(source), files_(files), segment_(s), is_private_(is_private) {}
  /// What was made or made longer here is put right again, unless a region keeps it. The descriptor
  /// is closed: a region has a duplicate.
  ~source_file();
  source_file(const source_file&) = delete;
  source_file& operator=(const source_file&) = delete;

  /// A descriptor, so that other processes can map it too. Anonymous memory has none.
  result<void> open();
  /// What it is, which must fit what the source says.
  result<void> identify();
  /// At least as long as the region reaches.
  result<void> set_length();
  /// Nobody changes the length of a memfd of annex any more.
  void seal_length() const noexcept;
  void keep() noexcept { is_kept_ = true; }

  int fd() const noexcept { return file_.fd; }
  bool is_there() const noexcept { return file_.fd >= 0; }
  const os::file_identity& identity() const noexcept { return identity_; }
  /// Where the region ends in it.
  u64 end() const noexcept { return m_.offset_bytes + m_.length_bytes; }
  bool is_too_short() const noexcept { return identity_.length_bytes < end(); }
  /// Of a file that annex made and that goes with the region; else empty.
  const std::string& owned_path() const noexcept { return owned_path_; }
  /// The size of the hugepages it has; 0: none.
  u64 huge_page_bytes() const noexcept;
  /// The system's refusal to do something with this memory, in words.
  std::unexpected<error> refused(int why, std::string_view doing) const;

 private:
  result<void> find_home();
  result<void> make_own();
  void open_or_make() noexcept;
  void put_right() const noexcept;

  const memory_source& m_;
  const heap_files& files_;
  const segment& segment_;
  const bool is_private_;
  os::open_result file_;
  os::file_identity identity_;
  std::optional<open_directory> home_;  // in which the file gets its name
  std::string owned_path_;
  bool is_named_ = false;
  bool is_made_here_ = false;  // a file under a name that was free before
  bool is_longer_ = false;     // the file was made longer here
  bool is_kept_ = false;
};

}  // namespace annex::detail
