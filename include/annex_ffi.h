typedef unsigned long size_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef unsigned long uint64_t;
enum annex_errc {
  ANNEX_OK = 0,
ANNEX_E_invalid_argument = -(1),
ANNEX_E_invalid_name = -(2),
ANNEX_E_name_taken = -(3),
ANNEX_E_no_such_heap = -(4),
ANNEX_E_heap_in_use = -(5),
ANNEX_E_blocks_live = -(6),
ANNEX_E_no_such_region = -(7),
ANNEX_E_region_overlap = -(8),
ANNEX_E_bad_alignment = -(9),
ANNEX_E_bad_page_size = -(10),
ANNEX_E_bad_length = -(11),
ANNEX_E_bad_iova = -(12),
ANNEX_E_iova_overlap = -(13),
ANNEX_E_not_mapped = -(14),
ANNEX_E_not_writable = -(15),
ANNEX_E_vetoed = -(16),
ANNEX_E_deadline_passed = -(17),
ANNEX_E_canceled = -(18),
ANNEX_E_limit_reached = -(19),
ANNEX_E_already_attached = -(20),
ANNEX_E_not_attached = -(21),
ANNEX_E_cannot_attach = -(22),
ANNEX_E_wrong_memory = -(23),
ANNEX_E_no_such_zone = -(24),
ANNEX_E_zone_exists = -(25),
ANNEX_E_out_of_memory = -(26),
ANNEX_E_stale_handle = -(27),
ANNEX_E_foreign_handle = -(28),
ANNEX_E_read_only = -(29),
ANNEX_E_incompatible_layout = -(30),
ANNEX_E_corrupt = -(31),
ANNEX_E_os_failure = -(32),
ANNEX_E_permission = -(33),
ANNEX_E_leased = -(34),
ANNEX_E_observed_elsewhere = -(35),
ANNEX_E_no_cpu_access = -(36),
ANNEX_E_wrong_node = -(37),
ANNEX_E_not_supported = -(38),
ANNEX_E_forked_away = -(39),
ANNEX_E_wrong_kind = -(40),
ANNEX_E_misuse = -(41),
ANNEX_E_not_committed = -(42),
ANNEX_E_others_gone = -(43),
  ANNEX_E_last_ = -10000
};
struct annex_error {
  size_t struct_bytes;
  int code;
  int os_errno;
  char text[248];
};
struct annex_holding {
  uint32_t member;
  int32_t process_id;
  uint64_t bytes;
};
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
struct annex_explanation {
  size_t struct_bytes;
  uint32_t why;
  uint32_t padding;
  uint64_t requested_bytes, free_bytes, largest_free_bytes, hole_count, cached_bytes;
  struct annex_holding top[3];
  char text[320];
};
 const char* annex_strerror(int code);
 const char* annex_errc_name(int code);
 const char* annex_last_error_text(void);
 int annex_last_error(struct annex_error* out);
 int annex_refuse(int code, const char* text);
 const char* annex_last_failure_text(void);
 int annex_last_failure(struct annex_explanation* out);
 size_t annex_printable(const char* bytes, size_t length_bytes, char* out, size_t room);
 const char* annex_version(void);
 int annex_version_number(void);
 const char* annex_directory(void);
typedef struct annex_heap annex_heap;
enum {
  ANNEX_CHECKED = 1u << 0,
  ANNEX_RECLAIM_DEAD = 1u << 1,
  ANNEX_REFUSE_MISUSE = 1u << 2,
  ANNEX_EPHEMERAL = 1u << 3
};
struct annex_heap_options {
  size_t struct_bytes;
  uint32_t flags;
  uint32_t file_mode;
  uint64_t metadata_limit_bytes;
  uint32_t member_limit;
  uint32_t thread_limit;
  uint32_t region_limit;
  uint32_t zone_limit;
};
enum {
  ANNEX_READ_ONLY = 1u << 0,
  ANNEX_MANUAL_REGIONS = 1u << 1,
  ANNEX_VERIFY = 1u << 2,
  ANNEX_FOREIGN_MEMORY = 1u << 3
};
struct annex_attach_options {
  size_t struct_bytes;
  uint32_t flags;
  uint32_t padding;
};
 int annex_heap_create(const char* name, const struct annex_heap_options* options,
                                   annex_heap** out);
 int annex_heap_attach(const char* name, const struct annex_attach_options* options,
                                   annex_heap** out);
 int annex_open(const char* name, const struct annex_heap_options* options,
                            annex_heap** out, int* is_new);
 void annex_heap_close(annex_heap* heap);
 int annex_heap_destroy(const char* name);
 const char* annex_heap_name(const annex_heap* heap);
 uint64_t annex_heap_id(const annex_heap* heap);
 uint32_t annex_heap_self(const annex_heap* heap);
