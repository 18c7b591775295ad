// bench/workloads.hpp - everything that is measured, by subject.
#pragma once
#include "harness.hpp"

namespace annex::bench {

void add_block_workloads(std::vector<workload>* to);   // blocks.cpp: pairs, lifetimes
void add_burst_workloads(std::vector<workload>* to);   // bursts.cpp: runs of blocks
void add_large_workloads(std::vector<workload>* to);   // large.cpp: 64 KiB to 8 MiB
void add_thread_workloads(std::vector<workload>* to);  // threads.cpp: blocks that change hands
// Processes.cpp: blocks that change hands between processes, a heap that several of them fill.
void add_process_workloads(std::vector<workload>* to);
// Published.cpp: what others publish about allocators for shared memory.
void add_published_workloads(std::vector<workload>* to);
void add_trace_workloads(std::vector<workload>* to);   // traces.cpp: what real programs did
void add_object_workloads(std::vector<workload>* to);  // objects.cpp: pools, rings, zones
// Memory.cpp: regions, look-ups, what can't be met.
void add_memory_workloads(std::vector<workload>* to);
// Space.cpp: footprint, fragmentation, small heaps, idle threads.
void add_space_workloads(std::vector<workload>* to);

}  // namespace annex::bench
