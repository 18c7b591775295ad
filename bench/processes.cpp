// bench/processes.cpp - one heap, several processes. Only annex and Boost can.
//
//   processes      One process allocates, another frees (exchange.hpp); "annex-threads": the same
//                  shared heap, two threads of one process.
//   kv             The shape of a cache of keys and values for large language models: blocks of
//                  256 KiB to 4 MiB, the heap filled to so many per cent by all processes together;
//                  then each replaces one of its own at random. A refused block costs its process
//                  another one, and then another, until there is room. No byte is touched.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <boost/interprocess/managed_shared_memory.hpp>
#include <filesystem>
#include <memory>

#include "exchange.hpp"
#include "workloads.hpp"

namespace annex::bench {
namespace {

// An annex directory of this cell's own, while it lives.
struct own_directory {
  std::string path = fmt::format("/dev/shm/annex-bench-{}", ::getpid());
  own_directory() { ::setenv("ANNEX_DIR", path.c_str(), 1); }
  ~own_directory() { std::filesystem::remove_all(path); }
  own_directory(const own_directory&) = delete;
  own_directory& operator=(const own_directory&) = delete;
};

// This process allocates, the child frees.
template <class Allocate>
measurement give_to(exchange& x, pid_t child, Allocate allocate) {
  while (!x.ready.load())
    asm volatile("pause");
  stay_on_cpu(0);
  const double allocate_ns = allocate_batches(x, handover_batches, allocate);
  ::waitpid(child, nullptr, 0);
  return {allocate_ns + x.free_ns};
}

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
  return give_to(x, child, [&] { return mine.allocate(bytes); });
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
  const measurement taken = give_to(x, child, [&] { return mine.allocate(bytes); });
  ipc::shared_memory_object::remove(name.c_str());
  return taken;
}

// ---- kv
constexpr std::size_t cache_bytes = std::size_t{1} << 30;
constexpr double cache_run_ns = 2e8;

struct alignas(64) cache_course {
  std::atomic<unsigned> filled{0};
  std::atomic<bool> begun{false};
  std::atomic<unsigned long> replaced{0};
};

struct cached_block {
  void* at;
  std::size_t bytes;
};

// One process: fills its share, waits for the others, replaces until the time is over.
template <class Allocate, class Free>
void keep_cache(cache_course& course, unsigned number, std::size_t share, Allocate allocate,
                Free free) {
  random_stream random(number + 31);
  auto size = [&] { return (std::size_t{1} + random.below(16)) << 18; };
  std::vector<cached_block> blocks;
  std::size_t held = 0;
  for (std::size_t bytes = size(); held + bytes <= share; bytes = size()) {
    void* const at = allocate(bytes);
    if (at == nullptr) break;
    blocks.push_back({at, bytes});
    held += bytes;
  }
  course.filled.fetch_add(1);
  while (!course.begun.load())
    ::sched_yield();
  auto drop = [&] {
    cached_block& victim = blocks[random.below(blocks.size())];
    free(victim.at);
    held -= victim.bytes;
    victim = blocks.back();
    blocks.pop_back();
  };
  unsigned long replaced = 0;
  for (const double until = wall_ns() + cache_run_ns; wall_ns() < until;)
    for (int i = 0; i < 16; ++i, ++replaced) {
      const std::size_t bytes = size();
      while (!blocks.empty() && held + bytes > share)
        drop();
      void* at = nullptr;
      while ((at = allocate(bytes)) == nullptr && !blocks.empty())
        drop();
      if (at == nullptr) continue;
      blocks.push_back({at, bytes});
      held += bytes;
    }
  course.replaced.fetch_add(replaced);
}

// keep(course, number, share) in each child.
template <class Keep>
measurement run_cache(unsigned processes, unsigned percent, Keep keep_one) {
  void* const space = ::mmap(nullptr, sizeof(cache_course), PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto& course = *new (space) cache_course;
  const std::size_t share = cache_bytes / 100 * percent / processes;
  std::vector<pid_t> children;
  for (unsigned number = 0; number < processes; ++number) {
    children.push_back(::fork());
    if (children.back() != 0) continue;
    stay_on_cpu(number);
    keep_one(course, number, share);
    ::_exit(0);
  }
  while (course.filled.load() < processes)
    ::usleep(1000);
  const double begin = wall_ns();
  course.begun.store(true);
  bool all_done = true;
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    all_done &= status == 0;
  }
  const double took = wall_ns() - begin;
  if (!all_done || course.replaced.load() == 0) throw std::runtime_error("a process has failed");
  return {took / static_cast<double>(course.replaced.load())};
}

measurement annex_cache(unsigned processes, unsigned percent) {
  const own_directory directory;
  heap mine = expect(heap::create("cache"), "the heap");
  expect(mine.bring_memory({.length_bytes = cache_bytes}), "memory");
  return run_cache(
      processes, percent, [](cache_course& course, unsigned number, std::size_t share) {
        heap theirs = expect(heap::attach("cache"), "attaching");
        keep_cache(
            course, number, share, [&](std::size_t bytes) { return theirs.allocate(bytes); },
            [](void* block) { heap::free(block); });
      });
}

measurement boost_cache(unsigned processes, unsigned percent) {
  namespace ipc = boost::interprocess;
  const std::string name = fmt::format("annex-bench-{}", ::getpid());
  ipc::managed_shared_memory mine(ipc::create_only, name.c_str(), cache_bytes);
  const std::unique_ptr<const std::string, void (*)(const std::string*)> removed(
      &name, [](const std::string* n) { ipc::shared_memory_object::remove(n->c_str()); });
  return run_cache(processes, percent,
                   [&](cache_course& course, unsigned number, std::size_t share) {
                     ipc::managed_shared_memory theirs(ipc::open_only, name.c_str());
                     keep_cache(
                         course, number, share,
                         [&](std::size_t bytes) { return theirs.allocate(bytes, std::nothrow); },
                         [&](void* block) { theirs.deallocate(block); });
                   });
}

}  // namespace

void add_process_workloads(std::vector<workload>* to) {
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
  struct shape {
    unsigned processes, percent;
  };
  for (const auto& [processes, percent] :
       {shape{1, 90}, {2, 80}, {2, 90}, {2, 99}, {4, 90}, {8, 90}, {16, 90}}) {
    workload w{fmt::format("kv/{}-{}", processes, percent),
               "ns",
               fmt::format("{} processes, a heap {} % full of 256 KiB to 4 MiB, one replaced; wall "
                           "time by all together",
                           processes, percent),
               {}};
    w.cells.push_back({"annex", [=] { return annex_cache(processes, percent); }});
    w.cells.push_back({"boost", [=] { return boost_cache(processes, percent); }});
    to->push_back(std::move(w));
  }
}

}  // namespace annex::bench
