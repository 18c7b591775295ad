// interop/dpdk/drop_in.hpp - a DPDK program's heaps on annex: which process is served, by which segments, since when.
//
//   passive ──rte_eal_init──▶ serving ──rte_eal_cleanup──▶ draining ──the real one returns──▶ over
//                                └──fork with private memory──▶ forked (in the child: its blocks are the parent's)
//
// One annex heap per DPDK heap: "dpdk.<file prefix>.<socket id>". Which segments belong to the primary that runs now stands
// in a memzone of its own (stamp): it dies with the primary's memory, so nothing stale is believed, and secondaries find by
// it what others have made. docs/design/0007 says why both.
//
// Threads: any, EAL's or not. Never is the real DPDK called with a lock of ours held: it may call back, and wait for others.
// Processes: a process that dies between claiming an entry of the stamp and filling it leaves the entry "making": that
// heap's blocks then come from the real allocator. Everything else is the segments', which outlive any death.
#pragma once
#include <annex/heap.hpp>

#include <atomic>
#include <string>

#include "interop/dpdk/real.hpp"

namespace annex::dpdk {

enum class phase : u8 { passive, serving, draining, over, forked };
extern std::atomic<phase> current_phase;
inline bool is_serving() noexcept { return current_phase.load(std::memory_order_acquire) == phase::serving && bypass_depth == 0; }

/// ANNEX_DPDK: off, small (blocks up to 64 KiB), internal (not external heaps), all. ANNEX_DPDK_KEEP: bytes of empty chunks
/// a socket keeps. ANNEX_DPDK_CLEAR=0: rte_malloc's memory is not cleared. ANNEX_DPDK_SAY=1: a line when serving begins.
struct settings {
  bool large_blocks = true, external_heaps = true, clear = true;
  u64 keep_bytes = 2 * GiB;
};
extern settings choices;

/// The annex heap that stands for one DPDK heap.
struct served_heap {
  int socket = 0;
  bool is_external = false;
  bool may_be_untouchable = false;  // a region the CPU may not touch is or was in it
  heap annex;
  u32 stamp_entry = 0;
  bool grow(size_t size_bytes) noexcept;
  /// Empty chunks beyond so many bytes back to the real heap; true: something was given back.
  bool give_back(u64 keep_bytes) noexcept;
};

// ---- life ---------------------------------------------------------------------------------------------------------------------
void begin_serving() noexcept;   // after the real rte_eal_init
void begin_draining() noexcept;  // before the real rte_eal_cleanup
void end_serving() noexcept;     // after it

// ---- heaps --------------------------------------------------------------------------------------------------------------------
/// The socket a request for SOCKET_ID_ANY begins with.
int preferred_socket() noexcept;
/// Whether internal requests have no socket (--no-huge).
bool is_without_sockets() noexcept;
/// Made on first use. Null: the socket's blocks come from the real allocator.
served_heap* internal_heap(int socket) noexcept;
served_heap* external_heap(int socket) noexcept;
served_heap* make_external_heap(int socket) noexcept;
void forget_external_heap(int socket) noexcept;
inline served_heap* heap_of(int socket) noexcept { return socket >= first_external_socket ? external_heap(socket) : internal_heap(socket); }
/// Whose block or zone this is; null: nobody's here.
served_heap* owner_of(const void* address) noexcept;
/// What other processes of the group made or added since the last look; true: something new.
bool follow_others() noexcept;
/// The region came or went elsewhere: looks again. To be asked before an address found in a region is believed.
void follow_changes(detail::local_heap& h) noexcept;
/// True: memory was given back to the real heap by some socket.
bool give_back_everywhere() noexcept;
void for_each_served(void (*visit)(served_heap&, void*), void* argument) noexcept;

/// One per page, from EAL's own records; empty: not all of them have one.
std::vector<iova> iovas_of(const char* base, u64 bytes, u64 page_bytes);

extern thread_local u64 wanted_alignment;  // of the allocation that is being served: growing needs room for it

}  // namespace annex::dpdk
