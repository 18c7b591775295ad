// interop/dpdk/real.cpp - see real.hpp.
#include "interop/dpdk/real.hpp"

#include <atomic>

#include "platform/libraries.hpp"

#ifdef ANNEX_DPDK_STATIC
extern "C" {
#define REPLACED(result, name, parameters) [[gnu::weak]] result __real_##name parameters;
#define USED(result, name, parameters) [[gnu::weak]] result name parameters;
#include "interop/dpdk/real.def"
#undef REPLACED
#undef USED
extern thread_local int per_lcore__rte_errno;
}
#else
extern "C" void* rte_malloc(const char*, size_t, unsigned);
#endif

namespace annex::dpdk {

constinit thread_local int bypass_depth = 0;

#ifdef ANNEX_DPDK_STATIC

const real_functions& real() noexcept {
  static const real_functions table = [] {
    real_functions t;
#define REPLACED(result, name, parameters) t.name = __real_##name;
#define USED(result, name, parameters) t.name = name;
#include "interop/dpdk/real.def"
#undef REPLACED
#undef USED
    return t;
  }();
  return table;
}

bool is_in_front() noexcept {
  return real().rte_malloc_socket != nullptr;
}
int* rte_errno_of_thread() noexcept {
  return &per_lcore__rte_errno;
}

#else

namespace {

constinit real_functions table;
std::atomic<bool> is_complete{false};

// A program that loaded DPDK with dlopen(RTLD_LOCAL) has it in no scope that the next-in-order
// look-up goes through.
void* loaded_eal() noexcept {
  static std::atomic<void*> found{nullptr};
  // sync(library): what the loader made of it is seen.
  if (void* known = found.load(std::memory_order_acquire)) return known;
  void* const handle = os::loaded_library("librte_eal.so");
  // sync(library): after it was made.
  if (handle != nullptr) found.store(handle, std::memory_order_release);
  return handle;
}

void* look_up(const char* name) noexcept {
  if (void* next = os::next_symbol(name)) return next;
  void* const eal = loaded_eal();  // its dependencies are searched too
  return eal != nullptr ? os::symbol_of(eal, name) : nullptr;
}

}  // namespace

const real_functions& real() noexcept {
  if (is_complete.load(std::memory_order_acquire)) [[likely]]  // sync(table)
    return table;
    // Several threads may do so at once: each stores the same.
#define REPLACED(result, name, parameters) \
  __atomic_store_n(reinterpret_cast<void**>(&table.name), look_up(#name), __ATOMIC_RELAXED);
#define USED(result, name, parameters) \
  __atomic_store_n(reinterpret_cast<void**>(&table.name), look_up(#name), __ATOMIC_RELAXED);
#include "interop/dpdk/real.def"
#undef REPLACED
#undef USED
  // sync(table): whoever sees it sees all of them.
  if (table.rte_malloc_socket != nullptr) is_complete.store(true, std::memory_order_release);
  return table;
}

bool is_in_front() noexcept {
  void* const seen = os::first_symbol("rte_malloc");
  return real().rte_malloc_socket != nullptr &&
         (seen == nullptr || seen == reinterpret_cast<void*>(&rte_malloc));
}

int* rte_errno_of_thread() noexcept {
  return static_cast<int*>(look_up("per_lcore__rte_errno"));
}

#endif

void set_rte_errno(int value) noexcept {
  if (int* const where = rte_errno_of_thread()) *where = value;
}

}  // namespace annex::dpdk
