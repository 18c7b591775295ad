// platform/os.hpp - everything annex asks of the operating system, as functions with one meaning
// each.
//
// Nothing else in src/ includes a system header. Errors are errno values (0: done), never
// exceptions; a caller turns them into sentences. linux/ implements it. Interrupted calls are
// repeated.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "base/units.hpp"

namespace annex::os {

// ---- files --------------------------------------------------------------------------------------
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
struct open_result {
  int fd = -1;
  int error = 0;
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
void close_file(int fd);
// Only while the number belongs to this file; inode 0: any.
void close_file_if(int fd, u64 device, u64 inode);
int duplicate(int fd);  // -1 on failure; close-on-exec
// EFBIG: beyond file_size_limit(); the kernel would kill.
int set_length(int fd, u64 bytes);
// So that touching it can't fail; EOPNOTSUPP where unknown; EFBIG as above.
int allocate_range(int fd, u64 offset, u64 bytes);
int punch_hole(int fd, u64 offset, u64 bytes);  // reads as zero afterwards
int identify(int fd, file_identity* out);
int give_file(int fd, u32 owner, u32 group);  // changes whose it is
u64 allocated_bytes(int fd);
/// The file system a file lies on. total_bytes 0: it has no size of its own (a memfd), or does not
/// say.
struct file_system {
  u64 total_bytes = 0, free_bytes = 0, huge_page_bytes = 0;
  bool in_memory = false;
};
file_system file_system_of(int fd);
// Empty: none that this process sees.
std::string mount_point_of(int fd);
// Empty when it has none that leads back to it.
std::string path_of(int fd);
// 0 when something is there, whatever it is.
int make_directory(const char* path, u32 mode);
std::string current_directory();  // empty: it can't be told
// Empty when unset, or not to be heeded (set-user-id programs).
std::string environment(const char* name);
u32 user_id();  // whose rights this process has

// ---- names in a directory: what was looked at is what is used, wherever its path may lead meanwhi
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
constexpr u32 nobody_known = ~u32{0};
// Nobody_known: there is none, or it can't be told.
u32 owner_of_process(u32 process);

// ---- a lock that ends with its holder: one byte of a file ---------------------------------------
/// A lock that is held by this process's memory itself: through an open file description that only
/// a mapping refers to. It ends with the process or its exec, and with nothing else: a forked child
/// does not have the mapping, and no descriptor is left that could be inherited, sent or closed.
/// How the kernel keeps it: the mapping holds the description, the description the lock.
struct life_lock {
  void* pin = nullptr;
  int error = 0;
};
// At once; EAGAIN: somebody else has it.
life_lock hold_byte(int fd, u64 position, bool shared = false);
void let_go_of_byte(void* pin);             // null: nothing
bool is_byte_locked(int fd, u64 position);  // by anybody, ourselves too
bool is_any_byte_locked(int fd, u64 from, u64 bytes);

// ---- memory -------------------------------------------------------------------------------------
struct map_result {
  void* address = nullptr;
  int error = 0;
};
// Shared; beyond its end is allowed.
map_result map_file(int fd, u64 offset, u64 bytes, bool writable, u64 alignment);
/// The same file where it is mapped already: as a private copy that may be written to, or shared
/// again for reading.
int map_file_again(void* address, int fd, u64 bytes, bool as_a_copy);
int forbid_writing(void* address, u64 bytes);
map_result map_anonymous(u64 bytes, u64 huge_page_bytes, bool shared, u64 alignment);
// Address space, pages come when touched.
map_result reserve(u64 bytes, bool accessible);
void unmap(void* address, u64 bytes);
/// For what reaches far beyond its file: a memory checker (valgrind) would look for pointers there,
/// page by page, when the program ends, and each page would be an error of its own. No system call
/// may be given an address in it. Nothing happens without a checker; unmap() takes it back.
void hide_from_leak_search(void* address, u64 bytes);
// Error: it could not be seen.
struct mapping_check {
  bool mapped = false, readable = false, writable = false, shared = false;
  int error = 0;
};
mapping_check check_mapping(const void* address, u64 bytes);  // all of it
// For writing; EFAULT, ENOMEM: no memory.
int populate(void* address, u64 bytes);
/// What is mapped of the range, stretch by stretch in order of addresses, until visit returns
/// false; what lies between is not mapped. Not 0: it could not be seen (no descriptor is left).
struct mapped_stretch {
  u64 begin, end;
  bool readable, writable;
};
int for_each_mapped(const void* address, u64 bytes,
                    const std::function<bool(const mapped_stretch&)>& visit);
int bind_to_node(void* address, u64 bytes, int node);
struct misplaced_page {
  u64 offset = 0;
  int node = -1;
};  // node -1: none is
/// The first of every stride bytes' pages that is there and lies on another node; touches none.
misplaced_page find_off_node(const void* address, u64 bytes, u64 stride, int node);
// What populating could get there; ~0: not known.
u64 free_on_node(int node, u64 huge_page_bytes);
// The same anywhere, within the control group's limit; ~0: not known.
u64 free_memory();
int node_count();
/// What a character device with memory (/dev/dax…) says of itself; 0 and -1: nothing.
struct device_facts {
  u64 length_bytes = 0, align_bytes = 0;
  int node = -1;
};
device_facts facts_of_device(int fd);
u64 page_bytes();

/// Pages that are neither moved nor taken away until unpin() or the process's end; populates them.
/// Several threads; 0: one per CPU. Errors: ENOMEM (locked-memory limit, or no memory), EFAULT
/// (can't be pinned: not writable, a disk file), ENOSYS, EPERM.
struct pinned;
struct pin_result {
  pinned* held = nullptr;
  int error = 0;
};
pin_result pin(void* address, u64 bytes, unsigned threads,
               const std::function<void(u64 done, u64 all)>& progress);
void unpin(pinned* held);

// ---- what this process may have; ~0: no limit ---------------------------------------------------
u64 locked_memory_limit();
u64 file_size_limit();
u64 descriptor_limit();
u64 address_space_limit();
/// Hugepages of one size. exists false: this kernel has none of it.
struct hugepage_pool {
  bool exists = false;
  u64 free_pages = 0;
};
hugepage_pool hugepages_of(u64 page_bytes);

struct physical_run {
  u64 offset, address, bytes;
};
int physical_runs(const void* address, u64 bytes, u64 page_bytes, std::vector<physical_run>* out);

// ---- processes and threads ----------------------------------------------------------------------
u32 process_id();
u32 thread_id();
bool thread_exists(u32 thread);  // of this process
/// Calls the handler when this thread ends, after the destructors of its thread_locals; once. A
/// handler that is asked for by another one at that time is called in the next of up to four
/// rounds. Not for the main thread, unless it ends alone.
void at_end_of_this_thread(void (*handler)());
u64 start_time(u32 process);  // 0: unknown
std::string program_name();
u64 random_number();
u64 now_ns();  // monotonic
void yield();
void sleep_ns(u64 ns);
/// before: in the parent; after: in the parent; in_child: in the child. Called in reverse, as
/// registered, as registered.
void at_fork(void (*before)(), void (*after)(), void (*in_child)());

// How often this process's forebears have forked to make it.
u64 fork_count();

/// Orders this thread's earlier stores before later loads of every thread of every process that
/// called prepare; false where the kernel does not offer it.
bool prepare_process_barrier();
bool process_barrier();

// ---- waiting ------------------------------------------------------------------------------------
/// Sleeps while *word == expected, until it is woken, at most ns. May return sooner: callers look
/// at the word again.
void wait_on(const u32* word, u32 expected, u64 ns);
void wake_all(const u32* word);
void wake_one(const u32* word);
/// A descriptor that is readable (poll, epoll) from signal_event() until clear_event().
open_result open_event();
void signal_event(int fd);
void clear_event(int fd);
// From this thread: others get them.
void keep_signals_away();

}  // namespace annex::os
