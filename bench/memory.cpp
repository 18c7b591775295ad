// bench/memory.cpp - memory that comes and goes, addresses looked up both ways, requests nothing
// can meet.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "dpdk.hpp"
#include "peers.hpp"
#include "workloads.hpp"

namespace annex::bench {
namespace {

// Adding and removing, without touching a byte.
measurement annex_add(std::size_t bytes, std::size_t page_bytes, bool remove) {
  heap h = expect(heap::create_private(), "a heap");
  char* const base = ordinary_memory(bytes, std::size_t{1} << 30);
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    const double begin = wall_ns();
    const region_id region = expect(
        h.add_memory({.base = base, .length_bytes = bytes, .page_bytes = page_bytes}), "adding");
    const double added = wall_ns();
    expect(h.remove_memory(region), "removing");
    times.push_back((remove ? wall_ns() : added) - begin);
  }
  return {spread_of(times).median};
}

// The worst wait of a pair on another heap while memory is added, a hundred times.
measurement annex_stall(std::size_t bytes) {
  heap h = expect(heap::create_private(), "a heap");
  char* const base = ordinary_memory(bytes);
  heap& other = annex_heap();
  std::atomic<bool> started{false}, done{false};
  double worst = 0;
  std::thread busy([&] {
    stay_on_cpu(1);
    heap::free(other.allocate(64));
    started = true;
    while (!done.load()) {
      const double begin = wall_ns();
      heap::free(other.allocate(64));
      worst = std::max(worst, wall_ns() - begin);
    }
  });
  stay_on_cpu(0);
  while (!started.load())
    asm volatile("pause");
  for (int i = 0; i < 100; ++i)
    expect(h.remove_memory(expect(h.add_memory({.base = base, .length_bytes = bytes}), "adding")),
           "removing");
  done = true;
  busy.join();
  return {worst};
}

measurement annex_locate(unsigned regions) {
  constexpr std::size_t step = 8192;
  char* const space = ordinary_memory(regions * step);
  heap h = expect(heap::create_private(), "a heap");
  for (std::size_t i = 0; i < regions; ++i)
    expect(h.add_memory({.base = space + i * step, .length_bytes = 4096, .access = touch::none}),
           "adding");
  std::vector<char*> bytes;
  for (unsigned i = 0; i < 4096; ++i)
    bytes.push_back(space + i * 7919ul % regions * step + i % 4096);
  return {time_per_operation([&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i)
      keep(heap::locate(bytes[i & 4095])->offset_bytes);
  })};
}

// The loop and a call that does nothing.
[[gnu::noinline]] void* nowhere(char* byte) {
  asm volatile("" : "+r"(byte));
  return byte;
}
measurement drive_locate() {
  std::vector<char*> bytes(4096);
  return {time_per_operation([&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i)
      keep(nowhere(bytes[i & 4095]));
  })};
}

std::vector<iova> scattered(unsigned pages) {
  std::vector<iova> iovas(pages);
  for (unsigned i = 0; i < pages; ++i)
    iovas[i] = iova{(1ul << 40) + ((i * 7919ul) % pages) * 8192};
  return iovas;
}

measurement annex_addresses(unsigned pages, bool to_iova) {
  heap h = expect(heap::create_private(), "a heap");
  const std::vector<iova> iovas = scattered(pages);
  const std::size_t bytes = std::size_t{pages} * 4096;
  char* const base = ordinary_memory(bytes);
  expect(h.add_memory(
             {.base = base, .length_bytes = bytes, .page_iovas = iovas, .access = touch::none}),
         "adding");
  random_stream random(1);
  return {time_per_operation([&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i) {
      const unsigned long page = random.below(pages);
      if (to_iova)
        keep(heap::locate(base + page * 4096)->bus_address);
      else
        keep(h.address_of(iovas[page]));
    }
  })};
}

