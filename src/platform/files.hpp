// platform/files.hpp - files, what they are, and the file systems they lie on.
//
// Errors are errno values (0: done), never exceptions; a caller turns them into sentences.
// Interrupted calls are repeated. Any thread may call; nothing is locked or kept. Every descriptor
// is close-on-exec. Where only a value is returned, a comment says which one means "it can't be
// told".
#pragma once
#include <string>
#include <string_view>

#include "base/units.hpp"
#include "platform/open_result.hpp"

namespace annex::os {

enum class file_kind : u8 {
  other,
  regular,
  directory,
  link,
  pipe,
  socket,
  character_device,
  block_device
};
/// mode: permissions, with the bits for set-group and sticky.
struct file_identity {
  u64 device = 0, inode = 0, length_bytes = 0;
  u32 links = 0, owner = 0, group = 0, mode = 0;
  file_kind kind = file_kind::other;
};

// No path is opened so that the opening waits (a pipe without a writer), or makes a terminal ours.
// Not through a link as its last part.
open_result open_file(const char* path, bool writable);
open_result open_or_create(const char* path, u32 mode);
open_result create_memory_file(const char* name, u64 huge_page_bytes);  // memfd; 0: ordinary pages
// Of a memory file: it can't be cut any more, and nothing else be sealed.
int seal_length(int fd);
// A new open file description of the same file.
open_result reopen(int fd, bool writable);
void close_file(int fd);  // -1: nothing
// Only while the number belongs to this file; inode 0: any.
void close_file_if(int fd, u64 device, u64 inode);
int duplicate(int fd);  // -1: refused, and errno says why
// EFBIG: beyond file_size_limit(); the kernel would kill.
int set_length(int fd, u64 bytes);
// So that touching it can't fail; EOPNOTSUPP where unknown; EFBIG as above.
int allocate_range(int fd, u64 offset, u64 bytes);
int punch_hole(int fd, u64 offset, u64 bytes);  // reads as zero afterwards
int identify(int fd, file_identity* out);
int give_file(int fd, u32 owner, u32 group);  // changes whose it is
u64 allocated_bytes(int fd);                  // 0 also when it can't be told
/// Nothing was ever written there: it reads as zeros. Through a mapping even a reader needs a new
/// page for it, and is killed when the file system has none left. False also when it can't be told.
bool is_hole(int fd, u64 offset);

/// The file system a file lies on. total_bytes 0: it has no size of its own (a memfd), or does not
/// say.
struct file_system {
  u64 total_bytes = 0, free_bytes = 0, huge_page_bytes = 0;
  bool in_memory = false;
};
file_system file_system_of(int fd);
/// Where a file system is mounted; empty: nowhere that this process sees.
struct mount_point {
  char text[4096] = {};
  operator std::string_view() const noexcept { return text; }
};
mount_point mount_point_of(int fd);
// Empty when it has none that leads back to it.
std::string path_of(int fd);

}  // namespace annex::os
