// interop/dpdk/area_memory.hpp - what the memory of an area is, before it is added: whose, and
// whether there is any behind it.
//
// Whose memory it is, its mapping says. The real heap writes to every byte, and dies where that
// can't be:
//
//   all of it may be written       the CPU's: populated here, so that what has no memory behind it
//                                  is refused, not met
//   all of it mapped PROT_NONE     a device's: its addresses are taken, and nobody's but a device's
//                                  to touch; said in the log
//   anything else                  a mistake (not mapped, read-only, mixed): refused, with the
//                                  place
//
// Threads: any. Processes: pages are populated, and nothing else is changed.
#pragma once
#include "interop/dpdk/real.hpp"

namespace annex::dpdk {

/// Whether DPDK has any of it already.
bool overlaps_anything(const void* base, u64 length);

enum class memory_kind : u8 { for_cpu, for_devices, mistaken };

/// What the mapping says; what is wrong with it is in the log.
memory_kind look_at(const void* base, u64 length);
/// Pages for all of it, as the real heap is about to write to all of it: a file cut short or a full
/// file system is an answer here, and SIGBUS there.
bool has_memory_behind(void* base, u64 length);

}  // namespace annex::dpdk
