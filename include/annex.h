/* annex.h - the C face of annex: named heaps over memory you bring, shared by any process.
 *
 *   annex_heap* heap = NULL;
 *   int is_new = 0;
 *   struct annex_memory_source source = {.struct_bytes = sizeof source, .length_bytes = 256 << 20};
 *   if (annex_open("packets", NULL, &heap, &is_new) != 0 ||
 *       (is_new && annex_bring_memory(heap, &source, NULL) != 0))
 *     puts(annex_last_error_text());
 *   void* block = annex_allocate(heap, 1500);
 *   annex_free(block);
 *   annex_heap_close(heap);
 *
 * Refusals   Every int is 0 or a negative annex_errc, unless its comment says otherwise.
 *            annex_last_error_text() is this thread's last refusal in full: the value, the limit
 *            and the remedy. What is refused has changed nothing. Every function may also refuse
 *            with invalid_argument: a null pointer where one is needed, a struct without
 *            struct_bytes, a flag that does not exist; the comments do not repeat it.
 * Structs    Begin with struct_bytes: set it to sizeof the struct, in those that are filled for you
 *            too. Zero in every other field means the default; a null pointer to options means all
 *            defaults. What counts from 0 elsewhere and has a "none" is counted from 1 here, so
 *            that zero is none: fd_plus_1, numa_node_plus_1.
 * Growth     Fields are only ever added at the end of a struct, values at the end of an enum, bits
 *            where there were none; nothing is moved, renumbered or taken away within a SONAME. A
 *            library reads as much of an options struct as struct_bytes says, and refuses
 *            (not_supported) one that is longer than it knows and not zero there; it fills as much
 *            of a result as there is room for. Structs that the library gives to callbacks or by
 *            pointer begin with their own length in struct_bytes: look at no field beyond it. They
 *            are never in arrays. annex_iova_run and annex_holding have no struct_bytes: they stay
 *            as they are.
 * Strings    End with a zero byte. Those in structs that are given to you live as long as the
 *            struct does: during the callback, or until the snapshot is freed.
 * Threads    Every function may be called from any thread at any time, except that closing a heap,
 *            pool, ring, snapshot, lease or observation must not race with its use. Not
 *            async-signal-safe.
 * Processes  Any process may attach by name, in any order, and be killed at any instruction. After
 *            a fork the child may go on with a named heap, as a member of its own; a private heap
 *            is refused there (forked_away).
 * Callbacks  Are called by the thread that called the function, unless said otherwise, and have
 *            returned when it returns. They must neither throw nor longjmp. A visit returns 0 to go
 *            on, anything else to be called no more.
 *
 * annex/heap.hpp and its neighbours say more of each subject; their names are the same. For parsers
 * that neither include nor expand macros (cffi, pycparser) this file is also there as
 * annex_ffi.h. */
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

/* ---- refusals ----------------------------------------------------------------------------- */

/** Codes are negative: ANNEX_E_no_such_heap is -4. annex/errors.def has their sentences. */
enum annex_errc {
  ANNEX_OK = 0,
#define ANNEX_ERROR(number, name, text) ANNEX_E_##name = -(number),
#include <annex/errors.def>
#undef ANNEX_ERROR
  ANNEX_E_last_ = -10000
};

/** A refusal in full. */
struct annex_error {
  size_t struct_bytes;
  int code;     /**< annex_errc */
  int os_errno; /**< of the system call behind it, or 0 */
  char text[248];
};

/** What a member holds. */
struct annex_holding {
  uint32_t member;
  int32_t process_id;
  uint64_t bytes;
};

/** annex_explanation.why */
enum annex_cause {
  ANNEX_CAUSE_none = 0,
  ANNEX_CAUSE_no_region,
  ANNEX_CAUSE_no_fit,
  ANNEX_CAUSE_alignment,
  ANNEX_CAUSE_boundary,
  ANNEX_CAUSE_contiguity,
  ANNEX_CAUSE_no_addresses,
  ANNEX_CAUSE_limit,
  ANNEX_CAUSE_bad_request,
  ANNEX_CAUSE_not_attached,
  ANNEX_CAUSE_no_cpu_access,
  ANNEX_CAUSE_read_only,
  ANNEX_CAUSE_forked_away,
  ANNEX_CAUSE_damaged,
  ANNEX_CAUSE_one_region
};
/** Why an allocation failed, with the figures of then. */
struct annex_explanation {
  size_t struct_bytes;
  uint32_t why; /**< annex_cause */
  uint32_t padding;
  uint64_t requested_bytes, free_bytes, largest_free_bytes, hole_count, cached_bytes;
  struct annex_holding top[3]; /**< who holds most; member 0: nobody */
  char text[320];
};

/** The general sentence for a code, also for numbers that are no code; 0 is "no error". Never
 * null; lives for ever. */
ANNEX_PUBLIC const char* annex_strerror(int code);
/** The name of a code as in errors.def, "region_overlap"; "unknown" for what is none. Never null;
 * lives for ever. */
ANNEX_PUBLIC const char* annex_errc_name(int code);
/** This thread's last refusal, in full; "" before the first. Lives until this thread's next
 * refusal. */
ANNEX_PUBLIC const char* annex_last_error_text(void);
/** The same with its code and errno; code 0 before the first. */
ANNEX_PUBLIC int annex_last_error(struct annex_error* out);
/** Makes this the calling thread's last refusal, and returns the code: for callbacks of observers,
 * `return annex_refuse(ANNEX_E_vetoed, "the device has no room for it")`. text may be null: the
 * general sentence. A code that is none of annex_errc's becomes invalid_argument. */
ANNEX_PUBLIC int annex_refuse(int code, const char* text);
/** Why this thread's last allocation failed, in a sentence. Lives until this thread asks again. */
ANNEX_PUBLIC const char* annex_last_failure_text(void);
/** The same with the figures. */
ANNEX_PUBLIC int annex_last_failure(struct annex_explanation* out);
/** Bytes that somebody else chose (names of zones and programs, paths) as text that may be shown
 * anywhere: valid UTF-8, in which what would move a terminal's cursor, and bytes that are no
 * text, are \xNN. Writes at most room bytes, the last of which is 0, and returns how long the
 * whole text is without it. */
