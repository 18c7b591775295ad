// devices/cuda/cuda_memory.cpp - GPU memory as a region: made or imported, mapped at an address of
// the GPU that the CPU never touches, added or attached there.
//
//   bring    create → address reserved → mapped → access → add_memory
//   remove   remove_memory → unmapped → address freed → released
//   attach   import → address reserved → mapped → access → attach_memory
//   detach   detach_memory → unmapped → address freed → released
//
// If the process dies the driver drops its mappings; the memory lives as long as one process has
// it. What the heap knows of its blocks is in the segment.
#include <annex/devices/cuda.hpp>

#include <fcntl.h>
#include <unistd.h>

#include "base/limits.hpp"
#include "devices/cuda/driver.hpp"

namespace annex {

using devices::cuda::in_context;
using devices::cuda::success;

struct cuda_memory::state {
  devices::cuda::gpu gpu{};
  devices::cuda::memory memory = 0;
  devices::cuda::address base = 0;
  u64 length_bytes = 0;
  bool has_memory = false, mapped = false, imported = false;
  annex::heap* heap = nullptr;
  region_id region{};

  // Gives back whatever there is.
  void give_back() {
    const in_context current(gpu);
    if (mapped) (void)gpu.calls->unmap(base, length_bytes);
    if (base != 0) (void)gpu.calls->free_address(base, length_bytes);
    if (has_memory) (void)gpu.calls->release(memory);
    mapped = has_memory = false;
    base = 0;
  }
  std::unexpected<error> failed(int why, const char* doing) {
    give_back();
    if (why == devices::cuda::out_of_memory)
      return refuse(errc::out_of_memory,
                    "the GPU has no {} bytes free; free some of its memory, or bring less",
                    length_bytes);
    if (why == devices::cuda::not_supported)
      return refuse(errc::not_supported, "this GPU or its driver can't {} memory: {}", doing,
                    gpu.calls->name_of(why));
    return refuse(errc::os_failure, "CUDA can't {} {} bytes: {}", doing, length_bytes,
                  gpu.calls->name_of(why));
  }
  devices::cuda::allocation wanted() const {
    return {
        .type = 1, .handle_types = 1, .where = {1, gpu.device}, .windows = nullptr, .flags = {}};
  }

