// bench/bursts.cpp - runs: so many blocks allocated, then all freed, the last first (LIFO) or the
// first first (FIFO). Every block is written once before anything is measured.
#include <fmt/format.h>

#include "rows.hpp"
#include "workloads.hpp"

namespace annex::bench {
namespace {

struct burst {
  unsigned blocks;
  std::size_t least, most;
  bool last_first;
};

template <class Calls>
measurement bursts(Calls calls, const burst& b) {
  std::vector<void*> blocks(b.blocks);
  std::vector<std::uint16_t> sizes(b.blocks);
  random_stream random(13);
  for (auto& s : sizes)
    s = static_cast<std::uint16_t>(b.least + random.below(b.most - b.least + 1));
  auto free_all = [&] {
    if (b.last_first)
      for (auto block = blocks.rbegin(); block != blocks.rend(); ++block)
        calls.free(*block);
    else
      for (void* block : blocks)
        calls.free(block);
  };
  for (int i = 0; i < 8; ++i) {
    for (std::size_t k = 0; k < blocks.size(); ++k) {
      blocks[k] = block_of(calls, sizes[k]);
      *static_cast<volatile char*>(blocks[k]) = 1;
    }
    free_all();
  }
  const double run_ns = time_per_operation([&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i) {
      for (std::size_t k = 0; k < blocks.size(); ++k) {
        blocks[k] = calls.allocate(sizes[k]);
        keep(blocks[k]);
      }
      free_all();
    }
  });
  return {run_ns / b.blocks};
}

}  // namespace

void add_burst_workloads(std::vector<workload>* to) {
  auto add = [&](const std::string& name, const burst& b) {
    to->push_back(one_thread_row(
        name,
        fmt::format("{} blocks of {} bytes allocated, then freed, the {} first; a block", b.blocks,
                    b.least == b.most ? fmt::format("{}", b.least)
                                      : fmt::format("{} to {}", b.least, b.most),
                    b.last_first ? "last" : "first"),
        b.most, [b](auto calls) { return bursts(calls, b); }));
  };
  for (const unsigned blocks : {100u, 1000u})
    for (const bool last_first : {true, false})
      add(fmt::format("run/{}-{}", blocks, last_first ? "lifo" : "fifo"),
          {blocks, 64, 64, last_first});
  add("run/100-mixed", {100, 16, 1024, false});
}

}  // namespace annex::bench
