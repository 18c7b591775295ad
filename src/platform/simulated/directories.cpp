// platform/simulated/directories.cpp - names that can't be looked up, made or removed.
#include "platform/directories.hpp"

#include <cerrno>
#include <string>

#include "platform/simulated/ask.hpp"
#include "platform/simulated/beneath.hpp"

namespace annex::os {

int make_directory(const char* path, u32 mode) {
  return simulated::ask(__func__, {ENOSPC, EACCES, EROFS}, beneath::make_directory, path, mode);
}

std::string current_directory() {
  return simulated::ask(__func__, {std::string()}, beneath::current_directory);
}

open_result open_place(const char* path, links which) {
  return simulated::ask(__func__, {{-1, EMFILE}, {-1, ENFILE}, {-1, EACCES}, {-1, ENOMEM}},
                        beneath::open_place, path, which);
}

open_result open_in(int place, const char* name, bool writable) {
  return simulated::ask(__func__, {{-1, EMFILE}, {-1, ENFILE}, {-1, EACCES}, {-1, ENOMEM}},
                        beneath::open_in, place, name, writable);
}

int identify_in(int place, const char* name, file_identity* out) {
  return simulated::ask(__func__, {EIO, ENOMEM, EACCES}, beneath::identify_in, place, name, out);
}

open_result point_at(int place, const char* name) {
  return simulated::ask(__func__, {{-1, EMFILE}, {-1, ENFILE}, {-1, ENOMEM}}, beneath::point_at,
                        place, name);
}

open_result point_at_descriptor(u32 process, u32 fd) {
  return simulated::ask(__func__, {{-1, EMFILE}, {-1, EACCES}, {-1, ENOENT}},
                        beneath::point_at_descriptor, process, fd);
}

open_result create_unnamed_in(int place, u32 mode) {
  return simulated::ask(__func__, {{-1, ENOSPC}, {-1, EMFILE}, {-1, EOPNOTSUPP}, {-1, EDQUOT}},
                        beneath::create_unnamed_in, place, mode);
}

open_result create_in(int place, const char* name, u32 mode) {
  return simulated::ask(__func__, {{-1, ENOSPC}, {-1, EMFILE}, {-1, EACCES}, {-1, EDQUOT}},
                        beneath::create_in, place, name, mode);
}

int publish_in(int fd, int place, const char* name) {
  return simulated::ask(__func__, {ENOSPC, EDQUOT, EPERM, EROFS}, beneath::publish_in, fd, place,
                        name);
}

int remove_in(int place, const char* name, u64 device, u64 inode) {
  return simulated::ask(__func__, {EROFS, EACCES, EIO}, beneath::remove_in, place, name, device,
                        inode);
}

int list_in(int place, std::vector<std::string>* names) {
  return simulated::ask(__func__, {EMFILE, ENFILE, ENOMEM, EIO}, beneath::list_in, place, names);
}

bool is_hugetlbfs(int place) {
  return simulated::ask(__func__, {false}, beneath::is_hugetlbfs, place);
}

}  // namespace annex::os