  result<void> map_it(u64 align_bytes) {
    const devices::cuda::access both{{1, gpu.device}, 3};
    if (const int why = gpu.calls->reserve_address(&base, length_bytes, align_bytes, 0, 0);
        why != success)
      return base = 0, failed(why, "find an address for");
    if (const int why = gpu.calls->map(base, length_bytes, 0, memory, 0); why != success)
      return failed(why, "map");
    mapped = true;
    if (const int why = gpu.calls->set_access(base, length_bytes, &both, 1); why != success)
      return failed(why, "open");
    return {};
  }
};

cuda_memory::cuda_memory(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}
cuda_memory::cuda_memory(cuda_memory&&) noexcept = default;
cuda_memory& cuda_memory::operator=(cuda_memory&& other) noexcept {
  if (this != &other) {
    if (state_) (void)remove();
    state_ = std::move(other.state_);
  }
  return *this;
}
cuda_memory::~cuda_memory() {
  if (state_) (void)remove();
}

result<cuda_memory> cuda_memory::bring(annex::heap& h, std::size_t length_bytes,
                                       const cuda_memory_options& o) {
  const auto gpu = devices::cuda::open_gpu(o.device);
  if (!gpu) return std::unexpected(gpu.error());
  if (length_bytes == 0 || length_bytes > limits::largest_region_bytes)
    return refuse(errc::bad_length, "{} bytes are no region: bring 1 byte to {}", length_bytes,
                  limits::largest_region_bytes);
  if (!gpu->has(devices::cuda::attribute_virtual_memory))
    return refuse(errc::not_supported,
                  "GPU {} has no virtual memory management, by which its memory is shared; it "
                  "needs one of 2017 or newer, and its driver",
                  o.device);
  if (o.dma_buf &&
      (gpu->calls->dma_buf_of == nullptr || !gpu->has(devices::cuda::attribute_dma_buf)))
    return refuse(errc::not_supported,
                  "GPU {} gives out no dma-buf; it needs the open kernel modules and CUDA 11.7",
                  o.device);
  auto s = std::make_unique<state>();
  s->gpu = *gpu;
  const in_context current(*gpu);
  auto wanted = s->wanted();
  wanted.flags.gpu_direct = o.dma_buf ? 1 : 0;
  size_t step = 0;
  s->length_bytes = length_bytes;
  if (const int why = gpu->calls->granularity(&step, &wanted, 0);
      why != success || !is_power_of_two(step))
    return s->failed(why, "measure");
  step = std::max<size_t>(step, limits::smallest_page_bytes);
  s->length_bytes = align_up(length_bytes, step);
  if (const int why = gpu->calls->create(&s->memory, s->length_bytes, &wanted, 0); why != success)
    return s->failed(why, "make");
  s->has_memory = true;
  ANNEX_TRY(s->map_it(step));
  int dma_buf = -1;
  if (o.dma_buf)
    if (const int why = gpu->calls->dma_buf_of(&dma_buf, s->base, s->length_bytes, 1, 0);
        why != success)
      return s->failed(why, "export");
  const auto added = h.add_memory({.base = reinterpret_cast<void*>(s->base),
                                   .length_bytes = s->length_bytes,
                                   .page_bytes = step,
                                   .fd = dma_buf,
                                   .access = touch::none});
  if (dma_buf >= 0) ::close(dma_buf);
  if (!added) {
    s->give_back();
    return std::unexpected(added.error());
  }
  s->heap = &h;
  s->region = *added;
  return cuda_memory(std::move(s));
}

result<cuda_memory> cuda_memory::attach(annex::heap& h, region_id region, int descriptor,
                                        const cuda_memory_options& o) {
  const auto gpu = devices::cuda::open_gpu(o.device);
  if (!gpu) return std::unexpected(gpu.error());
  if (descriptor < 0 || ::fcntl(descriptor, F_GETFD) < 0)
    return refuse(errc::invalid_argument,
                  "descriptor {} is not open; pass one of cuda_memory::share by SCM_RIGHTS",
                  descriptor);
  auto s = std::make_unique<state>();
  s->gpu = *gpu;
  u64 page_bytes = 0;
  h.synchronize();
  h.for_each_region([&](const region_summary& r) {
    if (r.id == region) s->length_bytes = r.length_bytes, page_bytes = r.page_bytes;
  });
  if (s->length_bytes == 0)
    return refuse(errc::no_such_region, "\"{}\" has no region {}", h.name(),
                  static_cast<u32>(region));
  const in_context current(*gpu);
  if (const int why = gpu->calls->import_from(
          &s->memory, reinterpret_cast<void*>(static_cast<std::intptr_t>(descriptor)), 1);
      why != success)
    return s->failed(why, "import");
  s->has_memory = s->imported = true;
  ANNEX_TRY(s->map_it(page_bytes));
  if (auto attached = h.attach_memory(region, reinterpret_cast<void*>(s->base)); !attached) {
    s->give_back();
    return std::unexpected(attached.error());
  }
  s->heap = &h;
  s->region = region;
  return cuda_memory(std::move(s));
}

region_id cuda_memory::region() const noexcept {
  return state_->region;
}
std::size_t cuda_memory::length_bytes() const noexcept {
  return state_->length_bytes;
}

result<int> cuda_memory::share() const {
  const in_context current(state_->gpu);
  int descriptor = -1;
  if (const int why = state_->gpu.calls->export_to(&descriptor, state_->memory, 1, 0);
      why != success)
    return refuse(errc::os_failure, "CUDA does not share region {}: {}",
                  static_cast<u32>(state_->region), state_->gpu.calls->name_of(why));
  return descriptor;
}

result<void> cuda_memory::remove() {
  if (!state_ || state_->heap == nullptr) return {};
  ANNEX_TRY(state_->imported ? state_->heap->detach_memory(state_->region)
                             : state_->heap->remove_memory(state_->region));
  state_->give_back();
  state_->heap = nullptr;
  return {};
}

result<void> cuda_copy(void* to, const void* from, std::size_t bytes, int device) {
  const auto gpu = devices::cuda::open_gpu(device);
  if (!gpu) return std::unexpected(gpu.error());
  const in_context current(*gpu);
  if (const int why = gpu->calls->copy(reinterpret_cast<devices::cuda::address>(to),
                                       reinterpret_cast<devices::cuda::address>(from), bytes);
      why != success)
    return refuse(errc::os_failure, "CUDA can't copy {} bytes from {} to {}: {}", bytes, from, to,
                  gpu->calls->name_of(why));
  return {};
}

}  // namespace annex