ANNEX_PUBLIC size_t annex_printable(const char* bytes, size_t length_bytes, char* out, size_t room);

/* ---- the library -------------------------------------------------------------------------- */

/** The version of the library that runs: "0.1.0". Lives for ever. */
ANNEX_PUBLIC const char* annex_version(void);
/** The same as a number to compare: major * 1000000 + minor * 1000 + patch. Never negative, no
 * refusal. */
ANNEX_PUBLIC int annex_version_number(void);
/** The directory of segments: $ANNEX_DIR, else $XDG_RUNTIME_DIR/annex, else /dev/shm/annex-UID.
 * Lives until this thread asks again. */
ANNEX_PUBLIC const char* annex_directory(void);

/* ---- the heap itself ---------------------------------------------------------------------- */

/** A heap that this process has open. */
typedef struct annex_heap annex_heap;

/** annex_heap_options.flags */
enum {
  ANNEX_CHECKED = 1u << 0,       /**< catch every double free at once */
  ANNEX_RECLAIM_DEAD = 1u << 1,  /**< free the blocks of dead members */
  ANNEX_REFUSE_MISUSE = 1u << 2, /**< count and log program mistakes instead of stopping */
  ANNEX_EPHEMERAL = 1u << 3      /**< worthless without members: its name may be taken over then */
};
/** How a heap is made. annex/types.hpp says more of each. */
struct annex_heap_options {
  size_t struct_bytes;
  uint32_t flags;
  uint32_t file_mode;            /**< 0: 0600 */
  uint64_t metadata_limit_bytes; /**< 0: 64 GiB of address space; 2 MiB to 1 TiB */
  uint32_t member_limit;         /**< at once; 0: 4096; up to 60,000 */
  uint32_t thread_limit;         /**< that allocate at once; 0: 16384; up to 60,000 */
  uint32_t region_limit;         /**< at once; 0: 16384; up to 16,384 */
  uint32_t zone_limit;           /**< at once; 0: 131072; up to 16,777,216 */
};

/** annex_attach_options.flags */
enum {
  ANNEX_READ_ONLY = 1u << 0,      /**< look, don't touch */
  ANNEX_MANUAL_REGIONS = 1u << 1, /**< attach regions only by annex_heap_attach_memory */
  ANNEX_VERIFY = 1u << 2,         /**< check the whole segment first */
  ANNEX_FOREIGN_MEMORY = 1u << 3  /**< map what others brought, wherever it lies; trusts them */
};
/** How a heap is joined. */
struct annex_attach_options {
  size_t struct_bytes;
  uint32_t flags;
  uint32_t padding;
};

/** Makes an empty heap; a null name makes a private one, for this process alone. Errors:
 * invalid_name, name_taken, permission, os_failure. */
ANNEX_PUBLIC int annex_heap_create(const char* name, const struct annex_heap_options* options,
                                   annex_heap** out);
/** Joins a heap; again in the same process: the same mapping. Errors: invalid_name, no_such_heap,
 * incompatible_layout, corrupt (annex_heap_repair), permission, limit_reached, heap_in_use (it is
 * being repaired), already_attached (here, with the other ANNEX_MANUAL_REGIONS), os_failure. */
ANNEX_PUBLIC int annex_heap_attach(const char* name, const struct annex_attach_options* options,
                                   annex_heap** out);
/** Joins a heap, or makes it where there is none: of many that do so at once exactly one makes it.
 * The options are for the one that is made. is_new (or null): 1 if it was made here; it has no
 * memory yet. Errors: those of both, but for no_such_heap and name_taken. */
ANNEX_PUBLIC int annex_open(const char* name, const struct annex_heap_options* options,
                            annex_heap** out, int* is_new);
/** This process detaches. Nothing is freed; a private heap ends. Observations, leases, pools and
 * rings of it are closed before. Null is ignored. */
ANNEX_PUBLIC void annex_heap_close(annex_heap* heap);
/** Ends a heap. Errors: invalid_name, no_such_heap, heap_in_use, blocks_live, incompatible_layout,
 * corrupt, permission. */
ANNEX_PUBLIC int annex_heap_destroy(const char* name);
/** Its name; "" for a private one. Lives as long as the heap is open. */
ANNEX_PUBLIC const char* annex_heap_name(const annex_heap* heap);
/** The same number in every process; 0 for null. */
ANNEX_PUBLIC uint64_t annex_heap_id(const annex_heap* heap);
/** This process among the members; 0 for null. */
ANNEX_PUBLIC uint32_t annex_heap_self(const annex_heap* heap);

/** A heap of the annex directory, or what lies there under such a name. */
struct annex_heap_summary {
  size_t struct_bytes;
  const char* name;
  uint64_t id;
  uint64_t total_bytes, used_bytes, metadata_bytes;
  uint32_t region_count, zone_count, member_count;
  uint32_t padding;
  const char*
      problem; /**< "": it is fine; else why its figures are missing or wrong, and what to do */
};
/** Is shown a heap. 0: go on. */
typedef int (*annex_visit_heap)(void* context, const struct annex_heap_summary* heap);
/** Shows every heap of the annex directory, by name. Writes nothing. Errors: permission,
 * os_failure. */
ANNEX_PUBLIC int annex_list(annex_visit_heap visit, void* context);

/** What a sentence of a repair is about. */
enum annex_repair_part {
  ANNEX_REPAIR_found = 0,
  ANNEX_REPAIR_changed,
  ANNEX_REPAIR_uncertain,
  ANNEX_REPAIR_broken_still
};
/** What a repair found and did. */
struct annex_repair_report {
  size_t struct_bytes;
  uint64_t found, changed, uncertain, broken_still; /**< how many sentences of each part */
};
/** Is told a sentence. 0: go on. */
typedef int (*annex_visit_repair)(void* context, enum annex_repair_part part, const char* sentence);
/** Rebuilds every index of a damaged heap from the truth, and says what it found, what it changed,
 * and what nothing vouches for. Nobody may be attached. out and visit may be null. Errors:
 * invalid_name, no_such_heap, heap_in_use, corrupt (the header itself), incompatible_layout,
 * permission, os_failure. 0 also when something is broken still: look at the report. */
