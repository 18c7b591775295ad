// platform/linux/byte_locks.cpp - locks of open file descriptions, each held by a mapping.
#include "platform/byte_locks.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

#include "platform/files.hpp"
#include "platform/linux/call.hpp"
#include "platform/memory.hpp"

namespace ANNEX_OS {
namespace {

struct flock one_byte(short type, u64 position) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(position);
  lock.l_len = 1;
  return lock;
}

// No fork between the opening of a lock's description and its being closed: the child would keep
// it.
std::mutex no_fork;
void before_fork() {
  no_fork.lock();
}
void after_fork() {
  no_fork.unlock();
}
const bool fork_is_watched = (::pthread_atfork(before_fork, after_fork, after_fork), true);

}  // namespace

life_lock hold_byte(int fd, u64 position, bool shared) {
  (void)fork_is_watched;
  const std::lock_guard guard(no_fork);
  const open_result own = reopen(fd, true);
  if (own.fd < 0) return {nullptr, own.error};
  struct flock lock = one_byte(shared ? F_RDLCK : F_WRLCK, position);
  if (repeat([&] { return ::fcntl(own.fd, F_OFD_SETLK, &lock); }) != 0) {
    const int why = errno;
    ::close(own.fd);
    return {nullptr, why == EACCES ? EAGAIN : why};
  }
  void* const pin = ::mmap(nullptr, page_bytes(), PROT_NONE, MAP_SHARED, own.fd, 0);
  const int why = pin == MAP_FAILED                                                          ? errno
                  : repeat([&] { return ::madvise(pin, page_bytes(), MADV_DONTFORK); }) != 0 ? errno
                                                                                             : 0;
  ::close(own.fd);
  if (why == 0) return {pin, 0};
  if (pin != MAP_FAILED) ::munmap(pin, page_bytes());
  return {nullptr, why};
}

void let_go_of_byte(void* pin) {
  if (pin != nullptr) ::munmap(pin, page_bytes());
}

bool is_byte_locked(int fd, u64 position) {
  return is_any_byte_locked(fd, position, 1);
}

bool is_any_byte_locked(int fd, u64 from, u64 bytes) {
  struct flock lock = one_byte(F_WRLCK, from);
  lock.l_len = static_cast<off_t>(bytes);
  // An error must not read as death: unknown counts as held.
  return repeat([&] { return ::fcntl(fd, F_OFD_GETLK, &lock); }) != 0 || lock.l_type != F_UNLCK;
}

}  // namespace ANNEX_OS
