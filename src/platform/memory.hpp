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

}  // namespace annex::os
