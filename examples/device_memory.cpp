// examples/device_memory.cpp - memory the CPU can't touch, with bus addresses, and an observer as a
// device driver would be.
#include <sys/mman.h>

#include <annex/annex.hpp>

#include <cstdio>
#include <vector>

namespace {

// Where a driver would map the region into its device's address space.
struct driver : annex::observer {
  std::string_view name() const noexcept override { return "example driver"; }
  annex::result<void> on_add(const annex::region_view& r) override {
    std::printf("mapped %zu bytes in %zu runs of bus addresses\n", r.length_bytes, r.runs.size());
    return {};
  }
  annex::result<void> finish_remove(const annex::region_view& r,
                                    std::chrono::steady_clock::time_point) override {
    std::printf("unmapped %zu bytes\n", r.length_bytes);
    return {};
  }
};

}  // namespace

int main() {
  constexpr std::size_t length = 64 << 20, page = 2 << 20;
  // As a device's window: nobody may touch it.
  void* space =
      ::mmap(nullptr, length + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  void* window =
      reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(space) + page - 1) / page * page);
  std::vector<annex::iova> bus;
  for (std::size_t i = 0; i < length / page; ++i)
    bus.push_back(annex::iova{0x2000000000 + i * page * (i < 16 ? 1 : 2)});

  driver d;
  auto heap = annex::heap::create_private();
  auto observation = heap->observe(d);
  const auto region = heap->add_memory({.base = window,
                                        .length_bytes = length,
                                        .page_bytes = page,
                                        .page_iovas = bus,
                                        .access = annex::touch::none});
  if (!region) return std::puts(region.error().text), 1;
  void* buffer =
      heap->allocate({.size_bytes = 8 << 20, .align_bytes = page, .iova_contiguous = true});
  const auto where = annex::heap::locate(buffer);
  std::printf("8 MiB at bus address %#lx, contiguous for %zu bytes\n",
              static_cast<unsigned long>(*where->bus_address), where->contiguous_bytes);
  annex::heap::free(buffer);
  return heap->remove_memory(*region) ? 0 : 1;
}
