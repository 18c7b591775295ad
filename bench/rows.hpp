// bench/rows.hpp - one workload for every peer that can do it.
#pragma once
#include <utility>

#include "harness.hpp"
#include "peers.hpp"

namespace annex::bench {

/// One thread, blocks of at most so many bytes: work(calls) in each peer's process.
template <class Work>
workload one_thread_row(std::string name, std::string about, std::size_t bytes, Work work) {
  workload w{std::move(name), "ns", std::move(about), {}};
  for (const peer& p : all_peers())
    if (bytes <= p.largest_bytes)
      w.cells.push_back({p.name, [p, work] {
                           stay_on_cpu(0);
                           return with_calls(p, work);
                         }});
  return w;
}

/// Several threads: peers that any thread may use. Without the driver where two threads write a
/// block: it has one block only.
template <class Work>
workload threads_row(std::string name, std::string about, std::size_t bytes, bool with_driver,
                     Work work) {
  workload w{std::move(name), "ns", std::move(about), {}};
  for (const peer& p : all_peers())
    if (p.threads && bytes <= p.largest_bytes && (with_driver || p.name != "driver"))
      w.cells.push_back({p.name, [p, work] { return with_calls(p, work); }});
  return w;
}

/// The block, or the reason why this cell has no result.
template <class Calls>
void* block_of(const Calls& calls, std::size_t bytes) {
  void* const block = calls.allocate(bytes);
  if (block == nullptr) throw std::runtime_error("out of memory");
  return block;
}

}  // namespace annex::bench
