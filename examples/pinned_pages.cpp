// examples/pinned_pages.cpp - ordinary pages for a device that goes around the kernel: pinned,
// known by their physical addresses, and still there after the kernel has moved others.
//
// Exit 77 where page frames are hidden (CAP_SYS_ADMIN) or nothing can be pinned.
#include <annex/annex.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "must.hpp"

namespace {

constexpr std::size_t region_bytes = std::size_t{64} << 20, page = 4096;

// What a device would reach, as the kernel says: the physical address of a byte, or 0.
std::uint64_t physical_address_of(int pagemap, const void* byte) {
  std::uint64_t entry = 0;
  const auto at = reinterpret_cast<std::uintptr_t>(byte);
  if (::pread(pagemap, &entry, sizeof entry, static_cast<off_t>(at / page * sizeof entry)) !=
          sizeof entry ||
      entry >> 63 == 0)
    return 0;
  return (entry & ((std::uint64_t{1} << 55) - 1)) * page + at % page;
}

}  // namespace

int main() {
  auto heap = must(annex::heap::create_private());
  std::uint64_t told = 0;
  const auto region =
      heap.bring_memory({.from = annex::memory_source::kind::anonymous,
                         .length_bytes = region_bytes,
                         .pin = true,
                         .physical_iovas = true,
                         .progress = [&](std::uint64_t done, std::uint64_t) { told = done; }});
  if (!region)
    return std::puts(region.error().text), region.error().code == annex::errc::permission ||
                                                   region.error().code == annex::errc::not_supported
                                               ? 77
                                               : 1;
  std::uint64_t runs = 0;
  heap.for_each_region([&](const annex::region_summary& r) { runs = r.iova_runs; });
  std::printf("%zu MiB pinned, in %lu runs of physical addresses\n",
              static_cast<std::size_t>(told) >> 20, static_cast<unsigned long>(runs));

  const int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  char* blocks[1000];
  std::size_t bytes = 0, wrong = 0;
  for (std::size_t i = 0; i < 1000; ++i) {
    blocks[i] =
        static_cast<char*>(heap.allocate({.size_bytes = 2048 + i, .iova_contiguous = true}));
    if (blocks[i] == nullptr) return std::puts(annex::heap::last_failure().text), 1;
    for (std::size_t at = 0; at < 2048 + i; ++at)
      blocks[i][at] = static_cast<char>(i + at);
  }
  std::ofstream("/proc/sys/vm/compact_memory") << 1;  // the kernel moves what it may move
  for (std::size_t i = 0; i < 1000; ++i) {
    for (std::size_t at = 0; at < 2048 + i; ++at, ++bytes)
      wrong += blocks[i][at] != static_cast<char>(i + at);
    const auto where = *annex::heap::locate(blocks[i]);
    wrong += where.contiguous_bytes < 2048 + i;
    for (std::size_t at = 0; at < 2048 + i; at += 512)
      wrong += physical_address_of(pagemap, blocks[i] + at) !=
               static_cast<std::uint64_t>(*where.bus_address) + at;
    annex::heap::free(blocks[i]);
  }
  ::close(pagemap);
  std::printf("1000 blocks, %zu bytes, where a device was told after compaction: %zu wrong\n",
              bytes, wrong);
  return wrong == 0 ? 0 : 1;
}