measurement annex_hopeless() {
  constexpr std::size_t bytes = 64 << 20, pages = bytes / 4096;
  std::vector<iova> iovas(pages);
  // Runs of 255 pages.
  for (std::size_t i = 0; i < pages; ++i)
    iovas[i] = iova{(1ul << 40) + (i + i / 255) * 4096};
  heap h = expect(heap::create_private(), "a heap");
  expect(h.add_memory({.base = ordinary_memory(bytes), .length_bytes = bytes, .page_iovas = iovas}),
         "adding");
  std::vector<void*> blocks;
  while (void* block = h.allocate(std::size_t{4} << 20))
    blocks.push_back(block);
  for (std::size_t i = 0; i < blocks.size(); i += 2)
    heap::free(blocks[i]);
  return {time_per_operation([&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i)
      if (h.allocate(placement{.size_bytes = 1 << 20, .iova_contiguous = true}) != nullptr)
        throw std::runtime_error("it was not hopeless");
  })};
}

measurement annex_prefault(unsigned threads) {
  constexpr std::size_t bytes = std::size_t{8} << 30;
  heap h = expect(heap::create_private(), "a heap");
  const region_id region =
      expect(h.add_memory({.base = ordinary_memory(bytes), .length_bytes = bytes}), "adding");
  const double begin = wall_ns();
  expect(h.prefault(region, threads), "prefault");
  return {(wall_ns() - begin) / 1e6};
}

}  // namespace

void add_memory_workloads(std::vector<workload>* to) {
  constexpr std::size_t gib = std::size_t{1} << 30, huge = std::size_t{2} << 20;
  const bool dpdk = dpdk::is_built_in();
  auto add = [&](std::string name, const char* unit, const char* about,
                 std::function<measurement()> annex, const char* peer,
                 std::function<measurement()> other) -> workload& {
    workload w{std::move(name), unit, about, {{"annex", std::move(annex)}}};
    if (dpdk && other) w.cells.push_back({peer, std::move(other)});
    to->push_back(std::move(w));
    return to->back();
  };
  for (const std::size_t page : {std::size_t{4096}, huge}) {
    const char* const pages = page == huge ? "2M" : "4K";
    for (const std::size_t size : {gib, 64 * gib, 1024 * gib}) {
      std::function<measurement()> others;
      if (size == gib) others = [=] { return dpdk::add_memory(size, page, false); };
      add(
          fmt::format("add/{}G-{}", size / gib, pages), "ns",
          "adding so much memory without zeroing it; DPDK has no such choice",
          [=] { return annex_add(size, page, false); }, "rte_external", std::move(others))
          .rounds = 3;
    }
    add(fmt::format("add-remove/1024G-{}", pages), "ns", "adding a tebibyte and removing it",
        [=] { return annex_add(1024 * gib, page, true); }, "", {});
  }
  add(
      "add/stall", "ns", "the worst wait of a pair on another heap while 1 GiB is added",
      [] { return annex_stall(gib); }, "rte_external",
      [] { return dpdk::add_memory(gib, 4096, true); })
      .rounds = 3;
  for (const unsigned regions : {1u, 100u, 10'000u}) {
    add(
        fmt::format("locate/{}", regions), "ns",
        "which region an address belongs to, of so many; DPDK: rte_mem_virt2memseg, at most 123 "
        "areas",
        [=] { return annex_locate(regions); }, "rte_malloc",
        [=] { return dpdk::locate(std::min(regions, 123u)); });
    to->back().cells.push_back({"driver", drive_locate});
  }
  add(
      "iova/address-of", "ns", "from an IOVA to its address, a million scattered pages",
      [] { return annex_addresses(1'000'000, false); }, "rte_malloc",
      [] { return dpdk::address_of(1'000'000); })
      .rounds = 3;
  add("iova/of-address", "ns", "from an address to its IOVA, a million scattered pages",
      [] { return annex_addresses(1'000'000, true); }, "", {});
  add("hopeless", "ns",
      "1 MiB IOVA-contiguous out of runs of 255 pages; every other 4 MiB of the heap is taken",
      annex_hopeless, "rte_external", dpdk::hopeless)
      .rounds = 3;
  workload prefault{"prefault/8G", "ms", "touching 8 GiB with one thread and with two", {}};
  prefault.cells = {{"annex", [] { return annex_prefault(2); }},
                    {"annex-1-thread", [] { return annex_prefault(1); }}};
  prefault.rounds = 3;
  to->push_back(std::move(prefault));
}

}  // namespace annex::bench
