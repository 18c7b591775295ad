// annex/devices/af_xdp.hpp - one contiguous block of a heap as the memory of AF_XDP sockets
// (library annex_af_xdp).
//
//   heap region │ … │ umem: frame 0 │ frame 1 │ … │ frame n-1 │ … │
//                           0         2048          offsets: what the rings carry,
//                                                   the same in every process
//
// The frames are a pool of the heap, found by its name. A frame's way:
//
//   pool ──refill──▶ fill ring ──▶ kernel ──▶ receive ring ──receive──▶ program
//    ▲                                                                     │ send
//    │                                                                     ▼
//    └──reclaim── completion ring ◀── kernel ◀────────────────────── transmit ring
//
// The kernel pins the block when a socket is bound; it can neither grow nor shrink. So a umem is a
// lease: while it lives its region can't be removed. Frames are taken and given from any thread, by
// any process that has opened the umem. A second process may drive a socket's rings (adopt), and
// goes on when the one that bound it is killed: what the rings hold stays in them. Frames the dead
// had between pool and ring are lost until the pool is released. Not for heaps with reclaim_dead:
// the dead's frames may still be the kernel's.
// Source: Documentation/networking/af_xdp.rst; kernel 5.4 or newer.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <annex/pool.hpp>

#include <memory>
#include <string>

namespace annex {

/// How large a umem is.
struct umem_options {
  std::uint32_t frames = 4096;       ///< how many; a power of two is not needed
  std::uint32_t frame_bytes = 2048;  ///< 2048 or 4096
};

/// Threads: any. Copies are not made; moving is.
class ANNEX_PUBLIC umem {
 public:
  /// Errors: those of raw_pool::create; invalid_argument; not_attached.
  static result<umem> create(heap&, std::string_view name, const umem_options& = {});
  /// Of another process, or made before. Errors: those of raw_pool::open.
  static result<umem> open(heap&, std::string_view name);
  /// What is moved from may be destroyed or assigned to, no more.
  umem(umem&&) noexcept;
  /// Gives up what it had as the destructor does.
  umem& operator=(umem&&) noexcept;
  /// This process lets go; the pool stays until raw_pool::release(). The lease ends when the last
  /// socket of it is closed too.
  ~umem();

  /// The pool that the frames come from and go back to. Valid as long as the umem.
  raw_pool& frames() noexcept;
  /// Of each frame: 2048 or 4096.
  std::uint32_t frame_bytes() const noexcept;
  /// Where the first frame lies in this process.
  char* base() const noexcept;
  /// Of all frames together.
  std::size_t length_bytes() const noexcept;
  /// What the rings call a byte: how far it is from base(). The same in every process.
  std::uint64_t offset_of(const void* byte) const noexcept {
    return static_cast<std::uint64_t>(static_cast<const char*>(byte) - base());
  }
  /// The frame a byte of a packet lies in: what goes back to the pool.
  void* frame_of(const void* byte) const noexcept {
    return base() + offset_of(byte) / frame_bytes() * frame_bytes();
  }

 private:
  friend class xdp_socket;
  struct state;
  explicit umem(std::shared_ptr<state>) noexcept;
  std::shared_ptr<state> state_;  // its sockets' too: the lease lasts until the kernel has let go
};

/// A packet, received or to be sent.
struct packet {
  char* data;           ///< in a frame of the umem
  std::uint32_t bytes;  ///< its length
};

/// How a socket is bound.
struct xdp_socket_options {
  std::uint32_t ring_entries = 2048;  ///< each of the four; a power of two
  /// Left free before a received packet; the kernel keeps another 256.
  std::uint32_t headroom_bytes = 0;
  bool zero_copy = false;  ///< the driver must know how; otherwise the kernel copies
};

/// One queue of one interface. One thread of one process drives it at a time.
class ANNEX_PUBLIC xdp_socket {
 public:
  /// In the network namespace of the calling thread. Errors: invalid_argument (no such interface,
  /// entries, headroom), permission (CAP_NET_RAW), out_of_memory (locked-memory limit),
  /// not_supported, os_failure (the queue has a socket: EBUSY for a moment after one was closed).
  static result<xdp_socket> bind(umem&, const std::string& interface, std::uint32_t queue,
                                 const xdp_socket_options& = {});
  /// A socket another process has bound to the same umem, with the options it was bound with; annex
  /// keeps a duplicate of the descriptor. Errors: invalid_argument.
  static result<xdp_socket> adopt(umem&, int descriptor, const xdp_socket_options& = {});
  /// What is moved from may be destroyed or assigned to, no more.
  xdp_socket(xdp_socket&&) noexcept;
  /// Closes what it had.
  xdp_socket& operator=(xdp_socket&&) noexcept;
  /// Closes this process's descriptor. A socket that another process has adopted goes on.
  ~xdp_socket();

  /// To pass to another process (SCM_RIGHTS), or to poll.
  int descriptor() const noexcept;
  /// Frames of the pool to the kernel, as many as fit and there are.
  std::size_t refill() noexcept;
  /// Packets that have come, up to so many; returns how many. Their frames are the caller's: give
  /// them back to frames(), or send them.
  std::size_t receive(std::span<packet>) noexcept;
  /// The frames are the kernel's until reclaim() has put them back into the pool; those that were
  /// not taken stay the caller's.
  std::size_t send(std::span<const packet>) noexcept;
  /// Frames that the kernel has sent go back to the pool; returns how many.
  std::size_t reclaim() noexcept;

 private:
  struct state;
  explicit xdp_socket(std::unique_ptr<state>) noexcept;
  std::unique_ptr<state> state_;
};

/// The program on an interface that gives its packets to sockets, by queue; packets of a queue
/// without a socket go on to the kernel.
class ANNEX_PUBLIC xdp_redirect {
 public:
  /// Errors: invalid_argument (no such interface), permission (CAP_NET_ADMIN, CAP_BPF), os_failure
  /// (another program is there).
  static result<xdp_redirect> attach(const std::string& interface);
  /// What is moved from may be destroyed or assigned to, no more.
  xdp_redirect(xdp_redirect&&) noexcept;
  /// Takes off what it had, as the destructor does.
  xdp_redirect& operator=(xdp_redirect&&) noexcept;
  /// Takes the program off, unless leave() was called.
  ~xdp_redirect();
  /// From now on packets of this queue go to the socket. Errors: invalid_argument (a queue beyond
  /// the program's table), os_failure.
  result<void> set(std::uint32_t queue, const xdp_socket&);
  /// Stays on the interface when this process ends.
  void leave() noexcept;

 private:
  struct state;
  explicit xdp_redirect(std::unique_ptr<state>) noexcept;
  std::unique_ptr<state> state_;
};

}  // namespace annex

#endif
