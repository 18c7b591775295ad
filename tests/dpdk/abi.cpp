// tests/dpdk/abi.cpp - the structures that src/interop/dpdk/abi.hpp restates are those of the DPDK
// that is installed.
#include <rte_malloc.h>
#include <rte_memory.h>
#include <rte_memzone.h>

#include <cstddef>
#include <cstdio>

#include "interop/dpdk/abi.hpp"

namespace ours = annex::dpdk;
#define SAME(theirs, mine, member)                                    \
  static_assert(offsetof(theirs, member) == offsetof(mine, member) && \
                sizeof(theirs::member) == sizeof(mine::member))

SAME(rte_memzone, ours::memzone, name);
SAME(rte_memzone, ours::memzone, iova);
SAME(rte_memzone, ours::memzone, addr);
SAME(rte_memzone, ours::memzone, len);
SAME(rte_memzone, ours::memzone, hugepage_sz);
SAME(rte_memzone, ours::memzone, socket_id);
SAME(rte_memseg, ours::memseg, iova);
SAME(rte_memseg, ours::memseg, addr);
SAME(rte_memseg, ours::memseg, len);
SAME(rte_memseg, ours::memseg, hugepage_sz);
SAME(rte_memseg_list, ours::memseg_list, base_va);
SAME(rte_memseg_list, ours::memseg_list, page_sz);
SAME(rte_memseg_list, ours::memseg_list, socket_id);
SAME(rte_memseg_list, ours::memseg_list, len);
SAME(rte_memseg_list, ours::memseg_list, external);
SAME(rte_malloc_socket_stats, ours::socket_stats, heap_totalsz_bytes);
SAME(rte_malloc_socket_stats, ours::socket_stats, heap_freesz_bytes);
SAME(rte_malloc_socket_stats, ours::socket_stats, greatest_free_size);
SAME(rte_malloc_socket_stats, ours::socket_stats, free_count);
SAME(rte_malloc_socket_stats, ours::socket_stats, alloc_count);
SAME(rte_malloc_socket_stats, ours::socket_stats, heap_allocsz_bytes);
static_assert(sizeof(rte_memzone) == sizeof(ours::memzone) &&
              sizeof(rte_memseg) == sizeof(ours::memseg) &&
              sizeof(rte_malloc_socket_stats) == sizeof(ours::socket_stats));
static_assert(RTE_MAX_NUMA_NODES == ours::internal_sockets && SOCKET_ID_ANY == ours::any_socket &&
              RTE_BAD_IOVA == ours::bad_iova && RTE_CACHE_LINE_SIZE == ours::cache_line_bytes);
static_assert(RTE_MEMZONE_IOVA_CONTIG == ours::zone_iova_contiguous &&
              RTE_MEMZONE_SIZE_HINT_ONLY == ours::zone_size_hint_only);
static_assert((RTE_MEMZONE_2MB | RTE_MEMZONE_1GB | RTE_MEMZONE_16MB | RTE_MEMZONE_16GB |
               RTE_MEMZONE_256KB | RTE_MEMZONE_256MB | RTE_MEMZONE_512MB | RTE_MEMZONE_4GB) ==
              ours::zone_page_flags);

int main() {
  std::puts("abi: as restated");
}
