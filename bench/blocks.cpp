// bench/blocks.cpp - one thread: pairs of every size, random lifetimes, how long the slowest
// operation takes.
#include <fmt/format.h>
#include <x86intrin.h>

#include <algorithm>

#include "rows.hpp"
#include "workloads.hpp"

namespace annex::bench {
namespace {

constexpr unsigned long live_blocks = 100'000;

template <class Calls>
measurement pair(Calls calls, std::size_t bytes) {
  return {time_per_operation([&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i) {
      void* block = calls.allocate(bytes);
      keep(block);
      calls.free(block);
    }
  })};
}

// 100,000 live blocks; one at random is freed and another allocated in its place.
template <class Calls>
measurement random_lifetime(Calls calls, std::size_t least, std::size_t most, bool touch) {
  std::vector<std::uint16_t> sizes(65536);
  random_stream random(7);
  for (auto& s : sizes)
    s = static_cast<std::uint16_t>(least + random.below(most - least + 1));
  std::vector<void*> slots(live_blocks);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    slots[i] = calls.allocate(sizes[i & 65535]);
    if (touch) *static_cast<volatile char*>(slots[i]) = 1;
  }
  unsigned long at = 0;
  auto work = [&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i) {
      void*& slot = slots[random.below(live_blocks)];
      calls.free(slot);
      slot = calls.allocate(sizes[at++ & 65535]);
      if (touch) *static_cast<volatile char*>(slot) = 1;
    }
  };
  // An allocator that takes 100 µs for each is spared the rest.
  const double until = wall_ns() + 3e9;
  // Past the order of the beginning.
  for (int part = 0; part < 200 && wall_ns() < until; ++part)
    work(live_blocks / 100);
  return {time_per_operation(work)};
}

// The 99.99th percentile of single operations, in ns, by the cycle counter.
template <class Calls>
measurement slow_operations(Calls calls) {
  constexpr unsigned long operations = 4'000'000, live = 10'000;
  random_stream random(11);
  std::vector<void*> slots(live);
  for (auto& slot : slots)
    slot = calls.allocate(16 + random.below(1009));
  std::vector<unsigned> histogram(1 << 16);
  const double begin_ns = wall_ns();
  const unsigned long long begin = __rdtsc();
  for (unsigned long i = 0; i < operations; ++i) {
    void*& slot = slots[random.below(live)];
    const std::size_t bytes = 16 + random.below(1009);
    const unsigned long long a = __rdtsc();
    calls.free(slot);
    const unsigned long long b = __rdtsc();
    slot = calls.allocate(bytes);
    const unsigned long long c = __rdtsc();
    ++histogram[std::min<unsigned long long>(b - a, 65535)];
    ++histogram[std::min<unsigned long long>(c - b, 65535)];
  }
  const double ns_per_tick = (wall_ns() - begin_ns) / static_cast<double>(__rdtsc() - begin);
  unsigned long above = 2 * operations / 10'000;
  std::size_t ticks = histogram.size() - 1;
  for (unsigned long seen = 0; ticks > 0 && (seen += histogram[ticks]) < above;)
    --ticks;
  return {static_cast<double>(ticks) * ns_per_tick};
}

}  // namespace

void add_block_workloads(std::vector<workload>* to) {
  for (const std::size_t bytes :
       {16ul, 64ul, 256ul, 1024ul, 4096ul, 16384ul, 65536ul, 1ul << 20, 2ul << 20})
    to->push_back(one_thread_row(fmt::format("pair/{}", bytes),
                                 fmt::format("allocate and free of {} bytes", bytes), bytes,
                                 [bytes](auto calls) { return pair(calls, bytes); }));
  auto lifetime = [&](const char* name, const char* about, std::size_t least, std::size_t most,
                      bool touch) {
    to->push_back(one_thread_row(
        name, about, most, [=](auto calls) { return random_lifetime(calls, least, most, touch); }));
  };
  lifetime("random/64", "100,000 live blocks of 64 bytes, one at random replaced", 64, 64, false);
  lifetime("random/64-touch", "the same, the first byte of each written", 64, 64, true);
  lifetime("random/16-1024", "100,000 live blocks of 16 to 1024 bytes, one at random replaced", 16,
           1024, false);
  to->push_back(one_thread_row(
      "tail/16-1024",
      "99.99th percentile of one allocate or free; 10,000 live blocks of 16 to 1024 bytes", 1024,
      [](auto calls) { return slow_operations(calls); }));
  to->back().net = false;
}

}  // namespace annex::bench
