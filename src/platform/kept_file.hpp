// platform/kept_file.hpp - a descriptor that annex keeps for long, and does not take on trust.
//
// A program may close descriptors that are not its own (closefrom, close_range), and the number
// then goes to a file of the program's. So the file behind the number is compared with the one that
// was given (device and inode) before each use and before it is closed: annex never writes to,
// cuts, or closes what is not its own.
//
// Threads: get() and reopen() from any thread. Cost: one fstat, 0.15 µs.
#pragma once
#include <atomic>
#include <string>

#include "base/units.hpp"

namespace annex::os {

class kept_file {
 public:
  kept_file() = default;
  /// Takes the descriptor over. A path lets it be opened again when the program has closed it;
  /// empty: it can't be.
  kept_file(int fd, std::string path, bool writable);
  ~kept_file() { close(); }
  kept_file(const kept_file&) = delete;
  kept_file& operator=(const kept_file&) = delete;

  void take(int fd, std::string path, bool writable);
  /// The descriptor; -1: there is none, and the file can't be opened again.
  int get() const noexcept;
  /// Closes it if it is still ours.
  void close() noexcept;
  bool is_open() const noexcept { return fd_.load(std::memory_order_relaxed) >= 0; }
  const std::string& path() const noexcept { return path_; }
  void set_path(std::string path) { path_ = std::move(path); }
  u64 device() const noexcept { return device_; }
  u64 inode() const noexcept { return inode_; }

 private:
  bool is_ours(int fd) const noexcept;

  mutable std::atomic<int> fd_{-1};
  u64 device_ = 0, inode_ = 0;  // 0: the system would not say when it was taken
  bool writable_ = false;
  std::string path_;
};

}  // namespace annex::os
