// platform/linux/file.cpp - files, names and byte locks.
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>
#include <string_view>

#include "platform/linux/call.hpp"
#include "platform/os.hpp"

namespace annex::os {
namespace {

open_result opened(int fd) {
  return fd >= 0 ? open_result{fd, 0} : open_result{-1, errno};
}

struct flock one_byte(short type, u64 position) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(position);
  lock.l_len = 1;
  return lock;
}

// Growing a file beyond the process's limit is not refused but punished (SIGXFSZ): so it is not
// tried.
bool passes_size_limit(int fd, u64 end) {
  if (end <= file_size_limit()) return false;
  struct stat s {};
  return ::fstat(fd, &s) != 0 || (S_ISREG(s.st_mode) && static_cast<u64>(s.st_size) < end);
}

// /proc/self/mountinfo writes blanks and such as three octal digits.
std::string decode(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 3 >= text.size()) {
      plain += text[i];
      continue;
    }
    plain +=
        static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
    i += 3;
  }
  return plain;
}

std::string descriptor_path(int fd) {
  return "/proc/self/fd/" + std::to_string(fd);
}

constexpr int never_waits = O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

file_kind kind_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return file_kind::regular;
    case S_IFDIR: return file_kind::directory;
    case S_IFLNK: return file_kind::link;
    case S_IFIFO: return file_kind::pipe;
    case S_IFSOCK: return file_kind::socket;
    case S_IFCHR: return file_kind::character_device;
    case S_IFBLK: return file_kind::block_device;
    default: return file_kind::other;
  }
}

file_identity identity_of(const struct stat& s) {
  return {.device = s.st_dev,
          .inode = s.st_ino,
          .length_bytes = static_cast<u64>(s.st_size),
          .links = static_cast<u32>(s.st_nlink),
          .owner = s.st_uid,
          .group = s.st_gid,
          .mode = s.st_mode & 07777u,
          .kind = kind_of(s.st_mode)};
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
  file_identity now;
  if (fd < 0) return;
  const int why = identify(fd, &now);
  const bool is_ours =
      why != 0 ? why != EBADF : inode == 0 || (now.device == device && now.inode == inode);
  if (is_ours) ::close(fd);
}

