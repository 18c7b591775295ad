// bench/large.cpp - blocks of 64 KiB to 8 MiB, as many small as large (the logarithm of their size
// is uniform), each living for as long as a random other one. No byte of them is touched: what a
// fresh page costs is the kernel's.
#include <cmath>

#include "rows.hpp"
#include "workloads.hpp"

namespace annex::bench {
namespace {

constexpr std::size_t smallest = std::size_t{64} << 10, largest = std::size_t{8} << 20;
constexpr unsigned live_blocks = 600;  // about a GiB, half of what a peer is given

template <class Calls>
measurement random_large(Calls calls) {
  random_stream random(19);
  std::vector<std::size_t> sizes(4096);
  const double magnitudes = std::log2(static_cast<double>(largest / smallest));
  for (auto& s : sizes)
    s = static_cast<std::size_t>(
        static_cast<double>(smallest) *
        std::exp2(magnitudes * static_cast<double>(random.below(65536)) / 65536));
  std::vector<void*> slots(live_blocks);
  unsigned long at = 0;
  for (auto& slot : slots)
    slot = block_of(calls, sizes[at++ % sizes.size()]);
  auto work = [&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i) {
      void*& slot = slots[random.below(live_blocks)];
      calls.free(slot);
      slot = block_of(calls, sizes[at++ % sizes.size()]);
    }
  };
  work(live_blocks * 4);
  return {time_per_operation(work)};
}

}  // namespace

void add_large_workloads(std::vector<workload>* to) {
  to->push_back(one_thread_row(
      "large/64K-8M", "600 live blocks of 64 KiB to 8 MiB, untouched, one at random replaced",
      largest, [](auto calls) { return random_large(calls); }));
  // DPDK's heaps here are of half a GiB: that they are full would say nothing about them.
  std::erase_if(to->back().cells, [](const cell& c) { return c.peer.starts_with("rte_"); });
}

}  // namespace annex::bench