struct annex_heap_summary {
  size_t struct_bytes;
  const char* name;
  uint64_t id;
  uint64_t total_bytes, used_bytes, metadata_bytes;
  uint32_t region_count, zone_count, member_count;
  uint32_t padding;
  const char*
      problem;
};
typedef int (*annex_visit_heap)(void* context, const struct annex_heap_summary* heap);
 int annex_list(annex_visit_heap visit, void* context);
enum annex_repair_part {
  ANNEX_REPAIR_found = 0,
  ANNEX_REPAIR_changed,
  ANNEX_REPAIR_uncertain,
  ANNEX_REPAIR_broken_still
};
struct annex_repair_report {
  size_t struct_bytes;
  uint64_t found, changed, uncertain, broken_still;
};
typedef int (*annex_visit_repair)(void* context, enum annex_repair_part part, const char* sentence);
 int annex_heap_repair(const char* name, struct annex_repair_report* out,
                                   annex_visit_repair visit, void* context);
enum {
  ANNEX_ZEROED = 1u << 0,
  ANNEX_IOVA_CONTIGUOUS = 1u << 1,
  ANNEX_ZERO_ON_ADD = 1u << 2,
  ANNEX_NO_CPU_ACCESS = 1u << 3,
  ANNEX_IS_ZERO = 1u << 4,
  ANNEX_PIN = 1u << 5,
  ANNEX_SAME_ADDRESS = 1u << 6,
  ANNEX_PREFAULT = 1u << 7,
  ANNEX_PHYSICAL_IOVAS = 1u << 8,
  ANNEX_RESERVE = 1u << 9,
  ANNEX_OVERCOMMIT = 1u << 10,
  ANNEX_ON_COMMIT = 1u << 11
};
typedef void (*annex_progress)(void* context, uint64_t done_bytes, uint64_t total_bytes);
enum annex_huge_pages {
  ANNEX_HUGE_automatic = 0,
  ANNEX_HUGE_never,
  ANNEX_HUGE_aligned,
  ANNEX_HUGE_always
};
struct annex_memory_range {
  size_t struct_bytes;
  void* base;
  size_t length_bytes, page_bytes;
  const uint64_t* page_iovas;
  size_t page_iova_count;
  int fd_plus_1;
  uint64_t fd_offset;
  int numa_node_plus_1;
  uint32_t flags;
  uint32_t threads;
  uint32_t huge;
  annex_progress progress;
  void* progress_context;
};
 int annex_heap_add_memory(annex_heap* heap, const struct annex_memory_range* range,
                                       uint32_t* region);
enum annex_memory_kind {
  ANNEX_MEMORY_default = 0,
  ANNEX_MEMORY_anonymous,
  ANNEX_MEMORY_shared,
  ANNEX_MEMORY_hugetlb,
  ANNEX_MEMORY_file,
  ANNEX_MEMORY_device,
  ANNEX_MEMORY_descriptor
};
struct annex_memory_source {
  size_t struct_bytes;
  uint32_t from;
  uint32_t flags;
  size_t length_bytes;
  size_t page_bytes;
  const char* path;
  uint64_t offset_bytes;
  int fd_plus_1;
  int numa_node_plus_1;
  const uint64_t* page_iovas;
  size_t page_iova_count;
  uint32_t threads;
  uint32_t huge;
  annex_progress progress;
  void* progress_context;
};
 int annex_bring_memory(annex_heap* heap, const struct annex_memory_source* source,
                                    uint32_t* region);
 int annex_heap_remove_memory(annex_heap* heap, uint32_t region);
 int annex_heap_drain_memory(annex_heap* heap, uint32_t region, uint64_t deadline_ns);
 int annex_cancel_drain(annex_heap* heap, uint32_t region);
 int annex_heap_attach_memory(annex_heap* heap, uint32_t region, void* base);
 int annex_heap_detach_memory(annex_heap* heap, uint32_t region);
 int annex_prefault(annex_heap* heap, uint32_t region, unsigned threads,
                                annex_progress progress, void* context);
 void annex_synchronize(annex_heap* heap);
