// bench/threads.cpp - blocks that change hands between threads and processes, and the shapes of
// three well-known programs.
//
//   handover       One thread allocates batches, the other frees them. ns of both sides per block,
//                  from the median batch of each, so that an interrupted thread does not count.
//   processes      The same, the other being a process that has attached the heap by name. Only
//                  annex and Boost can.
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
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/interprocess/managed_shared_memory.hpp>
#include <filesystem>
#include <memory>
#include <mutex>
#include <thread>

#include "peers.hpp"
#include "workloads.hpp"

namespace annex::bench {
namespace {

constexpr unsigned batch_blocks = 256, mailboxes = 16;

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

void wait_until(const std::atomic<unsigned>& word, unsigned value) {
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

exchange& shared_exchange() {
  void* const space =
      ::mmap(nullptr, sizeof(exchange), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return *new (space) exchange;
}

constexpr unsigned handover_batches = 3000;

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

// An annex directory of this cell's own, while it lives.
struct own_directory {
  std::string path = fmt::format("/dev/shm/annex-bench-{}", ::getpid());
  own_directory() { ::setenv("ANNEX_DIR", path.c_str(), 1); }
  ~own_directory() { std::filesystem::remove_all(path); }
  own_directory(const own_directory&) = delete;
  own_directory& operator=(const own_directory&) = delete;
};

measurement annex_handover(bool other_process, std::size_t bytes) {
  const own_directory directory;
  auto& x = shared_exchange();
  heap mine = expect(heap::create("bench"), "the heap");
  expect(mine.bring_memory({.length_bytes = std::size_t{256} << 20}), "memory");
  void* const sample = mine.allocate(64);
  const handle name = mine.handle_of(sample);
  auto free_all = [&] {
    stay_on_cpu(1);
    x.free_ns = free_batches(x, handover_batches, [](void* block) { heap::free(block); });
  };
  if (!other_process) {
    std::thread other(free_all);
    stay_on_cpu(0);
    const double allocate_ns =
        allocate_batches(x, handover_batches, [&] { return mine.allocate(bytes); });
    other.join();
    return {allocate_ns + x.free_ns};
  }
  const pid_t child = ::fork();
  if (child == 0) {
    heap theirs = expect(heap::attach("bench"), "attaching");
    x.shift.store(static_cast<char*>(expect(theirs.resolve(name), "resolving")) -
                  static_cast<char*>(sample));
    x.ready.store(true);
    free_all();
    ::_exit(0);
  }
  while (!x.ready.load())
    asm volatile("pause");
  stay_on_cpu(0);
  const double allocate_ns =
      allocate_batches(x, handover_batches, [&] { return mine.allocate(bytes); });
  ::waitpid(child, nullptr, 0);
  return {allocate_ns + x.free_ns};
}

measurement boost_between_processes(std::size_t bytes) {
  namespace ipc = boost::interprocess;
  const std::string name = fmt::format("annex-bench-{}", ::getpid());
  auto& x = shared_exchange();
  ipc::managed_shared_memory mine(ipc::create_only, name.c_str(), std::size_t{256} << 20);
  const pid_t child = ::fork();
  if (child == 0) {
    ipc::managed_shared_memory theirs(ipc::open_only, name.c_str());
    x.shift.store(static_cast<char*>(theirs.get_address()) -
                  static_cast<char*>(mine.get_address()));
    x.ready.store(true);
    stay_on_cpu(1);
    x.free_ns = free_batches(x, handover_batches, [&](void* block) { theirs.deallocate(block); });
    ::_exit(0);
  }
  while (!x.ready.load())
    asm volatile("pause");
  stay_on_cpu(0);
  const double allocate_ns =
      allocate_batches(x, handover_batches, [&] { return mine.allocate(bytes); });
  ::waitpid(child, nullptr, 0);
  ipc::shared_memory_object::remove(name.c_str());
  return {allocate_ns + x.free_ns};
}

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
template <class Calls>
measurement xmalloc(Calls calls) {
  constexpr unsigned blocks_each = 120, batches = 20'000, waiting = 64;
  struct batch {
    std::array<void*, blocks_each> blocks;
  };
  std::array<std::atomic<batch*>, waiting> queue{};
  auto worker = [&](bool allocates) {
    stay_on_cpu(allocates ? 0 : 1);
    if (!allocates) calls.enter_thread();
    random_stream random(5);
    for (unsigned i = 0; i < batches; ++i) {
      std::atomic<batch*>& place = queue[i % waiting];
      if (allocates) {
        auto* b = static_cast<batch*>(calls.allocate(sizeof(batch)));
        for (void*& block : b->blocks) {
          block = calls.allocate(32 + random.below(8) * 64);
          *static_cast<volatile long*>(block) = 1;
        }
        while (place.load(std::memory_order_relaxed) != nullptr)
          asm volatile("pause");
        place.store(b, std::memory_order_release);
      } else {
        batch* b = nullptr;
        while ((b = place.load(std::memory_order_acquire)) == nullptr)
          asm volatile("pause");
        place.store(nullptr, std::memory_order_release);
        for (void* block : b->blocks)
          calls.free(block);
        calls.free(b);
      }
    }
    if (!allocates) calls.leave_thread();
  };
  const double begin = wall_ns();
  std::thread other(worker, false);
  worker(true);
  other.join();
  return {(wall_ns() - begin) / (double{batches} * blocks_each)};
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

template <class Calls>
measurement two_threads_random(Calls calls) {
  constexpr unsigned live = 1000;
  std::array<double, 2> found{};
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
  std::thread other(worker, 1);
  worker(0);
  other.join();
  return {(found[0] + found[1]) / 2};
}

template <class Work>
void add(std::vector<workload>* to, std::string name, std::string about, Work work,
         bool with_driver = true) {
  workload w{std::move(name), "ns", std::move(about), {}};
  for (const peer& p : all_peers())
    if (p.threads && (with_driver || p.name != "driver"))
      w.cells.push_back({p.name, [p, work] { return with_calls(p, work); }});
  to->push_back(std::move(w));
}

}  // namespace

void add_thread_workloads(std::vector<workload>* to) {
  for (const std::size_t bytes : {64ul, 4096ul})
    add(to, fmt::format("handover/{}", bytes),
        fmt::format("{} bytes allocated by one thread, freed by another; both sides", bytes),
        [bytes](auto calls) { return handover(calls, bytes); });
  for (const std::size_t bytes : {64ul, 4096ul}) {
    workload w{fmt::format("processes/{}", bytes),
               "ns",
               fmt::format("{} bytes allocated by one process, freed by another; annex-threads: a "
                           "shared heap, two threads",
                           bytes),
               {}};
    w.cells.push_back({"driver", [bytes] {
                         return with_calls(all_peers().front(),
                                           [bytes](auto calls) { return handover(calls, bytes); });
                       }});
    w.cells.push_back({"annex", [bytes] { return annex_handover(true, bytes); }});
    w.cells.push_back({"annex-threads", [bytes] { return annex_handover(false, bytes); }});
    w.cells.push_back({"boost", [bytes] { return boost_between_processes(bytes); }});
    to->push_back(std::move(w));
  }
  add(to, "threads/64", "two threads, 1,000 live blocks each, one at random replaced",
      [](auto calls) { return two_threads_random(calls); });
  // The driver has one block, which two threads must not write: these are compared as they are.
  add(
      to, "larson/2", "replacing random blocks of 8 to 1,000 bytes; sets pass to successors",
      [](auto calls) { return larson(calls, 2); }, false);
  add(
      to, "xmalloc/2", "one thread allocates batches of mixed sizes, the other frees them",
      [](auto calls) { return xmalloc(calls); }, false);
  add(
      to, "mstress/2", "mixed sizes, kept, passed on, exchanged between threads that come and go",
      [](auto calls) { return mstress(calls, 2); }, false);
  add(
      to, "cache-scratch/2",
      "writes to small blocks that two threads took from what one had allocated",
      [](auto calls) { return cache_scratch(calls, 2); }, false);
}

}  // namespace annex::bench
