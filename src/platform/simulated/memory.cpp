// platform/simulated/memory.cpp - no memory, no address space, and mappings that can't be seen.
#include "platform/memory.hpp"

#include <cerrno>

#include "platform/simulated/ask.hpp"
#include "platform/simulated/beneath.hpp"

namespace annex::os {

u64 page_bytes() {
  return simulated::pass(__func__, beneath::page_bytes);
}

map_result map_file(int fd, u64 offset, u64 bytes, bool writable, u64 alignment) {
  return simulated::ask(__func__, {{nullptr, ENOMEM}, {nullptr, EAGAIN}, {nullptr, ENFILE}},
                        beneath::map_file, fd, offset, bytes, writable, alignment);
}

int map_file_again(void* address, int fd, u64 bytes, bool as_a_copy) {
  return simulated::ask(__func__, {ENOMEM, EAGAIN}, beneath::map_file_again, address, fd, bytes,
                        as_a_copy);
}

int forbid_writing(void* address, u64 bytes) {
  return simulated::ask(__func__, {ENOMEM}, beneath::forbid_writing, address, bytes);
}

map_result map_anonymous(u64 bytes, u64 huge_page_bytes, bool shared, u64 alignment) {
  return simulated::ask(__func__, {{nullptr, ENOMEM}, {nullptr, EAGAIN}}, beneath::map_anonymous,
                        bytes, huge_page_bytes, shared, alignment);
}

map_result reserve(u64 bytes, bool accessible) {
  return simulated::ask(__func__, {{nullptr, ENOMEM}, {nullptr, EAGAIN}}, beneath::reserve, bytes,
                        accessible);
}

// As malloc, it is not refused.
void* map_own_pages(u64 bytes) {
  return simulated::pass(__func__, beneath::map_own_pages, bytes);
}

void unmap(void* address, u64 bytes) {
  simulated::pass(__func__, beneath::unmap, address, bytes);
}

void hide_from_leak_search(void* address, u64 bytes) {
  simulated::pass(__func__, beneath::hide_from_leak_search, address, bytes);
}

int populate(void* address, u64 bytes) {
  return simulated::ask(__func__, {ENOMEM, EFAULT}, beneath::populate, address, bytes);
}

mapping_check check_mapping(const void* address, u64 bytes) {
  return simulated::ask(__func__, {{.error = EMFILE}, {.error = ENFILE}, {.error = ENOENT}},
                        beneath::check_mapping, address, bytes);
}

int for_each_mapped(const void* address, u64 bytes,
                    function_ref<bool(const mapped_stretch&)> visit) {
  return simulated::ask(__func__, {EMFILE, ENFILE, ENOENT}, beneath::for_each_mapped, address,
                        bytes, visit);
}

u64 transparent_page_bytes() {
  return simulated::pass(__func__, beneath::transparent_page_bytes);
}

transparent_settings transparent_settings_of_machine() {
  return simulated::pass(__func__, beneath::transparent_settings_of_machine);
}

int advise_huge(void* address, u64 bytes, bool wanted) {
  return simulated::ask(__func__, {EINVAL, ENOMEM}, beneath::advise_huge, address, bytes, wanted);
}

int make_huge(void* address, u64 bytes) {
  return simulated::ask(__func__, {EINVAL, ENOMEM, EAGAIN, EBUSY}, beneath::make_huge, address,
                        bytes);
}

int for_each_mapping_pages(u32 process_id, function_ref<bool(const mapping_pages&)> visit) {
  return simulated::ask(__func__, {EACCES, EMFILE, ENOENT}, beneath::for_each_mapping_pages,
                        process_id, visit);
}

}  // namespace annex::os