typedef int (*annex_grow)(void* context, size_t size_bytes);
 int annex_on_shortage(annex_heap* heap, annex_grow grow, void* context);
 void annex_trim(annex_heap* heap);
struct annex_placement {
  size_t struct_bytes, size_bytes;
  size_t align_bytes;
  size_t boundary_bytes;
  uint32_t flags;
  int numa_node_plus_1;
  size_t iova_align_bytes;
  uint64_t highest_iova;
};
 void* annex_allocate(annex_heap* heap, size_t size_bytes);
 void* annex_allocate_placed(annex_heap* heap, const struct annex_placement* placement);
 size_t annex_allocate_bulk(annex_heap* heap, size_t size_bytes, void** blocks,
                                        size_t count);
 void* annex_reallocate(annex_heap* heap, void* block, size_t size_bytes);
 void* annex_reallocate_placed(annex_heap* heap, void* block,
                                           const struct annex_placement* placement);
 void annex_free(void* block);
 void annex_free_bulk(void* const* blocks, size_t count);
 size_t annex_usable_size(const void* block);
struct annex_location {
  size_t struct_bytes;
  uint64_t heap;
  uint32_t region;
  uint32_t padding;
  uint64_t offset_bytes;
  uint64_t iova;
  uint64_t contiguous_bytes;
};
 int annex_locate(const void* address, struct annex_location* out);
 void* annex_address_of(annex_heap* heap, uint64_t iova);
 uint64_t annex_handle_of(annex_heap* heap, const void* address);
 int annex_resolve(annex_heap* heap, uint64_t handle, void** out);
 uint64_t annex_remote_address(uint64_t handle, uint64_t region_bytes);
struct annex_zone {
  size_t struct_bytes;
  void* address;
  uint64_t size_bytes;
  uint64_t handle;
  uint64_t iova;
  uint32_t region;
  uint32_t padding;
  uint64_t generation;
};
 int annex_zone_reserve(annex_heap* heap, const char* name,
                                    const struct annex_placement* placement,
                                    struct annex_zone* out);
 int annex_zone_commit(annex_heap* heap, const char* name,
                                   const struct annex_zone* filled);
 int annex_zone_wait(annex_heap* heap, const char* name, uint64_t deadline_ns,
                                 uint64_t after_generation, struct annex_zone* out);
 int annex_zone_find(annex_heap* heap, const char* name, struct annex_zone* out);
 int annex_zone_release(annex_heap* heap, const char* name);
struct annex_iova_run {
  uint64_t offset_bytes, length_bytes, iova;
};
struct annex_region_view {
  size_t struct_bytes;
  uint64_t heap;
  uint32_t region;
  uint32_t no_cpu_access;
  void* base;
  uint64_t length_bytes, page_bytes;
  int fd;
  int numa_node;
  uint64_t fd_offset;
  const struct annex_iova_run* runs;
  size_t run_count;
  uint64_t remote_base;
};
enum annex_quiesce { ANNEX_QUIESCE_done = 0, ANNEX_QUIESCE_pending = 1 };
struct annex_observer {
  size_t struct_bytes;
  const char* name;
  int (*on_add)(void* context, const struct annex_region_view* region);
  enum annex_quiesce (*begin_remove)(void* context, const struct annex_region_view* region);
  int (*finish_remove)(void* context, const struct annex_region_view* region, uint64_t deadline_ns);
};
typedef struct annex_observation annex_observation;
 int annex_observe(annex_heap* heap, const struct annex_observer* observer,
                               void* context, annex_observation** out);
 void annex_observation_end(annex_observation* observation);
typedef struct annex_lease annex_lease;
 int annex_hold(annex_heap* heap, uint32_t region, annex_lease** out);
 void annex_lease_end(annex_lease* lease);
