// platform/linux/physical_pages.cpp - where pages lie in physical memory, by the page map.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "platform/linux/call.hpp"
#include "platform/memory.hpp"
#include "platform/pinning.hpp"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

namespace ANNEX_OS {
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

}  // namespace ANNEX_OS
