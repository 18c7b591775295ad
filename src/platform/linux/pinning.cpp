// platform/linux/pinning.cpp - pages the kernel neither moves nor takes away: io_uring's
// registration of buffers is the pin.
//
//   ring of a thread:  slot 0 │ slot 1 │ …   each up to 1 GiB of the range; nothing is submitted
//
// mlock is no pin: locked pages may be moved (compaction, NUMA balancing), and their physical
// addresses change. A long-term pin holds them. The kernel ends it when the rings are unregistered,
// or when the process dies.
#include "platform/pinning.hpp"

#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <utility>
#include <vector>

#include "base/in_parallel.hpp"
#include "platform/linux/call.hpp"

struct annex::os::pinned {
  std::vector<int> rings;
};

namespace ANNEX_OS {
namespace {

constexpr u64 piece_bytes = 1 * GiB;  // the most the kernel takes as one buffer
constexpr u64 most_pieces = 16384;    // of one ring

int register_with(int ring, unsigned what, void* argument, unsigned size) noexcept {
  return ::syscall(SYS_io_uring_register, ring, what, argument, size) < 0 ? errno : 0;
}

// A ring with an empty table; -1 and *why.
int make_ring(u32 slots, int* why) noexcept {
  ::io_uring_params parameters{};
  // Close-on-exec by itself.
  const int ring = static_cast<int>(::syscall(SYS_io_uring_setup, 1, &parameters));
  if (ring < 0) {
    *why = errno;
    return -1;
  }
  ::io_uring_rsrc_register table{};
  table.nr = slots;
  table.flags = IORING_RSRC_REGISTER_SPARSE;
  *why = register_with(ring, IORING_REGISTER_BUFFERS2, &table, sizeof table);
  if (*why == 0) return ring;
  ::close(ring);
  return -1;
}

int fill_slot(int ring, u32 slot, void* base, u64 bytes) noexcept {
  ::iovec piece{base, bytes};
  ::io_uring_rsrc_update2 update{};
  update.offset = slot;
  update.data = reinterpret_cast<__u64>(&piece);
  update.nr = 1;
  return register_with(ring, IORING_REGISTER_BUFFERS_UPDATE, &update, sizeof update);
}

void give_back(const std::vector<int>& rings) noexcept {
  for (const int ring : rings) {
    // At once; closing alone takes its time.
    (void)register_with(ring, IORING_UNREGISTER_BUFFERS, nullptr, 0);
    ::close(ring);
  }
}

}  // namespace

pin_result pin(void* address, u64 bytes, unsigned threads,
               const std::function<void(u64, u64)>& progress) {
  const u64 pieces = divide_up(bytes, piece_bytes);
  if (pieces > most_pieces) return {nullptr, EINVAL};
  struct own_ring {
    int fd = -1;
    u32 slots_used = 0;
  };
  std::vector<own_ring> rings(threads_for(pieces, threads));
  const int failed = in_parallel(
      bytes, piece_bytes, threads,
      [&](unsigned thread, u64 at, u64 length) {
        own_ring& mine = rings[thread];
        int why = 0;
        if (mine.fd < 0 && (mine.fd = make_ring(static_cast<u32>(pieces), &why)) < 0) return why;
        return fill_slot(mine.fd, mine.slots_used++, static_cast<char*>(address) + at, length);
      },
      progress);
  std::vector<int> made;
  for (const own_ring& r : rings)
    if (r.fd >= 0) made.push_back(r.fd);
  if (failed == 0) return {new pinned{std::move(made)}, 0};
  give_back(made);
  return {nullptr, failed};
}

void unpin(pinned* held) {
  if (held == nullptr) return;
  give_back(held->rings);
  delete held;
}

}  // namespace ANNEX_OS
