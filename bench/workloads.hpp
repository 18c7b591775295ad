// bench/workloads.hpp - everything that is measured, by subject.
#pragma once
#include "harness.hpp"

namespace annex::bench {

void add_block_workloads(std::vector<workload>* to);   // blocks.cpp: pairs, lifetimes
void add_thread_workloads(std::vector<workload>* to);  // threads.cpp: blocks that change hands
void add_trace_workloads(std::vector<workload>* to);   // traces.cpp: what real programs did
void add_object_workloads(std::vector<workload>* to);  // objects.cpp: pools, rings, zones
// Memory.cpp: regions, look-ups, what can't be met.
void add_memory_workloads(std::vector<workload>* to);
// Space.cpp: footprint, fragmentation, small heaps, idle threads.
void add_space_workloads(std::vector<workload>* to);

}  // namespace annex::bench
