// bench/dpdk.cpp - see dpdk.hpp. Compiled only where libdpdk is found; dpdk_absent.cpp stands in
// elsewhere.
#include "dpdk.hpp"

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <rte_memory.h>
#include <rte_mempool.h>
#include <rte_memzone.h>
#include <rte_ring.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <thread>

namespace annex::bench::dpdk {
namespace {

// Hugepages that are free now.
long free_hugepages() {
  std::ifstream file("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  long pages = 0;
  file >> pages;
  return pages;
}

void start_eal() {
  cpu_set_t before;
  ::sched_getaffinity(0, sizeof before, &before);
  std::vector<std::string> words{
      "bench", "--no-pci", "--no-telemetry", "--log-level=critical", "--lcores=0@(0-1)",
      "-m",    "384"};
  if (has_hugepages())
    words.push_back("--in-memory");
  else
    words.insert(words.end(), {"--no-huge", "--no-shconf"});
  std::vector<char*> arguments;
  for (std::string& word : words)
    arguments.push_back(word.data());
  if (rte_eal_init(static_cast<int>(arguments.size()), arguments.data()) < 0)
    throw std::runtime_error(std::string("rte_eal_init: ") + rte_strerror(rte_errno));
  ::sched_setaffinity(0, sizeof before, &before);  // EAL pins the thread that starts it
}

int external_socket = 0;
constexpr std::size_t external_page = std::size_t{2} << 20;

int make_external(const char* name, std::size_t bytes, std::size_t page_bytes,
                  rte_iova_t* iovas = nullptr) {
  char* const base = ordinary_memory(bytes);
  if (rte_malloc_heap_create(name) != 0) throw std::runtime_error("rte_malloc_heap_create");
  if (rte_malloc_heap_memory_add(name, base, bytes, iovas,
                                 static_cast<unsigned>(bytes / page_bytes), page_bytes) != 0)
    throw std::runtime_error(std::string("rte_malloc_heap_memory_add: ") + rte_strerror(rte_errno));
  return rte_malloc_heap_get_socket(name);
}

void register_thread() {
  rte_thread_register();
}
void unregister_thread() {
  rte_thread_unregister();
}

}  // namespace

bool is_built_in() {
  return true;
}
bool has_hugepages() {
  return free_hugepages() >= 224;
}

plain_calls set_up_malloc() {
  start_eal();
  return {[](std::size_t bytes) { return rte_malloc(nullptr, bytes, 0); }, rte_free,
          register_thread, unregister_thread};
}

plain_calls set_up_external() {
  start_eal();
  external_socket = make_external("bench", std::size_t{512} << 20, external_page);
  return {[](std::size_t bytes) { return rte_malloc_socket(nullptr, bytes, 0, external_socket); },
          rte_free, register_thread, unregister_thread};
}

measurement pool(unsigned bulk) {
  start_eal();
  rte_mempool* const pool =
      rte_mempool_create("pool", 8191, 64, 512, 0, nullptr, nullptr, nullptr, nullptr, 0, 0);
  if (pool == nullptr) throw std::runtime_error("rte_mempool_create");
  void* objects[32];
  return {time_per_operation([&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i) {
      if (rte_mempool_get_bulk(pool, objects, bulk) != 0)
        throw std::runtime_error("rte_mempool_get_bulk");
      keep(objects[0]);
      rte_mempool_put_bulk(pool, objects, bulk);
    }
  })};
}

measurement ring(unsigned bulk) {
  start_eal();
  rte_ring* const ring = rte_ring_create("ring", 1024, 0, 0);
  if (ring == nullptr) throw std::runtime_error("rte_ring_create");
  constexpr unsigned long total = 2'000'000;
  stay_on_cpu(0);
  std::thread taker([&] {
    stay_on_cpu(1);
    void* got[32];
    for (unsigned long n = 0; n < total;)
      n += rte_ring_dequeue_burst(ring, got, bulk, nullptr);
  });
  void* put[32];
  for (auto& p : put)
    p = &put;
  const double begin = wall_ns();
  for (unsigned long n = 0; n < total;)
    n += rte_ring_enqueue_burst(
        ring, put, static_cast<unsigned>(std::min<unsigned long>(bulk, total - n)), nullptr);
  taker.join();
  return {(wall_ns() - begin) / total};
}

measurement zones(unsigned present) {
  start_eal();
  char name[RTE_MEMZONE_NAMESIZE];
  for (unsigned i = 0; i < present; ++i) {
    std::snprintf(name, sizeof name, "zone-%u", i);
    if (rte_memzone_reserve(name, 64, SOCKET_ID_ANY, 0) == nullptr)
      throw std::runtime_error("rte_memzone_reserve");
  }
  return {time_per_operation([&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i) {
      rte_memzone_reserve("the one", 4096, SOCKET_ID_ANY, 0);
      rte_memzone_free(rte_memzone_lookup("the one"));
    }
  })};
}

