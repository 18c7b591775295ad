// bench/published.cpp - what is published about allocators for shared memory, by two threads.
//
//   threadtest   After Berger et al. (ASPLOS 2000), in cxlalloc's sizes: each thread allocates so
//                many blocks and frees them, again and again. Nothing is written.
//   ycsb         After Cooper et al. (SoCC 2010), in cxlalloc's mixes: a hash table whose nodes are
//                blocks, keys of 8 bytes, values of 1,000. load: inserting. a: a half reads, a
//                quarter inserts, a quarter deletes, Zipf's law (0.99). d: 95 in a hundred read,
//                the newest most, five insert.
//   twitter      Clusters 12, 15, 31 and 37 of Yang, Yue, Rashmi (OSDI 2020), the ones that
//                cxlalloc replays. The traces are too large to ship: requests are made from the
//                published means of key, value, share of writes, Zipf's exponent and working set.
//                Ours: values are uniform between half and one and a half of the mean; the set is
//                at most 32 MiB; there are eight keys for each item in it; the oldest expires.
//
// Every page has been written before the clock starts: a first course of the same length.
#include <fmt/format.h>

#include <cmath>
#include <thread>

#include "rows.hpp"
#include "table.hpp"
#include "workloads.hpp"

namespace annex::bench {
namespace {

constexpr unsigned threads = 2;

// All threads do work(t); ns of the wall for each of `count`.
template <class Calls, class Work>
double together(Calls calls, double count, Work work) {
  const double begin = wall_ns();
  std::vector<std::thread> workers;
  for (unsigned t = 0; t < threads; ++t)
    workers.emplace_back([&, t] {
      stay_on_cpu(t);
      calls.enter_thread();
      work(t);
      calls.leave_thread();
    });
  for (auto& w : workers)
    w.join();
  return (wall_ns() - begin) / count;
}

// A thread that ends by an exception would take the cell with it: no block is null here.
template <class Calls>
measurement threadtest(Calls calls, std::size_t bytes, unsigned blocks, unsigned times) {
  std::atomic<bool> refused{false};
  const double found = together(calls, static_cast<double>(times) * blocks, [&](unsigned) {
    std::vector<void*> live(blocks);
    for (unsigned i = 0; i < times && !refused.load(std::memory_order_relaxed); ++i) {
      for (void*& block : live)
        block = calls.allocate(bytes);
      if (live.back() == nullptr) refused = true;
      for (void* block : live)
        calls.free(block);
    }
  });
  if (refused) throw std::runtime_error("out of memory");
  return {found};
}

// Ranks by Zipf's law, drawn once: no power is computed while the clock runs.
std::vector<std::uint32_t> ranks(unsigned long keys, double exponent) {
  std::vector<std::uint32_t> drawn(1 << 18);
  random_stream random(37);
  const double n = static_cast<double>(keys), power = 1 - exponent;
  for (auto& rank : drawn) {
    const double u = static_cast<double>(random.below(1ul << 52)) / static_cast<double>(1ul << 52);
    const double r = std::pow((std::pow(n + 1, power) - 1) * u + 1, 1 / power) - 1;
    rank = static_cast<std::uint32_t>(std::min(r, n - 1));
  }
  return drawn;
}

// ---- ycsb
constexpr unsigned long ycsb_records = 50'000, ycsb_operations = 200'000;
constexpr std::size_t ycsb_value = 1000;

template <class Calls>
void ycsb_load(table<Calls>& t, unsigned thread) {
  for (unsigned long key = thread; key < ycsb_records; key += threads)
    t.put(key, ycsb_value);
}

template <class Calls>
measurement measure_ycsb_load(Calls calls) {
  table<Calls> t(calls, ycsb_records);
  together(calls, 1, [&](unsigned thread) { ycsb_load(t, thread); });
  t.clear();
  return {together(calls, double{ycsb_records}, [&](unsigned thread) { ycsb_load(t, thread); })};
}

template <class Calls>
measurement measure_ycsb_run(Calls calls, bool newest) {
  table<Calls> t(calls, ycsb_records);
  together(calls, 1, [&](unsigned thread) { ycsb_load(t, thread); });
  const auto rank = ranks(ycsb_records, 0.99);
  auto course = [&](unsigned thread) {
    random_stream random(thread + 41);
    unsigned long last = ycsb_records + thread;
    for (unsigned long i = 0; i < ycsb_operations / threads; ++i) {
      const unsigned long r = rank[(i * threads + thread) % rank.size()], dice = random.below(100);
      const unsigned long key = newest ? (last > r ? last - r : 0) : r * 7919 % ycsb_records;
      if (dice < (newest ? 95ul : 50ul))
        t.get(key);
      else if (newest)
        t.put(last += threads, ycsb_value);
      else if (dice < 75)
        t.put(key, ycsb_value);
      else
        t.remove(key);
    }
  };
  together(calls, 1, course);
  return {together(calls, double{ycsb_operations}, course)};
}

// ---- twitter
struct cluster {
  unsigned number;
  std::size_t key, value;
  unsigned writes;  // per cent
  double exponent;
  std::size_t working_set_mib;
};
constexpr cluster clusters[] = {{12, 44, 1030, 80, 0.3048, 986},
                                {15, 18, 102, 100, 0.0242, 15},
                                {31, 41, 15, 94, 0, 5},
                                {37, 72, 20134, 37, 0.4251, 551}};

template <class Calls>
measurement twitter(Calls calls, const cluster& c) {
  const std::size_t set = std::min<std::size_t>(c.working_set_mib, 32) << 20;
  const unsigned long items = set / (c.key + c.value);
  const unsigned long operations = std::max(items, 100'000ul);
  table<Calls> t(calls, items);
  const auto rank = ranks(items * 8, c.exponent);
  // The keys each thread has written, oldest first, in a circle as long as its share of the set.
  std::vector<std::vector<unsigned long>> written(
      threads, std::vector<unsigned long>(items / threads, ~0ul));
  std::vector<unsigned long> writes(threads);
  auto course = [&](unsigned thread) {
    random_stream random(thread + 43);
    auto& ring = written[thread];
    for (unsigned long i = 0; i < operations / threads; ++i) {
      // A rank stands for another key after each pass over the ranks: few keys come again.
      const unsigned long at = i * threads + thread;
      const unsigned long key = rank[at % rank.size()] * (1 + at / rank.size());
      if (random.below(100) >= c.writes) {
        t.get(key);
        continue;
      }
      unsigned long& oldest = ring[writes[thread]++ % ring.size()];
      if (oldest != ~0ul) t.remove(oldest);
      oldest = key;
      t.put(key, c.key + c.value / 2 + random.below(c.value));
    }
  };
  // Until the set is full.
  const auto passes = 1 + 100 * items / (operations * c.writes);
  for (unsigned long pass = 0; pass < passes; ++pass)
    together(calls, 1, course);
  return {together(calls, static_cast<double>(operations), course)};
}

}  // namespace

void add_published_workloads(std::vector<workload>* to) {
  auto add = [&](std::string name, std::string about, std::size_t bytes, auto work) {
    to->push_back(threads_row(std::move(name), std::move(about), bytes, false, work));
  };
  struct shape {
    std::size_t bytes;
    unsigned blocks, times;
  };
  for (const shape s : {shape{8, 10'000, 100}, {32768, 1000, 20}})
    add(fmt::format("threadtest/{}", s.bytes),
        fmt::format("two threads: {} blocks of {} bytes allocated, then freed; a block", s.blocks,
                    s.bytes),
        s.bytes, [s](auto calls) { return threadtest(calls, s.bytes, s.blocks, s.times); });
  add("ycsb/load", "two threads insert 50,000 values of 1,000 bytes", 1000,
      [](auto calls) { return measure_ycsb_load(calls); });
  add("ycsb/a", "50 % read, 25 % insert, 25 % delete; two threads", 1000,
      [](auto calls) { return measure_ycsb_run(calls, false); });
  add("ycsb/d", "95 % read, the newest most, 5 % insert; two threads", 1000,
      [](auto calls) { return measure_ycsb_run(calls, true); });
  for (const cluster& c : clusters)
    add(fmt::format("twitter/{}", c.number),
        fmt::format("{} % writes, keys of {} and values of about {} bytes; two threads", c.writes,
                    c.key, c.value),
        c.key + 2 * c.value, [c](auto calls) { return twitter(calls, c); });
}

}  // namespace annex::bench
