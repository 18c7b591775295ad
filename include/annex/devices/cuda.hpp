// annex/devices/cuda.hpp - host memory that CUDA has pinned, and GPU memory as regions of a heap
// (library annex_cuda).
//
//   heap ─┬─ host region ── cuda_host_memory: registered in chunks, by several threads;
//         │                 copied by the GPU's own engines; find(block): its address there
//         └─ GPU region ─── cuda_memory: never touched by the CPU;
//                           a block's address is its device pointer, in kernels and in copies
//
// The heap's metadata is elsewhere, so GPU memory is allocated and freed by any thread of any
// process that has it, without a call of CUDA:
//
//   auto host = must(annex::cuda_host_memory::create());
//   auto seen = must(heap.observe(*host));
//   auto gpu = must(annex::cuda_memory::bring(device_heap, std::size_t{8} << 30));
//   void* tensor = device_heap.allocate(bytes);  // a CUdeviceptr
//   int descriptor = must(gpu.share());  // to another process (SCM_RIGHTS): cuda_memory::attach
//
// The driver (libcuda.so.1) is looked for when the first object is made; nothing of CUDA is needed
// to build or to run without a GPU.
// Source: CUDA driver API reference, 11.2 or newer: memory management, virtual memory management.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <annex/heap.hpp>

#include <functional>
#include <memory>
#include <optional>

namespace annex {

/// How host memory is registered.
struct cuda_host_options {
  /// Registered for all; this one's context does it.
  int device = 0;
  /// Of one registration: power of two, from one page up.
  std::size_t chunk_bytes = std::size_t{1} << 30;
  unsigned threads = 0;  ///< that register chunks; 0: one per CPU
  /// Of a region, by any of them, one call at a time.
  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress{};
};

/// Where the GPU finds a byte of host memory. A copy must not go over the end of a chunk.
struct cuda_address {
  std::uint64_t device_address;  ///< for kernels and copies
  std::size_t contiguous_bytes;  ///< to the end of its chunk
};

/// Observes one heap, in one process. Regions the CPU may not touch are not for it and pass.
/// Threads: any. A process that dies takes its registrations with it. A copy under way when its
/// block is freed reads or writes what comes after it: synchronize the stream first, as with
/// cudaFreeHost.
class ANNEX_PUBLIC cuda_host_memory final : public observer {
 public:
  /// Errors: invalid_argument (a chunk, no such device), not_supported (no driver, no GPU),
  /// os_failure (what the driver says).
  static result<std::unique_ptr<cuda_host_memory>> create(const cuda_host_options& options = {});
  /// Its observation must have ended.
  ~cuda_host_memory() override;

  /// Nothing for memory of no region that is registered. Wait-free.
  std::optional<cuda_address> find(const void* block) const noexcept;
  /// Registrations there are.
  std::size_t registered() const noexcept;

  /// As observer::name().
  std::string_view name() const noexcept override;
  result<void> on_add(const region_view& region) override;
  quiesce begin_remove(const region_view& region) override;
  result<void> finish_remove(const region_view& region,
                             std::chrono::steady_clock::time_point deadline) override;

 private:
  struct state;
  explicit cuda_host_memory(std::unique_ptr<state> s) noexcept;
  std::unique_ptr<state> state_;
};

/// Where GPU memory comes from.
struct cuda_memory_options {
  int device = 0;  ///< the GPU, as cuDeviceGet counts
  /// With a dma-buf as the region's descriptor, by which RDMA devices reach it (verbs_memory);
  /// refused where the driver has none.
  bool dma_buf = false;
};

/// GPU memory that is a region, in this process. The heap must stay where it is as long. Threads:
/// one at a time.
class ANNEX_PUBLIC cuda_memory {
 public:
  /// length_bytes is rounded up to what the driver maps (2 MiB). Errors: those of add_memory,
  /// not_supported (no driver, no GPU, no virtual memory management), out_of_memory (of the GPU),
  /// os_failure.
  static result<cuda_memory> bring(heap&, std::size_t length_bytes,
                                   const cuda_memory_options& options = {});
  /// Another process's region, by a descriptor of its share(); the caller keeps the descriptor.
  /// Errors: those of attach_memory, and as above.
  static result<cuda_memory> attach(heap&, region_id, int descriptor,
                                    const cuda_memory_options& options = {});
  /// What is moved from may be destroyed or assigned to, no more.
  cuda_memory(cuda_memory&&) noexcept;
  /// Removes what it had, as the destructor does.
  cuda_memory& operator=(cuda_memory&&) noexcept;
  /// As remove(); refused, the memory stays as it is until the process ends.
  ~cuda_memory();

  /// The region it is.
  region_id region() const noexcept;
  /// Its length, a multiple of 2 MiB.
  std::size_t length_bytes() const noexcept;
  /// A descriptor that another process attaches by; the caller closes it. Errors: os_failure.
  result<int> share() const;
  /// bring(): removes the region and gives the memory back. attach(): detaches it here. Errors:
  /// those of remove_memory or detach_memory; then nothing has changed.
  result<void> remove();

 private:
  struct state;
  explicit cuda_memory(std::unique_ptr<state> s) noexcept;
  std::unique_ptr<state> state_;
};

/// Copies between any host and GPU memory and waits for it. Errors: not_supported, os_failure.
ANNEX_PUBLIC result<void> cuda_copy(void* to, const void* from, std::size_t bytes, int device = 0);

}  // namespace annex

#endif
