// platform/linux/identity.hpp - what files.cpp and directories.cpp share: what a file is, from what
// the kernel says of it, the path that leads to a descriptor's file, and how a file is opened.
#pragma once
#include <fcntl.h>
#include <sys/stat.h>

#include <cstdio>

#include "platform/files.hpp"

namespace annex::os {

// Nobody waits for a pipe's other end, and no terminal becomes ours.
inline constexpr int never_waits = O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

inline file_kind kind_of(mode_t mode) {
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

inline file_identity identity_of(const struct stat& s) {
  return {.device = s.st_dev,
          .inode = s.st_ino,
          .length_bytes = static_cast<u64>(s.st_size),
          .links = static_cast<u32>(s.st_nlink),
          .owner = s.st_uid,
          .group = s.st_gid,
          .mode = s.st_mode & 07777u,
          .kind = kind_of(s.st_mode)};
}

/// The way to what this process has open, by a name.
struct descriptor_path {
  explicit descriptor_path(int fd) { std::snprintf(text, sizeof text, "/proc/self/fd/%d", fd); }
  const char* c_str() const noexcept { return text; }
  char text[32];
};

}  // namespace annex::os
