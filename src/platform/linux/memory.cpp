// platform/linux/memory.cpp - mappings, pages, physical addresses.
#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <thread>

#include "platform/linux/call.hpp"
#include "platform/os.hpp"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace annex::os {
namespace {

// Reserves a little more than asked for, then maps at the first aligned address inside.
map_result map_aligned(u64 bytes, u64 alignment,
                       const std::function<void*(void* where, int extra_flags)>& map) {
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

// What PROCMAP_QUERY (Linux 6.11) takes and gives; declared here because Debian 12's headers are
// older.
struct procmap_query {
  u64 size, query_flags, query_addr, vma_start, vma_end, vma_flags, vma_page_size, vma_offset,
      inode;
  u32 dev_major, dev_minor, vma_name_size, build_id_size;
  u64 vma_name_addr, build_id_addr;
};
constexpr unsigned long procmap_query_request = _IOWR('f', 17, procmap_query);

struct stretch {
  u64 begin, end;
  bool readable, writable, shared;
};

u64 limit_of(decltype(RLIMIT_AS) resource) {
  ::rlimit limit{};
  return ::getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY ? limit.rlim_cur
                                                                               : ~u64{0};
}

// Runs look() where a descriptor is left: in a thread with a table of descriptors of its own, one
// of which it closes there. The program's own stay as they are.
int with_a_descriptor(const std::function<int()>& look) {
  int why = EMFILE;
  try {
    std::thread([&] {
      if (::unshare(CLONE_FILES) != 0) return;
      for (u64 fd = std::min<u64>(descriptor_limit(), 1 << 20); fd-- > 0;)
        if (::close(static_cast<int>(fd)) == 0) {
          why = look();
          return;
        }
    }).join();
  } catch (const std::system_error&) {
    return EMFILE;  // nor a thread
  }
  return why;
}

// Calls visit for the mappings that touch [begin, end) in order, until it returns false. Not 0:
// they could not be seen.
int walk_mappings(u64 begin, u64 end, const std::function<bool(const stretch&)>& visit,
                  bool may_try_elsewhere = true) {
  const int fd = repeat([] { return ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC); });
  if (fd < 0 && errno == EMFILE && may_try_elsewhere)
    return with_a_descriptor([&] { return walk_mappings(begin, end, visit, false); });
  if (fd < 0) return errno;
  bool fast = true;
  for (u64 at = begin; at < end;) {
    procmap_query query{};
    query.size = sizeof query;
    query.query_flags = 0x10;  // the mapping that covers the address, or the next one
    query.query_addr = at;
    if (::ioctl(fd, procmap_query_request, &query) != 0) {
      fast = errno == ENOENT;  // nothing mapped further up; anything else: an older kernel
      break;
    }
    if (query.vma_start >= end ||
        !visit({query.vma_start, query.vma_end, (query.vma_flags & 1) != 0,
                (query.vma_flags & 2) != 0, (query.vma_flags & 8) != 0}))
      break;
    at = query.vma_end;
  }
  if (!fast) {
    if (FILE* maps = ::fdopen(fd, "re")) {
      char line[4200];
      while (std::fgets(line, sizeof line, maps) != nullptr) {
        u64 from = 0, to = 0;
        char rights[5] = {};
        if (std::sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &from, &to, rights) != 3 ||
            to <= begin)
          continue;
        if (from >= end || !visit({from, to, rights[0] == 'r', rights[1] == 'w', rights[3] == 's'}))
          break;
      }
      std::fclose(maps);
      return 0;
    }
  }
  ::close(fd);
  return 0;
}

}  // namespace

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

namespace {

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

void hide_from_leak_search(void* address, u64 bytes) {
  ask_memory_checker(checker_request::make_unaddressable, address, bytes);
  ask_memory_checker(checker_request::ignore_errors_in, address, bytes);
}

void unmap(void* address, u64 bytes) {
  ::munmap(address, bytes);
  ask_memory_checker(checker_request::report_errors_in, address, bytes);
}

mapping_check check_mapping(const void* address, u64 bytes) {
  const u64 begin = reinterpret_cast<u64>(address), end = begin + bytes;
  if (end < begin) return {};
  mapping_check check{true, true, true, true};
  u64 covered = begin;
  const int why = walk_mappings(begin, end, [&](const stretch& s) {
    if (s.begin > covered) return false;
    check.readable &= s.readable;
    check.writable &= s.writable;
    check.shared &= s.shared;
    covered = s.end;
    return covered < end;
  });
  if (why != 0) return {.error = why};
  if (covered < end) return {};
  return check;
}

int for_each_mapped(const void* address, u64 bytes,
                    const std::function<bool(const mapped_stretch&)>& visit) {
  const u64 begin = reinterpret_cast<u64>(address), end = begin + bytes;
  bool is_seen = false;
  walk_mappings(begin, end, [&](const stretch& s) {
    is_seen = true;
    return visit({std::max(s.begin, begin), std::min(s.end, end), s.readable, s.writable});
  });
  if (is_seen) return 0;
  const int fd = repeat([] { return ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC); });
  if (fd < 0) return errno;
  ::close(fd);
  return 0;
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

u64 page_bytes() {
  static const u64 bytes = static_cast<u64>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

u64 locked_memory_limit() {
  return limit_of(RLIMIT_MEMLOCK);
}
u64 file_size_limit() {
  return limit_of(RLIMIT_FSIZE);
}
u64 descriptor_limit() {
  return limit_of(RLIMIT_NOFILE);
}
u64 address_space_limit() {
  return limit_of(RLIMIT_AS);
}

namespace {

// A page's entry in the map. While the kernel is moving a page, pinned or not, it is not present: a
// fault waits for the end.
int read_page_entry(int pagemap, char* page, u64* entry) {
  constexpr int looks = 1000;
  const u64 where = reinterpret_cast<u64>(page) / page_bytes() * sizeof *entry;
  for (int look = 0; look < looks; ++look) {
    if (::pread(pagemap, entry, sizeof *entry, static_cast<off_t>(where)) != sizeof *entry)
      return errno != 0 ? errno : EIO;
    if ((*entry >> 63) != 0) return 0;
    if (::madvise(page, page_bytes(), MADV_POPULATE_READ) != 0) break;
  }
  return ENODATA;
}

}  // namespace

int physical_runs(const void* address, u64 bytes, u64 page, std::vector<physical_run>* out) {
  const int fd = repeat([] { return ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC); });
  if (fd < 0) return errno;
  int why = 0;
  for (u64 offset = 0; offset < bytes; offset += page) {
    u64 entry = 0;
    why = read_page_entry(fd, static_cast<char*>(const_cast<void*>(address)) + offset, &entry);
    const u64 frame = entry & ((u64{1} << 55) - 1);
    if (why == 0 && frame == 0) why = EPERM;  // hidden from us
    if (why != 0) break;
    const u64 physical = frame * page_bytes();
    if (!out->empty() && out->back().address + out->back().bytes == physical)
      out->back().bytes += page;
    else
      out->push_back({offset, physical, page});
  }
  ::close(fd);
  return why;
}

}  // namespace annex::os
