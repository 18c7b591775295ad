/* annex.h - the C face of annex: named heaps over memory you bring, shared by any process.
 *
 * Every int is 0 or a negative annex_errc; annex_strerror() names it, annex_last_error_text() tells this thread's last one
 * in full. Structs begin with struct_bytes (set it to sizeof the struct) and grow at their end; zero means default.
 * Threads and processes: as annex/heap.hpp says for the function of the same name. */
#ifndef ANNEX_H
#define ANNEX_H
#ifndef ANNEX_PUBLIC
#ifdef __GNUC__
#define ANNEX_PUBLIC __attribute__((visibility("default")))
#else
#define ANNEX_PUBLIC
#endif
#endif
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Codes are negative: ANNEX_E_no_such_heap is -4. */
enum annex_errc {
  ANNEX_OK = 0,
#define ANNEX_ERROR(number, name, text) ANNEX_E_##name = -(number),
#include <annex/errors.def>
#undef ANNEX_ERROR
  ANNEX_E_last_ = -10000
};

typedef struct annex_heap annex_heap;

enum { /* annex_heap_options.flags */
  ANNEX_CHECKED = 1u << 0,       /* catch every double free at once */
  ANNEX_RECLAIM_DEAD = 1u << 1,  /* free the blocks of dead members */
  ANNEX_REFUSE_MISUSE = 1u << 2  /* count and log program mistakes instead of stopping */
};
struct annex_heap_options {
  size_t struct_bytes;
  uint32_t flags;
  uint32_t file_mode;            /* 0: 0600 */
  uint64_t metadata_limit_bytes; /* 0: 64 GiB of address space */
  uint32_t member_limit, thread_limit, region_limit, zone_limit;
};

enum { /* annex_attach_options.flags */
  ANNEX_READ_ONLY = 1u << 0,
  ANNEX_MANUAL_REGIONS = 1u << 1, /* attach regions only by annex_heap_attach_memory */
  ANNEX_VERIFY = 1u << 2,         /* check the whole segment first */
  ANNEX_FOREIGN_MEMORY = 1u << 3  /* map what others brought, wherever it lies: they are trusted with that */
};
struct annex_attach_options {
  size_t struct_bytes;
  uint32_t flags;
};

enum { /* annex_memory_range.flags, annex_placement.flags */
  ANNEX_ZEROED = 1u << 0,          /* placement: zero the block */
  ANNEX_IOVA_CONTIGUOUS = 1u << 1, /* placement: from memory with IOVAs that follow each other */
  ANNEX_ZERO_ON_ADD = 1u << 2,     /* range: zero all of it now */
  ANNEX_NO_CPU_ACCESS = 1u << 3,   /* range: never touch it; it need not be mapped */
  ANNEX_IS_ZERO = 1u << 4,         /* range: it is all zeros already */
  ANNEX_PIN = 1u << 5              /* range: its pages are neither moved nor taken away */
};
struct annex_memory_range {
  size_t struct_bytes;
  void* base;
  size_t length_bytes, page_bytes; /* page_bytes 0: 4096 */
  const uint64_t* page_iovas;      /* page_iova_count of them, one per page; or NULL */
  size_t page_iova_count;
  int fd_plus_1;                   /* 0: none */
  uint64_t fd_offset;
  int numa_node_plus_1;            /* 0: any */
  uint32_t flags;
};
struct annex_placement {
  size_t struct_bytes, size_bytes;
  size_t align_bytes, boundary_bytes; /* 0: 64, none */
  uint32_t flags;
  int numa_node_plus_1;
};
struct annex_location {
  size_t struct_bytes;
  uint64_t heap;
  uint32_t region;
  uint32_t padding;
  uint64_t offset_bytes;
  uint64_t iova;                   /* UINT64_MAX: none (or the last byte a bus can name, where that is memory) */
  uint64_t contiguous_bytes;
};
struct annex_zone {
  size_t struct_bytes;
  void* address;                   /* in this process */
  uint64_t size_bytes;
  uint64_t handle;
  uint64_t iova;                   /* UINT64_MAX: none */
};
struct annex_stats {
  size_t struct_bytes;
  uint64_t total_bytes, used_bytes, cached_bytes, free_bytes, largest_free_bytes, live_blocks, region_count, member_count, metadata_bytes;
};

