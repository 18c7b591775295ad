// interop/dpdk/group.hpp - a primary and its secondaries, and the stamp that says which annex heaps
// are theirs.
//
//   entry of the stamp   free ──claimed, for a socket──▶ making ──the heap is there──▶ ready
//                          ◀──────────────────the heap was forgotten───────────────────┘
//
// The stamp lies in native shared memory (a memzone), at one address in every process of the group.
// The primary makes it when serving begins; it goes with the primary's memory, or with its last
// chunk.
//
// Threads: whoever begins or ends serving joins and leaves; entries are claimed under the lock that
// heaps are opened under (heaps.cpp), and by other processes at the same time. Processes: one that
// dies between claiming an entry and filling it leaves it "making" (drop_in.hpp).
#pragma once
#include <annex/types.hpp>

#include <atomic>
#include <string>

#include "base/limits.hpp"
#include "interop/dpdk/real.hpp"

namespace annex::dpdk {

inline constexpr u32 stamp_entry_count = 96;
enum entry_state : u32 { entry_free = 0, entry_making = 1, entry_ready = 2 };
struct stamp_entry {
  std::atomic<u32> socket_plus_1, state;
  u64 heap;
  char name[limits::name_bytes];
  char dpdk_name[heap_name_bytes];  // here, because EAL's own table is behind its memory lock
};
struct stamp {
  u64 magic;
  u32 version;
  std::atomic<u32> generation;  // rises with every entry that becomes ready
  char directory[256], base_name[limits::name_bytes];
  stamp_entry entries[stamp_entry_count];
};
static_assert(sizeof(stamp) < 8192);

/// Null: this process belongs to none.
extern constinit stamp* group;
extern constinit bool is_primary;

/// Makes the stamp, or finds the primary's. False: it has said why not.
bool join_group();
/// The stamp stays where it is.
void leave_group() noexcept;
/// Of the primary, when no chunk is left.
void free_stamp() noexcept;
/// The entry of a socket; claim: a free one, if there is none. Null: none.
stamp_entry* entry_of(int socket, bool claim) noexcept;
/// "dpdk.<prefix>", shortened so that a socket's number fits behind it; a process whose memory is
/// its own adds its number.
std::string base_name_of_group();
/// Segments of groups whose every process is dead: destroy() refuses the others.
void sweep_left_behind(const std::string& of_group);

}  // namespace annex::dpdk
