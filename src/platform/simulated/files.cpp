// platform/simulated/files.cpp - files that can't be opened, grown or seen.
#include "platform/files.hpp"

#include <cerrno>
#include <string>

#include "platform/simulated/ask.hpp"
#include "platform/simulated/beneath.hpp"

namespace annex::os {

open_result open_file(const char* path, bool writable) {
  return simulated::ask(__func__, {{-1, EMFILE}, {-1, ENFILE}, {-1, EACCES}, {-1, ENOMEM}},
                        beneath::open_file, path, writable);
}

open_result open_or_create(const char* path, u32 mode) {
  return simulated::ask(__func__, {{-1, ENOSPC}, {-1, EMFILE}, {-1, EACCES}, {-1, EDQUOT}},
                        beneath::open_or_create, path, mode);
}

open_result create_memory_file(const char* name, u64 huge_page_bytes) {
  return simulated::ask(__func__, {{-1, ENOMEM}, {-1, EMFILE}, {-1, ENFILE}},
                        beneath::create_memory_file, name, huge_page_bytes);
}

int seal_length(int fd) {
  return simulated::ask(__func__, {EPERM, EINVAL}, beneath::seal_length, fd);
}

open_result reopen(int fd, bool writable) {
  return simulated::ask(__func__, {{-1, EMFILE}, {-1, ENFILE}, {-1, EACCES}, {-1, ENOMEM}},
                        beneath::reopen, fd, writable);
}

void close_file(int fd) {
  simulated::pass(__func__, beneath::close_file, fd);
}

void close_file_if(int fd, u64 device, u64 inode) {
  simulated::pass(__func__, beneath::close_file_if, fd, device, inode);
}

int duplicate(int fd) {
  const int copy = simulated::ask(__func__, {-1}, beneath::duplicate, fd);
  if (copy < 0) errno = EMFILE;
  return copy;
}

int set_length(int fd, u64 bytes) {
  return simulated::ask(__func__, {EFBIG, ENOSPC, EIO}, beneath::set_length, fd, bytes);
}

int allocate_range(int fd, u64 offset, u64 bytes) {
  return simulated::ask(__func__, {ENOSPC, EFBIG, EDQUOT, EIO}, beneath::allocate_range, fd, offset,
                        bytes);
}

int punch_hole(int fd, u64 offset, u64 bytes) {
  return simulated::ask(__func__, {ENOSPC, EOPNOTSUPP, EIO}, beneath::punch_hole, fd, offset,
                        bytes);
}

int identify(int fd, file_identity* out) {
  return simulated::ask(__func__, {EIO, ENOMEM}, beneath::identify, fd, out);
}

int give_file(int fd, u32 owner, u32 group) {
  return simulated::ask(__func__, {EPERM, EROFS}, beneath::give_file, fd, owner, group);
}

u64 allocated_bytes(int fd) {
  return simulated::ask(__func__, {0}, beneath::allocated_bytes, fd);
}

bool is_hole(int fd, u64 offset) {
  return simulated::ask(__func__, {false}, beneath::is_hole, fd, offset);
}

file_system file_system_of(int fd) {
  return simulated::ask(__func__, {file_system()}, beneath::file_system_of, fd);
}

mount_point mount_point_of(int fd) {
  return simulated::ask(__func__, {mount_point()}, beneath::mount_point_of, fd);
}

std::string path_of(int fd) {
  return simulated::ask(__func__, {std::string()}, beneath::path_of, fd);
}

}  // namespace annex::os
