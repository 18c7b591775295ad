// bench/space.cpp - what memory is left: footprint of small blocks, holes after a trace that
// defeats size classes, small heaps filled to the brim, what a thousand idle threads keep.
//
// The trace (comb) is after Robson's worst case for allocators that don't move blocks: fill with
// blocks of one size, free all but every k-th, go on with a larger size, for eight rounds; between
// the rounds a few blocks in a hundred live on. Everybody has the same 256 MiB: annex and DPDK as a
// heap of that size, Boost as a buffer, mimalloc as a managed arena, jemalloc as an arena whose
// extents come from that range (extent hooks). What is measured is the largest block that can still
// be allocated, over the bytes that no live block occupies.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/interprocess/managed_external_buffer.hpp>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "dpdk.hpp"
#include "peers.hpp"
#include "workloads.hpp"

namespace annex::bench {
namespace {

// ---- a million blocks of 64 bytes
measurement footprint(const peer& p, unsigned count) {
  if (p.name == "rte_malloc") return dpdk::footprint(count);
  auto* const blocks = reinterpret_cast<void**>(ordinary_memory(count * sizeof(void*)));
  std::fill_n(blocks, count, nullptr);
  const double before = resident_bytes();
  return with_calls(p, [&](auto calls) {
    for (unsigned i = 0; i < count; ++i) {
      blocks[i] = calls.allocate(64);
      *static_cast<volatile char*>(blocks[i]) = 1;
    }
    return measurement{(resident_bytes() - before) / count};
  });
}

// ---- allocators confined to one range
struct confined {
  std::function<void*(std::size_t)> allocate;
  std::function<void(void*)> free;
};

confined confined_annex(std::size_t bytes) {
  heap& h = annex_heap(bytes);
  return {[&h](std::size_t size) { return h.allocate(size); },
          [](void* block) { heap::free(block); }};
}

confined confined_mimalloc(std::size_t bytes) {
  auto function = [](const char* name) { return mimalloc_function(name); };
  auto manage = reinterpret_cast<bool (*)(void*, std::size_t, bool, bool, bool, int, bool, int*)>(
      function("mi_manage_os_memory_ex"));
  auto make_heap = reinterpret_cast<void* (*)(int)>(function("mi_heap_new_in_arena"));
  auto allocate = reinterpret_cast<void* (*)(void*, std::size_t)>(function("mi_heap_malloc"));
  int arena = 0;
  if (!manage(ordinary_memory(bytes), bytes, true, false, true, -1, true, &arena))
    throw std::runtime_error("mimalloc does not take the arena");
  // No "out of memory" on the terminal.
  reinterpret_cast<void (*)(int, bool)>(function("mi_option_set_enabled"))(2, false);
  void* const of = make_heap(arena);
  return {[=](std::size_t size) { return allocate(of, size); },
          reinterpret_cast<void (*)(void*)>(function("mi_free"))};
}

// jemalloc: an arena whose hooks hand out one range and take nothing back, so that jemalloc itself
// splits and merges.
struct extent_hooks {
  void* (*alloc)(extent_hooks*, void*, std::size_t, std::size_t, bool*, bool*, unsigned);
  bool (*dalloc)(extent_hooks*, void*, std::size_t, bool, unsigned);
  void (*destroy)(extent_hooks*, void*, std::size_t, bool, unsigned);
  bool (*commit)(extent_hooks*, void*, std::size_t, std::size_t, std::size_t, unsigned);
  bool (*decommit)(extent_hooks*, void*, std::size_t, std::size_t, std::size_t, unsigned);
  bool (*purge_lazy)(extent_hooks*, void*, std::size_t, std::size_t, std::size_t, unsigned);
  bool (*purge_forced)(extent_hooks*, void*, std::size_t, std::size_t, std::size_t, unsigned);
  bool (*split)(extent_hooks*, void*, std::size_t, std::size_t, std::size_t, bool, unsigned);
  bool (*merge)(extent_hooks*, void*, std::size_t, void*, std::size_t, bool, unsigned);
};
char *range_at = nullptr, *range_end = nullptr;
extent_hooks range_hooks{
    [](extent_hooks*, void* wanted, std::size_t bytes, std::size_t align, bool* zero, bool* commit,
       unsigned) -> void* {
      char* const at = reinterpret_cast<char*>(
          (reinterpret_cast<std::size_t>(range_at) + align - 1) / align * align);
      if (wanted != nullptr || at + bytes > range_end) return nullptr;
      range_at = at + bytes;
      *zero = *commit = true;
      return at;
    },
    [](extent_hooks*, void*, std::size_t, bool, unsigned) { return true; },
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    [](extent_hooks*, void*, std::size_t, std::size_t, std::size_t, bool, unsigned) {
      return false;
    },
    [](extent_hooks*, void*, std::size_t, void*, std::size_t, bool, unsigned) { return false; }};

confined confined_jemalloc(std::size_t bytes) {
  auto control = reinterpret_cast<int (*)(const char*, void*, std::size_t*, void*, std::size_t)>(
      jemalloc_function("mallctl"));
  auto allocate = reinterpret_cast<void* (*)(std::size_t, int)>(jemalloc_function("mallocx"));
  auto release = reinterpret_cast<void (*)(void*, int)>(jemalloc_function("dallocx"));
  range_at = ordinary_memory(bytes);
  range_end = range_at + bytes;
  unsigned arena = 0, cache = 0;
  std::size_t length = sizeof arena;
  extent_hooks* hooks = &range_hooks;
  if (control("arenas.create", &arena, &length, &hooks, sizeof hooks) != 0 ||
      control("tcache.create", &cache, &length, nullptr, 0) != 0)
    throw std::runtime_error("jemalloc does not take the hooks");
  // MALLOCX_ARENA, MALLOCX_TCACHE.
  const int flags = static_cast<int>((arena + 1) << 20 | (cache + 2) << 8);
  return {[=](std::size_t size) { return allocate(size, flags); },
          [=](void* block) { release(block, flags); }};
}

confined confined_boost(std::size_t bytes) {
  namespace ipc = boost::interprocess;
  auto* const buffer =
      new ipc::managed_external_buffer(ipc::create_only, ordinary_memory(bytes), bytes);
  return {[=](std::size_t size) { return buffer->allocate(size, std::nothrow); },
          [=](void* block) { buffer->deallocate(block); }};
}

confined confined_rte(std::size_t bytes) {
  const dpdk::small_heap h = dpdk::make_heap(bytes);
  return {h.calls.allocate_block, h.calls.free_block};
}

struct confined_peer {
  const char* name;
  confined (*make)(std::size_t);
};
std::vector<confined_peer> confined_peers() {
  std::vector<confined_peer> peers{{"annex", confined_annex}, {"boost", confined_boost}};
  if (mimalloc_function("mi_malloc") != nullptr) peers.push_back({"mimalloc", confined_mimalloc});
  if (jemalloc_function("mallocx") != nullptr) peers.push_back({"jemalloc", confined_jemalloc});
  if (dpdk::is_built_in()) peers.push_back({"rte_external", confined_rte});
  return peers;
}

// The largest block that can be had, to 4 KiB.
double largest_block(const confined& c, std::size_t limit) {
  std::size_t low = 0, high = limit;
  while (high - low > 4096) {
    const std::size_t middle = low + (high - low) / 2;
    if (void* block = c.allocate(middle)) {
      c.free(block);
      low = middle;
    } else {
      high = middle;
    }
  }
  return static_cast<double>(low);
}

measurement comb(confined (*make)(std::size_t)) {
  constexpr std::size_t range = std::size_t{256} << 20;
  const confined c = make(range);
  struct block {
    void* at;
    std::size_t bytes;
  };
  std::vector<block> live;
  std::size_t live_bytes = 0;
  random_stream random(17);
  std::size_t bytes = 48;
  for (int round = 0; round < 8; ++round, bytes = bytes * 5 / 2) {
    while (live_bytes < range / 2) {
      const std::size_t size = bytes + random.below(bytes / 4);
      void* const at = c.allocate(size);
      if (at == nullptr) break;
      live.push_back({at, size});
      live_bytes += size;
    }
    // All but one in a hundred go, in random order.
    for (std::size_t i = live.size(); i > 1; --i)
      std::swap(live[i - 1], live[random.below(i)]);
    const std::size_t kept = live.size() / 100;
    for (std::size_t i = kept; i < live.size(); ++i) {
      c.free(live[i].at);
      live_bytes -= live[i].bytes;
    }
    live.resize(kept);
  }
  return {100 * largest_block(c, range) / static_cast<double>(range - live_bytes)};
}

// Weeks of a server in two million operations: sizes of every magnitude from 16 bytes to 64 KiB,
// three quarters of the range in use, nine of ten blocks short-lived, the tenth living for as long
// as a random other one. What is the largest block left?
measurement long_life(confined (*make)(std::size_t)) {
  constexpr std::size_t range = std::size_t{256} << 20, operations = 2'000'000, recent_blocks = 256;
  const confined c = make(range);
  struct block {
    void* at;
    std::size_t bytes;
  };
  std::vector<block> old;
  std::array<block, recent_blocks> recent{};
  std::size_t live_bytes = 0;
  random_stream random(29);
  auto release = [&](const block& b) {
    c.free(b.at);
    live_bytes -= b.bytes;
  };
  for (std::size_t i = 0; i < operations; ++i) {
    const std::size_t least = std::size_t{16} << random.below(12);
    const block fresh{c.allocate(least + random.below(least)), least + least / 2};
    if (fresh.at == nullptr)
      throw std::runtime_error(fmt::format("no room for {} bytes with {} MiB of {} in use", least,
                                           live_bytes >> 20, range >> 20));
    live_bytes += fresh.bytes;
    block& place = recent[i % recent_blocks];
    if (place.at != nullptr) {
      if (random.below(10) == 0)
        old.push_back(place);
      else
        release(place);
    }
    place = fresh;
    while (live_bytes > range / 4 * 3) {
      block& victim = old[random.below(old.size())];
      release(victim);
      victim = old.back();
      old.pop_back();
    }
  }
  return {100 * largest_block(c, range) / static_cast<double>(range - live_bytes)};
}

// A heap of one MiB filled with blocks of 16 bytes to 4 KiB (small ones more often): how much of it
// is in blocks then.
measurement brim(confined (*make)(std::size_t), std::size_t bytes) {
  const confined c = make(bytes);
  random_stream random(23);
  double held = 0;
  for (int refused = 0; refused < 64;) {
    const std::size_t size = 16 + random.below(1ul << (5 + random.below(8)));
    if (c.allocate(size) != nullptr)
      held += static_cast<double>(size);
    else
      ++refused;
  }
  return {100 * held / static_cast<double>(bytes)};
}

// A thousand threads use a few sizes each and go to sleep. How much of the heap can one thread
// still get?
measurement idle_threads(unsigned threads) {
  constexpr std::size_t bytes = std::size_t{512} << 20;
  heap& h = annex_heap(bytes);
  std::atomic<unsigned> idle{0};
  std::mutex mutex;
  std::condition_variable wake;
  bool over = false;
  std::vector<std::thread> sleepers;
  for (unsigned t = 0; t < threads; ++t)
    sleepers.emplace_back([&, t] {
      random_stream random(t + 1);
      std::array<void*, 64> blocks{};
      for (void*& block : blocks)
        block = h.allocate(16 + random.below(2000));
      for (void* block : blocks)
        heap::free(block);
      ++idle;
      std::unique_lock lock(mutex);
      wake.wait(lock, [&] { return over; });
    });
  while (idle.load() < threads)
    ::usleep(1000);
  double held = 0;
  while (h.allocate(65536) != nullptr)
    held += 65536;
  {
    std::lock_guard lock(mutex);
    over = true;
  }
  wake.notify_all();
  for (auto& s : sleepers)
    s.join();
  return {100 * held / static_cast<double>(bytes)};
}

}  // namespace

void add_space_workloads(std::vector<workload>* to) {
  workload million{"footprint/64",
                   "bytes",
                   "what each of a million live blocks of 64 bytes takes, everything counted",
                   {}};
  for (const peer& p : all_peers())
    if (p.name != "driver" && p.name != "rte_external")
      million.cells.push_back({p.name, [p] { return footprint(p, 1'000'000); }});
  million.rounds = 3;
  to->push_back(std::move(million));
  workload holes{"fragmentation/comb",
                 "% of free",
                 "the largest block left after a trace that defeats size classes, of the bytes in "
                 "no live block; more is better",
                 {}};
  workload small{"small-heap/1M",
                 "% of heap",
                 "a heap of 1 MiB filled with blocks of 16 bytes to 4 KiB; more is better",
                 {}};
  workload aged{"fragmentation/long",
                "% of free",
                "the same after two million operations of every size with three quarters in use; "
                "more is better",
                {}};
  for (const confined_peer& p : confined_peers()) {
    aged.cells.push_back({p.name, [p] { return long_life(p.make); }});
    holes.cells.push_back({p.name, [p] { return comb(p.make); }});
    if (std::string_view(p.name) != "mimalloc" && std::string_view(p.name) != "jemalloc")
      small.cells.push_back({p.name, [p] { return brim(p.make, 1 << 20); }});
  }
  holes.rounds = small.rounds = aged.rounds = 2;
  to->push_back(std::move(holes));
  to->push_back(std::move(aged));
  to->push_back(std::move(small));
  workload idle{"idle-threads/1000",
                "% of heap",
                "of 512 MiB, what one thread gets while 1,000 others keep caches; more is better",
                {{"annex", [] { return idle_threads(1000); }}}};
  idle.rounds = 2;
  to->push_back(std::move(idle));
}

}  // namespace annex::bench
