// platform/linux/directories.cpp - names in a directory, looked up from its descriptor.
#include "platform/directories.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <string>
#include <vector>

#include "platform/linux/call.hpp"
#include "platform/linux/identity.hpp"

namespace ANNEX_OS {

int make_directory(const char* path, u32 mode) {
  return ::mkdir(path, mode) == 0 || errno == EEXIST ? 0 : errno;
}

std::string current_directory() {
  char path[PATH_MAX];
  return ::getcwd(path, sizeof path) != nullptr && path[0] == '/' ? path : "";
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

}  // namespace ANNEX_OS