ANNEX_PUBLIC int annex_heap_repair(const char* name, struct annex_repair_report* out,
                                   annex_visit_repair visit, void* context);

/* ---- memory ------------------------------------------------------------------------------- */

/** annex_memory_range.flags, annex_placement.flags, annex_memory_source.flags */
enum {
  ANNEX_ZEROED = 1u << 0,          /**< placement: zero the block; the CPU must be allowed to */
  ANNEX_IOVA_CONTIGUOUS = 1u << 1, /**< placement, pool: memory with IOVAs that follow each other */
  ANNEX_ZERO_ON_ADD = 1u << 2,     /**< range: zero all of it now */
  ANNEX_NO_CPU_ACCESS = 1u << 3,   /**< range: never touch it; it need not be mapped */
  ANNEX_IS_ZERO = 1u << 4,         /**< range: it is all zeros already */
  ANNEX_PIN = 1u << 5,             /**< range, source: its pages stay where they are */
  ANNEX_SAME_ADDRESS = 1u << 6,    /**< range: a promise that every member has it at this address */
  ANNEX_PREFAULT = 1u << 7,        /**< source: touch every page now */
  ANNEX_PHYSICAL_IOVAS = 1u << 8,  /**< source: from /proc/self/pagemap; needs privilege, and pinned
                                      or hugetlb pages */
  ANNEX_RESERVE = 1u << 9,         /**< source: take every page from its file system, or refuse */
  ANNEX_OVERCOMMIT = 1u << 10,     /**< source: more than there is; a write that finds no page ends
                                      the program */
  ANNEX_ON_COMMIT = 1u << 11       /**< placement of a zone: found only from annex_zone_commit on */
};
/** How far it is; called by any of the threads that work, one call at a time. */
typedef void (*annex_progress)(void* context, uint64_t done_bytes, uint64_t total_bytes);

/** annex_memory_range.huge, annex_memory_source.huge, annex_region_summary.huge: transparent huge
 * pages. annex/types.hpp says more. */
enum annex_huge_pages {
  ANNEX_HUGE_automatic = 0, /**< source: aligned where it is populated anyway; range: as it is */
  ANNEX_HUGE_never,         /**< small pages, whatever the machine would give */
  ANNEX_HUGE_aligned,       /**< whole aligned pieces of it, as far as the kernel has them */
  ANNEX_HUGE_always         /**< the same, made now, or refused */
};
/** Memory that you have mapped already. */
struct annex_memory_range {
  size_t struct_bytes;
  void* base;                      /**< aligned to page_bytes */
  size_t length_bytes, page_bytes; /**< whole pages; page_bytes 0: 4096 */
  const uint64_t* page_iovas;      /**< page_iova_count of them, one per page; or null */
  size_t page_iova_count;
  int fd_plus_1;        /**< lets others map it; annex keeps a duplicate; 0: none */
  uint64_t fd_offset;   /**< bytes, a multiple of 4096 */
  int numa_node_plus_1; /**< 0: any */
  uint32_t flags;
  uint32_t threads;        /**< that pin it; 0: one per CPU */
  uint32_t huge;           /**< annex_huge_pages */
  annex_progress progress; /**< of pinning, or null */
  void* progress_context;
};
/** Adds memory: all or nothing. region may be null. Errors: bad_alignment, bad_page_size,
 * bad_length, bad_iova, iova_overlap, region_overlap, not_mapped, not_writable, no_cpu_access,
 * wrong_node, vetoed, limit_reached, read_only, forked_away. */
ANNEX_PUBLIC int annex_heap_add_memory(annex_heap* heap, const struct annex_memory_range* range,
                                       uint32_t* region);

/** annex_memory_source.from */
enum annex_memory_kind {
  ANNEX_MEMORY_default = 0, /**< shared */
  ANNEX_MEMORY_anonymous,   /**< for this process and its children */
  ANNEX_MEMORY_shared,      /**< a file in the annex directory (named heaps), a memfd (private) */
  ANNEX_MEMORY_hugetlb,     /**< path: directory of a hugetlbfs; null: a memfd */
  ANNEX_MEMORY_file,        /**< path: created or grown as needed */
  ANNEX_MEMORY_device,      /**< path: of a DAX device */
  ANNEX_MEMORY_descriptor   /**< fd_plus_1: mapped as it is; annex keeps a duplicate */
};
/** Memory that annex gets for you. */
struct annex_memory_source {
  size_t struct_bytes;
  uint32_t from; /**< annex_memory_kind */
  uint32_t flags;
  size_t length_bytes;
  size_t page_bytes; /**< 0: 4096; hugetlb: 2 MiB (also for 0) or 1 GiB */
  const char* path;
  uint64_t offset_bytes; /**< into the file or descriptor, a multiple of 4096 */
  int fd_plus_1;
  int numa_node_plus_1;       /**< bound before the first touch; 0: any */
  const uint64_t* page_iovas; /**< as in annex_memory_range */
  size_t page_iova_count;
  uint32_t threads;        /**< for prefault and pin; 0: one per CPU */
  uint32_t huge;           /**< annex_huge_pages */
  annex_progress progress; /**< of reserving, populating or pinning; or null */
  void* progress_context;
};
/** Makes or opens memory and adds it; removing unmaps it. What the file system or the machine
 * can't hold is refused. region may be null. Errors: those of annex_heap_add_memory,
 * not_supported, permission, out_of_memory, wrong_memory, os_failure. */
ANNEX_PUBLIC int annex_bring_memory(annex_heap* heap, const struct annex_memory_source* source,
                                    uint32_t* region);
/** Takes a region back when nothing in it is live. Errors: no_such_region, blocks_live, leased,
 * observed_elsewhere, deadline_passed (an observer), read_only. On error nothing has changed. */
ANNEX_PUBLIC int annex_heap_remove_memory(annex_heap* heap, uint32_t region);
/** Stops allocation from the region, waits for its last block up to deadline_ns from now (at most
 * a year), removes it. Errors: those of annex_heap_remove_memory, deadline_passed (says who holds
 * what), canceled. On error the region serves again. */
