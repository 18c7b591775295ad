// bench/traces.cpp - what real programs did, again: time and peak memory.
//
// Every block is written as its program would at least have done: its first word, and a byte of
// every page. CPU time of the three replays, faults included, per event; peak: resident memory
// above the start, metadata included. bench/traces/README.md says how the traces were made.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <numeric>

#include "peers.hpp"
#include "trace.hpp"
#include "workloads.hpp"

namespace annex::bench {
namespace {

void touch(void* block, std::size_t bytes) {
  auto* const first = static_cast<volatile char*>(block);
  if (bytes != 0) first[0] = 1;
  for (std::size_t at = 4096; at < bytes; at += 4096)
    first[at] = 1;
}

struct live {
  void* block;
  std::size_t bytes;
};

template <class Calls>
void replay(Calls calls, const trace& t, live* slots) {
  for (const trace_event& e : t.events) {
    live& l = slots[e.slot];
    if (e.kind == trace_kind::free) {
      calls.free(l.block);
      continue;
    }
    // malloc(0) is a block of its own everywhere but here.
    const std::size_t bytes = std::max<std::size_t>(e.bytes, 1);
    if (e.kind == trace_kind::allocate)
      l.block = calls.allocate(bytes);
    else if (e.kind == trace_kind::aligned)
      l.block = calls.allocate_aligned(std::size_t{1} << e.align_shift, bytes);
    else
      l.block = calls.reallocate(l.block, l.bytes, bytes);
    if (l.block == nullptr) throw std::runtime_error(fmt::format("no block of {} bytes", bytes));
    l.bytes = bytes;
    touch(l.block, bytes);
  }
}

measurement run_trace(const peer& p, const trace& t) {
  stay_on_cpu(0);
  auto* const slots = reinterpret_cast<live*>(ordinary_memory(t.slots * sizeof(live) + 1));
  std::fill_n(slots, t.slots, live{nullptr, 0});
  // Mapped and near.
  keep(std::accumulate(t.events.begin(), t.events.end(), 0ul,
                       [](unsigned long sum, const trace_event& e) { return sum + e.slot; }));
  begin_peak();  // before the allocator is set up: its metadata counts
  return with_calls(p, [&](auto calls) {
    const double begin = thread_cpu_ns();
    constexpr int times = 3;
    for (int i = 0; i < times; ++i)
      replay(calls, t, slots);
    const double took = thread_cpu_ns() - begin;
    return measurement{took / times / static_cast<double>(t.events.size()), peak_bytes()};
  });
}

}  // namespace

void add_trace_workloads(std::vector<workload>* to) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(ANNEX_TRACES))
    if (entry.path().extension() == ".zst") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    const auto shared = std::make_shared<const trace>(read_trace(file));
    workload w{
        "trace/" + shared->name,
        "ns",
        fmt::format("{} events of a real program, {:.1f} MiB live at most", shared->events.size(),
                    static_cast<double>(shared->peak_bytes) / 1048576),
        {}};
    for (const peer& p : all_peers()) {
      if (p.name == "rte_malloc" || p.name == "mimalloc-arena" || p.name == "pmr") continue;
      w.cells.push_back({p.name, [p, shared] { return run_trace(p, *shared); }});
    }
    to->push_back(std::move(w));
  }
}

}  // namespace annex::bench
