// bench/pairs.cpp - what one allocate and free cost, beside glibc's in the same run; ring, pool and lookups.
#include <benchmark/benchmark.h>

#include <cstdlib>

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
    benchmark::DoNotOptimize(pool.take(objects));
    pool.give(objects);
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

void annex_locate(benchmark::State& state) {
  auto* block = static_cast<char*>(shared_heap().allocate(1 << 20));
  std::size_t at = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(annex::heap::locate(block + at));
    at = (at + 4097) & 0xfffff;
  }
  annex::heap::free(block);
}

BENCHMARK(annex_pair)->Arg(16)->Arg(64)->Arg(256)->Arg(4096)->Arg(65536)->Arg(2 << 20);
BENCHMARK(glibc_pair)->Arg(16)->Arg(64)->Arg(256)->Arg(4096)->Arg(65536)->Arg(2 << 20);
BENCHMARK(annex_pool_bulk_32);
BENCHMARK(annex_ring_pair);
BENCHMARK(annex_locate);

}  // namespace

BENCHMARK_MAIN();
