// interop/dpdk/abi.hpp - the few public structures of DPDK that cross the border, restated; no DPDK
// header is needed.
//
// They are the same from 20.11 to 26.11; tests/dpdk compares them with the headers of the DPDK that
// is installed.
#pragma once
#include <cstdio>

#include "base/units.hpp"

namespace annex::dpdk {

inline constexpr int any_socket = -1;        // SOCKET_ID_ANY
inline constexpr int internal_sockets = 32;  // RTE_MAX_NUMA_NODES as Debian builds it
inline constexpr int first_external_socket = 256;
inline constexpr u64 bad_iova = ~u64{0};  // RTE_BAD_IOVA
inline constexpr u64 cache_line_bytes = 64;
inline constexpr u64 element_header_bytes = 128;  // what the real heap puts in front of a block
inline constexpr u32 heap_name_bytes = 32, zone_name_bytes = 32;
inline constexpr int process_primary = 0;  // RTE_PROC_PRIMARY

struct memzone {
  char name[zone_name_bytes];
  u64 iova;
  union {
    void* addr;
    u64 addr_64;
  };
  u64 len;
  u64 hugepage_sz;
  i32 socket_id;
  u32 flags;
};
static_assert(sizeof(memzone) == 72);

struct memseg {
  u64 iova;
  union {
    void* addr;
    u64 addr_64;
  };
  u64 len, hugepage_sz;
  i32 socket_id;
  u32 nchannel, nrank, flags;
} __attribute__((packed));
static_assert(sizeof(memseg) == 48);

struct memseg_list {  // as far as it is looked at
  union {
    void* base_va;
    u64 addr_64;
  };
  u64 page_sz;
  int socket_id;
  volatile u32 version;
  u64 len;
  u32 external, heap;
};

struct socket_stats {
  u64 heap_totalsz_bytes, heap_freesz_bytes, greatest_free_size;
  u32 free_count, alloc_count;
  u64 heap_allocsz_bytes;
};
static_assert(sizeof(socket_stats) == 40);

struct telemetry_data;
using telemetry_callback = int (*)(const char* command, const char* parameters,
                                   telemetry_data* info);

enum zone_flag : u32 {
  zone_page_flags = 0x1 | 0x2 | 0x100 | 0x200 | 0x10000 | 0x20000 | 0x40000 | 0x80000,
  zone_size_hint_only = 0x4,
  zone_iova_contiguous = 0x00100000,
};

}  // namespace annex::dpdk
