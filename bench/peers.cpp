// bench/peers.cpp - see peers.hpp.
#include "peers.hpp"

#include <dlfcn.h>

#include <boost/interprocess/managed_external_buffer.hpp>
#include <boost/interprocess/sync/mutex_family.hpp>
#include <cstdlib>
#include <memory_resource>
#include <new>

#include "dpdk.hpp"
#include "libraries.hpp"

namespace annex::bench {
namespace {

void* function_of(const char* library, const char* name) {
  void* const handle = ::dlopen(library, RTLD_NOW | RTLD_LOCAL);
  return handle != nullptr ? ::dlsym(handle, name) : nullptr;
}
template <class Function>
Function as(void* address) {
  return reinterpret_cast<Function>(address);
}

// ---- driver: one constant address, in memory that is there. Nothing is loaded but that constant.
char* scratch = nullptr;
void* driver_allocate(std::size_t) {
  return scratch;
}
void driver_free(void*) {}
plain_calls set_up_driver() {
  // A workload may write a whole block; the traces' largest has less than 16 MiB.
  constexpr std::size_t bytes = std::size_t{16} << 20;
  scratch = ordinary_memory(bytes);
  for (std::size_t at = 0; at < bytes; at += 4096)
    scratch[at] = 1;
  return {driver_allocate,
          driver_free,
          nullptr,
          nullptr,
          [](void*, std::size_t) { return driver_allocate(0); },
          [](std::size_t, std::size_t) { return driver_allocate(0); }};
}

plain_calls set_up_glibc() {
  return {std::malloc, std::free, nullptr, nullptr, std::realloc, std::aligned_alloc};
}

plain_calls set_up_mimalloc() {
  return {as<void* (*)(std::size_t)>(mimalloc_function("mi_malloc")),
          as<void (*)(void*)>(mimalloc_function("mi_free")),
          nullptr,
          nullptr,
          as<void* (*)(void*, std::size_t)>(mimalloc_function("mi_realloc")),
          as<void* (*)(std::size_t, std::size_t)>(mimalloc_function("mi_aligned_alloc"))};
}

void* arena_heap = nullptr;
void* (*arena_malloc)(void*, std::size_t) = nullptr;
plain_calls set_up_mimalloc_arena() {
  auto manage = as<bool (*)(void*, std::size_t, bool, bool, bool, int, bool, int*)>(
      mimalloc_function("mi_manage_os_memory_ex"));
  auto make_heap = as<void* (*)(int)>(mimalloc_function("mi_heap_new_in_arena"));
  arena_malloc = as<void* (*)(void*, std::size_t)>(mimalloc_function("mi_heap_malloc"));
  int arena = 0;
  if (!manage(ordinary_memory(arena_bytes), arena_bytes, true, false, true, -1, true, &arena))
    throw std::runtime_error("mimalloc does not take the arena");
  arena_heap = make_heap(arena);
  return {[](std::size_t bytes) { return arena_malloc(arena_heap, bytes); },
          as<void (*)(void*)>(mimalloc_function("mi_free"))};
}

plain_calls set_up_jemalloc() {
  return {as<void* (*)(std::size_t)>(jemalloc_function("malloc")),
          as<void (*)(void*)>(jemalloc_function("free")),
          nullptr,
          nullptr,
          as<void* (*)(void*, std::size_t)>(jemalloc_function("realloc")),
          as<void* (*)(std::size_t, std::size_t)>(jemalloc_function("aligned_alloc"))};
}

namespace ipc = boost::interprocess;
using boost_buffer =
    ipc::basic_managed_external_buffer<char, ipc::rbtree_best_fit<ipc::mutex_family>,
                                       ipc::iset_index>;
boost_buffer* buffer = nullptr;
plain_calls set_up_boost() {
  buffer = new boost_buffer(ipc::create_only, ordinary_memory(arena_bytes), arena_bytes);
  return {[](std::size_t bytes) { return buffer->allocate(bytes, std::nothrow); },
          [](void* block) { buffer->deallocate(block); }};
}

// pmr wants the size back: it is written in front of the block, as an adapter for malloc would do.
std::pmr::memory_resource* pmr_pool = nullptr;
plain_calls set_up_pmr() {
  auto* all = new std::pmr::monotonic_buffer_resource(ordinary_memory(arena_bytes), arena_bytes,
                                                      std::pmr::null_memory_resource());
  pmr_pool = new std::pmr::synchronized_pool_resource(all);
  return {[](std::size_t bytes) -> void* {
            auto* block = static_cast<std::size_t*>(pmr_pool->allocate(bytes + 16, 16));
            *block = bytes + 16;
            return block + 2;
          },
          [](void* block) {
            pmr_pool->deallocate(static_cast<std::size_t*>(block) - 2,
                                 static_cast<std::size_t*>(block)[-2], 16);
          }};
}

std::vector<std::string> absent;

std::vector<peer> make_peers() {
  std::vector<peer> peers{{"driver", true, ~std::size_t{0}, set_up_driver},
                          {"annex", true, ~std::size_t{0}, nullptr},
                          {"glibc", true, ~std::size_t{0}, set_up_glibc}};
  if (mimalloc_function("mi_malloc") != nullptr) {
    peers.push_back({"mimalloc", true, ~std::size_t{0}, set_up_mimalloc});
    peers.push_back({"mimalloc-arena", false, std::size_t{4} << 20, set_up_mimalloc_arena});
  } else {
    absent.push_back("mimalloc (package libmimalloc2.0)");
  }
  if (jemalloc_function("malloc") != nullptr)
    peers.push_back({"jemalloc", true, ~std::size_t{0}, set_up_jemalloc});
  else
    absent.push_back("jemalloc (package libjemalloc2)");
  auto library = [&](const std::string& name, const std::string& path, const char* package) {
    std::string why;
    if (const auto found = library_peer(name, path, &why))
      peers.push_back(*found);
    else
      absent.push_back(name + " (" + package + why + ")");
  };
  library("gperftools", "libtcmalloc_minimal.so.4", "package libtcmalloc-minimal4; ");
  for (const auto& [name, path] : brought_libraries())
    library(name, path, "");
  peers.push_back({"boost", true, ~std::size_t{0}, set_up_boost});
  peers.push_back({"pmr", true, std::size_t{1} << 20, set_up_pmr});
  if (dpdk::is_built_in()) {
    peers.push_back({"rte_malloc", true, std::size_t{64} << 20, dpdk::set_up_malloc});
    peers.push_back({"rte_external", true, std::size_t{64} << 20, dpdk::set_up_external});
  } else {
    absent.push_back("DPDK (package libdpdk-dev when this was built)");
  }
  return peers;
}

}  // namespace

void* mimalloc_function(const char* name) {
  return function_of("libmimalloc.so.2", name);
}
void* jemalloc_function(const char* name) {
  return function_of("libjemalloc.so.2", name);
}

const std::vector<peer>& all_peers() {
  static const std::vector<peer> peers = make_peers();
  return peers;
}
const std::vector<std::string>& missing_peers() {
  all_peers();
  return absent;
}

heap& annex_heap(std::size_t bytes) {
  static heap only = [&] {
    heap made = expect(heap::create_private(), "a private heap");
    expect(made.add_memory({.base = ordinary_memory(bytes), .length_bytes = bytes}), "memory");
    return made;
  }();
  return only;
}

}  // namespace annex::bench
