// tests/dpdk/defects.cpp - the defects of DPDK's heaps (numbers of docs/dpdk.md), each asked for:
// mended or still there. Prints one line each; under the drop-in every one that the interface lets
// it mend must be mended (exit 0). On stock DPDK it only tells (--tell), and leaves out what would
// crash.
//
//   defects [--tell] EAL options
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_malloc.h>
#include <rte_memory.h>
#include <rte_memzone.h>

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>

extern "C" [[gnu::weak]] void rte_free_sensitive(void*);

namespace {

bool only_tell = false;
int failures = 0;

void say(const char* number, const char* what, bool mended) {
  if (!mended) ++failures;
  std::printf("%-4s %-66s %s\n", number, what, mended ? "mended" : "still there");
}

void* pages(std::size_t bytes, int rights = PROT_READ | PROT_WRITE) {
  return ::mmap(nullptr, bytes, rights, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

constexpr std::size_t area = 4 << 20;
int add(const char* heap, void* memory, std::size_t bytes = area) {
  return rte_malloc_heap_memory_add(heap, memory, bytes, nullptr, 0, 4096);
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc > 1 && std::strcmp(argv[1], "--tell") == 0) {
    only_tell = true;
    argv[1] = argv[0];
    ++argv;
    --argc;
  }
  if (rte_eal_init(argc, argv) < 0) return 2;

  {
    for (const char* name : {"a", "b", "c"})
      rte_malloc_heap_create(name);
    rte_malloc_heap_destroy("a");
    const bool refused = rte_malloc_heap_create("c") != 0 && rte_errno == EEXIST;
    say("B1", "a name may be given twice", refused);
    for (const char* name : {"a", "b", "c", "c"})
      rte_malloc_heap_destroy(name);
  }
  rte_malloc_heap_create("one");
  rte_malloc_heap_create("two");
  void* const memory = pages(2 * area);
  const int one = rte_malloc_heap_get_socket("one");
  add("one", memory);
  if (!only_tell) {  // stock DPDK's heap does not survive these
    char* const live = static_cast<char*>(rte_malloc_socket(nullptr, 64, 0, one));
    std::memset(live, 5, 64);
    const bool refused =
        add("two", memory) != 0 && add("one", static_cast<char*>(memory) + 4096) != 0;
    say("B2", "memory is taken that a heap has already, and cleared", refused && live[63] == 5);
    say("B16", "the same range twice", add("one", memory) != 0);
    say("B4", "a heap's area can be unregistered from under it",
        rte_extmem_unregister(memory, area) != 0 && rte_mem_virt2memseg_list(live) != nullptr);
    say("B5", "who added an area can detach it",
        rte_malloc_heap_memory_detach("one", memory, area) != 0);
    rte_free(live);
  }
  {
    say("B6", "a zone without a size on an external heap comes from elsewhere (--no-huge)", [&] {
      const rte_memzone* z = rte_memzone_reserve("largest", 0, one, 0);
      const bool there = z != nullptr && z->addr >= memory &&
                         z->addr < static_cast<char*>(memory) + area && z->socket_id == one;
      if (z != nullptr) rte_memzone_free(z);
      return there;
    }());
    const rte_memzone* z =
        rte_memzone_reserve("contiguous", 64 << 10, one, RTE_MEMZONE_IOVA_CONTIG);
    say("B6", "an IOVA-contiguous zone from memory without IOVAs", z == nullptr);
    if (z != nullptr) rte_memzone_free(z);
  }
  {
    const std::size_t huge = std::size_t{400} << 30;  // 104,857,600 pages of 4 KiB
    void* const vast = ::mmap(nullptr, huge, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!only_tell && vast != MAP_FAILED) {
      say("B7", "page tables beyond 4 GiB", add("two", vast, huge) != 0 && rte_errno == EINVAL);
      say("B18", "page counts beyond 32 bits are cut",
          rte_malloc_heap_memory_add("two", vast, (std::size_t{256} << 30) + 640, nullptr, 0, 64) !=
              0);
    }
    ::munmap(vast, huge);
  }
  {
    void* const p = rte_malloc_socket(nullptr, 200, 0, one);
    std::memset(p, 3, 200);
    void* const same = rte_realloc(p, 200, 0);
    say("B10", "realloc without an alignment always copies", same == p);
    void* const grown = rte_realloc(same, 5000, 64);
    say("B10", "realloc for any socket leaves the external heap",
        grown >= memory && grown < static_cast<char*>(memory) + area &&
            static_cast<char*>(grown)[199] == 3);
    rte_malloc_socket_stats before{}, after{};
    rte_malloc_get_socket_stats(one, &before);
    void* const gone = rte_realloc(grown, 0, 64);
    rte_malloc_get_socket_stats(one, &after);
    say("B10", "realloc to 0 does not free",
        gone == nullptr && after.alloc_count == before.alloc_count - 1);
    if (gone != nullptr) rte_free(gone);
  }
  {
    void* const p = rte_calloc(nullptr, (std::size_t{1} << 63) + 1, 2, 0);
    say("B11", "calloc's product overflows", p == nullptr);
    rte_free(p);
  }
  {
    rte_errno = 0;
    void* const p = rte_malloc_socket(nullptr, 64, 0, one);
    const int after_malloc = rte_errno;
    rte_errno = 0;
    void* const q = rte_malloc(nullptr, 3 << 20, 0);
    say("B12", "successful allocations leave an rte_errno", after_malloc == 0 && rte_errno == 0);
    rte_free(p);
    rte_free(q);
  }
  if (!only_tell) {
    void* const untouchable = pages(64 << 20, PROT_NONE);
    const bool added =
        rte_malloc_heap_memory_add("two", untouchable, 64 << 20, nullptr, 0, 4096) == 0;
    const int two = rte_malloc_heap_get_socket("two");
    void* const small = added ? rte_malloc_socket(nullptr, 100, 0, two) : nullptr;
    void* const large = added ? rte_malloc_socket(nullptr, 1 << 20, 0, two) : nullptr;
    const bool inside = small >= untouchable && large >= untouchable &&
                        large < static_cast<char*>(untouchable) + (64 << 20);
    const bool zeroed_refused = added && rte_zmalloc_socket(nullptr, 100, 0, two) == nullptr;
    rte_free(small);
    rte_free(large);
    say("5-A5", "memory the CPU may not touch crashes the heap",
        added && inside && zeroed_refused &&
            rte_malloc_heap_memory_remove("two", untouchable, 64 << 20) == 0);
    if (rte_free_sensitive != nullptr) {
      auto* p = static_cast<unsigned char*>(rte_malloc_socket(nullptr, 100, 256, one));
      auto* next = static_cast<unsigned char*>(rte_malloc_socket(nullptr, 100, 256, one));
      std::memset(p, 1, 100);
      std::memset(next, 2, 100);
      rte_free_sensitive(p);
      say("B8", "free_sensitive writes beyond a padded block",
          next[0] == 2 && next[99] == 2 && p[0] == 0);
      rte_free(next);
    }
    // The memory is the program's to spoil: its heap stands.
    auto* p = static_cast<char*>(rte_malloc_socket(nullptr, 64, 0, one));
    std::memset(static_cast<char*>(memory) + 4096, 0xee, area - 4096);
    void* const q = rte_malloc_socket(nullptr, 64, 0, one);
    rte_free(p);
    rte_free(q);
    say("5-A5", "an overrun corrupts the allocator",
        rte_malloc_heap_memory_remove("one", memory, area) == 0);
  } else {
    rte_malloc_heap_memory_remove("one", memory, area);
  }
  say("", "both heaps end",
      rte_malloc_heap_destroy("one") == 0 && rte_malloc_heap_destroy("two") == 0);
  return rte_eal_cleanup() != 0 || (!only_tell && failures != 0);
}