ANNEX_PUBLIC int annex_heap_drain_memory(annex_heap* heap, uint32_t region, uint64_t deadline_ns);
/** Makes a drain of this region, in any process, return canceled. Errors: no_such_region,
 * read_only, forked_away. */
ANNEX_PUBLIC int annex_cancel_drain(annex_heap* heap, uint32_t region);
/** Says where another process's region lies here; null base: maps it by its fd or path. Errors:
 * no_such_region, already_attached, bad_alignment, region_overlap, not_mapped, not_writable,
 * wrong_memory, cannot_attach, vetoed. */
ANNEX_PUBLIC int annex_heap_attach_memory(annex_heap* heap, uint32_t region, void* base);
/** Forgets a region here; must not race with use of its blocks in this process. Errors:
 * no_such_region, not_attached, leased, forked_away, deadline_passed (an observer). */
ANNEX_PUBLIC int annex_heap_detach_memory(annex_heap* heap, uint32_t region);
/** Touches every page by so many threads (0: one per CPU) and checks its NUMA node. progress may
 * be null. Errors: no_such_region, not_attached, no_cpu_access, out_of_memory, wrong_node. */
ANNEX_PUBLIC int annex_prefault(annex_heap* heap, uint32_t region, unsigned threads,
                                annex_progress progress, void* context);
/** Follows what other processes did: attaches, detaches and tells observers. Slow paths do it by
 * themselves. */
ANNEX_PUBLIC void annex_synchronize(annex_heap* heap);
/** There is no room for size_bytes: non-zero when there may be now (it added memory, say), and the
 * allocation tries again. */
typedef int (*annex_grow)(void* context, size_t size_bytes);
/** What to do here on a shortage; null: nothing any more. Called by the threads that allocate,
 * several at once, without any lock. Set it before other threads allocate. */
ANNEX_PUBLIC int annex_on_shortage(annex_heap* heap, annex_grow grow, void* context);
/** Gives back what this process's threads keep in their caches. */
ANNEX_PUBLIC void annex_trim(annex_heap* heap);

/* ---- blocks ------------------------------------------------------------------------------- */

/** What a block must be like. */
struct annex_placement {
  size_t struct_bytes, size_bytes;
  size_t align_bytes;      /**< power of two; 0: 64 */
  size_t boundary_bytes;   /**< power of two, at least size_bytes: the block crosses no multiple of
                            it; 0: none */
  uint32_t flags;          /**< ANNEX_ZEROED, ANNEX_IOVA_CONTIGUOUS */
  int numa_node_plus_1;    /**< preferred; 0: any */
  size_t iova_align_bytes; /**< power of two, of the IOVA alone: align_bytes is then of the address
                              alone; 0: align_bytes says both; else ANNEX_IOVA_CONTIGUOUS */
  uint64_t highest_iova;   /**< no byte has a higher IOVA; 0: any; else ANNEX_IOVA_CONTIGUOUS */
};

/** A block of 1 byte to 16 TiB, aligned to 16 (64 from 64 bytes up in steps of 64). Null:
 * annex_last_failure_text() says why, of size 0 too (of a null heap annex_last_error_text()). A
 * cached allocation takes no lock and makes no system call. */
ANNEX_PUBLIC void* annex_allocate(annex_heap* heap, size_t size_bytes);
/** The same as the placement says. Null also when the struct is not as it must be
 * (annex_last_error_text()). */
ANNEX_PUBLIC void* annex_allocate_placed(annex_heap* heap, const struct annex_placement* placement);
/** Fills as many of count pointers as it can, from the front; returns how many. */
ANNEX_PUBLIC size_t annex_allocate_bulk(annex_heap* heap, size_t size_bytes, void** blocks,
                                        size_t count);
/** Grows or shrinks, in place or by moving; one that moves is aligned as by annex_allocate().
 * Null: the old one is unchanged, or was freed (size 0). A null block is an allocation. */
ANNEX_PUBLIC void* annex_reallocate(annex_heap* heap, void* block, size_t size_bytes);
/** The same, and it is as the placement says afterwards. ANNEX_ZEROED is refused. */
ANNEX_PUBLIC void* annex_reallocate_placed(annex_heap* heap, void* block,
                                           const struct annex_placement* placement);
/** Frees a block of any heap, allocated by any thread or process. Null is ignored. A mistake stops
 * the program with a report, or is counted (ANNEX_REFUSE_MISUSE). */
ANNEX_PUBLIC void annex_free(void* block);
/** annex_free for each of them. */
ANNEX_PUBLIC void annex_free_bulk(void* const* blocks, size_t count);
/** How many bytes a block really has; 0 for what is no live block. */
ANNEX_PUBLIC size_t annex_usable_size(const void* block);

/* ---- addresses ---------------------------------------------------------------------------- */

/** Where a byte lies. */
struct annex_location {
  size_t struct_bytes;
  uint64_t heap;
  uint32_t region;
  uint32_t padding;
  uint64_t offset_bytes; /**< from the region's start */
  uint64_t iova; /**< UINT64_MAX: none (or the last byte a bus can name, where that is memory) */
  uint64_t contiguous_bytes; /**< IOVAs go on so far; without: to the region's end */
};
/** Of any byte of any region of any heap here; wait-free. Errors: foreign_handle (in no region). */
ANNEX_PUBLIC int annex_locate(const void* address, struct annex_location* out);
/** The address here of a bus address; null: no region of this heap attached here has it. */
ANNEX_PUBLIC void* annex_address_of(annex_heap* heap, uint64_t iova);
/** The handle of a byte of a live block: the same 64 bits in every process, stale for ever once
 * the block is freed. 0: in no live block of this heap. heap.hpp says how exactly. */
ANNEX_PUBLIC uint64_t annex_handle_of(annex_heap* heap, const void* address);
/** The address here of a handle; attaches its region if need be. Errors: stale_handle,
 * foreign_handle, cannot_attach, not_attached (manual regions). */
ANNEX_PUBLIC int annex_resolve(annex_heap* heap, uint64_t handle, void** out);
/** What devices may call the byte of a handle in a region of so many bytes
 * (annex_region_view.remote_base). */
ANNEX_PUBLIC uint64_t annex_remote_address(uint64_t handle, uint64_t region_bytes);

