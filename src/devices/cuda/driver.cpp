// devices/cuda/driver.cpp - the driver library is found, or it is said what is missing.
#include "devices/cuda/driver.hpp"

#include <dlfcn.h>

#include <mutex>
#include <string>
#include <vector>

namespace annex::devices::cuda {
namespace {

struct loaded {
  driver calls{};
  std::string missing;  // empty: all there
  int initialized = 0;  // what the driver said
};

const loaded& load() {
  static const loaded once = [] {
    loaded l;
    void* const library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      l.missing = "libcuda.so.1";
      return l;
    }
    auto find = [&](auto& call, const char* name, bool needed = true) {
      call = reinterpret_cast<std::remove_reference_t<decltype(call)>>(::dlsym(library, name));
      if (call == nullptr && needed && l.missing.empty()) l.missing = name;
    };
    driver& d = l.calls;
    find(d.initialize, "cuInit");
    find(d.error_name, "cuGetErrorName");
    find(d.device_count, "cuDeviceGetCount");
    find(d.device_at, "cuDeviceGet");
    find(d.device_attribute, "cuDeviceGetAttribute");
    find(d.retain_context, "cuDevicePrimaryCtxRetain");
    find(d.push_context, "cuCtxPushCurrent_v2");
    find(d.pop_context, "cuCtxPopCurrent_v2");
    find(d.register_host, "cuMemHostRegister_v2");
    find(d.unregister_host, "cuMemHostUnregister");
    find(d.address_of_host, "cuMemHostGetDevicePointer_v2");
    find(d.copy, "cuMemcpy");
    find(d.granularity, "cuMemGetAllocationGranularity");
    find(d.create, "cuMemCreate");
    find(d.release, "cuMemRelease");
    find(d.reserve_address, "cuMemAddressReserve");
    find(d.free_address, "cuMemAddressFree");
    find(d.map, "cuMemMap");
    find(d.unmap, "cuMemUnmap");
    find(d.set_access, "cuMemSetAccess");
    find(d.export_to, "cuMemExportToShareableHandle");
    find(d.import_from, "cuMemImportFromShareableHandle");
    find(d.dma_buf_of, "cuMemGetHandleForAddressRange", false);
    if (l.missing.empty()) l.initialized = d.initialize(0);
    return l;
  }();
  return once;
}

}  // namespace

result<gpu> open_gpu(int ordinal) {
  const loaded& l = load();
  if (l.missing == "libcuda.so.1")
    return refuse(errc::not_supported,
                  "there is no CUDA driver here (libcuda.so.1); install the GPU's driver (docker: "
                  "--gpus all)");
  if (!l.missing.empty())
    return refuse(errc::not_supported,
                  "the CUDA driver is too old: it has no {}; install one of CUDA 11.2 or newer",
                  l.missing);
  const driver& d = l.calls;
  int count = 0;
  if (l.initialized == no_device ||
      (l.initialized == success && d.device_count(&count) == success && count == 0))
    return refuse(errc::not_supported, "there is no GPU that CUDA can use");
  if (l.initialized != success)
    return refuse(errc::not_supported, "the CUDA driver does not start: {}",
                  d.name_of(l.initialized));
  if (ordinal < 0 || ordinal >= count)
    return refuse(errc::invalid_argument, "there is no GPU {}; this machine has {}, counted from 0",
                  ordinal, count);
  static std::mutex mutex;
  static std::vector<context> contexts;  // by ordinal
  gpu g{&d, 0, nullptr};
  if (const int why = d.device_at(&g.device, ordinal); why != success)
    return refuse(errc::os_failure, "GPU {} can't be had: {}", ordinal, d.name_of(why));
  std::lock_guard guard(mutex);
  contexts.resize(static_cast<size_t>(count));
  context& known = contexts[static_cast<size_t>(ordinal)];
  if (known == nullptr)
    if (const int why = d.retain_context(&known, g.device); why != success)
      return refuse(errc::os_failure, "GPU {} gives no context: {}", ordinal, d.name_of(why));
  g.primary = known;
  return g;
}

}  // namespace annex::devices::cuda
