// platform/linux/memory.cpp - mapping and unmapping, and pages that are there.
#include "platform/memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "platform/linux/call.hpp"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace ANNEX_OS {
namespace {

// Reserves a little more than asked for, then maps at the first aligned address inside.
map_result map_aligned(u64 bytes, u64 alignment,
                       function_ref<void*(void* where, int extra_flags)> map) {
  if (alignment <= page_bytes()) {
    void* p = map(nullptr, 0);
    return p != MAP_FAILED ? map_result{p, 0} : map_result{nullptr, errno};
  }
  u64 reserved = 0;
  if (add_overflows(bytes, alignment, &reserved)) return {nullptr, ENOMEM};
  void* space =
      ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) return {nullptr, errno};
  char* const begin = static_cast<char*>(space);
  char* const aligned =
      begin + (align_up(reinterpret_cast<u64>(begin), alignment) - reinterpret_cast<u64>(begin));
  void* p = map(aligned, MAP_FIXED);
  if (p == MAP_FAILED) {
    const int why = errno;
    ::munmap(space, reserved);
    return {nullptr, why};
  }
  if (aligned != begin) ::munmap(begin, static_cast<u64>(aligned - begin));
  char* const end = aligned + align_up(bytes, page_bytes());
  if (end < begin + reserved) ::munmap(end, static_cast<u64>(begin + reserved - end));
  return {p, 0};
}

#if defined(__x86_64__)
// Valgrind knows this sequence of instructions, which leaves every register as it was, and takes
// what rax points to for a request; run without it, it does nothing. Source: Valgrind User Manual,
// 3.1 "The Client Request mechanism"; the numbers are those of memcheck.
enum class checker_request : u64 {
  make_unaddressable = 0x4d43'0000,
  report_errors_in = 0x4d43'000d,
  ignore_errors_in = 0x4d43'000e
};
void ask_memory_checker(checker_request what, const void* address, u64 bytes) {
  const volatile u64 request[6] = {
      static_cast<u64>(what), reinterpret_cast<u64>(address), bytes, 0, 0, 0};
  u64 answer = 0;
  asm volatile(
      "rolq $3, %%rdi; rolq $13, %%rdi; rolq $61, %%rdi; rolq $51, %%rdi; xchgq %%rbx, %%rbx"
      : "=d"(answer)
      : "a"(&request[0]), "0"(answer)
      : "cc", "memory");
}
#else
enum class checker_request : u64 { make_unaddressable, report_errors_in, ignore_errors_in };
void ask_memory_checker(checker_request, const void*, u64) {}
#endif

}  // namespace

u64 page_bytes() {
  static const u64 bytes = static_cast<u64>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

map_result map_file(int fd, u64 offset, u64 bytes, bool writable, u64 alignment) {
  return map_aligned(bytes, alignment, [&](void* where, int extra) {
    return ::mmap(where, bytes, PROT_READ | (writable ? PROT_WRITE : 0),
                  MAP_SHARED | MAP_NORESERVE | extra, fd, static_cast<off_t>(offset));
  });
}

int map_file_again(void* address, int fd, u64 bytes, bool as_a_copy) {
  const int protection = PROT_READ | (as_a_copy ? PROT_WRITE : 0),
            flags = MAP_FIXED | MAP_NORESERVE | (as_a_copy ? MAP_PRIVATE : MAP_SHARED);
  return ::mmap(address, bytes, protection, flags, fd, 0) != MAP_FAILED ? 0 : errno;
}

int forbid_writing(void* address, u64 bytes) {
  return ::mprotect(address, bytes, PROT_READ) == 0 ? 0 : errno;
}

map_result map_anonymous(u64 bytes, u64 huge_page_bytes, bool shared, u64 alignment) {
  int flags = MAP_ANONYMOUS | (shared ? MAP_SHARED : MAP_PRIVATE);
  flags |= huge_page_bytes != 0 ? MAP_HUGETLB | static_cast<int>(log2_floor(huge_page_bytes) << 26)
                                : MAP_NORESERVE;
  return map_aligned(bytes, huge_page_bytes != 0 ? 0 : alignment, [&](void* where, int extra) {
    return ::mmap(where, bytes, PROT_READ | PROT_WRITE, flags | extra, -1, 0);
  });
}

map_result reserve(u64 bytes, bool accessible) {
  void* p = ::mmap(nullptr, bytes, accessible ? PROT_READ | PROT_WRITE : PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p != MAP_FAILED ? map_result{p, 0} : map_result{nullptr, errno};
}

void* map_own_pages(u64 bytes) {
  void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return p != MAP_FAILED ? p : nullptr;
}

void hide_from_leak_search(void* address, u64 bytes) {
  ask_memory_checker(checker_request::make_unaddressable, address, bytes);
  ask_memory_checker(checker_request::ignore_errors_in, address, bytes);
}

void unmap(void* address, u64 bytes) {
  ::munmap(address, bytes);
  ask_memory_checker(checker_request::report_errors_in, address, bytes);
}

int populate(void* address, u64 bytes) {
  if (repeat([&] { return ::madvise(address, bytes, MADV_POPULATE_WRITE); }) == 0) return 0;
  if (errno != EINVAL) return errno;
  // Kernels before 5.14: read and write back one byte a page.
  for (u64 at = 0; at < bytes; at += page_bytes()) {
    auto* byte = static_cast<volatile char*>(address) + at;
    *byte = *byte;
  }
  return 0;
}

}  // namespace ANNEX_OS
