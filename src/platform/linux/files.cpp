// platform/linux/files.cpp - files by path and by descriptor, and their file systems.
#include "platform/files.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <string>
#include <string_view>

#include "platform/linux/call.hpp"
#include "platform/linux/identity.hpp"
#include "platform/linux/text_file.hpp"
#include "platform/resource_limits.hpp"

namespace ANNEX_OS {
namespace {

// Growing a file beyond the process's limit is not refused but punished (SIGXFSZ): so it is not
// tried.
bool passes_size_limit(int fd, u64 end) {
  if (end <= file_size_limit()) return false;
  struct stat s {};
  return ::fstat(fd, &s) != 0 || (S_ISREG(s.st_mode) && static_cast<u64>(s.st_size) < end);
}

// /proc/self/mountinfo writes blanks and such as three octal digits.
void decode(std::string_view text, mount_point* point) {
  std::size_t length = 0;
  for (std::size_t i = 0; i < text.size() && length < sizeof point->text - 1; ++i) {
    const bool is_octal = text[i] == '\\' && i + 3 < text.size();
    point->text[length++] = is_octal
                                ? static_cast<char>((text[i + 1] - '0') * 64 +
                                                    (text[i + 2] - '0') * 8 + (text[i + 3] - '0'))
                                : text[i];
    if (is_octal) i += 3;
  }
  point->text[length] = '\0';
}

}  // namespace

open_result open_file(const char* path, bool writable) {
  return opened(repeat(
      [&] { return ::open(path, (writable ? O_RDWR : O_RDONLY) | never_waits | O_NOFOLLOW); }));
}

open_result open_or_create(const char* path, u32 mode) {
  return opened(repeat([&] { return ::open(path, O_RDWR | O_CREAT | never_waits, mode); }));
}

open_result create_memory_file(const char* name, u64 huge_page_bytes) {
  unsigned flags = MFD_CLOEXEC;
  if (huge_page_bytes != 0)
    flags |= MFD_HUGETLB | (log2_floor(huge_page_bytes) << 26 /* MFD_HUGE_SHIFT */);
  const open_result sealable = opened(::memfd_create(name, flags | MFD_ALLOW_SEALING));
  if (sealable.error != EINVAL) return sealable;
  return opened(::memfd_create(name, flags));  // hugepages before Linux 4.16
}

int seal_length(int fd) {
  return ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) == 0 ? 0 : errno;
}

open_result reopen(int fd, bool writable) {
  return opened(repeat([&] {
    return ::open(descriptor_path(fd).c_str(), (writable ? O_RDWR : O_RDONLY) | never_waits);
  }));
}

void close_file(int fd) {
  if (fd >= 0) ::close(fd);
}

void close_file_if(int fd, u64 device, u64 inode) {
  if (fd < 0) return;
  struct stat now {};
  const bool is_ours = ::fstat(fd, &now) != 0
                           ? errno != EBADF
                           : inode == 0 || (now.st_dev == device && now.st_ino == inode);
  if (is_ours) ::close(fd);
}

int duplicate(int fd) {
  return ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

int set_length(int fd, u64 bytes) {
  if (passes_size_limit(fd, bytes)) return EFBIG;
  return done([&] { return ::ftruncate(fd, static_cast<off_t>(bytes)); });
}

int allocate_range(int fd, u64 offset, u64 bytes) {
  if (passes_size_limit(fd, offset + bytes)) return EFBIG;
  return done([&] {
    return ::fallocate(fd, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                       static_cast<off_t>(bytes));
  });
}

int punch_hole(int fd, u64 offset, u64 bytes) {
  return done([&] {
    return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                       static_cast<off_t>(bytes));
  });
}

int identify(int fd, file_identity* out) {
  struct stat s {};
  if (::fstat(fd, &s) != 0) return errno;
  *out = identity_of(s);
  return 0;
}

int give_file(int fd, u32 owner, u32 group) {
  return ::fchown(fd, owner, group) == 0 ? 0 : errno;
}

u64 allocated_bytes(int fd) {
  struct stat s {};
  return ::fstat(fd, &s) == 0 ? static_cast<u64>(s.st_blocks) * 512 : 0;
}

bool is_hole(int fd, u64 offset) {
  const off_t data = ::lseek(fd, static_cast<off_t>(offset), SEEK_DATA);
  return data < 0 ? errno == ENXIO : static_cast<u64>(data) != offset;
}

file_system file_system_of(int fd) {
  struct statfs s {};
  if (repeat([&] { return ::fstatfs(fd, &s); }) != 0) return {};
  const u64 block = static_cast<u64>(s.f_bsize);
  const bool is_huge = s.f_type == HUGETLBFS_MAGIC;
  file_system found;
  found.in_memory = is_huge || s.f_type == TMPFS_MAGIC || s.f_type == RAMFS_MAGIC;
  found.huge_page_bytes = is_huge ? block : 0;
  const bool has_size = s.f_blocks != 0 && s.f_blocks != ~decltype(s.f_blocks){0};
  if (!has_size || multiply_overflows(s.f_blocks, block, &found.total_bytes)) found.total_bytes = 0;
  found.free_bytes = found.total_bytes != 0 ? s.f_bavail * block : 0;
  return found;
}

mount_point mount_point_of(int fd) {
  struct stat s {};
  mount_point point;
  if (::fstat(fd, &s) != 0) return point;
  each_line<2 * PATH_MAX>("/proc/self/mountinfo", [&](const char* line) {
    unsigned major_number = 0, minor_number = 0;
    char path[PATH_MAX];
    static_assert(PATH_MAX == 4096);
    if (std::sscanf(line, "%*d %*d %u:%u %*s %4095s", &major_number, &minor_number, path) == 3 &&
        makedev(major_number, minor_number) == s.st_dev)
      decode(path, &point);  // mounted last: on top
    return true;
  });
  return point;
}

std::string path_of(int fd) {
  char path[PATH_MAX];
  const ssize_t n = ::readlink(descriptor_path(fd).c_str(), path, sizeof path);
  if (n <= 0 || n == static_cast<ssize_t>(sizeof path) || path[0] != '/') return {};
  std::string found(path, static_cast<size_t>(n));
  struct stat by_path {
  }, by_fd{};
  if (::stat(found.c_str(), &by_path) != 0 || ::fstat(fd, &by_fd) != 0) return {};
  return by_path.st_dev == by_fd.st_dev && by_path.st_ino == by_fd.st_ino ? found : std::string{};
}

}  // namespace ANNEX_OS