/* ---- zones -------------------------------------------------------------------------------- */

/** A named block. */
struct annex_zone {
  size_t struct_bytes;
  void* address; /**< in this process */
  uint64_t size_bytes;
  uint64_t handle;
  uint64_t iova; /**< of the first byte; UINT64_MAX: none */
  uint32_t region;
  uint32_t padding;
  uint64_t generation; /**< higher than of every zone before */
};
/** Allocates a block under a name (1 to 63 bytes); size_bytes 0: the largest in what is
 * free. out may be
 * null. Errors: invalid_name, zone_exists, out_of_memory, limit_reached, read_only. */
ANNEX_PUBLIC int annex_zone_reserve(annex_heap* heap, const char* name,
                                    const struct annex_placement* placement,
                                    struct annex_zone* out);
/** From now on it is found, with everything that this thread wrote into it before. filled is what
 * annex_zone_reserve gave. Only its maker's process may. Errors: invalid_name, no_such_zone
 * (released, or another generation), wrong_kind, heap_in_use (another process fills it),
 * read_only. */
ANNEX_PUBLIC int annex_zone_commit(annex_heap* heap, const char* name,
                                   const struct annex_zone* filled);
/** Waits up to deadline_ns from now (0: looks once; at most a year) until a zone of this name with
 * a generation above after_generation (0: any) can be found; whoever was to commit it may die, the
 * next one's is waited for. Errors: those of annex_zone_find but for no_such_zone and
 * not_committed; deadline_passed. */
ANNEX_PUBLIC int annex_zone_wait(annex_heap* heap, const char* name, uint64_t deadline_ns,
                                 uint64_t after_generation, struct annex_zone* out);
/** Errors: invalid_name, no_such_zone, not_committed, cannot_attach, wrong_kind (a pool or
 * ring). */
ANNEX_PUBLIC int annex_zone_find(annex_heap* heap, const char* name, struct annex_zone* out);
/** Errors: invalid_name, no_such_zone, wrong_kind, read_only. */
ANNEX_PUBLIC int annex_zone_release(annex_heap* heap, const char* name);

/* ---- observers and leases ----------------------------------------------------------------- */

/** A stretch of a region whose IOVAs follow each other. */
struct annex_iova_run {
  uint64_t offset_bytes, length_bytes, iova;
};
/** What an observer is told about a region. Valid during the call. */
struct annex_region_view {
  size_t struct_bytes;
  uint64_t heap;
  uint32_t region;
  uint32_t no_cpu_access; /**< 1: the bytes are never touched */
  void* base;             /**< in this process */
  uint64_t length_bytes, page_bytes;
  int fd;        /**< to map or share it, or -1 */
  int numa_node; /**< -1: any */
  uint64_t fd_offset;
  const struct annex_iova_run* runs; /**< in order */
  size_t run_count;                  /**< 0: no IOVAs */
  uint64_t remote_base;              /**< annex_remote_address() of its first byte */
};
/** Whether finish_remove may have to wait. */
enum annex_quiesce { ANNEX_QUIESCE_done = 0, ANNEX_QUIESCE_pending = 1 };
/** Code that must agree before memory becomes usable here, and is told before it goes away. Called
 * by whichever thread of this process adds, attaches or removes, never with a lock of annex held:
 * allocating, freeing and looking up inside are allowed, adding or removing memory of the same
 * heap is not. */
struct annex_observer {
  size_t struct_bytes;
  const char* name; /**< copied; null: "observer" */
  /** 0: agreed. Else an annex_errc, best by annex_refuse(): the region is not added. Also called
   * when a removal that had begun was refused; the result is then ignored. */
  int (*on_add)(void* context, const struct annex_region_view* region);
  /** No block of it is live any more: forbid new use. May be null: done. */
  enum annex_quiesce (*begin_remove)(void* context, const struct annex_region_view* region);
  /** Wait for the device until the deadline (nanoseconds of CLOCK_MONOTONIC), then unregister. 0,
   * or an annex_errc; called again after an error. */
  int (*finish_remove)(void* context, const struct annex_region_view* region, uint64_t deadline_ns);
};
/** Keeps an observer subscribed. */
typedef struct annex_observation annex_observation;
/** Tells the observer of every region, then of changes, until annex_observation_end. The struct is
 * copied. on_add and finish_remove must be there. Errors: vetoed (it is told to remove those it
 * had accepted). */
ANNEX_PUBLIC int annex_observe(annex_heap* heap, const struct annex_observer* observer,
                               void* context, annex_observation** out);
/** Tells the observer to remove every region, then no more. Before the heap is closed. Null is
 * ignored. */
ANNEX_PUBLIC void annex_observation_end(annex_observation* observation);

/** A claim on a region. */
typedef struct annex_lease annex_lease;
/** A claim on a region that keeps it from being removed; given back by annex_lease_end, or when
 * the process dies. Errors: no_such_region, not_attached, read_only. */
ANNEX_PUBLIC int annex_hold(annex_heap* heap, uint32_t region, annex_lease** out);
/** Before the heap is closed. Null is ignored. */
ANNEX_PUBLIC void annex_lease_end(annex_lease* lease);

/* ---- seeing ------------------------------------------------------------------------------- */

