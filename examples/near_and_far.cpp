// examples/near_and_far.cpp - one heap over every NUMA node of the machine, memory-only nodes (CXL)
// among them: what is hot near, what is large far.
//
//   near_and_far [/dev/dax0.0]   a device's memory is one more region, on the node it belongs to
//
// Every block's page is looked up in the kernel (move_pages without a target) and every byte is
// checked.
#include <annex/annex.hpp>

#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <vector>

#include "must.hpp"

namespace {

constexpr std::size_t region_bytes = 8 << 20, block_bytes = 64 << 10;

int node_of(void* page) {
  int node = -1;
  return ::syscall(SYS_move_pages, 0, 1ul, &page, nullptr, &node, 0) == 0 ? node : -1;
}

}  // namespace

int main(int count, char** arguments) {
  auto heap = must(annex::heap::create_private());
  std::map<int, annex::region_id> regions;
  for (int node = 0;
       std::filesystem::exists("/sys/devices/system/node/node" + std::to_string(node)); ++node) {
    const auto brought = heap.bring_memory({.from = annex::memory_source::kind::anonymous,
                                            .length_bytes = region_bytes,
                                            .numa_node = node,
                                            .prefault = true});
    if (brought)
      regions[node] = *brought;
    else
      std::printf("node %d: %s\n", node, brought.error().text);
  }
  if (count > 1) {
    const auto region = must(heap.bring_memory({.from = annex::memory_source::kind::device,
                                                .length_bytes = region_bytes,
                                                .page_bytes = 2 << 20,
                                                .path = arguments[1]}));
    heap.for_each_region([&](const annex::region_summary& r) {
      if (r.id == region) regions[r.numa_node] = region;
    });
  }
  std::uint64_t wrong = 0, blocks = 0;
  for (const auto& [node, region] : regions) {
    std::vector<char*> here;
    double nanoseconds = 0;
    for (int i = 0; i < 64; ++i) {
      auto* const block =
          static_cast<char*>(heap.allocate({.size_bytes = block_bytes, .numa_node = node}));
      if (block == nullptr) return std::puts(annex::heap::last_failure().text), 1;
      const auto began = std::chrono::steady_clock::now();
      std::memset(block, i + node, block_bytes);
      nanoseconds +=
          std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - began)
              .count();
      here.push_back(block);
    }
    std::uint64_t elsewhere = 0;
    for (std::size_t i = 0; i < here.size(); ++i) {
      const int page_node = node_of(here[i]);
      if (annex::heap::locate(here[i])->region != region || (page_node >= 0 && page_node != node))
        ++elsewhere;
      for (std::size_t at = 0; at < block_bytes; ++at)
        wrong += here[i][at] != static_cast<char>(static_cast<int>(i) + node);
      annex::heap::free(here[i]);
    }
    blocks += here.size();
    wrong += elsewhere;
    std::printf("node %d: %zu blocks of 64 KiB, %lu elsewhere, written at %.1f GB/s\n", node,
                here.size(), static_cast<unsigned long>(elsewhere),
                static_cast<double>(here.size() * block_bytes) / nanoseconds);
  }
  std::printf("%lu blocks on %zu nodes, %lu wrong\n", static_cast<unsigned long>(blocks),
              regions.size(), static_cast<unsigned long>(wrong));
  return wrong == 0 && blocks > 0 ? 0 : 1;
}