ANNEX_PUBLIC int annex_heap_create(const char* name, const struct annex_heap_options* options, annex_heap** out); /* NULL name: private */
ANNEX_PUBLIC int annex_heap_attach(const char* name, const struct annex_attach_options* options, annex_heap** out);
ANNEX_PUBLIC void annex_heap_close(annex_heap* heap);
ANNEX_PUBLIC int annex_heap_destroy(const char* name);
ANNEX_PUBLIC int annex_heap_add_memory(annex_heap* heap, const struct annex_memory_range* range, uint32_t* region);
ANNEX_PUBLIC int annex_heap_remove_memory(annex_heap* heap, uint32_t region);
ANNEX_PUBLIC int annex_heap_drain_memory(annex_heap* heap, uint32_t region, uint64_t deadline_ns);
ANNEX_PUBLIC int annex_heap_attach_memory(annex_heap* heap, uint32_t region, void* base); /* NULL base: map it by its fd or path */
ANNEX_PUBLIC int annex_heap_detach_memory(annex_heap* heap, uint32_t region);

ANNEX_PUBLIC void* annex_allocate(annex_heap* heap, size_t size_bytes); /* size 0: NULL, as any size that can't be; annex_last_failure_text() says so */
ANNEX_PUBLIC void* annex_allocate_placed(annex_heap* heap, const struct annex_placement* placement);
ANNEX_PUBLIC size_t annex_allocate_bulk(annex_heap* heap, size_t size_bytes, void** blocks, size_t count);
ANNEX_PUBLIC void* annex_reallocate(annex_heap* heap, void* block, size_t size_bytes); /* one that moves is aligned as by annex_allocate(); NULL: the old one is unchanged, or was freed (size 0) */
ANNEX_PUBLIC void* annex_reallocate_placed(annex_heap* heap, void* block, const struct annex_placement* placement); /* keeps what the placement says; not ANNEX_ZEROED */
ANNEX_PUBLIC void annex_free(void* block);
ANNEX_PUBLIC void annex_free_bulk(void* const* blocks, size_t count);
ANNEX_PUBLIC size_t annex_usable_size(const void* block);

ANNEX_PUBLIC int annex_locate(const void* address, struct annex_location* out); /* foreign_handle: in no region */
ANNEX_PUBLIC void* annex_address_of(annex_heap* heap, uint64_t iova);
ANNEX_PUBLIC uint64_t annex_handle_of(annex_heap* heap, const void* address); /* 0: in no live block of this heap */
ANNEX_PUBLIC int annex_resolve(annex_heap* heap, uint64_t handle, void** out); /* stale_handle: its block was freed; heap.hpp says how exactly */

ANNEX_PUBLIC int annex_zone_reserve(annex_heap* heap, const char* name, const struct annex_placement* placement, struct annex_zone* out);
ANNEX_PUBLIC int annex_zone_find(annex_heap* heap, const char* name, struct annex_zone* out);
ANNEX_PUBLIC int annex_zone_release(annex_heap* heap, const char* name);

ANNEX_PUBLIC int annex_heap_stats(annex_heap* heap, struct annex_stats* out);
ANNEX_PUBLIC int annex_heap_audit(annex_heap* heap); /* 0 when every invariant holds, corrupt when not */

ANNEX_PUBLIC const char* annex_strerror(int code);         /* the general sentence for a code */
ANNEX_PUBLIC const char* annex_last_error_text(void);      /* this thread's last refusal, in full; "" before the first */
ANNEX_PUBLIC const char* annex_last_failure_text(void);    /* why this thread's last allocation failed */

#ifdef __cplusplus
}
#endif
#endif
