// platform/memory.hpp - address space and what is mapped in it.
//
// Errors are errno values (0: done). Interrupted calls are repeated. Any thread may call; whoever
// maps unmaps.
#pragma once
#include "base/function_ref.hpp"
#include "base/units.hpp"

namespace annex::os {

u64 page_bytes();

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
/// For annex's own records: private, zero, readable and writable. Null: no memory.
void* map_own_pages(u64 bytes);
void unmap(void* address, u64 bytes);
/// For what reaches far beyond its file: a memory checker (valgrind) would look for pointers there,
/// page by page, when the program ends, and each page would be an error of its own. No system call
/// may be given an address in it. Nothing happens without a checker; unmap() takes it back.
void hide_from_leak_search(void* address, u64 bytes);
// For writing; EFAULT, ENOMEM: no memory.
int populate(void* address, u64 bytes);

// Error: it could not be seen.
struct mapping_check {
  bool mapped = false, readable = false, writable = false, shared = false;
  int error = 0;
};
mapping_check check_mapping(const void* address, u64 bytes);  // all of it
/// What is mapped of the range, stretch by stretch in order of addresses, until visit returns
/// false; what lies between is not mapped. Not 0: it could not be seen (no descriptor is left).
struct mapped_stretch {
  u64 begin, end;
  bool readable, writable;
};
int for_each_mapped(const void* address, u64 bytes,
                    function_ref<bool(const mapped_stretch&)> visit);

// ---- transparent huge pages: ordinary memory in pages that the processor takes at once ----------

/// Bytes of one; 0: this kernel has none.
u64 transparent_page_bytes();
/// What the machine's administrator chose, for memory of a process and for shared memory: the words
/// in brackets of /sys/kernel/mm/transparent_hugepage; empty: can't be seen.
struct transparent_settings {
  char own[16] = {}, shared[16] = {};
};
transparent_settings transparent_settings_of_machine();
/// Whether pages that come from now on shall be huge where whole ones fit, or never. The kernel
/// may have its own mind. EINVAL: not of such memory.
int advise_huge(void* address, u64 bytes, bool wanted);
/// Makes one of each whole piece of which at least one small page is there, now, without losing
/// what it contains. EINVAL: this kernel (before Linux 6.1) or such memory has none. ENOMEM, EBUSY:
/// there is no memory in one piece. EAGAIN: somebody has a page of it.
int make_huge(void* address, u64 bytes);
/// What a process has mapped, in order of addresses, with how much of each is in huge pages, until
/// visit returns false. Of a file: device, inode and the offset of its first byte; else inode 0.
/// Reads all of /proc/PID/smaps: some 10 us for each MiB of small pages. process_id 0: this one.
struct mapping_pages {
  u64 begin = 0, end = 0, file_offset = 0, device = 0, inode = 0, huge_bytes = 0;
};
int for_each_mapping_pages(u32 process_id, function_ref<bool(const mapping_pages&)> visit);

}  // namespace annex::os
