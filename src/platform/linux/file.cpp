// platform/linux/file.cpp - files, names and byte locks.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>

#include "platform/linux/call.hpp"
#include "platform/os.hpp"

namespace annex::os {
namespace {

open_result opened(int fd) { return fd >= 0 ? open_result{fd, 0} : open_result{-1, errno}; }

struct flock one_byte(short type, u64 position) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(position);
  lock.l_len = 1;
  return lock;
}

std::string descriptor_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

}  // namespace

open_result open_file(const char* path, bool writable) {
  return opened(repeat([&] { return ::open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW); }));
}

open_result create_unnamed(const char* directory, u32 mode) {
  const open_result made = opened(repeat([&] { return ::open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, mode); }));
  if (made.fd >= 0) ::fchmod(made.fd, mode);  // the mode asked for, whatever the umask says
  return made;
}

int publish_file(int fd, const char* path) {
  return ::linkat(AT_FDCWD, descriptor_path(fd).c_str(), AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0 ? 0 : errno;
}

open_result open_or_create(const char* path, u32 mode) {
  return opened(repeat([&] { return ::open(path, O_RDWR | O_CREAT | O_CLOEXEC, mode); }));
}

open_result create_memory_file(const char* name, u64 huge_page_bytes) {
  unsigned flags = MFD_CLOEXEC;
  if (huge_page_bytes != 0) flags |= MFD_HUGETLB | (log2_floor(huge_page_bytes) << 26 /* MFD_HUGE_SHIFT */);
  return opened(::memfd_create(name, flags));
}

open_result reopen(int fd, bool writable) {
  return opened(repeat([&] { return ::open(descriptor_path(fd).c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC); }));
}

open_result open_of_process(int process, int fd) {
  const std::string path = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(fd);
  const open_result writable = opened(repeat([&] { return ::open(path.c_str(), O_RDWR | O_CLOEXEC); }));
  return writable.fd >= 0 ? writable : opened(repeat([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
}

void close_file(int fd) {
  if (fd >= 0) ::close(fd);
}

int duplicate(int fd) { return ::fcntl(fd, F_DUPFD_CLOEXEC, 3); }

int set_length(int fd, u64 bytes) {
  return repeat([&] { return ::ftruncate(fd, static_cast<off_t>(bytes)); }) == 0 ? 0 : errno;
}

int allocate_range(int fd, u64 offset, u64 bytes) {
  return repeat([&] { return ::fallocate(fd, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(bytes)); }) == 0
             ? 0 : errno;
}

int punch_hole(int fd, u64 offset, u64 bytes) {
  return repeat([&] {
           return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(bytes));
         }) == 0 ? 0 : errno;
}

int identify(int fd, file_identity* out) {
  struct stat s {};
  if (::fstat(fd, &s) != 0) return errno;
  *out = {s.st_dev, s.st_ino, static_cast<u64>(s.st_size), static_cast<u32>(s.st_nlink)};
  return 0;
}

u64 allocated_bytes(int fd) {
  struct stat s {};
  return ::fstat(fd, &s) == 0 ? static_cast<u64>(s.st_blocks) * 512 : 0;
}

std::string path_of(int fd) {
  char path[PATH_MAX];
  const ssize_t n = ::readlink(descriptor_path(fd).c_str(), path, sizeof path);
  if (n <= 0 || n == static_cast<ssize_t>(sizeof path) || path[0] != '/') return {};
  std::string found(path, static_cast<size_t>(n));
  struct stat by_path {}, by_fd {};
  if (::stat(found.c_str(), &by_path) != 0 || ::fstat(fd, &by_fd) != 0) return {};
  return by_path.st_dev == by_fd.st_dev && by_path.st_ino == by_fd.st_ino ? found : std::string{};
}

int remove_file_if(const char* path, u64 device, u64 inode) {
  struct stat s {};
  if (::stat(path, &s) != 0) return errno;
  return s.st_dev == device && s.st_ino == inode ? remove_file(path) : ENOENT;
}

int remove_file(const char* path) { return ::unlink(path) == 0 ? 0 : errno; }

int make_directory(const char* path, u32 mode) {
  std::string partial(path);
  for (size_t slash = partial.find('/', 1); slash != partial.npos; slash = partial.find('/', slash + 1)) {
    partial[slash] = '\0';
    ::mkdir(partial.c_str(), mode);  // a failure shows at the last one
    partial[slash] = '/';
  }
  if (::mkdir(partial.c_str(), mode) == 0) return 0;
  const int why = errno;
  struct stat s {};
  if (::stat(path, &s) == 0) return S_ISDIR(s.st_mode) ? 0 : ENOTDIR;
  return why;
}

std::vector<std::string> list_directory(const char* path) {
  std::vector<std::string> names;
  DIR* directory = ::opendir(path);
  if (directory == nullptr) return names;
  while (const dirent* entry = ::readdir(directory)) names.emplace_back(entry->d_name);
  ::closedir(directory);
  return names;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

u32 user_id() { return ::getuid(); }

int lock_byte(int fd, u64 position) {
  struct flock lock = one_byte(F_WRLCK, position);
  if (repeat([&] { return ::fcntl(fd, F_OFD_SETLK, &lock); }) == 0) return 0;
  return errno == EACCES ? EAGAIN : errno;
}

void unlock_byte(int fd, u64 position) {
  struct flock lock = one_byte(F_UNLCK, position);
  ::fcntl(fd, F_OFD_SETLK, &lock);
}

bool is_byte_locked(int fd, u64 position) {
  struct flock lock = one_byte(F_WRLCK, position);
  // An error must not read as death: unknown counts as held.
  return repeat([&] { return ::fcntl(fd, F_OFD_GETLK, &lock); }) != 0 || lock.l_type != F_UNLCK;
}

}  // namespace annex::os