int duplicate(int fd) {
  return ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

int set_length(int fd, u64 bytes) {
  if (passes_size_limit(fd, bytes)) return EFBIG;
  return repeat([&] { return ::ftruncate(fd, static_cast<off_t>(bytes)); }) == 0 ? 0 : errno;
}

int allocate_range(int fd, u64 offset, u64 bytes) {
  if (passes_size_limit(fd, offset + bytes)) return EFBIG;
  return repeat([&] {
           return ::fallocate(fd, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                              static_cast<off_t>(bytes));
         }) == 0
             ? 0
             : errno;
}

int punch_hole(int fd, u64 offset, u64 bytes) {
  return repeat([&] {
           return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              static_cast<off_t>(offset), static_cast<off_t>(bytes));
         }) == 0
             ? 0
             : errno;
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

std::string mount_point_of(int fd) {
  struct stat s {};
  if (::fstat(fd, &s) != 0) return {};
  FILE* const mounts = std::fopen("/proc/self/mountinfo", "re");
  if (mounts == nullptr) return {};
  std::string point;
  char line[2 * PATH_MAX];
  while (std::fgets(line, sizeof line, mounts) != nullptr) {
    unsigned major_number = 0, minor_number = 0;
    char path[PATH_MAX];
    static_assert(PATH_MAX == 4096);
    if (std::sscanf(line, "%*d %*d %u:%u %*s %4095s", &major_number, &minor_number, path) == 3 &&
        makedev(major_number, minor_number) == s.st_dev)
      point = decode(path);  // mounted last: on top
  }
  std::fclose(mounts);
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

int make_directory(const char* path, u32 mode) {
  return ::mkdir(path, mode) == 0 || errno == EEXIST ? 0 : errno;
}

std::string current_directory() {
  char path[PATH_MAX];
  return ::getcwd(path, sizeof path) != nullptr && path[0] == '/' ? path : "";
}

// A program that runs with another's rights (set-user-id, set-group-id) does not take places from
// who started it.
std::string environment(const char* name) {
  if (::getuid() != ::geteuid() || ::getgid() != ::getegid()) return "";
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

u32 user_id() {
  return ::geteuid();
}

open_result open_place(const char* path, links which) {
  constexpr int directory = O_PATH | O_DIRECTORY | O_CLOEXEC;
  if (which != links::none)
    return opened(repeat(
        [&] { return ::open(path, directory | (which == links::not_last ? O_NOFOLLOW : 0)); }));
  // Part by part, so that a link anywhere is refused: a descriptor for a part that is a link is no
  // directory.
  if (path[0] != '/') return {-1, EINVAL};
  open_result at = opened(repeat([&] { return ::open("/", directory); }));
  for (const char* part = path; at.fd >= 0;) {
    while (*part == '/')
      ++part;
    if (*part == '\0') break;
    const char* end = part;
    while (*end != '\0' && *end != '/')
      ++end;
    const std::string name(part, end);
    const open_result next = name == ".." ? open_result{-1, ELOOP} : opened(repeat([&] {
      return ::openat(at.fd, name.c_str(), directory | O_NOFOLLOW);
    }));
    ::close(at.fd);
    at = next;
    part = end;
  }
  return at;
}

open_result open_in(int place, const char* name, bool writable) {
  struct stat s {};
  if (::fstatat(place, name, &s, AT_SYMLINK_NOFOLLOW) != 0) return {-1, errno};
  // Before it is opened: opening a device may do something.
  if (!S_ISREG(s.st_mode)) return {-1, EINVAL};
  const open_result file = opened(repeat([&] {
    return ::openat(place, name, (writable ? O_RDWR : O_RDONLY) | never_waits | O_NOFOLLOW);
  }));
  if (file.fd >= 0 && (::fstat(file.fd, &s) != 0 || !S_ISREG(s.st_mode))) {  // another one by now
    ::close(file.fd);
    return {-1, EINVAL};
  }
  return file;
}

int identify_in(int place, const char* name, file_identity* out) {
  struct stat s {};
  if (::fstatat(place, name, &s, AT_SYMLINK_NOFOLLOW) != 0) return errno;
  *out = identity_of(s);
  return 0;
}

open_result point_at(int place, const char* name) {
  return opened(repeat([&] { return ::openat(place, name, O_PATH | O_NOFOLLOW | O_CLOEXEC); }));
}

open_result point_at_descriptor(u32 process, u32 fd) {
  const std::string path = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(fd);
  return opened(repeat([&] { return ::open(path.c_str(), O_PATH | O_CLOEXEC); }));
}

open_result create_unnamed_in(int place, u32 mode) {
  const open_result made =
      opened(repeat([&] { return ::openat(place, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode); }));
  if (made.fd >= 0) ::fchmod(made.fd, mode);  // the mode asked for, whatever the umask says
  return made;
}

open_result create_in(int place, const char* name, u32 mode) {
  const open_result made = opened(repeat([&] {
    return ::openat(place, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
  }));
  if (made.fd >= 0) ::fchmod(made.fd, mode);
  return made;
}

int publish_in(int fd, int place, const char* name) {
  return ::linkat(AT_FDCWD, descriptor_path(fd).c_str(), place, name, AT_SYMLINK_FOLLOW) == 0
             ? 0
             : errno;
}

int remove_in(int place, const char* name, u64 device, u64 inode) {
  struct stat s {};
  if (::fstatat(place, name, &s, AT_SYMLINK_NOFOLLOW) != 0) return errno;
  if (s.st_dev != device || s.st_ino != inode || S_ISDIR(s.st_mode)) return ENOENT;
  return ::unlinkat(place, name, 0) == 0 ? 0 : errno;
}

int list_in(int place, std::vector<std::string>* names) {
  const open_result itself =
      opened(repeat([&] { return ::openat(place, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (itself.fd < 0) return itself.error;
  DIR* const directory = ::fdopendir(itself.fd);
  if (directory == nullptr) {
    const int why = errno;
    ::close(itself.fd);
    return why;
  }
  errno = 0;
  while (const dirent* entry = ::readdir(directory))
    if (const std::string name = entry->d_name; name != "." && name != "..") names->push_back(name);
  const int why = errno;
  ::closedir(directory);
  return why;
}

bool is_hugetlbfs(int place) {
  struct statfs s {};
  return ::fstatfs(place, &s) == 0 && s.f_type == HUGETLBFS_MAGIC;
}

u32 owner_of_process(u32 process) {
  struct stat s {};
  return ::stat(("/proc/" + std::to_string(process)).c_str(), &s) == 0 ? s.st_uid : nobody_known;
}

namespace {

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

}  // namespace annex::os
