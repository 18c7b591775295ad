// devices/cuda/cuda_host_memory.cpp - the host regions of a heap, registered with CUDA chunk by
// chunk.
//
//   on_add        chunks registered by several threads → addresses asked for → found;
//                 a refusal unregisters those that are there
//   begin_remove  no longer found
//   finish_remove unregistered: the driver waits for nothing, the program has
//
// If the process dies the driver unpins; other processes have registered for themselves.
#include <annex/devices/cuda.hpp>

#include <mutex>
#include <vector>

#include "base/in_parallel.hpp"
#include "base/limits.hpp"
#include "devices/cuda/driver.hpp"
#include "devices/registrations.hpp"

namespace annex {

using devices::cuda::in_context;

struct cuda_host_memory::state {
  struct registration {
    char* base = nullptr;
    u64 length_bytes = 0, chunk_bytes = 1;
    std::vector<u64> device_addresses;  // of each chunk; 0: not registered
  };
  cuda_host_options options;
  devices::cuda::gpu gpu{};
  devices::registrations<registration> regions;
  mutable std::mutex mutex;

  // What the driver says of the first that stays.
  int unregister(registration& r) const {
    const in_context current(gpu);
    for (size_t i = 0; i < r.device_addresses.size(); ++i) {
      if (r.device_addresses[i] == 0) continue;
      if (const int why = gpu.calls->unregister_host(r.base + i * r.chunk_bytes);
          why != devices::cuda::success && why != devices::cuda::not_registered)
        return why;
      r.device_addresses[i] = 0;
    }
    return devices::cuda::success;
  }
};

cuda_host_memory::cuda_host_memory(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}

cuda_host_memory::~cuda_host_memory() {
  state_->regions.for_each([&](state::registration& r) { (void)state_->unregister(r); });
}

result<std::unique_ptr<cuda_host_memory>> cuda_host_memory::create(const cuda_host_options& o) {
  if (!is_power_of_two(o.chunk_bytes) || o.chunk_bytes < limits::smallest_page_bytes)
    return refuse(errc::invalid_argument,
                  "chunks of {} bytes can't be registered: use a power of two from {}",
                  o.chunk_bytes, limits::smallest_page_bytes);
  const auto gpu = devices::cuda::open_gpu(o.device);
  if (!gpu) return std::unexpected(gpu.error());
  auto s = std::make_unique<state>();
  s->options = o;
  s->gpu = *gpu;
  return std::unique_ptr<cuda_host_memory>(new cuda_host_memory(std::move(s)));
}

std::optional<cuda_address> cuda_host_memory::find(const void* block) const noexcept {
  const auto [r, offset_bytes] = state_->regions.find(block);
  if (r == nullptr) return {};
  const u64 chunk = offset_bytes / r->chunk_bytes, begin = chunk * r->chunk_bytes;
  return cuda_address{r->device_addresses[chunk] + (offset_bytes - begin),
                      std::min(begin + r->chunk_bytes, r->length_bytes) - offset_bytes};
}

std::size_t cuda_host_memory::registered() const noexcept {
  std::lock_guard guard(state_->mutex);
  size_t count = 0;
  state_->regions.for_each(
      [&](const state::registration& r) { count += r.device_addresses.size(); });
  return count;
}

std::string_view cuda_host_memory::name() const noexcept {
  return "cuda";
}

result<void> cuda_host_memory::on_add(const region_view& region) {
  if (region.access == touch::none) return {};
  state& s = *state_;
  std::lock_guard guard(s.mutex);
  if (s.regions.is_of_another_heap(region.heap))
    return refuse(
        errc::invalid_argument,
        "these registrations are another heap's; make one cuda_host_memory for each heap");
  if (s.regions.of(region.region) != nullptr) {  // a removal was refused before it came here
    s.regions.publish(region);
    return {};
  }
  auto& r = s.regions.begin(region.region);
  r.base = static_cast<char*>(region.base);
  r.length_bytes = region.length_bytes;
  r.chunk_bytes = std::max(s.options.chunk_bytes, region.page_bytes);
  r.device_addresses.assign(divide_up(r.length_bytes, r.chunk_bytes), 0);
  const int why = in_parallel(
      r.length_bytes, r.chunk_bytes, s.options.threads,
      [&](unsigned, u64 at, u64 bytes) {
        const in_context current(s.gpu);
        if (const int refused = s.gpu.calls->register_host(
                r.base + at, bytes,
                devices::cuda::register_for_all | devices::cuda::register_mapped);
            refused != devices::cuda::success)
          return refused;
        devices::cuda::address there = 0;
        if (const int refused = s.gpu.calls->address_of_host(&there, r.base + at, 0);
            refused != devices::cuda::success) {
          (void)s.gpu.calls->unregister_host(r.base + at);
          return refused;
        }
        r.device_addresses[at / r.chunk_bytes] = there;
        return devices::cuda::success;
      },
      s.options.progress);
  if (why != devices::cuda::success) {
    (void)s.unregister(r);
    const u32 id = static_cast<u32>(region.region);
    if (why == devices::cuda::already_registered)
      return refuse(errc::invalid_argument,
                    "a part of region {} is registered with CUDA already; unregister it "
                    "(cudaHostUnregister) and let annex do it",
                    id);
    if (why == devices::cuda::out_of_memory)
      return refuse(errc::out_of_memory,
                    "CUDA can't pin the {} bytes of region {}: the machine, or a limit on locked "
                    "memory (ulimit -l), is short",
                    r.length_bytes, id);
    return refuse(errc::os_failure, "CUDA refused region {} of {} bytes: {}", id, r.length_bytes,
                  s.gpu.calls->name_of(why));
  }
  s.regions.publish(region);
  return {};
}

quiesce cuda_host_memory::begin_remove(const region_view& region) {
  std::lock_guard guard(state_->mutex);
  state_->regions.hide(region.region);
  return quiesce::done;
}

result<void> cuda_host_memory::finish_remove(const region_view& region,
                                             std::chrono::steady_clock::time_point) {
  state& s = *state_;
  std::lock_guard guard(s.mutex);
  auto* const r = s.regions.of(region.region);
  if (r == nullptr) return {};
  s.regions.hide(region.region);
  if (const int why = s.unregister(*r); why != devices::cuda::success)
    return refuse(errc::os_failure, "CUDA does not let go of region {}: {}",
                  static_cast<u32>(region.region), s.gpu.calls->name_of(why));
  s.regions.end(region.region);
  return {};
}

}  // namespace annex