struct annex_stats {
  size_t struct_bytes;
  uint64_t total_bytes;
  uint64_t used_bytes;
  uint64_t cached_bytes;
  uint64_t free_bytes;
  uint64_t largest_free_bytes;
  uint64_t live_blocks, region_count;
  uint64_t member_count;
  uint64_t metadata_bytes;
  uint64_t zone_count, thread_count, slab_count, hole_count;
  uint64_t misuse_count;
  uint64_t lock_steals;
  uint64_t recovered_threads;
};
struct annex_region_summary {
  size_t struct_bytes;
  uint32_t id;
  int numa_node;
  uint64_t length_bytes, page_bytes, free_bytes, largest_free_bytes, granule_bytes;
  uint32_t no_cpu_access, draining;
  void* base;
  uint64_t origin;
  uint32_t adder;
  uint32_t huge;
  uint64_t iova_runs;
  uint64_t first_iova;
  const char* backing;
};
struct annex_zone_summary {
  size_t struct_bytes;
  const char* name;
  const char* kind;
  uint64_t handle, size_bytes;
  uint64_t generation;
  uint32_t committed;
  uint32_t maker;
  int32_t maker_process_id;
  uint32_t maker_alive;
};
enum annex_block_kind {
  ANNEX_BLOCK_slab_block = 0,
  ANNEX_BLOCK_large,
  ANNEX_BLOCK_zone,
  ANNEX_BLOCK_pool_object
};
struct annex_block_summary {
  size_t struct_bytes;
  uint32_t kind;
  uint32_t holder;
  uint64_t handle;
  void* address;
  uint64_t size_bytes;
};
enum annex_map_use { ANNEX_MAP_free = 0, ANNEX_MAP_large, ANNEX_MAP_zone, ANNEX_MAP_slab };
struct annex_map_piece {
  size_t struct_bytes;
  uint32_t region;
  uint32_t use;
  uint64_t offset_bytes, length_bytes;
  uint64_t live_bytes, cached_bytes;
  uint32_t block_bytes;
  uint32_t holder;
};
struct annex_member_summary {
  size_t struct_bytes;
  uint32_t id;
  int process_id;
  const char* program;
  uint32_t alive, self;
  uint64_t threads, cached_bytes, held_blocks, held_bytes;
};
struct annex_audit_report {
  size_t struct_bytes;
  uint64_t checked;
  uint64_t broken;
  uint32_t exact;
  uint32_t padding;
};
typedef int (*annex_visit_region)(void* context, const struct annex_region_summary* region);
typedef int (*annex_visit_zone)(void* context, const struct annex_zone_summary* zone);
typedef int (*annex_visit_block)(void* context, const struct annex_block_summary* block);
typedef int (*annex_visit_map_piece)(void* context, const struct annex_map_piece* piece);
typedef int (*annex_visit_member)(void* context, const struct annex_member_summary* member);
typedef int (*annex_visit_sentence)(void* context, const char* sentence);
 int annex_heap_stats(annex_heap* heap, struct annex_stats* out);
 int annex_heap_audit(annex_heap* heap);
 int annex_heap_audit_report(annex_heap* heap, struct annex_audit_report* out,
                                         annex_visit_sentence visit, void* context);
 int annex_for_each_region(annex_heap* heap, annex_visit_region visit, void* context);
 int annex_huge_bytes(annex_heap* heap, uint32_t region, uint64_t* out);
 int annex_for_each_zone(annex_heap* heap, annex_visit_zone visit, void* context);
 int annex_for_each_block(annex_heap* heap, annex_visit_block visit, void* context);
 int annex_for_each_map_piece(annex_heap* heap, annex_visit_map_piece visit,
                                          void* context);
 int annex_for_each_member(annex_heap* heap, annex_visit_member visit, void* context);
 int annex_recover(annex_heap* heap, uint64_t* dead);
enum annex_reap_choice { ANNEX_REAP_free = 0, ANNEX_REAP_keep = 1 };
typedef enum annex_reap_choice (*annex_look)(void* context,
                                             const struct annex_block_summary* block);
 int annex_reap(annex_heap* heap, uint32_t member, annex_look look, void* context,
                            uint64_t* freed);
