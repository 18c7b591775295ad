// platform/kept_file.cpp - see kept_file.hpp.
#include "platform/kept_file.hpp"

#include <cerrno>
#include <utility>

#include "platform/files.hpp"

namespace annex::os {

kept_file::kept_file(int fd, std::string path, bool writable) {
  take(fd, std::move(path), writable);
}

void kept_file::take(int fd, std::string path, bool writable) {
  close();
  file_identity identity;
  if (fd >= 0 && identify(fd, &identity) == 0) {
    device_ = identity.device;
    inode_ = identity.inode;
  }
  path_ = std::move(path);
  writable_ = writable;
  // sync(descriptor): whose file it is is seen with it.
  fd_.store(fd, std::memory_order_release);
}

bool kept_file::is_ours(int fd) const noexcept {
  file_identity identity;
  const int why = identify(fd, &identity);
  if (why != 0) return why != EBADF;
  return inode_ == 0 || (identity.device == device_ && identity.inode == inode_);
}

int kept_file::get() const noexcept {
  // sync(descriptor): whose file it is is seen.
  int fd = fd_.load(std::memory_order_acquire);
  if (fd < 0 || is_ours(fd)) return fd;
  if (path_.empty()) return -1;
  const open_result again = open_file(path_.c_str(), writable_);
  if (again.fd < 0) return -1;
  if (!is_ours(again.fd)) {
    close_file(again.fd);
    return -1;
  }
  // Two threads may have noticed: the later one uses what the earlier one opened.
  // sync(descriptor).
  if (fd_.compare_exchange_strong(fd, again.fd, std::memory_order_acq_rel)) return again.fd;
  close_file(again.fd);
  return fd;
}

void kept_file::close() noexcept {
  // sync(descriptor): whose file it is is seen.
  const int fd = fd_.exchange(-1, std::memory_order_acq_rel);
  if (fd >= 0 && is_ours(fd)) close_file(fd);
}

}  // namespace annex::os
