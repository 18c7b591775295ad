// platform/linux/pin.cpp - pages the kernel neither moves nor takes away: io_uring's registration of buffers is the pin.
//
//   ring of a thread:  slot 0 │ slot 1 │ …   each up to 1 GiB of the range; nothing is ever submitted
//
// mlock is no pin: locked pages may be moved (compaction, NUMA balancing), and their physical addresses change. A long-term pin holds
// them. The kernel ends it when the rings are unregistered, or when the process dies.
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <thread>

#include "platform/os.hpp"

namespace annex::os {
namespace {

constexpr u64 piece_bytes = 1 * GiB;  // the most the kernel takes as one buffer
constexpr u64 most_pieces = 16384;    // of one ring

int register_with(int ring, unsigned what, void* argument, unsigned size) noexcept {
  return ::syscall(SYS_io_uring_register, ring, what, argument, size) < 0 ? errno : 0;
}

// A ring with an empty table; -1 and *why.
int make_ring(u32 slots, int* why) noexcept {
  ::io_uring_params parameters{};
  const int ring = static_cast<int>(::syscall(SYS_io_uring_setup, 1, &parameters));  // close-on-exec by itself
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

}  // namespace

struct pinned {
  std::vector<int> rings;
};

pin_result pin(void* address, u64 bytes, unsigned threads, const std::function<void(u64, u64)>& progress) {
  const u64 pieces = divide_up(bytes, piece_bytes);
  threads = static_cast<unsigned>(std::clamp<u64>(threads != 0 ? threads : processor_count(), divide_up(pieces, most_pieces), pieces));
  auto held = new pinned;
  std::atomic<u64> next{0};
  std::atomic<int> failed{0};
  u64 done = 0;
  std::mutex mutex;
  auto work = [&] {
    int why = 0;
    const int ring = make_ring(static_cast<u32>(std::min(pieces, most_pieces)), &why);
    if (ring >= 0) {
      std::lock_guard guard(mutex);
      held->rings.push_back(ring);
    }
    u32 slot = 0;
    for (u64 i = 0; why == 0 && failed.load() == 0 && slot < most_pieces && (i = next.fetch_add(1)) < pieces;) {
      const u64 length = std::min(piece_bytes, bytes - i * piece_bytes);
      why = fill_slot(ring, slot++, static_cast<char*>(address) + i * piece_bytes, length);
      if (why != 0 || !progress) continue;
      std::lock_guard guard(mutex);
      done += length;
      progress(done, bytes);
    }
    if (why != 0) failed.store(why);
  };
  std::vector<std::thread> helpers;
  for (unsigned i = 1; i < threads; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failed.load() == 0) return {held, 0};
  unpin(held);
  return {nullptr, failed.load()};
}

void unpin(pinned* held) {
  if (held == nullptr) return;
  for (const int ring : held->rings) {
    (void)register_with(ring, IORING_UNREGISTER_BUFFERS, nullptr, 0);  // at once; closing alone takes its time
    ::close(ring);
  }
  delete held;
}

}  // namespace annex::os
