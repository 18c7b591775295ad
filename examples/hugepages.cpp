// examples/hugepages.cpp - a region of 2 MiB pages where the machine has some free, else one of
// ordinary pages; and one of transparent huge pages.
#include <annex/annex.hpp>
#include <cstdio>

#include "must.hpp"

int main() {
  auto heap = must(annex::heap::create_private());
  // snippet: bring
  auto region = heap.bring_memory({.from = annex::memory_source::kind::hugetlb,
                                   .length_bytes = 64 << 20,
                                   .page_bytes = 2 << 20,
                                   .path = ""});  // "/mnt/huge": for other processes too
  if (!region) {
    // Says how many pages are free, and the command that reserves more.
    std::puts(region.error().text);
    region = heap.bring_memory({.length_bytes = 64 << 20});
  }
  // end
  // snippet: transparent
  const auto transparent =
      heap.bring_memory({.length_bytes = 16 << 20, .huge = annex::huge_pages::aligned});
  if (transparent)
    if (const auto bytes = heap.huge_bytes(*transparent); bytes)
      std::printf("%llu MiB are huge\n", static_cast<unsigned long long>(*bytes >> 20));
  // end
  std::printf("%llu MiB\n", static_cast<unsigned long long>(heap.stats().total_bytes >> 20));
  return region ? 0 : 1;
}
