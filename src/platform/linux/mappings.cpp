// platform/linux/mappings.cpp - what is mapped, as the kernel tells it: by a query, or line by
// line.
#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <system_error>
#include <thread>

#include "platform/linux/call.hpp"
#include "platform/memory.hpp"
#include "platform/resource_limits.hpp"

namespace ANNEX_OS {
namespace {

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

// Runs look() where a descriptor is left: in a thread with a table of descriptors of its own, one
// of which it closes there. The program's own stay as they are.
int with_a_descriptor(function_ref<int()> look) {
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
int walk_mappings(u64 begin, u64 end, function_ref<bool(const stretch&)> visit,
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
    if (FILE* maps = ::fdopen(fd, "r")) {
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
                    function_ref<bool(const mapped_stretch&)> visit) {
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

}  // namespace ANNEX_OS