/** In bytes or counts. */
struct annex_stats {
  size_t struct_bytes;
  uint64_t total_bytes;        /**< of all regions */
  uint64_t used_bytes;         /**< in live blocks, rounded to what they occupy */
  uint64_t cached_bytes;       /**< free blocks that threads keep, and free blocks of slabs */
  uint64_t free_bytes;         /**< in no extent */
  uint64_t largest_free_bytes; /**< what one allocation could get */
  uint64_t live_blocks, region_count;
  uint64_t member_count;   /**< those that died without being recovered included */
  uint64_t metadata_bytes; /**< of the segment file that is really in use */
  uint64_t zone_count, thread_count, slab_count, hole_count;
  uint64_t misuse_count;      /**< refused program mistakes */
  uint64_t lock_steals;       /**< locks taken over from dead members */
  uint64_t recovered_threads; /**< caches taken back from the dead */
};
/** A region. */
struct annex_region_summary {
  size_t struct_bytes;
  uint32_t id;
  int numa_node; /**< -1: any */
  uint64_t length_bytes, page_bytes, free_bytes, largest_free_bytes, granule_bytes;
  uint32_t no_cpu_access, draining; /**< 0 or 1 */
  void* base;                       /**< in this process; null: not attached */
  uint64_t origin;                  /**< where its adder had it, as a number */
  uint32_t adder;
  uint32_t huge;       /**< annex_huge_pages: what is asked of the kernel; automatic: nothing */
  uint64_t iova_runs;  /**< 0: no IOVAs */
  uint64_t first_iova; /**< UINT64_MAX: none */
  const char* backing; /**< path, or how it can be reached; "": only by hand */
};
/** A zone, pool or ring. */
struct annex_zone_summary {
  size_t struct_bytes;
  const char* name;
  const char* kind; /**< "zone", "pool", "ring" */
  uint64_t handle, size_bytes;
  uint64_t generation; /**< of a zone (annex_zone.generation) */
  uint32_t committed;  /**< 0: it is being filled, or was when its maker died */
  uint32_t maker;      /**< the member that reserved it */
  int32_t maker_process_id;
  uint32_t maker_alive; /**< 0 or 1 */
};
/** annex_block_summary.kind */
enum annex_block_kind {
  ANNEX_BLOCK_slab_block = 0,
  ANNEX_BLOCK_large,
  ANNEX_BLOCK_zone,
  ANNEX_BLOCK_pool_object
};
/** A live block. */
struct annex_block_summary {
  size_t struct_bytes;
  uint32_t kind;   /**< annex_block_kind */
  uint32_t holder; /**< member; 0: nobody, a zone */
  uint64_t handle;
  void* address; /**< null: its region is not attached here */
  uint64_t size_bytes;
};
/** annex_map_piece.use */
enum annex_map_use { ANNEX_MAP_free = 0, ANNEX_MAP_large, ANNEX_MAP_zone, ANNEX_MAP_slab };
/** One stretch of a region: granules of one use. */
struct annex_map_piece {
  size_t struct_bytes;
  uint32_t region;
  uint32_t use; /**< annex_map_use */
  uint64_t offset_bytes, length_bytes;
  uint64_t live_bytes, cached_bytes; /**< of a slab: in live blocks, in free ones */
  uint32_t block_bytes;              /**< of a slab */
  uint32_t holder;
};
/** A process that is attached, or was and left blocks. */
struct annex_member_summary {
  size_t struct_bytes;
  uint32_t id;
  int process_id;
  const char* program;
  uint32_t alive, self; /**< 0 or 1 */
  uint64_t threads, cached_bytes, held_blocks, held_bytes;
};
/** What an audit found. */
struct annex_audit_report {
  size_t struct_bytes;
  uint64_t checked; /**< objects looked at */
  uint64_t broken;  /**< how many sentences */
  uint32_t exact;   /**< 1: everything was held still; 0: read-only, best effort */
  uint32_t padding;
};
/** Is shown a region. 0: go on. */
typedef int (*annex_visit_region)(void* context, const struct annex_region_summary* region);
/** Is shown a zone. 0: go on. */
typedef int (*annex_visit_zone)(void* context, const struct annex_zone_summary* zone);
/** Is shown a block. 0: go on. */
typedef int (*annex_visit_block)(void* context, const struct annex_block_summary* block);
/** Is shown a stretch of a region. 0: go on. */
typedef int (*annex_visit_map_piece)(void* context, const struct annex_map_piece* piece);
/** Is shown a member. 0: go on. */
typedef int (*annex_visit_member)(void* context, const struct annex_member_summary* member);
/** Is told a sentence. 0: go on. */
typedef int (*annex_visit_sentence)(void* context, const char* sentence);

/** Taken without stopping anyone; exact when nobody is allocating. */
ANNEX_PUBLIC int annex_heap_stats(annex_heap* heap, struct annex_stats* out);
/** Checks every invariant: 0 when they hold, corrupt when not (the text has the first). Holds
 * everybody still for a moment. */
ANNEX_PUBLIC int annex_heap_audit(annex_heap* heap);
/** The same with the figures and one sentence for each invariant that is broken. out and visit may
 * be null. Errors: corrupt (something is broken; out and visit have been served), forked_away. */
ANNEX_PUBLIC int annex_heap_audit_report(annex_heap* heap, struct annex_audit_report* out,
                                         annex_visit_sentence visit, void* context);
/** By id. */
ANNEX_PUBLIC int annex_for_each_region(annex_heap* heap, annex_visit_region visit, void* context);
/** How many bytes of a region are in transparent huge pages now: as mapped here, or by another
 * process that has it. Reads /proc/PID/smaps. Errors: no_such_region, not_supported (not known:
 * nobody who has it may be looked into). */
ANNEX_PUBLIC int annex_huge_bytes(annex_heap* heap, uint32_t region, uint64_t* out);
/** By name; waits for the heap lock. */
ANNEX_PUBLIC int annex_for_each_zone(annex_heap* heap, annex_visit_zone visit, void* context);
/** Every live block. Holds the heap still while they are collected; visit is called afterwards.
 * Errors: read_only, forked_away, corrupt. */
ANNEX_PUBLIC int annex_for_each_block(annex_heap* heap, annex_visit_block visit, void* context);
/** Region after region, by offset. */
ANNEX_PUBLIC int annex_for_each_map_piece(annex_heap* heap, annex_visit_map_piece visit,
                                          void* context);
/** By id, dead ones included; waits for the heap lock. */
ANNEX_PUBLIC int annex_for_each_member(annex_heap* heap, annex_visit_member visit, void* context);
/** Takes back caches and half-done operations of dead members. dead: how many were dead; may be
 * null. */
ANNEX_PUBLIC int annex_recover(annex_heap* heap, uint64_t* dead);
/** What to do with a block of a dead member: free it, or leave it where it is. */
enum annex_reap_choice { ANNEX_REAP_free = 0, ANNEX_REAP_keep = 1 };
/** Is shown a block of a dead member, and chooses. */
typedef enum annex_reap_choice (*annex_look)(void* context,
                                             const struct annex_block_summary* block);
