// platform/directories.hpp - names in a directory: what was looked at is what is used, wherever its
// path may lead meanwhile.
//
// Errors are errno values (0: done). Interrupted calls are repeated. Any thread may call. Whoever
// gets a descriptor closes it.
#pragma once
#include <string>
#include <vector>

#include "platform/files.hpp"

namespace annex::os {

// 0 when something is there, whatever it is.
int make_directory(const char* path, u32 mode);
std::string current_directory();  // empty: it can't be told

/// A directory, to look up names in; not through a link as its last part, or through none at all.
enum class links : u8 { followed, not_last, none };
open_result open_place(const char* path, links which);
// A regular file; EINVAL: it is of another kind.
open_result open_in(int place, const char* name, bool writable);
/// What has this name: a link itself.
int identify_in(int place, const char* name, file_identity* out);
/// A descriptor that leads to a file which is not opened yet: identify(), then reopen(). No effect
/// on devices and pipes.
open_result point_at(int place, const char* name);
// At what another process has open.
open_result point_at_descriptor(u32 process, u32 fd);
open_result create_unnamed_in(int place, u32 mode);            // a file without a name yet
open_result create_in(int place, const char* name, u32 mode);  // EEXIST when the name is taken
// Gives an unnamed file a name; EEXIST when taken.
int publish_in(int fd, int place, const char* name);
// Only while the name belongs to this file.
int remove_in(int place, const char* name, u64 device, u64 inode);
int list_in(int place, std::vector<std::string>* names);  // without . and ..
bool is_hugetlbfs(int place);

}  // namespace annex::os
