// bench/dpdk.hpp - what DPDK offers beside annex: heaps, pools, rings, zones, look-ups. Each in a
// process of its own.
//
// With 224 free hugepages of 2 MiB (echo 256 > /proc/sys/vm/nr_hugepages), as DPDK wants to be run:
// --in-memory -m 384. With fewer, --no-huge, which also makes some look-ups give up at once: the
// run's head says which it was. External heaps lie on ordinary pages in both.
#pragma once
#include "harness.hpp"
#include "peers.hpp"

namespace annex::bench::dpdk {

bool is_built_in();
bool has_hugepages();
plain_calls set_up_malloc();
plain_calls set_up_external();

/// ns for 32 taken and given, or for one (bulk = 1).
measurement pool(unsigned bulk);
/// ns per element that goes from one thread to another.
measurement ring(unsigned bulk);
/// ns for reserve, lookup, free among so many zones.
measurement zones(unsigned present);
/// ns to look an address up among so many external areas.
measurement locate(unsigned areas);
/// ns from an IOVA to its address, with so many scattered pages of 4 KiB.
measurement address_of(unsigned pages);
/// ns to add so much memory in 4 KiB pages without IOVAs; with `stall`, the worst wait of a pair on
/// another heap meanwhile.
measurement add_memory(std::size_t bytes, std::size_t page_bytes, bool stall);
/// ns for an IOVA-contiguous request nothing can meet, on a full, scattered heap.
measurement hopeless();
/// Bytes each of a million blocks of 64 bytes takes.
measurement footprint(unsigned count);

/// A heap of this size in external memory; allocations from it. Largest free block and free bytes
/// of it.
struct small_heap {
  plain_calls calls;
  double largest_free = 0, free_bytes = 0;
};
small_heap make_heap(std::size_t bytes);
void look(small_heap& h);

}  // namespace annex::bench::dpdk