/** Frees every block of a dead member, pool objects included. look, if not null, is shown each
 * first, without any lock, and only those it chooses are freed. freed: how many; may be null.
 * Errors: invalid_argument (alive, or nobody), read_only, forked_away. */
ANNEX_PUBLIC int annex_reap(annex_heap* heap, uint32_t member, annex_look look, void* context,
                            uint64_t* freed);

/* ---- snapshots: all of it in one look ----------------------------------------------------- */

/** annex_snapshot_options.flags */
enum {
  ANNEX_SNAPSHOT_NO_MAP = 1u << 0 /**< without map pieces */
};
/** What a snapshot looks at, and how far it goes. */
struct annex_snapshot_options {
  size_t struct_bytes;
  uint32_t flags;
  uint32_t most_extents; /**< looked at, of all regions together; 0: 1,048,576 */
  uint32_t tries;        /**< for one in which nothing changed, up to 100; 0: 3 */
  uint32_t padding;
};
/** What a snapshot says of itself. */
struct annex_snapshot_facts {
  size_t struct_bytes;
  uint64_t region_count, zone_count, member_count, map_piece_count;
  uint32_t changed;     /**< 1: the heap changed, or may have, during all tries: parts may be of
                           different moments */
  uint32_t complete;    /**< 0: problem says what is missing */
  uint64_t sequence;    /**< equal in two snapshots: regions, extents and zones have not changed in
                           between */
  uint64_t taken_ns;    /**< when it was finished, of CLOCK_MONOTONIC */
  uint32_t lock_holder; /**< member that had the heap lock before and after; it may be stopped; 0:
                           nobody */
  uint32_t tries;
  const char* problem; /**< "": it is fine; else what is damaged or missing, and what to do */
};
/** A heap as it was. Not changed by anything; any number of threads may read it. */
typedef struct annex_snapshot annex_snapshot;
/** Regions, zones, members, map and figures in one look: takes no lock of the heap and stops
 * nobody, so nobody makes it wait, not even a member that is stopped with the heap lock in its
 * hand. Never refused because a heap is busy or damaged. Also of a heap that is attached
 * read-only. options may be null. */
ANNEX_PUBLIC int annex_snapshot_take(annex_heap* heap, const struct annex_snapshot_options* options,
                                     annex_snapshot** out);
/** What was taken may be freed after the heap is closed. Null is ignored. */
ANNEX_PUBLIC void annex_snapshot_free(annex_snapshot* snapshot);
/** What it says of itself. */
ANNEX_PUBLIC int annex_snapshot_facts_of(const annex_snapshot* snapshot,
                                         struct annex_snapshot_facts* out);
/** The figures, as annex_heap_stats gives them. */
ANNEX_PUBLIC int annex_snapshot_stats(const annex_snapshot* snapshot, struct annex_stats* out);
/** By number from 0; what is pointed to lives until the snapshot is freed. Null: there are not so
 * many. */
ANNEX_PUBLIC const struct annex_region_summary* annex_snapshot_region(
    const annex_snapshot* snapshot, uint64_t index);
/** The same of its zones. */
ANNEX_PUBLIC const struct annex_zone_summary* annex_snapshot_zone(const annex_snapshot* snapshot,
                                                                  uint64_t index);
/** The same of its members. */
ANNEX_PUBLIC const struct annex_member_summary* annex_snapshot_member(
    const annex_snapshot* snapshot, uint64_t index);
/** The same of its map pieces. */
ANNEX_PUBLIC const struct annex_map_piece* annex_snapshot_map_piece(const annex_snapshot* snapshot,
                                                                    uint64_t index);

/** A descriptor for event loops that becomes readable once when a pool or ring has something, or
 * when waiting would be refused; a thread of annex's waits for it. One thread at a time may use it;
 * in a forked child it is dead. */
typedef struct annex_ready_event annex_ready_event;
/** For poll and its like alone: don't read, write or close it. -1: the event is null. */
ANNEX_PUBLIC int annex_ready_event_fd(const annex_ready_event* event);
/** Not readable from now on, until there is something. After the last look at what it is about. */
ANNEX_PUBLIC void annex_ready_event_rearm(annex_ready_event* event);
/** Ends its thread, which may take a tenth of a second, and closes the descriptor, before its pool
 * or ring and its heap are closed. Null is ignored. */
ANNEX_PUBLIC void annex_ready_event_end(annex_ready_event* event);

/* ---- pools: objects of one size under a name, with a cache per thread --------------------- */

/** annex_pool_options.flags, beside ANNEX_IOVA_CONTIGUOUS */
enum {
  ANNEX_POOL_NO_CACHE = 1u << 0 /**< threads keep no objects */
};
/** How a pool is made. */
struct annex_pool_options {
  size_t struct_bytes;
  size_t object_bytes;
  uint32_t object_count;  /**< 1 to 2^30 */
  uint32_t cache_objects; /**< per thread, up to 512; 0: 256 (ANNEX_POOL_NO_CACHE: none) */
  size_t align_bytes;     /**< of every object; 0: 64 */
  uint32_t flags;
  int numa_node_plus_1;  /**< 0: any */
  size_t boundary_bytes; /**< power of two, at least object_bytes: no object crosses a multiple of
                            it; 0: none */
  uint64_t highest_iova; /**< no byte has a higher IOVA; 0: any; else ANNEX_IOVA_CONTIGUOUS */
};
/** A pool that this process has open. */
typedef struct annex_pool annex_pool;
/** Errors: those of annex_zone_reserve. */
ANNEX_PUBLIC int annex_pool_create(annex_heap* heap, const char* name,
                                   const struct annex_pool_options* options, annex_pool** out);
/** Errors: invalid_name, no_such_zone, wrong_kind, cannot_attach, read_only, forked_away. */
ANNEX_PUBLIC int annex_pool_open(annex_heap* heap, const char* name, annex_pool** out);
/** Forgets it here, before its heap is closed; changes nothing of the pool. Null is ignored. */
ANNEX_PUBLIC void annex_pool_close(annex_pool* pool);
/** Ends it for everybody. Errors: no_such_zone, wrong_kind, blocks_live (objects are out),
 * read_only, heap_in_use (a thread is stopped in the middle of using it). */