enum {
  ANNEX_SNAPSHOT_NO_MAP = 1u << 0
};
struct annex_snapshot_options {
  size_t struct_bytes;
  uint32_t flags;
  uint32_t most_extents;
  uint32_t tries;
  uint32_t padding;
};
struct annex_snapshot_facts {
  size_t struct_bytes;
  uint64_t region_count, zone_count, member_count, map_piece_count;
  uint32_t changed;
  uint32_t complete;
  uint64_t sequence;
  uint64_t taken_ns;
  uint32_t lock_holder;
  uint32_t tries;
  const char* problem;
};
typedef struct annex_snapshot annex_snapshot;
 int annex_snapshot_take(annex_heap* heap, const struct annex_snapshot_options* options,
                                     annex_snapshot** out);
 void annex_snapshot_free(annex_snapshot* snapshot);
 int annex_snapshot_facts_of(const annex_snapshot* snapshot,
                                         struct annex_snapshot_facts* out);
 int annex_snapshot_stats(const annex_snapshot* snapshot, struct annex_stats* out);
 const struct annex_region_summary* annex_snapshot_region(
    const annex_snapshot* snapshot, uint64_t index);
 const struct annex_zone_summary* annex_snapshot_zone(const annex_snapshot* snapshot,
                                                                  uint64_t index);
 const struct annex_member_summary* annex_snapshot_member(
    const annex_snapshot* snapshot, uint64_t index);
 const struct annex_map_piece* annex_snapshot_map_piece(const annex_snapshot* snapshot,
                                                                    uint64_t index);
typedef struct annex_ready_event annex_ready_event;
 int annex_ready_event_fd(const annex_ready_event* event);
 void annex_ready_event_rearm(annex_ready_event* event);
 void annex_ready_event_end(annex_ready_event* event);
enum {
  ANNEX_POOL_NO_CACHE = 1u << 0
};
struct annex_pool_options {
  size_t struct_bytes;
  size_t object_bytes;
  uint32_t object_count;
  uint32_t cache_objects;
  size_t align_bytes;
  uint32_t flags;
  int numa_node_plus_1;
  size_t boundary_bytes;
  uint64_t highest_iova;
};
typedef struct annex_pool annex_pool;
 int annex_pool_create(annex_heap* heap, const char* name,
                                   const struct annex_pool_options* options, annex_pool** out);
 int annex_pool_open(annex_heap* heap, const char* name, annex_pool** out);
 void annex_pool_close(annex_pool* pool);
 int annex_pool_release(annex_heap* heap, const char* name);
 int annex_pool_is_open(const annex_pool* pool);
 void* annex_pool_take(annex_pool* pool);
 size_t annex_pool_take_bulk(annex_pool* pool, void** objects, size_t count);
 void annex_pool_give(annex_pool* pool, void* object);
 void annex_pool_give_bulk(annex_pool* pool, void* const* objects, size_t count);
 uint32_t annex_pool_object_count(const annex_pool* pool);
 size_t annex_pool_object_bytes(const annex_pool* pool);
 uint32_t annex_pool_free_count(const annex_pool* pool);
 int annex_pool_take_before(annex_pool* pool, uint64_t deadline_ns, void** out);
 int annex_pool_wait_for_object(const annex_pool* pool, uint64_t deadline_ns);
 int annex_pool_watch_objects(const annex_pool* pool, annex_ready_event** out);
typedef struct annex_ring annex_ring;
 int annex_ring_create(annex_heap* heap, const char* name, uint64_t capacity,
                                   annex_ring** out);
 int annex_ring_open(annex_heap* heap, const char* name, annex_ring** out);
 void annex_ring_close(annex_ring* ring);
 int annex_ring_release(annex_heap* heap, const char* name);
 int annex_ring_is_open(const annex_ring* ring);
 int annex_ring_put(annex_ring* ring, uint64_t handle);
 size_t annex_ring_put_bulk(annex_ring* ring, const uint64_t* handles, size_t count);
 uint64_t annex_ring_take(annex_ring* ring);
 size_t annex_ring_take_bulk(annex_ring* ring, uint64_t* handles, size_t count);
 size_t annex_ring_take_in_hand(annex_ring* ring, uint64_t* handles, size_t count);
 void annex_ring_settle(annex_ring* ring);
 size_t annex_ring_recover_in_hand(annex_ring* ring, uint64_t* handles, size_t count);
 uint64_t annex_ring_capacity(const annex_ring* ring);
 uint64_t annex_ring_count(const annex_ring* ring);
 int annex_ring_take_before(annex_ring* ring, uint64_t deadline_ns, uint64_t* out);
 int annex_ring_put_before(annex_ring* ring, uint64_t handle, uint64_t deadline_ns);
 int annex_ring_wait_for_handle(const annex_ring* ring, uint64_t deadline_ns);
 int annex_ring_wait_for_room(const annex_ring* ring, uint64_t deadline_ns);
 int annex_ring_watch_handles(const annex_ring* ring, annex_ready_event** out);
 int annex_ring_watch_room(const annex_ring* ring, annex_ready_event** out);