measurement locate(unsigned areas) {
  start_eal();
  constexpr std::size_t step = 1 << 20;
  char* const space = ordinary_memory(areas * step);
  unsigned taken = 0;  // of 128 lists EAL keeps some for itself
  while (taken < areas && rte_extmem_register(space + taken * step, 4096, nullptr, 1, 4096) == 0)
    ++taken;
  if (taken == 0) throw std::runtime_error("rte_extmem_register");
  std::vector<char*> bytes;
  for (unsigned i = 0; i < 4096; ++i)
    bytes.push_back(space + i * 7919ul % taken * step + i % 4096);
  return {time_per_operation([&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i)
      keep(rte_mem_virt2memseg(bytes[i & 4095], nullptr));
  })};
}

measurement address_of(unsigned pages) {
  start_eal();
  std::vector<rte_iova_t> iovas(pages);
  for (unsigned i = 0; i < pages; ++i)
    iovas[i] = (rte_iova_t{1} << 40) + ((i * 7919ul) % pages) * 8192;
  const std::size_t bytes = std::size_t{pages} * 4096;
  if (rte_extmem_register(ordinary_memory(bytes), bytes, iovas.data(), pages, 4096) != 0)
    throw std::runtime_error("rte_extmem_register");
  random_stream random(1);
  return {time_per_operation([&](unsigned long count) {
    for (unsigned long i = 0; i < count; ++i)
      keep(rte_mem_iova2virt(iovas[random.below(pages)]));
  })};
}

measurement add_memory(std::size_t bytes, std::size_t page_bytes, bool stall) {
  start_eal();
  const int other = make_external("other", 64 << 20, external_page);
  char* const base = ordinary_memory(bytes);
  rte_malloc_heap_create("grown");
  std::atomic<bool> done{false};
  double worst = 0;
  std::thread busy([&] {
    stay_on_cpu(1);
    while (stall && !done.load()) {
      const double begin = wall_ns();
      rte_free(rte_malloc_socket(nullptr, 64, 0, other));
      worst = std::max(worst, wall_ns() - begin);
    }
  });
  stay_on_cpu(0);
  const double begin = wall_ns();
  if (rte_malloc_heap_memory_add("grown", base, bytes, nullptr,
                                 static_cast<unsigned>(bytes / page_bytes), page_bytes) != 0)
    throw std::runtime_error("rte_malloc_heap_memory_add");
  const double took = wall_ns() - begin;
  done = true;
  busy.join();
  return {stall ? worst : took};
}

measurement hopeless() {
  start_eal();
  constexpr std::size_t bytes = 64 << 20, pages = bytes / 4096;
  std::vector<rte_iova_t> iovas(pages);
  // Runs of 255 pages.
  for (std::size_t i = 0; i < pages; ++i)
    iovas[i] = (rte_iova_t{1} << 40) + (i + i / 255) * 4096;
  const int socket = make_external("scattered", bytes, 4096, iovas.data());
  std::vector<void*> blocks;
  while (void* block = rte_malloc_socket(nullptr, std::size_t{4} << 20, 0, socket))
    blocks.push_back(block);
  for (std::size_t i = 0; i < blocks.size(); i += 2)
    rte_free(blocks[i]);
  return {time_per_operation(
      [&](unsigned long count) {
        for (unsigned long i = 0; i < count; ++i)
          if (rte_memzone_reserve("hopeless", 1 << 20, socket, RTE_MEMZONE_IOVA_CONTIG) != nullptr)
            throw std::runtime_error("it was not hopeless");
      },
      1e6, 1)};
}

measurement footprint(unsigned count) {
  const plain_calls calls = set_up_malloc();
  rte_malloc_socket_stats before{}, after{};
  rte_malloc_get_socket_stats(0, &before);
  for (unsigned i = 0; i < count; ++i)
    keep(calls.allocate(64));
  rte_malloc_get_socket_stats(0, &after);
  return {static_cast<double>(after.heap_allocsz_bytes - before.heap_allocsz_bytes) / count};
}

small_heap make_heap(std::size_t bytes) {
  start_eal();
  external_socket = make_external("small", bytes, 4096);
  return {{[](std::size_t size) { return rte_malloc_socket(nullptr, size, 0, external_socket); },
           rte_free}};
}

void look(small_heap& h) {
  rte_malloc_socket_stats stats{};
  rte_malloc_get_socket_stats(external_socket, &stats);
  h.largest_free = static_cast<double>(stats.greatest_free_size);
  h.free_bytes = static_cast<double>(stats.heap_freesz_bytes);
}

}  // namespace annex::bench::dpdk