ANNEX_PUBLIC int annex_pool_release(annex_heap* heap, const char* name);
/** 1; 0: it has been released, or the pool is null. */
ANNEX_PUBLIC int annex_pool_is_open(const annex_pool* pool);
/** Null: every object is out, the pool has been released, or this thread can have no cache. */
ANNEX_PUBLIC void* annex_pool_take(annex_pool* pool);
/** As many as there are, up to count; returns how many. */
ANNEX_PUBLIC size_t annex_pool_take_bulk(annex_pool* pool, void** objects, size_t count);
/** Of this pool, taken by any thread or process. Anything else, and giving twice, is a mistake as
 * in annex_free. */
ANNEX_PUBLIC void annex_pool_give(annex_pool* pool, void* object);
/** annex_pool_give for each of them. */
ANNEX_PUBLIC void annex_pool_give_bulk(annex_pool* pool, void* const* objects, size_t count);
/** How many objects it has; 0 for null. */
ANNEX_PUBLIC uint32_t annex_pool_object_count(const annex_pool* pool);
/** How far apart they lie; 0 for null. */
ANNEX_PUBLIC size_t annex_pool_object_bytes(const annex_pool* pool);
/** In the pool or in caches; waits for the heap lock. */
ANNEX_PUBLIC uint32_t annex_pool_free_count(const annex_pool* pool);
/** Takes one, and waits for one up to deadline_ns from now (0: looks once; at most a year). Errors:
 * deadline_passed, others_gone (nobody else who lives has the heap any more), no_such_zone
 * (released), limit_reached, corrupt, forked_away. */
ANNEX_PUBLIC int annex_pool_take_before(annex_pool* pool, uint64_t deadline_ns, void** out);
/** Waits as it does, and takes nothing: another one may be faster afterwards. */
ANNEX_PUBLIC int annex_pool_wait_for_object(const annex_pool* pool, uint64_t deadline_ns);
/** Readable when there is an object. Errors: os_failure, limit_reached, no_such_zone. */
ANNEX_PUBLIC int annex_pool_watch_objects(const annex_pool* pool, annex_ready_event** out);

/* ---- rings: a bounded queue of handles, any number of producers and consumers ------------- */

/** A ring that this process has open. */
typedef struct annex_ring annex_ring;
/** capacity: a power of two from 2 to 2^24. Errors: those of annex_zone_reserve. */
ANNEX_PUBLIC int annex_ring_create(annex_heap* heap, const char* name, uint64_t capacity,
                                   annex_ring** out);
/** Errors: invalid_name, no_such_zone, wrong_kind, read_only, forked_away. */
ANNEX_PUBLIC int annex_ring_open(annex_heap* heap, const char* name, annex_ring** out);
/** Forgets it here, before its heap is closed; changes nothing of the ring. Null is ignored. */
ANNEX_PUBLIC void annex_ring_close(annex_ring* ring);
/** Ends it for everybody. Errors: no_such_zone, wrong_kind, read_only. */
ANNEX_PUBLIC int annex_ring_release(annex_heap* heap, const char* name);
/** 1; 0: it has been released, or the ring is null. */
ANNEX_PUBLIC int annex_ring_is_open(const annex_ring* ring);
/** 1; 0: it is full, or has been released. Any 64 bits but 0 will do. */
ANNEX_PUBLIC int annex_ring_put(annex_ring* ring, uint64_t handle);
/** From the front as many as fit; returns how many. */
ANNEX_PUBLIC size_t annex_ring_put_bulk(annex_ring* ring, const uint64_t* handles, size_t count);
/** 0: it is empty, or has been released. */
ANNEX_PUBLIC uint64_t annex_ring_take(annex_ring* ring);
/** From its front as many as there are, up to count; returns how many. */
ANNEX_PUBLIC size_t annex_ring_take_bulk(annex_ring* ring, uint64_t* handles, size_t count);
/** Takes up to count (at most 64 in hand) and remembers them in the segment until
 * annex_ring_settle: if this process dies first, annex_ring_recover_in_hand of another gives them
 * out again. One thread per annex_ring. Returns how many. */
ANNEX_PUBLIC size_t annex_ring_take_in_hand(annex_ring* ring, uint64_t* handles, size_t count);
/** What was taken in hand is done with. */
ANNEX_PUBLIC void annex_ring_settle(annex_ring* ring);
/** Takes over what dead members had in hand. Settle your own first. Returns how many. */
ANNEX_PUBLIC size_t annex_ring_recover_in_hand(annex_ring* ring, uint64_t* handles, size_t count);
/** How many handles it has room for; 0 for null. */
ANNEX_PUBLIC uint64_t annex_ring_capacity(const annex_ring* ring);
/** Handles in it; moves while it is in use. */
ANNEX_PUBLIC uint64_t annex_ring_count(const annex_ring* ring);
/** Takes a handle, and waits for one up to deadline_ns from now (0: looks once; at most a year).
 * Errors: deadline_passed, others_gone (nobody else who lives has the heap any more), no_such_zone
 * (released), corrupt, forked_away. */
ANNEX_PUBLIC int annex_ring_take_before(annex_ring* ring, uint64_t deadline_ns, uint64_t* out);
/** The same for room. */
ANNEX_PUBLIC int annex_ring_put_before(annex_ring* ring, uint64_t handle, uint64_t deadline_ns);
/** Wait as they do, and take or put nothing: another one may be faster afterwards. */
ANNEX_PUBLIC int annex_ring_wait_for_handle(const annex_ring* ring, uint64_t deadline_ns);
/** The same for room. */
ANNEX_PUBLIC int annex_ring_wait_for_room(const annex_ring* ring, uint64_t deadline_ns);
/** Readable when there is a handle. Errors: os_failure, limit_reached, no_such_zone. */
ANNEX_PUBLIC int annex_ring_watch_handles(const annex_ring* ring, annex_ready_event** out);
/** Readable when there is room. Errors: the same. */
ANNEX_PUBLIC int annex_ring_watch_room(const annex_ring* ring, annex_ready_event** out);

#ifdef __cplusplus
}
#endif
#endif
