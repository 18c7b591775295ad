// platform/os.hpp - everything annex asks of the operating system, as functions with one meaning each.
//
// Nothing else in src/ includes a system header. Errors are errno values (0: done), never exceptions; a caller turns them
// into sentences. linux/ implements it. Interrupted calls are repeated.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "base/units.hpp"

namespace annex::os {

// ---- files -------------------------------------------------------------------------------------------------------------
struct file_identity { u64 device = 0, inode = 0, length_bytes = 0; u32 links = 0; };
struct open_result { int fd = -1; int error = 0; };

open_result open_file(const char* path, bool writable);
open_result create_unnamed(const char* directory, u32 mode);      // a file without a name yet
int publish_file(int fd, const char* path);                       // gives it a name; EEXIST when taken
open_result open_or_create(const char* path, u32 mode);
open_result create_memory_file(const char* name, u64 huge_page_bytes);  // memfd; 0: ordinary pages
open_result reopen(int fd, bool writable);                        // a new open file description of the same file
open_result open_of_process(int process, int fd);                 // another process's descriptor
void close_file(int fd);
int duplicate(int fd);                                            // -1 on failure; close-on-exec
int set_length(int fd, u64 bytes);
int allocate_range(int fd, u64 offset, u64 bytes);                // so that touching it can't fail; EOPNOTSUPP where unknown
int punch_hole(int fd, u64 offset, u64 bytes);                    // reads as zero afterwards
int identify(int fd, file_identity* out);
u64 allocated_bytes(int fd);
std::string path_of(int fd);                                      // empty when it has none that leads back to it
int remove_file(const char* path);
int remove_file_if(const char* path, u64 device, u64 inode);      // only while the name belongs to this file
int make_directory(const char* path, u32 mode);                   // and its parents; 0 when it exists
std::vector<std::string> list_directory(const char* path);
std::string environment(const char* name);                        // empty when unset
u32 user_id();

// ---- a lock that ends with its holder: one byte of a file, held by an open file description -----------------------------
int lock_byte(int fd, u64 position);                               // exclusively, at once; EAGAIN: somebody else has it
void unlock_byte(int fd, u64 position);
bool is_byte_locked(int fd, u64 position);                        // by anybody else

// ---- memory ------------------------------------------------------------------------------------------------------------
struct map_result { void* address = nullptr; int error = 0; };
map_result map_file(int fd, u64 offset, u64 bytes, bool writable, u64 alignment);  // shared; beyond its end is allowed
map_result map_anonymous(u64 bytes, u64 huge_page_bytes, bool shared, u64 alignment);
map_result reserve(u64 bytes, bool accessible);                   // address space, pages come when touched
void unmap(void* address, u64 bytes);
struct mapping_check { bool mapped = false, readable = false, writable = false; };
mapping_check check_mapping(const void* address, u64 bytes);      // all of it
int populate(void* address, u64 bytes);                           // for writing; EFAULT, ENOMEM: no memory
int bind_to_node(void* address, u64 bytes, int node);
struct misplaced_page { u64 offset = 0; int node = -1; };            // node -1: none is
/// The first of every stride bytes' pages that is there and lies on another node; touches none.
misplaced_page find_off_node(const void* address, u64 bytes, u64 stride, int node);
u64 free_on_node(int node, u64 huge_page_bytes);                  // what populating could get there; ~0: not known
u64 free_memory();                                                // the same anywhere, within the control group's limit; ~0: not known
int node_count();
/// What a character device with memory (/dev/dax…) says of itself; 0 and -1: nothing.
struct device_facts { u64 length_bytes = 0, align_bytes = 0; int node = -1; };
device_facts facts_of_device(int fd);
u64 page_bytes();

/// Pages that are neither moved nor taken away until unpin() or the process's end; populates them. Several threads; 0: one per CPU. Errors: ENOMEM
/// (locked-memory limit, or no memory), EFAULT (can't be pinned: not writable, a disk file), ENOSYS, EPERM.
struct pinned;
struct pin_result { pinned* held = nullptr; int error = 0; };
pin_result pin(void* address, u64 bytes, unsigned threads, const std::function<void(u64 done, u64 all)>& progress);
void unpin(pinned* held);
u64 locked_memory_limit();                                        // ~0: none

struct physical_run { u64 offset, address, bytes; };
int physical_runs(const void* address, u64 bytes, u64 page_bytes, std::vector<physical_run>* out);

// ---- processes and threads -------------------------------------------------------------------------------------------------
u32 process_id();
u32 thread_id();
u64 start_time(u32 process);                                      // 0: unknown
std::string program_name();
u64 random_number();
u64 now_ns();                                                     // monotonic
void yield();
void sleep_ns(u64 ns);
void at_fork_in_child(void (*handler)());

/// Orders this thread's earlier stores before later loads of every thread of every process that called prepare; false
/// where the kernel does not offer it.
bool prepare_process_barrier();
bool process_barrier();

// ---- waiting -----------------------------------------------------------------------------------------------------------------
/// Sleeps while *word == expected, at most ns; true when woken or changed.
void wait_on(const u32* word, u32 expected, u64 ns);
void wake_all(const u32* word);

}  // namespace annex::os
