// platform/linux/memory.cpp - mappings, pages, physical addresses.
#include <fcntl.h>
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

#include "platform/linux/call.hpp"
#include "platform/os.hpp"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace annex::os {
namespace {

// Reserves a little more than asked for, then maps at the first aligned address inside.
map_result map_aligned(u64 bytes, u64 alignment, const std::function<void*(void* where, int extra_flags)>& map) {
  if (alignment <= page_bytes()) {
    void* p = map(nullptr, 0);
    return p != MAP_FAILED ? map_result{p, 0} : map_result{nullptr, errno};
  }
  u64 reserved = 0;
  if (add_overflows(bytes, alignment, &reserved)) return {nullptr, ENOMEM};
  void* space = ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) return {nullptr, errno};
  char* const begin = static_cast<char*>(space);
  char* const aligned = begin + (align_up(reinterpret_cast<u64>(begin), alignment) - reinterpret_cast<u64>(begin));
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

// What PROCMAP_QUERY (Linux 6.11) takes and gives; declared here because Debian 12's headers are older.
struct procmap_query {
  u64 size, query_flags, query_addr, vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
  u32 dev_major, dev_minor, vma_name_size, build_id_size;
  u64 vma_name_addr, build_id_addr;
};
constexpr unsigned long procmap_query_request = _IOWR('f', 17, procmap_query);

struct stretch { u64 begin, end; bool readable, writable; };

// Calls visit for the mappings that touch [begin, end) in order, until it returns false.
void walk_mappings(u64 begin, u64 end, const std::function<bool(const stretch&)>& visit) {
  const int fd = repeat([] { return ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC); });
  if (fd < 0) return;
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
    if (query.vma_start >= end || !visit({query.vma_start, query.vma_end, (query.vma_flags & 1) != 0, (query.vma_flags & 2) != 0})) break;
    at = query.vma_end;
  }
  if (!fast) {
    if (FILE* maps = ::fdopen(fd, "re")) {
      char line[4200];
      while (std::fgets(line, sizeof line, maps) != nullptr) {
        u64 from = 0, to = 0;
        char rights[5] = {};
        if (std::sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &from, &to, rights) != 3 || to <= begin) continue;
        if (from >= end || !visit({from, to, rights[0] == 'r', rights[1] == 'w'})) break;
      }
      std::fclose(maps);
      return;
    }
  }
  ::close(fd);
}

}  // namespace

map_result map_file(int fd, u64 offset, u64 bytes, bool writable, u64 alignment) {
  return map_aligned(bytes, alignment, [&](void* where, int extra) {
    return ::mmap(where, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED | MAP_NORESERVE | extra, fd, static_cast<off_t>(offset));
  });
}

map_result map_anonymous(u64 bytes, u64 huge_page_bytes, bool shared, u64 alignment) {
  int flags = MAP_ANONYMOUS | (shared ? MAP_SHARED : MAP_PRIVATE);
  flags |= huge_page_bytes != 0 ? MAP_HUGETLB | static_cast<int>(log2_floor(huge_page_bytes) << 26) : MAP_NORESERVE;
  return map_aligned(bytes, huge_page_bytes != 0 ? 0 : alignment, [&](void* where, int extra) {
    return ::mmap(where, bytes, PROT_READ | PROT_WRITE, flags | extra, -1, 0);
  });
}

map_result reserve(u64 bytes, bool accessible) {
  void* p = ::mmap(nullptr, bytes, accessible ? PROT_READ | PROT_WRITE : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p != MAP_FAILED ? map_result{p, 0} : map_result{nullptr, errno};
}

void unmap(void* address, u64 bytes) { ::munmap(address, bytes); }

mapping_check check_mapping(const void* address, u64 bytes) {
  const u64 begin = reinterpret_cast<u64>(address), end = begin + bytes;
  mapping_check check{true, true, true};
  u64 covered = begin;
  walk_mappings(begin, end, [&](const stretch& s) {
    if (s.begin > covered) return false;
    check.readable &= s.readable;
    check.writable &= s.writable;
    covered = s.end;
    return covered < end;
  });
  if (covered < end) return {};
  return check;
}

int populate(void* address, u64 bytes) {
  if (repeat([&] { return ::madvise(address, bytes, MADV_POPULATE_WRITE); }) == 0) return 0;
  if (errno != EINVAL) return errno;
  for (u64 at = 0; at < bytes; at += page_bytes()) {  // kernels before 5.14: read and write back one byte a page
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
  ::rlimit limit{};
  return ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY ? limit.rlim_cur : ~u64{0};
}

int physical_runs(const void* address, u64 bytes, u64 page, std::vector<physical_run>* out) {
  const int fd = repeat([] { return ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC); });
  if (fd < 0) return errno;
  int why = 0;
  for (u64 offset = 0; offset < bytes; offset += page) {
    u64 entry = 0;
    const u64 where = (reinterpret_cast<u64>(address) + offset) / page_bytes() * sizeof entry;
    if (::pread(fd, &entry, sizeof entry, static_cast<off_t>(where)) != sizeof entry) { why = errno != 0 ? errno : EIO; break; }
    const u64 frame = entry & ((u64{1} << 55) - 1);
    if ((entry >> 63) == 0) { why = ENODATA; break; }  // not present
    if (frame == 0) { why = EPERM; break; }            // hidden from us
    const u64 physical = frame * page_bytes();
    if (!out->empty() && out->back().address + out->back().bytes == physical) out->back().bytes += page;
    else out->push_back({offset, physical, page});
  }
  ::close(fd);
  return why;
}

}  // namespace annex::os
