// bench/exchange.hpp - batches of blocks on their way from who allocates to who frees.
//
//   allocating side: wait for an empty mailbox, time 256 allocations, mark it full
//   freeing side:    wait for a full mailbox, time 256 frees, mark it empty
//
// ns of a side are those of its median batch, so that an interrupted thread does not count.
#pragma once
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <thread>

#include "rows.hpp"

namespace annex::bench {

inline constexpr unsigned batch_blocks = 256, mailboxes = 16;

// A batch of blocks on its way, in memory both sides see.
struct alignas(64) mailbox {
  std::atomic<unsigned> full{0};
  std::array<void*, batch_blocks> blocks;
};
struct exchange {
  std::array<mailbox, mailboxes> boxes;
  std::atomic<bool> ready{false};
  std::atomic<long> shift{0};  // what the other side adds to an address
  double free_ns = 0;
};

inline void wait_until(const std::atomic<unsigned>& word, unsigned value) {
  while (word.load(std::memory_order_acquire) != value)
    asm volatile("pause");
}

template <class Allocate>
double allocate_batches(exchange& x, unsigned batches, Allocate allocate) {
  std::vector<double> times;
  for (unsigned i = 0; i < batches; ++i) {
    mailbox& box = x.boxes[i % mailboxes];
    wait_until(box.full, 0);
    const double begin = wall_ns();
    for (void*& block : box.blocks)
      block = allocate();
    times.push_back(wall_ns() - begin);
    box.full.store(1, std::memory_order_release);
  }
  return spread_of(times).median / batch_blocks;
}

template <class Free>
double free_batches(exchange& x, unsigned batches, Free free) {
  std::vector<double> times;
  for (unsigned i = 0; i < batches; ++i) {
    mailbox& box = x.boxes[i % mailboxes];
    wait_until(box.full, 1);
    const long shift = x.shift.load(std::memory_order_relaxed);
    const double begin = wall_ns();
    for (void* block : box.blocks)
      free(static_cast<char*>(block) + shift);
    times.push_back(wall_ns() - begin);
    box.full.store(0, std::memory_order_release);
  }
  return spread_of(times).median / batch_blocks;
}

inline exchange& shared_exchange() {
  void* const space =
      ::mmap(nullptr, sizeof(exchange), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return *new (space) exchange;
}

inline constexpr unsigned handover_batches = 3000;

template <class Calls>
measurement handover(Calls calls, std::size_t bytes) {
  auto& x = shared_exchange();
  std::thread other([&] {
    stay_on_cpu(1);
    calls.enter_thread();
    x.free_ns = free_batches(x, handover_batches, [&](void* block) { calls.free(block); });
    calls.leave_thread();
  });
  stay_on_cpu(0);
  const double allocate_ns =
      allocate_batches(x, handover_batches, [&] { return calls.allocate(bytes); });
  other.join();
  return {allocate_ns + x.free_ns};
}

}  // namespace annex::bench
