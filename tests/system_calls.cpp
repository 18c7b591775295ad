// tests/system_calls.cpp - see system_calls.hpp.
#include "system_calls.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstddef>

namespace annex::faults {
namespace {

std::atomic<unsigned> count{0}, fail_at{0};
std::atomic<bool> goes_on{false};
std::atomic<kind> how_it_fails{kind::refused};
std::atomic<const char*> failed_call{nullptr};

// True: this call is to fail; errno is set. can_be_interrupted: EINTR is among its errors.
bool is_to_fail(const char* name, int refusal, bool can_be_interrupted) {
  if (fail_at == 0) return false;
  if (how_it_fails == kind::interrupted && !can_be_interrupted) return false;
  const unsigned n = ++count;
  if (n < fail_at || (n > fail_at && !goes_on)) return false;
  failed_call = name;
  errno = how_it_fails == kind::interrupted ? EINTR : refusal;
  return true;
}

}  // namespace

void fail_call(unsigned n, kind how, bool lasting) {
  how_it_fails = how;
  goes_on = lasting;
  count = 0;
  failed_call = nullptr;
  fail_at = n;
}
unsigned calls() {
  return count;
}
const char* failed() {
  return failed_call;
}

}  // namespace annex::faults

using annex::faults::is_to_fail;

extern "C" {

int __real_open(const char* path, int flags, ...);
int __wrap_open(const char* path, int flags, ...) {
  std::va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return is_to_fail("open", (flags & (O_CREAT | O_TMPFILE)) != 0 ? ENOSPC : EMFILE, true)
             ? -1
             : __real_open(path, flags, mode);
}
int __real_openat(int place, const char* path, int flags, ...);
int __wrap_openat(int place, const char* path, int flags, ...) {
  std::va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return is_to_fail("openat",
                    (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? ENOSPC : EMFILE,
                    true)
             ? -1
             : __real_openat(place, path, flags, mode);
}
int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...) {
  std::va_list arguments;
  va_start(arguments, command);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  const int refusal = command == F_OFD_SETLK || command == F_OFD_GETLK ? ENOLCK : EMFILE;
  return is_to_fail("fcntl", refusal, command == F_OFD_SETLK) ? -1
                                                              : __real_fcntl(fd, command, argument);
}
int __real_ftruncate(int fd, off_t length);
int __wrap_ftruncate(int fd, off_t length) {
  return is_to_fail("ftruncate", EFBIG, true) ? -1 : __real_ftruncate(fd, length);
}
int __real_fallocate(int fd, int mode, off_t offset, off_t length);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t length) {
  return is_to_fail("fallocate", ENOSPC, true) ? -1 : __real_fallocate(fd, mode, offset, length);
}
void* __real_mmap(void* address, size_t length, int protection, int flags, int fd, off_t offset);
void* __wrap_mmap(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  return is_to_fail("mmap", ENOMEM, false)
             ? MAP_FAILED
             : __real_mmap(address, length, protection, flags, fd, offset);
}
int __real_madvise(void* address, size_t length, int advice);
int __wrap_madvise(void* address, size_t length, int advice) {
  return is_to_fail("madvise", ENOMEM, true) ? -1 : __real_madvise(address, length, advice);
}
int __real_memfd_create(const char* name, unsigned flags);
int __wrap_memfd_create(const char* name, unsigned flags) {
  return is_to_fail("memfd_create", ENOMEM, false) ? -1 : __real_memfd_create(name, flags);
}
int __real_linkat(int from_directory, const char* from, int to_directory, const char* to,
                  int flags);
int __wrap_linkat(int from_directory, const char* from, int to_directory, const char* to,
                  int flags) {
  return is_to_fail("linkat", ENOSPC, false)
             ? -1
             : __real_linkat(from_directory, from, to_directory, to, flags);
}
int __real_fstat(int fd, struct stat* out);
int __wrap_fstat(int fd, struct stat* out) {
  return is_to_fail("fstat", EIO, false) ? -1 : __real_fstat(fd, out);
}
int __real_mkdir(const char* path, mode_t mode);
int __wrap_mkdir(const char* path, mode_t mode) {
  return is_to_fail("mkdir", ENOSPC, false) ? -1 : __real_mkdir(path, mode);
}
int __real_fchmod(int fd, mode_t mode);
int __wrap_fchmod(int fd, mode_t mode) {
  return is_to_fail("fchmod", EPERM, false) ? -1 : __real_fchmod(fd, mode);
}
long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...) {
  std::va_list list;
  va_start(list, number);
  long a[6];
  for (long& argument : a)
    argument = va_arg(list, long);
  va_end(list);
  const bool can_fail = number == SYS_membarrier || number == SYS_mbind || number == SYS_futex;
  return can_fail && is_to_fail("syscall", number == SYS_membarrier ? ENOSYS : EINVAL,
                                number == SYS_futex)
             ? -1
             : __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

}  // extern "C"
