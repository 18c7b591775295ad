// bench/objects.cpp - pools against rte_mempool, rings against rte_ring, zones against memzones.
#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "dpdk.hpp"
#include "peers.hpp"
#include "workloads.hpp"

namespace annex::bench {
namespace {

measurement annex_pool(unsigned bulk) {
  raw_pool pool =
      expect(raw_pool::create(annex_heap(), "pool",
                              {.object_bytes = 64, .object_count = 8191, .cache_objects = 512}),
             "a pool");
  void* objects[32];
  return {time_per_operation([&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i) {
      if (pool.take_bulk({objects, bulk}) != bulk) throw std::runtime_error("the pool is empty");
      keep(objects[0]);
      pool.give_bulk({objects, bulk});
    }
  })};
}

measurement annex_ring(unsigned bulk) {
  ring r = expect(ring::create(annex_heap(), "ring", 1024), "a ring");
  constexpr unsigned long total = 2'000'000;
  stay_on_cpu(0);
  std::thread taker([&] {
    stay_on_cpu(1);
    handle got[32];
    for (unsigned long n = 0; n < total;)
      n += r.take(std::span<handle>{got, bulk});
  });
  handle put[32];
  std::fill(std::begin(put), std::end(put), handle{42});
  const double begin = wall_ns();
  for (unsigned long n = 0; n < total;)
    n += r.put(std::span<const handle>{put, std::min<unsigned long>(bulk, total - n)});
  taker.join();
  return {(wall_ns() - begin) / total};
}

measurement annex_zones(unsigned present) {
  heap& h = annex_heap();
  for (unsigned i = 0; i < present; ++i)
    expect(h.reserve_zone(fmt::format("zone-{}", i), {.size_bytes = 64}), "a zone");
  return {time_per_operation([&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i) {
      expect(h.reserve_zone("the one", {.size_bytes = 4096}), "a zone");
      keep(h.find_zone("the one"));
      expect(h.release_zone("the one"), "releasing");
    }
  })};
}

}  // namespace

void add_object_workloads(std::vector<workload>* to) {
  auto add = [&](std::string name, const char* about, std::function<measurement()> annex,
                 const char* peer, std::function<measurement()> other) {
    workload w{std::move(name), "ns", about, {{"annex", std::move(annex)}}};
    if (dpdk::is_built_in()) w.cells.push_back({peer, std::move(other)});
    to->push_back(std::move(w));
  };
  for (const unsigned bulk : {1u, 32u})
    add(
        fmt::format("pool/{}", bulk), "objects of 64 bytes taken and given back, in one bulk",
        [bulk] { return annex_pool(bulk); }, "rte_mempool", [bulk] { return dpdk::pool(bulk); });
  for (const unsigned bulk : {1u, 32u})
    add(
        fmt::format("ring/{}", bulk),
        "from one thread to another, per element, in bursts of so many",
        [bulk] { return annex_ring(bulk); }, "rte_ring", [bulk] { return dpdk::ring(bulk); });
  for (const unsigned present : {1u, 2000u})
    add(
        fmt::format("zones/{}", present), "reserve, find and release a zone of 4 KiB among so many",
        [present] { return annex_zones(present); }, "rte_memzone",
        [present] { return dpdk::zones(present); });
}

}  // namespace annex::bench
