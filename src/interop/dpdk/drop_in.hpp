// interop/dpdk/drop_in.hpp - a DPDK program's heaps on annex: which process is served, by which
// segments, since when.
//
//   passive ──rte_eal_init──▶ serving ──rte_eal_cleanup──▶ draining ──the real one returns──▶ over
//                                └──fork with private memory──▶ forked
//                                   (in the child: its blocks are the parent's)
//
// One annex heap per DPDK heap: "dpdk.<file prefix>.<socket id>". Which segments belong to the
// primary that runs now stands in a memzone of its own (stamp): it dies with the primary's memory,
// so nothing stale is believed; secondaries use it to find heaps that others made. docs/design/0007
// says why both.
//
// Threads: any, EAL's or not. The real DPDK is never called with one of our locks held: it may call
// back, and wait for others.
// Processes: a process that dies between claiming an entry of the stamp and filling it leaves the
// entry "making": that heap's blocks then come from the real allocator. Everything else is the
// segments', which outlive any death.
#pragma once
#include <annex/heap.hpp>

#include <array>
#include <atomic>
#include <string>

#include "heap/registry.hpp"
#include "interop/dpdk/real.hpp"

namespace annex::dpdk {

enum class phase : u8 { passive, serving, draining, over, forked };
extern std::atomic<phase> current_phase;
inline bool is_serving() noexcept {
  // sync(phase): what serving was set up with is seen.
  return current_phase.load(std::memory_order_acquire) == phase::serving && bypass_depth == 0;
}

/// ANNEX_DPDK: off, small (blocks up to 64 KiB), internal (not external heaps), all.
/// ANNEX_DPDK_KEEP: bytes of empty chunks a socket keeps. ANNEX_DPDK_RESERVE: bytes taken when
/// serving begins. ANNEX_DPDK_CLEAR=0: rte_malloc's memory is not cleared. ANNEX_DPDK_SAY=1: a line
/// when serving begins, or why it does not. ANNEX_DPDK_ASKED: the process that `annex run` became;
/// a program there that has no DPDK is said so.
struct settings {
  bool large_blocks = true, external_heaps = true, clear = true;
  u64 keep_bytes = 1 * GiB, reserve_bytes = 16 * MiB;
};
extern settings choices;

/// The annex heap that stands for one DPDK heap.
struct served_heap {
  int socket = 0;
  std::array<char, heap_name_bytes> dpdk_name{};  // what DPDK calls it
  bool is_external = false;
  bool may_be_untouchable = false;  // a region the CPU may not touch is or was in it
  heap annex;
  u32 stamp_entry = 0;
  std::atomic<u64> native_page_bytes{0};  // of its last chunk
  detail::local_heap& inside() const noexcept { return *annex.internal(); }
  /// A chunk for so many bytes, of the usual size or larger.
  bool grow(size_t size_bytes) noexcept;
  /// A chunk before it is needed; not more than an eighth of what the real heap can have.
  void grow_ahead(u64 bytes) noexcept;
  /// Empty chunks beyond so many bytes back to the real heap, until enough were; true: something
  /// was given back.
  bool give_back(u64 keep_bytes, u64 enough_bytes = ~u64{0}) noexcept;

 private:
  region_id first_chunk_{};
  bool add_chunk(u64 least_bytes, u64 bytes) noexcept;
};

// ---- life ---------------------------------------------------------------------------------------
void begin_serving() noexcept;  // after the real rte_eal_init
// When it said no: whether that may be for want of hugepages.
void explain_failed_start(bool wants_hugepages) noexcept;
void begin_draining() noexcept;  // before the real rte_eal_cleanup
void end_serving() noexcept;     // after it

// ---- sockets ------------------------------------------------------------------------------------
void look_at_sockets() noexcept;  // when serving begins
/// The socket a request for SOCKET_ID_ANY begins with.
int preferred_socket() noexcept;
/// Whether internal requests have no socket (--no-huge).
bool is_without_sockets() noexcept;
/// Whether a request for any socket can only be served by this one.
bool is_only_socket(int socket) noexcept;
/// Whose heap serves an internal request for this one.
int served_socket(int socket) noexcept;
bool is_known_socket(int socket) noexcept;

// ---- heaps --------------------------------------------------------------------------------------
/// By socket; null: not made yet, or the socket's blocks come from the real allocator.
extern constinit std::array<std::atomic<served_heap*>, internal_sockets> internal_heaps;
/// Made on first use. Null: the socket's blocks come from the real allocator.
served_heap* internal_heap(int socket) noexcept;
served_heap* external_heap(int socket) noexcept;
served_heap* make_external_heap(int socket, const char* dpdk_name) noexcept;
void forget_external_heap(int socket) noexcept;
inline served_heap* heap_of(int socket) noexcept {
  return socket >= first_external_socket ? external_heap(socket) : internal_heap(socket);
}
/// For those who only look: makes no heap, and never waits for EAL's memory lock. Null: there is
/// none.
served_heap* known_heap(int socket) noexcept;
served_heap* heap_named(const char* dpdk_name) noexcept;
/// While it lives, no heap is closed. For threads that are not the program's (telemetry): a program
/// does not destroy a heap that it allocates from, but somebody may look at it just then. Taken
/// before any other lock here.
class looking {
 public:
  looking() noexcept;
  ~looking();
  looking(const looking&) = delete;
  looking& operator=(const looking&) = delete;
};
/// Whose block or zone this is; null: nobody's here.
served_heap* owner_of(const void* address) noexcept;
/// What other processes of the group made or added since the last look; true: something new.
bool follow_others() noexcept;
/// The next look finds all that others ever made.
void begin_following() noexcept;
/// The region came or went elsewhere: looks again. To be asked before an address found in a region
/// is believed.
void follow_changes(detail::local_heap& h) noexcept;
/// True: memory was given back to the real heap by some socket.
bool give_back_everywhere() noexcept;
void for_each_served(void (*visit)(served_heap&, void*), void* argument) noexcept;
/// In a forked child: whoever held them is not here.
void renew_locks_of_heaps() noexcept;
/// All of them, and leaves the group.
void close_heaps() noexcept;

/// One per page, from EAL's own records; empty: not all of them have one.
std::vector<iova> iovas_of(const char* base, u64 bytes, u64 page_bytes);

// Of the allocation that is being served: growing needs room for it.
extern constinit thread_local u64 wanted_alignment [[gnu::tls_model("initial-exec")]];

}  // namespace annex::dpdk
