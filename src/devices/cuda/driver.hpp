// devices/cuda/driver.hpp - the few calls of the CUDA driver API that annex makes, declared here
// and found at run time.
//
// Own declarations: no CUDA header or library is needed to build. Names and layouts are those of
// the driver API (CUDA 11.2 to 13), the 64-bit versions (_v2) where there are two.
// Threads: any; a context is pushed around each call, so the program's own current context stays.
#pragma once
#include <annex/error.hpp>

#include "base/failure.hpp"
#include "base/units.hpp"

namespace annex::devices::cuda {

using address = unsigned long long;  // CUdeviceptr
using memory = unsigned long long;   // CUmemGenericAllocationHandle
using context = struct context_of_driver*;

struct location {
  int type, id;
};                         // type 1: a device
struct allocation {        // CUmemAllocationProp
  int type, handle_types;  // 1: pinned; 1: a file descriptor
  location where;
  void* windows;
  struct {
    unsigned char compression, gpu_direct;
    unsigned short usage;
    unsigned char reserved[4];
  } flags;
};
struct access {
  location where;
  int flags;
};  // 3: read and write
static_assert(sizeof(allocation) == 32 && sizeof(access) == 12);

constexpr int success = 0, invalid_value = 1, out_of_memory = 2, no_device = 100,
              invalid_device = 101, already_registered = 712, not_registered = 713,
              not_supported = 801;
constexpr unsigned register_for_all = 1, register_mapped = 2;
constexpr int attribute_virtual_memory = 102, attribute_dma_buf = 124;

struct driver {
  int (*initialize)(unsigned);
  int (*error_name)(int, const char**);
  int (*device_count)(int*);
  int (*device_at)(int*, int);
  int (*device_attribute)(int*, int attribute, int device);
  int (*retain_context)(context*, int device);
  int (*push_context)(context);
  int (*pop_context)(context*);
  int (*register_host)(void*, size_t, unsigned flags);
  int (*unregister_host)(void*);
  int (*address_of_host)(address*, void*, unsigned flags);
  int (*copy)(address to, address from, size_t bytes);
  int (*granularity)(size_t*, const allocation*, int option);
  int (*create)(memory*, size_t bytes, const allocation*, unsigned long long flags);
  int (*release)(memory);
  int (*reserve_address)(address*, size_t bytes, size_t align, address wish,
                         unsigned long long flags);
  int (*free_address)(address, size_t bytes);
  int (*map)(address, size_t bytes, size_t offset, memory, unsigned long long flags);
  int (*unmap)(address, size_t bytes);
  int (*set_access)(address, size_t bytes, const access*, size_t count);
  int (*export_to)(void* handle, memory, int type, unsigned long long flags);
  int (*import_from)(memory*, void* handle, int type);
  // Newer: may be null.
  int (*dma_buf_of)(void* handle, address, size_t bytes, int type, unsigned long long flags);

  /// "CUDA_ERROR_OUT_OF_MEMORY", or a number.
  const char* name_of(int code) const noexcept {
    const char* name = nullptr;
    return error_name(code, &name) == success && name != nullptr ? name
                                                                 : "an error it has no name for";
  }
};

/// A GPU with its primary context, kept until the process ends: the program's kernels run in the
/// same.
struct gpu {
  const driver* calls;
  int device;
  context primary;
  bool has(int attribute) const noexcept {
    int value = 0;
    return calls->device_attribute(&value, attribute, device) == success && value != 0;
  }
};
/// Errors: not_supported (no driver, no GPU), invalid_argument (no such device), os_failure.
result<gpu> open_gpu(int ordinal);

/// The GPU's context is this thread's current one as long as this lives.
class in_context {
 public:
  explicit in_context(const gpu& g) noexcept : gpu_(g) {
    pushed_ = g.calls->push_context(g.primary) == success;
  }
  ~in_context() {
    context was = nullptr;
    if (pushed_) (void)gpu_.calls->pop_context(&was);
  }
  in_context(const in_context&) = delete;
  in_context& operator=(const in_context&) = delete;

 private:
  const gpu& gpu_;
  bool pushed_;
};

}  // namespace annex::devices::cuda
