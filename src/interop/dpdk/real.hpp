// interop/dpdk/real.hpp - the DPDK behind the drop-in.
//
//   preload, linked first   found by name in the objects that are loaded, on first use
//     libannex_dpdk.so
//   linked statically       __real_NAME, by the linker's --wrap
//     libannex_dpdk.a       (ANNEX_DPDK_STATIC)
//
// The library has no undefined DPDK symbol: it may be inherited by programs that have no DPDK. A
// function that this DPDK does not have is null. The real zmalloc, realloc and memzone_free come
// back through the drop-in's own functions: a bypass is held around every call into the real
// allocator.
// Threads: any. Processes: nothing here is shared.
#pragma once
#include "interop/dpdk/abi.hpp"

#ifdef ANNEX_DPDK_STATIC
#define ANNEX_DPDK_NAME(name) __wrap_##name
#else
#define ANNEX_DPDK_NAME(name) name
#endif

namespace annex::dpdk {

struct real_functions {
#define REPLACED(result, name, parameters) result(*name) parameters = nullptr;
#define USED(result, name, parameters) result(*name) parameters = nullptr;
#include "interop/dpdk/real.def"
#undef REPLACED
#undef USED
};

/// The real functions; looked up again as long as there is no rte_malloc_socket among them.
const real_functions& real() noexcept;
/// Whether this program's calls come here: its rte_malloc is ours, and a real one is behind it.
bool is_in_front() noexcept;
/// DPDK's error variable of this thread; null: there is none.
int* rte_errno_of_thread() noexcept;
void set_rte_errno(int value) noexcept;

extern constinit thread_local int bypass_depth [[gnu::tls_model("initial-exec")]];
/// While it lives, this thread's calls go to the real allocator.
class bypass {
 public:
  bypass() noexcept { ++bypass_depth; }
  ~bypass() { --bypass_depth; }
  bypass(const bypass&) = delete;
  bypass& operator=(const bypass&) = delete;
};

/// What happens inside leaves rte_errno alone.
class keep_rte_errno {
 public:
  keep_rte_errno() noexcept
      : where_(rte_errno_of_thread()), value_(where_ != nullptr ? *where_ : 0) {}
  ~keep_rte_errno() {
    if (where_ != nullptr) *where_ = value_;
  }
  keep_rte_errno(const keep_rte_errno&) = delete;
  keep_rte_errno& operator=(const keep_rte_errno&) = delete;

 private:
  int* where_;
  int value_;
};

}  // namespace annex::dpdk
