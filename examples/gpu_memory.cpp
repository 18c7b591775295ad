// examples/gpu_memory.cpp - host memory the GPU copies at full speed, and GPU memory handed out
// without asking the driver; figures beside the driver's own allocators.
//
//   gpu_memory [MiB of host memory: 1024]        exit 77 where there is no GPU
#include <annex/annex.hpp>
#include <annex/devices/cuda.hpp>

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "must.hpp"

namespace {

using clock = std::chrono::steady_clock;
double seconds_since(clock::time_point began) {
  return std::chrono::duration<double>(clock::now() - began).count();
}

template <class Work>
double median_seconds(int rounds, const Work& work) {
  std::vector<double> all;
  for (int i = 0; i < rounds; ++i) {
    const auto began = clock::now();
    work();
    all.push_back(seconds_since(began));
  }
  std::nth_element(all.begin(), all.begin() + rounds / 2, all.end());
  return all[static_cast<std::size_t>(rounds / 2)];
}

// The driver's own allocators, to compare with.
struct driver_allocators {
  int (*allocate)(unsigned long long*, std::size_t) = nullptr;
  int (*free)(unsigned long long) = nullptr;
  int (*allocate_on)(unsigned long long*, std::size_t, void* stream) = nullptr;
  int (*free_on)(unsigned long long, void* stream) = nullptr;
  int (*wait)() = nullptr;
  int (*retain)(void**, int) = nullptr;
  int (*make_current)(void*) = nullptr;
  driver_allocators() {
    void* const library = ::dlopen("libcuda.so.1", RTLD_NOW);
    auto find = [&](auto& call, const char* name) {
      call = reinterpret_cast<std::remove_reference_t<decltype(call)>>(
          library != nullptr ? ::dlsym(library, name) : nullptr);
    };
    find(allocate, "cuMemAlloc_v2");
    find(free, "cuMemFree_v2");
    find(allocate_on, "cuMemAllocAsync");
    find(free_on, "cuMemFreeAsync");
    find(wait, "cuCtxSynchronize");
    find(retain, "cuDevicePrimaryCtxRetain");
    find(make_current, "cuCtxSetCurrent");
  }
};

}  // namespace

int main(int count, char** arguments) {
  const std::size_t host_bytes = (count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1024)
                                 << 20;
  if (const auto probe = annex::cuda_host_memory::create(); !probe)
    return std::puts(probe.error().text), probe.error().code == annex::errc::not_supported ? 77 : 1;

  for (const std::size_t chunk_bytes : {std::size_t{16} << 20, std::size_t{64} << 20,
                                        std::size_t{256} << 20, std::size_t{1} << 30}) {
    auto heap = must(annex::heap::create_private());
    must(heap.bring_memory({.from = annex::memory_source::kind::anonymous,
                            .length_bytes = host_bytes,
                            .prefault = true}));
    auto host = must(annex::cuda_host_memory::create({.chunk_bytes = chunk_bytes}));
    const auto began = clock::now();
    auto seen = must(heap.observe(*host));
    std::printf("%zu MiB of host memory registered in chunks of %4zu MiB: %.0f ms\n",
                host_bytes >> 20, chunk_bytes >> 20, 1e3 * seconds_since(began));
  }

  auto heap = must(annex::heap::create_private()), gpu_heap = must(annex::heap::create_private());
  auto host = must(annex::cuda_host_memory::create());
  auto seen = must(heap.observe(*host));
  constexpr std::size_t block_bytes = 16 << 20;
  must(heap.bring_memory({.from = annex::memory_source::kind::anonymous,
                          .length_bytes = 4 * block_bytes,
                          .prefault = true}));
  annex::cuda_memory gpu = must(annex::cuda_memory::bring(gpu_heap, std::size_t{256} << 20));
  auto* const out = static_cast<unsigned char*>(heap.allocate(block_bytes));
  auto* const in =
      static_cast<unsigned char*>(heap.allocate({.size_bytes = block_bytes, .zeroed = true}));
  void* const there = gpu_heap.allocate(block_bytes);
  if (out == nullptr || in == nullptr || there == nullptr) return 1;
  for (std::size_t i = 0; i < block_bytes; ++i)
    out[i] = static_cast<unsigned char>(i * 2654435761u >> 13);
  const double up = median_seconds(9, [&] { must(annex::cuda_copy(there, out, block_bytes)); });
  const double down = median_seconds(9, [&] { must(annex::cuda_copy(in, there, block_bytes)); });
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < block_bytes; ++i)
    wrong += in[i] != out[i];
  std::printf("%zu MiB to the GPU at %.1f GB/s and back at %.1f GB/s, %zu bytes wrong\n",
              block_bytes >> 20, 1e-9 * block_bytes / up, 1e-9 * block_bytes / down, wrong);
  annex::heap::free(there);

  const driver_allocators driver;
  void* context = nullptr;
  if (driver.retain != nullptr && driver.make_current != nullptr && driver.retain(&context, 0) == 0)
    driver.make_current(context);
  constexpr int pairs = 1000;
  for (const std::size_t bytes :
       {std::size_t{512}, std::size_t{64} << 10, std::size_t{2} << 20, std::size_t{32} << 20}) {
    std::printf("allocate and free %8zu bytes of GPU memory: annex %6.0f ns", bytes,
                1e9 / pairs * median_seconds(5, [&] {
                  for (int i = 0; i < pairs; ++i)
                    annex::heap::free(gpu_heap.allocate(bytes));
                }));
    unsigned long long p = 0;
    if (driver.allocate != nullptr && driver.free != nullptr)
      std::printf(", cuMemAlloc %8.0f ns", 1e9 / pairs * median_seconds(5, [&] {
                                             for (int i = 0; i < pairs; ++i)
                                               if (driver.allocate(&p, bytes) == 0) driver.free(p);
                                           }));
    if (driver.allocate_on != nullptr && driver.free_on != nullptr && driver.wait != nullptr)
      std::printf(", cuMemAllocAsync %6.0f ns", 1e9 / pairs * median_seconds(5, [&] {
                                                  for (int i = 0; i < pairs; ++i)
                                                    if (driver.allocate_on(&p, bytes, nullptr) == 0)
                                                      driver.free_on(p, nullptr);
                                                  driver.wait();
                                                }));
    std::puts("");
  }
  annex::heap::free(in);
  annex::heap::free(out);
  return wrong == 0 ? 0 : 1;
}
