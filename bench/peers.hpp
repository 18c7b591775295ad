// bench/peers.hpp - the allocators that are compared, each set up the way its users would.
//
//   driver        does nothing: what the workload itself costs
//   annex         a private heap over one region of ordinary memory; cell "annex/shared": a named
//                 one, in a file
//   glibc         malloc as it is
//   mimalloc      libmimalloc.so, opened beside glibc's; "mimalloc-arena": a heap in a managed
//                 arena of the same size as annex's
//   jemalloc      libjemalloc.so.2, opened beside glibc's
//   gperftools    libtcmalloc_minimal.so.4, opened beside glibc's in its cell
//   …             any malloc that was brought (libraries.hpp)
//   boost         Boost.Interprocess managed_external_buffer with its default mutex, in the same
//                 amount of memory
//   pmr           std::pmr::synchronized_pool_resource over a monotonic buffer
//   rte_malloc    DPDK's heap; "rte_external": DPDK's external heap, on ordinary pages (dpdk.hpp)
//
// No environment variable changes any of them. Whether pages are huge ones is chosen for the whole
// run (huge_pages). A peer that is not installed is left out, with a word.
#pragma once
#include <cstddef>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include <annex/annex.hpp>

namespace annex::bench {

inline constexpr std::size_t arena_bytes = std::size_t{2} << 30;

/// An allocator behind two function pointers, as its shared library would be called.
struct plain_calls {
  void* (*allocate_block)(std::size_t) = nullptr;
  void (*free_block)(void*) = nullptr;
  void (*enter)() = nullptr;  // called once by every further thread
  void (*leave)() = nullptr;
  // Null: by allocate, copy, free.
  void* (*reallocate_block)(void*, std::size_t) = nullptr;
  // Null: by more than was asked for.
  void* (*allocate_at)(std::size_t align, std::size_t) = nullptr;
  void* allocate(std::size_t bytes) const { return allocate_block(bytes); }
  void free(void* block) const { free_block(block); }
  void enter_thread() const {
    if (enter != nullptr) enter();
  }
  void leave_thread() const {
    if (leave != nullptr) leave();
  }
  void* allocate_aligned(std::size_t align, std::size_t bytes) const {
    return allocate_at != nullptr ? allocate_at(align, bytes) : allocate_block(bytes + align);
  }
  void* reallocate(void* block, std::size_t old_bytes, std::size_t bytes) const {
    if (reallocate_block != nullptr) return reallocate_block(block, bytes);
    void* const moved = allocate_block(bytes);
    if (moved != nullptr && block != nullptr)
      std::memcpy(moved, block, old_bytes < bytes ? old_bytes : bytes);
    free_block(block);
    return moved;
  }
};

/// annex as a program calls it.
struct annex_calls {
  heap* of;
  void* allocate(std::size_t bytes) const { return of->allocate(bytes); }
  void free(void* block) const { heap::free(block); }
  void enter_thread() const {}
  void leave_thread() const {}
  void* allocate_aligned(std::size_t align, std::size_t bytes) const {
    return of->allocate({.size_bytes = bytes, .align_bytes = align});
  }
  void* reallocate(void* block, std::size_t, std::size_t bytes) const {
    return of->reallocate(block, bytes);
  }
};

struct peer {
  std::string name;
  bool threads = true;  // any thread may use it
  std::size_t largest_bytes = ~std::size_t{0};
  std::function<plain_calls()> set_up;  // in the cell's process; none: annex
};

/// Every peer that is there; the driver and annex first.
const std::vector<peer>& all_peers();
/// What is missing, in words.
const std::vector<std::string>& missing_peers();
/// annex's heap of this cell.
heap& annex_heap(std::size_t bytes = arena_bytes);

/// Transparent huge pages, for every process of the run.
///   as_is     nobody is told anything: who asks for them by itself gets them
///   never     nobody gets any (prctl), whatever it asks for
///   madvise   memory that is given to a peer (annex, Boost, an arena, DPDK's external heap) is
///             advised; who maps its own memory does as it does
enum class huge_pages { as_is, never, madvise };
/// Throws std::runtime_error when the kernel refuses. Before the first cell.
void choose_huge_pages(huge_pages choice);
/// The choice and the kernel's setting, in words.
std::string huge_pages_words();

/// Address space for a peer that is given memory: private, untouched, on the pages that were
/// chosen.
char* ordinary_memory(std::size_t bytes, std::size_t align = std::size_t{64} << 20);

template <class T>
T expect(result<T> r, const char* what) {
  if (!r) throw std::runtime_error(std::string(what) + ": " + std::string(r.error().message()));
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

/// Calls work with the peer's calls, in their own type.
template <class Work>
auto with_calls(const peer& p, Work work) {
  return !p.set_up ? work(annex_calls{&annex_heap()}) : work(p.set_up());
}

/// A function of libmimalloc or libjemalloc; null when it is not installed.
void* mimalloc_function(const char* name);
void* jemalloc_function(const char* name);

}  // namespace annex::bench
