// bench/pairs.cpp - what one allocate and free cost, beside glibc's in the same run; ring, pool and lookups.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cstdlib>
#include <vector>

#include <annex/annex.hpp>

namespace {

annex::heap& shared_heap() {
  static annex::heap h = [] {
    auto made = annex::heap::create_private();
    (void)made->bring_memory({.length_bytes = 256 << 20});
    return std::move(*made);
  }();
  return h;
}

void annex_pair(benchmark::State& state) {
  annex::heap& h = shared_heap();
  const auto size = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    void* block = h.allocate(size);
    benchmark::DoNotOptimize(block);
    annex::heap::free(block);
  }
}

void glibc_pair(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    void* block = std::malloc(size);
    benchmark::DoNotOptimize(block);
    std::free(block);
  }
}

void annex_pool_bulk_32(benchmark::State& state) {
  static annex::raw_pool pool = annex::raw_pool::create(shared_heap(), "pool", {.object_bytes = 64, .object_count = 4096}).value();
  void* objects[32];
  for (auto _ : state) {
    benchmark::DoNotOptimize(pool.take_bulk(objects));
    pool.give_bulk(objects);
  }
  state.SetItemsProcessed(state.iterations() * 32);
}

void annex_ring_pair(benchmark::State& state) {
  static annex::ring ring = annex::ring::create(shared_heap(), "ring", 1024).value();
  for (auto _ : state) {
    benchmark::DoNotOptimize(ring.put(annex::handle{42}));
    benchmark::DoNotOptimize(ring.take());
  }
}

// Random bytes of 1, 1,000 or 10,000 regions of one page each.
void annex_locate(benchmark::State& state) {
  const auto regions = static_cast<std::size_t>(state.range(0));
  constexpr std::size_t step = 8192;
  char* const space = static_cast<char*>(::mmap(nullptr, regions * step, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  auto h = annex::heap::create_private();
  for (std::size_t i = 0; i < regions; ++i) (void)h->add_memory({.base = space + i * step, .length_bytes = 4096, .access = annex::touch::none});
  std::vector<char*> bytes;
  for (std::size_t i = 0; i < 4096; ++i) bytes.push_back(space + i * 7919 % regions * step + i % 4096);
  std::size_t at = 0;
  for (auto _ : state) benchmark::DoNotOptimize(annex::heap::locate(bytes[at++ & 4095]));
  *h = annex::heap();
  ::munmap(space, regions * step);
}

BENCHMARK(annex_pair)->Arg(16)->Arg(64)->Arg(256)->Arg(4096)->Arg(65536)->Arg(2 << 20);
BENCHMARK(glibc_pair)->Arg(16)->Arg(64)->Arg(256)->Arg(4096)->Arg(65536)->Arg(2 << 20);
BENCHMARK(annex_pool_bulk_32);
BENCHMARK(annex_ring_pair);
BENCHMARK(annex_locate)->Arg(1)->Arg(1000)->Arg(10000);

}  // namespace

BENCHMARK_MAIN();
