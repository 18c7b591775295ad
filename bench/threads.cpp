// bench/threads.cpp - blocks that change hands between threads, and the shapes of three well-known
// programs.
//
//   handover       One thread allocates batches, the other frees them (exchange.hpp). ns of both
//                  sides per block.
//   threads        Each thread has 1,000 live blocks and replaces one at random.
//   larson         After Larson and Krishnan (ISMM 1998): every thread replaces random blocks of a
//                  set; after a while it hands the set to a successor and ends, so that most blocks
//                  are freed by another thread than their own.
//   xmalloc        After Lever and Boreham (USENIX 2000): some threads only allocate, others only
//                  free, batches between them.
//   mstress        After mimalloc's description of its stress test: mixed sizes, many small, few
//                  large; some kept, some exchanged between threads; threads come and go.
//   cache-scratch  After Hoard's description (ASPLOS 2000): each thread frees a small block it was
//                  given, takes another of the same size and writes it many times; an allocator
//                  that hands out parts of one cache line to two threads is slow.
#include <fmt/format.h>

#include <array>
#include <atomic>
#include <numeric>
#include <thread>

#include "exchange.hpp"
#include "workloads.hpp"

namespace annex::bench {
namespace {

// ---- larson
template <class Calls>
measurement larson(Calls calls, unsigned threads) {
  constexpr unsigned blocks_each = 1000, generations = 40, replaced = 25'000;
  std::vector<std::vector<void*>> sets(threads, std::vector<void*>(blocks_each));
  random_stream first(3);
  for (auto& set : sets)
    for (auto& block : set)
      block = calls.allocate(8 + first.below(993));
  const double begin = wall_ns();
  for (unsigned generation = 0; generation < generations; ++generation) {
    std::vector<std::thread> workers;
    for (unsigned t = 0; t < threads; ++t)
      workers.emplace_back([&, t] {
        stay_on_cpu(t);
        calls.enter_thread();
        random_stream random(generation * threads + t);
        auto& set = sets[(t + generation) % threads];  // the successor is another thread
        for (unsigned i = 0; i < replaced; ++i) {
          void*& slot = set[random.below(blocks_each)];
          calls.free(slot);
          const std::size_t bytes = 8 + random.below(993);
          slot = calls.allocate(bytes);
          static_cast<volatile char*>(slot)[0] = 1;
          static_cast<volatile char*>(slot)[bytes - 1] = 2;
        }
        calls.leave_thread();
      });
    for (auto& w : workers)
      w.join();
  }
  return {(wall_ns() - begin) / (double{generations} * replaced)};
}

// ---- xmalloc
constexpr unsigned xmalloc_blocks = 120, xmalloc_batches = 20'000, xmalloc_places = 64;
struct xmalloc_batch {
  std::array<void*, xmalloc_blocks> blocks;
};
using xmalloc_queue = std::array<std::atomic<xmalloc_batch*>, xmalloc_places>;

// More threads than CPUs: who waits lets the others go on.
inline void wait_a_little(unsigned* waited) {
  if (++*waited % 256 == 0)
    std::this_thread::yield();
  else
    asm volatile("pause");
}

template <class Calls>
void xmalloc_allocate(Calls calls, xmalloc_queue& queue) {
  random_stream random(5);
  for (unsigned i = 0, waited = 0; i < xmalloc_batches; ++i) {
    auto* const b = static_cast<xmalloc_batch*>(calls.allocate(sizeof(xmalloc_batch)));
    for (void*& block : b->blocks) {
      block = calls.allocate(32 + random.below(8) * 64);
      *static_cast<volatile long*>(block) = 1;
    }
    auto& place = queue[i % xmalloc_places];
    while (place.load(std::memory_order_relaxed) != nullptr)
      wait_a_little(&waited);
    place.store(b, std::memory_order_release);
  }
}

template <class Calls>
void xmalloc_free(Calls calls, xmalloc_queue& queue) {
  for (unsigned i = 0, waited = 0; i < xmalloc_batches; ++i) {
    auto& place = queue[i % xmalloc_places];
    xmalloc_batch* b = nullptr;
    while ((b = place.load(std::memory_order_acquire)) == nullptr)
      wait_a_little(&waited);
    place.store(nullptr, std::memory_order_release);
    for (void* block : b->blocks)
      calls.free(block);
    calls.free(b);
  }
}

template <class Calls>
measurement xmalloc(Calls calls, unsigned pairs) {
  std::vector<xmalloc_queue> queues(pairs);
  const double begin = wall_ns();
  std::vector<std::thread> workers;
  for (unsigned t = 0; t < 2 * pairs; ++t)
    workers.emplace_back([&, t] {
      stay_on_cpu(t);
      calls.enter_thread();
      if (t % 2 == 0)
        xmalloc_allocate(calls, queues[t / 2]);
      else
        xmalloc_free(calls, queues[t / 2]);
      calls.leave_thread();
    });
  for (auto& w : workers)
    w.join();
  return {(wall_ns() - begin) / (double{xmalloc_batches} * xmalloc_blocks * pairs)};
}

// ---- mstress
template <class Calls>
measurement mstress(Calls calls, unsigned threads) {
  constexpr unsigned rounds = 24, operations = 40'000, exchanged = 1000;
  std::vector<std::atomic<void*>> transfer(exchanged);
  auto size_of_next = [](random_stream& random) -> std::size_t {
    const unsigned long dice = random.below(1000);
    std::size_t words = 1 + random.below(16);
    if (dice < 10)
      words *= 64;  // 1 %: up to 8 KiB
    else if (dice < 100)
      words *= 8;  // 9 %: up to 1 KiB
    return words * 8;
  };
  const double begin = wall_ns();
  for (unsigned round = 0; round < rounds; ++round) {
    std::vector<std::thread> workers;
    for (unsigned t = 0; t < threads; ++t)
      workers.emplace_back([&, t] {
        stay_on_cpu(t);
        calls.enter_thread();
        random_stream random(round * threads + t + 1);
        std::vector<void*> kept, passing;
        for (unsigned i = 0; i < operations; ++i) {
          const std::size_t bytes = size_of_next(random);
          void* block = calls.allocate(bytes);
          *static_cast<volatile long*>(block) = static_cast<long>(bytes);
          (random.below(4) == 0 ? kept : passing).push_back(block);
          if (random.below(3) != 0 && !passing.empty()) {  // an older one goes
            void*& old = passing[random.below(passing.size())];
            calls.free(old);
            old = passing.back();
            passing.pop_back();
          }
          if (random.below(4) == 0 && !passing.empty()) {  // and one is exchanged
            void* other = transfer[random.below(exchanged)].exchange(passing.back(),
                                                                     std::memory_order_acq_rel);
            passing.pop_back();
            if (other != nullptr) passing.push_back(other);
          }
        }
        for (void* block : kept)
          calls.free(block);
        for (void* block : passing)
          calls.free(block);
        calls.leave_thread();
      });
    for (auto& w : workers)
      w.join();
    if (round % 8 == 7)
      for (auto& slot : transfer)
        if (void* block = slot.exchange(nullptr)) calls.free(block);
  }
  return {(wall_ns() - begin) / (double{rounds} * operations)};
}

// ---- cache-scratch
template <class Calls>
measurement cache_scratch(Calls calls, unsigned threads) {
  constexpr unsigned rounds = 4000, writes = 1000;
  std::vector<void*> given(threads);
  for (void*& block : given)
    block = calls.allocate(8);
  const double begin = wall_ns();
  std::vector<std::thread> workers;
  for (unsigned t = 0; t < threads; ++t)
    workers.emplace_back([&, t] {
      stay_on_cpu(t);
      calls.enter_thread();
      calls.free(given[t]);
      for (unsigned i = 0; i < rounds; ++i) {
        auto* block = static_cast<volatile long*>(calls.allocate(8));
        for (unsigned w = 0; w < writes; ++w)
          *block = *block + 1;
        calls.free(const_cast<long*>(block));
      }
      calls.leave_thread();
    });
  for (auto& w : workers)
    w.join();
  return {(wall_ns() - begin) / (double{rounds} * writes)};
}

// ---- threads
template <class Calls>
measurement threads_random(Calls calls, unsigned threads) {
  constexpr unsigned live = 1000;
  std::vector<double> found(threads);
  auto worker = [&](unsigned t) {
    stay_on_cpu(t);
    if (t != 0) calls.enter_thread();
    random_stream random(t + 1);
    std::vector<void*> slots(live);
    for (auto& slot : slots)
      slot = calls.allocate(64);
    found[t] = time_per_operation([&](unsigned long count) {
      for (unsigned long i = 0; i < count; ++i) {
        void*& slot = slots[random.below(live)];
        calls.free(slot);
        slot = calls.allocate(64);
      }
    });
    if (t != 0) calls.leave_thread();
  };
  std::vector<std::thread> others;
  for (unsigned t = 1; t < threads; ++t)
    others.emplace_back(worker, t);
  worker(0);
  for (auto& other : others)
    other.join();
  return {std::accumulate(found.begin(), found.end(), 0.0) / threads};
}

}  // namespace

void add_thread_workloads(std::vector<workload>* to) {
  for (const std::size_t bytes : {64ul, 4096ul})
    to->push_back(threads_row(
        fmt::format("handover/{}", bytes),
        fmt::format("{} bytes allocated by one thread, freed by another; both sides", bytes), bytes,
        true, [bytes](auto calls) { return handover(calls, bytes); }));
  for (const unsigned threads : {2u, 4u, 8u})
    to->push_back(threads_row(
        threads == 2 ? "threads/64" : fmt::format("threads/64-{}", threads),
        fmt::format("{} threads, 1,000 live blocks each, one at random replaced; CPU time",
                    threads),
        64, true, [threads](auto calls) { return threads_random(calls, threads); }));
  for (const unsigned threads : {2u, 4u})
    to->push_back(
        threads_row(fmt::format("larson/{}", threads),
                    "replacing random blocks of 8 to 1,000 bytes; sets pass to successors", 1000,
                    false, [threads](auto calls) { return larson(calls, threads); }));
  for (const unsigned threads : {2u, 4u})
    to->push_back(
        threads_row(fmt::format("xmalloc/{}", threads),
                    "half of the threads allocate batches of mixed sizes, the others free them",
                    1000, false, [threads](auto calls) { return xmalloc(calls, threads / 2); }));
  to->push_back(threads_row(
      "mstress/2", "mixed sizes, kept, passed on, exchanged between threads that come and go", 8192,
      false, [](auto calls) { return mstress(calls, 2); }));
  to->push_back(threads_row(
      "cache-scratch/2", "writes to small blocks that two threads took from what one had allocated",
      8, false, [](auto calls) { return cache_scratch(calls, 2); }));
  // DPDK's lock spins: with more threads than CPUs it waits for holders that are not running, and
  // a cell takes minutes, as it does where pmr looks for the pool of a block that another thread
  // frees. They are compared with two threads.
  for (workload& w : *to)
    if (w.name == "threads/64-4" || w.name == "threads/64-8" || w.name == "larson/4" ||
        w.name == "xmalloc/4")
      std::erase_if(w.cells,
                    [](const cell& c) { return c.peer.starts_with("rte_") || c.peer == "pmr"; });
}

}  // namespace annex::bench
