// heap/local_heap.hpp - one attached heap in this process: the parts under a name.
//
//   allocate.cpp    sizes → magazine, slab, extent           memory.cpp  add, remove, drain, attach
//   allocate_in.cpp the same, in one region
//   free.cpp        address → magazine, remote bitmap, extent bring.cpp       ways to get memory
//   recovery.cpp    the dead, the frozen, the orphans         zones.cpp       names
//   reap.cpp        blocks of the dead                        observing.cpp   observers, leases
//   snapshot.cpp    all of it, without any lock
//   lifecycle.cpp   create, attach, close, destroy            statistics.cpp  audit.cpp  explain.cpp
//   repair.cpp      indexes from the truth                    addresses.cpp   bus addresses    handles.cpp
//   files.cpp       whose files may be opened, and where       listing.cpp     every heap of the directory
//   pinning.cpp     pages that stay where they are
//
// Locks of this process, in this order: memory_mutex_ (regions come and go; held during observers'
// callbacks), service_mutex_ (threads without a cache share one thread slot), the heap lock
// (shared, outlives its holder).
#pragma once
#include <annex/heap.hpp>

#include <mutex>
#include <optional>
#include <thread>

#include "cache/thread_cache.hpp"
#include "heap/files.hpp"
#include "named/pool_table.hpp"
#include "named/zone_record.hpp"
#include "observer/observer_list.hpp"
#include "platform/kept_file.hpp"

// Of a function that nobody takes the address of: it need not begin with the instruction that jumps
// by address must lead to.
#if defined(__CET__) && (__CET__ & 1) != 0
#define ANNEX_NO_JUMP_MARK [[gnu::nocf_check]]
#else
#define ANNEX_NO_JUMP_MARK
#endif

namespace annex {

struct registry_access;

inline constexpr u32 any_slot = ~u32{0};  // of regions to look in

namespace detail {

class local_heap {
 public:
  // ---- lifecycle.cpp, listing.cpp
  static result<local_heap*> create(std::string_view name, const heap_options& options,
                                    bool is_private);
  /// Shares what this process has attached already, unless a member of its own is asked for.
  /// worthless: what to do with an ephemeral heap that no living member vouches for.
  enum class worthless { attached, ended };
  static result<local_heap*> attach(std::string_view name, const attach_options& options,
                                    bool as_another_member = false,
                                    worthless left = worthless::attached);
  /// Attaches, or creates what is not there; is_new says which.
  static result<local_heap*> open(std::string_view name, const heap_options& options, bool* is_new);
  static result<void> destroy(std::string_view name, bool only_ephemeral = false);
  static result<std::vector<heap_summary>> list();
  static result<repair_report> repair(std::string_view name);
  static local_heap* of(const heap& h) noexcept { return h.internal(); }
  static heap face_of(local_heap* h) noexcept { return heap(h); }
  /// Ends one user's share; the last one's ends the attachment.
  void close() noexcept;
  bool can_be_shared() const noexcept;
  /// Around a fork: nobody is in the middle of what a child would find half done.
  void before_fork() noexcept;
  void after_fork() noexcept;
  void become_child() noexcept;  // in a forked child: leave the parent's identity alone
  /// False: a private heap in a child, or no member record left for the child.
  bool ensure_member() noexcept;

  const segment& seg() const noexcept { return segment_; }
  const std::string& name() const noexcept { return name_; }
  u32 index() const noexcept { return index_; }
  u64 number() const noexcept { return number_; }
  u32 self() const noexcept { return member_; }
  /// In the room that is kept for the one who mends: everything but holding blocks.
  bool is_mender() const noexcept { return is_record_of_mender(segment_, member_); }
  /// Of a heap that this process has found damaged, nothing is changed any more: it is repaired
  /// when everybody has closed it.
  result<void> refuse_if_damaged() const;
  bool is_read_only() const noexcept { return !segment_.writable(); }
  bool has_option(segment_option option) const noexcept {
    return (segment_.header().options & option) != 0;
  }
  region_views& views() noexcept { return views_; }
  heap_id id() const noexcept { return heap_id{segment_.header().heap_id}; }

  /// The heap lock in this thread's name, and what its last holder left undone made good. What was
  /// found to be freed twice meanwhile is said at the end, when the lock is free again.
  class locked {
   public:
    explicit locked(local_heap& h) noexcept;
    ~locked();
    transaction& operator*() noexcept { return *transaction_; }
    transaction* operator->() noexcept { return &*transaction_; }

   private:
    local_heap& heap_;
    std::unique_lock<std::mutex> service_;
    std::optional<transaction> transaction_;
  };

  // ---- allocate.cpp
  void* allocate(u64 size_bytes) noexcept;
  void* allocate(const placement& p) noexcept;
  /// Zeros, or null; not from memory the CPU may not touch.
  void* allocate_cleared(u64 size_bytes) noexcept;
  // ---- allocate_in.cpp
  /// A block in this region or none, for what must not lie apart (annex/offset_allocator.hpp). Size
  /// and alignment of p count.
  void* allocate_in(region_id region, const placement& p) noexcept;
  /// The region of a heap that has a single one; else 0.
  region_id only_region() noexcept;
  // ---- allocate.cpp
  size_t allocate_bulk(u64 size_bytes, std::span<void*> blocks) noexcept;
  void* reallocate(void* block, u64 size_bytes) noexcept;
  void* reallocate(void* block, const placement& p) noexcept;
  /// A large block of this heap, without moving it; false: no room, or no large block.
  bool resize_in_place(void* block, u64 size_bytes) noexcept;
  /// Whether another live member has the region attached.
  bool is_attached_elsewhere(region_id id) noexcept;
  thread_cache* make_cache() noexcept;

  void on_shortage(std::function<bool(size_t)> grow) { grow_ = std::move(grow); }

  // ---- free.cpp
  /// Called by name only, so it needs no mark for jumps by address.
  ANNEX_NO_JUMP_MARK static void free(void* block) noexcept;
  /// False, and nothing done: the address is in no region of any heap here.
  static bool free_if_known(void* block) noexcept;
  static size_t usable_size(const void* block) noexcept;
  struct live_block {
    local_region* region;
    block_kind kind;
    u64 offset_bytes, size_bytes;
    u32 granule;
    slab_record* slab;
    u32 index;
  };
  /// The live block that begins at this byte (inside: or contains it).
  std::optional<live_block> find_block(local_region& region, u64 offset, bool inside) noexcept;
  void report_misuse(std::string_view what, const void* block, const local_region* region) noexcept;
  /// Whether this process may give a block or object back; if not, it has been said, where it is a
  /// mistake.
  bool may_free(const void* block, const local_region* region) noexcept;

  // ---- recovery.cpp
  bool is_claim_of_the_dead(u32 member) const noexcept;
  /// Whether any other process that lives has the heap attached. Asks the kernel about each until
  /// one does.
  bool has_living_others() noexcept;
  void recover_dead(transaction& t) noexcept;
  size_t recover() noexcept;
  void repair_frozen(transaction& t) noexcept;
  /// Of a cache that is held still by nobody any more: whatever was done in its name is completed.
  /// Under the heap lock.
  void take_back(thread_cache& c) noexcept;
  void leave_thread(thread_cache* c) noexcept;
  void trim_all(bool recall_everything) noexcept;
  void trim_own() noexcept;
  void empty_cache(transaction& t, thread_cache& c) noexcept;
  struct frozen_caches {
    std::vector<thread_cache*> caches;
    u32 not_still = 0;
    bool somebody_died = false;
  };
  /// only_member: the caches of its threads; 0: all.
  frozen_caches freeze_all(transaction& t, u32 only_member = 0) noexcept;
  frozen_caches recover_and_freeze(transaction& t) noexcept;
  void thaw(frozen_caches& frozen) noexcept;
  /// Every thread takes a slow path next, and forgets which pool it used last.
  void make_all_look() noexcept;
  /// A live thread that has a cache of the pool and is not held still; 0: none.
  u32 busy_member_of(const known_pool& pool, const frozen_caches& frozen, u32 own_slot) noexcept;
  void make_orphans(transaction& t, thread_cache& c, u32 region_slot) noexcept;
  void orphan_slab(transaction& t, slab_record* slab, chunk_ref* lane) noexcept;
  bool orphan_slabs_of_gone(transaction& t, thread_slot& slot, thread_cache& c) noexcept;
  void release_empty_orphans(transaction& t) noexcept;
  void pass_on(transaction& t, slab_record* slab) noexcept;
  slab_record* adopt(transaction& t, u32 size_class, thread_cache& c, u32 only_slot) noexcept;
  void release_empty_slabs(transaction& t, thread_cache& c, u32 size_class, u32 keep) noexcept;
  void release_member_if_done(transaction& t, u32 member) noexcept;
  void free_extent(transaction& t, local_region& region, u32 granule) noexcept;
  /// Freed or given twice: by this process, whose misuse policy decides; or nobody knows by whom.
  struct double_frees {
    u32 ours = 0, anybodys = 0;
  };
  void say_doubles(const double_frees& found) noexcept;
  /// Of a cache, where its doubles are counted until the lock is free again. Under the heap lock.
  u32* doubles_of(const thread_cache& c) noexcept {
    return c.member == member_ ? &found_.ours : &found_.anybodys;
  }
  void for_each_pool(
      const std::function<void(const zone_record&, const known_pool&)>& visit) noexcept;
  /// A pool needs its objects back from the caches of every thread, if it is the same one still.
  void recall_pool(const zone_record& z, u64 incarnation) noexcept;
  void flush_pool_caches(transaction& t, const known_pool& pool,
                         const frozen_caches& frozen) noexcept;
  void take_pool_object_back(transaction& t, const known_pool& pool, u32 object) noexcept;

  // ---- reap.cpp
  result<size_t> reap(u32 member, const std::function<reap_choice(const block_summary&)>& look);
  size_t free_held_by(transaction& t, u32 member, const std::vector<handle>* only,
                      u32* skipped) noexcept;
  std::vector<block_summary> held_by(u32 member);

  // ---- memory.cpp
  /// pins: of a range that is pinned already; taken over, unless it is refused. physical: its IOVAs
  /// are where its pages are. Not ~0: its tables are taken from the file system at once, and of the
  /// memory what lies behind sure_bytes when it is given out.
  result<region_id> add_memory(const memory_range& range, bool mapped_by_annex,
                               const std::string& owned_path, os::pinned* pins = nullptr,
                               bool physical = false, u64 sure_bytes = ~u64{0});
  result<void> remove_memory(region_id id, std::chrono::nanoseconds deadline, bool wait);
  result<void> cancel_drain(region_id id);
  result<void> attach_memory(region_id id, void* base);
  result<void> detach_memory(region_id id);
  result<void> prefault(region_id id, unsigned threads,
                        const std::function<void(u64, u64)>& progress);
  void synchronize() noexcept;
  bool may_leave_to_drainer(const local_region& view) noexcept;
  bool leave_to_drainer(local_region& view) noexcept;
  bool stop_serving_here(local_region& view) noexcept;
  /// Regions came or went since the last synchronize().
  bool has_news() const noexcept {
    return seen_epoch_.load(std::memory_order_relaxed) !=
           segment_.header().region_epoch.load(std::memory_order_acquire);
  }
  /// Attaches what can be attached automatically; true when anything new came.
  bool attach_more() noexcept;
  result<local_region*> ensure_attached(u32 slot);
  // ---- observing.cpp
  result<observation> observe(observer& who);
  result<lease> hold(region_id id);
  void give_back_lease(u32 slot) noexcept;
  void end_observation(observer* who) noexcept;
  region_view view_for_observers(const local_region& region) const;
  region_claim* claims() noexcept;
  region_claim* claim_here(const local_region& view) noexcept;
  region_claim* claim_on(u32 slot) noexcept;
  void note_observers() noexcept;

  // ---- bring.cpp
  result<region_id> bring_memory(const memory_source& source);

  // ---- zones.cpp
  struct zone_table {
    zone_type type = zone_type::plain;
    u64 bytes = 0;
    visibility seen = visibility::at_once;
  };
  result<zone> reserve_zone(
      std::string_view name, const placement& p, zone_table table, chunk_ref* table_ref,
      const std::function<void(transaction&, zone_record&, void*)>& fill_table);
  result<zone_record*> find_zone_record(std::string_view name, zone_type type) noexcept;
  result<zone> find_zone(std::string_view name, zone_type type);
  result<void> release_zone(std::string_view name, zone_type type);
  result<void> commit_zone(std::string_view name, u64 generation);
  result<zone> wait_zone(std::string_view name, std::chrono::nanoseconds deadline,
                         u64 after_generation);
  /// Whether the process that reserved it lives, and is the same one still.
  bool is_maker_alive(const zone_record& z) const noexcept;
  zone zone_of(const zone_record& z) noexcept;
  void release_pool_caches(transaction& t, const zone_record& z) noexcept;
  chunk_ref take_record(transaction& t, zone_type type) noexcept;
  chunk_ref take_table(transaction& t, zone_type type, u64 bytes) noexcept;
  void give_back_views(transaction& t, zone_record& z) noexcept;
  void give_back_zone(transaction& t, zone_record& z) noexcept;
  result<void> make_way_for(transaction& t, std::string_view name);
  void tell_of_zone() noexcept;
  result<zone> find_as_reader(std::string_view name, zone_type type, u32* slot) noexcept;

  // ---- addresses.cpp
  void* address_of(iova address) noexcept;

  // ---- handles.cpp
  handle handle_of(const void* p) noexcept;
  result<void*> resolve(handle h);
  static handle handle_at(const local_region& region, u64 offset, u32 generation) noexcept;
  /// What lists say of a block, or of a pool's object: its handle, or the one that it would get.
  handle where_is(const live_block& b) const noexcept;
  handle where_is(const local_region& region, const zone_record& z, const known_pool& pool,
                  u64 object) const noexcept;

  // ---- statistics.cpp
  heap_stats stats() noexcept;
  void for_each_region(const std::function<void(const region_summary&)>& visit);
  void for_each_zone(const std::function<void(const zone_summary&)>& visit);
  result<void> for_each_block(const std::function<void(const block_summary&)>& visit);
  void for_each_map_piece(const std::function<void(const map_piece&)>& visit);
  std::vector<member_summary> members();

  // ---- snapshot.cpp
  heap_snapshot snapshot(const snapshot_options& options);

  // ---- audit.cpp
  result<audit_report> audit();

  // ---- explain.cpp
  void* explain(explanation::cause why, const placement& p) noexcept;
  /// Of an allocation that had to lie in one region, in the caller's words.
  static void* explain_one_region(const placement& p, std::string_view sentence) noexcept;
  static explanation last_failure() noexcept;

 private:
  /// 1, 2, …: unlike an index, never used again by this process.
  static u64 next_number() noexcept;
  /// Of a byte. word: null as long as there is no table; marks: what it has, if it is one. pool: it
  /// is in an object of it, and zone is the pool's own word.
  struct naming {
    u32* word = nullptr;
    u32 first = 0, marks = 0;
    known_pool pool = {};
    u64 object = 0;
    const u32* zone = nullptr;
  };
  naming naming_of(const live_block& b, u64 offset) const noexcept;
  bool is_kept(const live_block& b, const naming& n, bool everybody) noexcept;
  bool make_words(local_region& region, u64 offset) noexcept;
  friend class locked;
  local_heap() = default;
  ~local_heap() = default;
  // Opener: an attacher who ends a worthless heap.
  enum class arrival { creator, attacher, child, opener };
  static bool is_attaching(arrival how) noexcept;
  static result<local_heap*> open_segment(int fd, std::string_view name, const heap_files& files,
                                          const attach_options& options, arrival how);
  result<void> open_life_file(arrival how, u32 file_mode);
  result<void> make_life_file_again(const open_directory& where, const std::string& name,
                                    u32 file_mode);
  result<void> join(arrival how);
  result<void> count_share();
  void end_share() noexcept;
  result<void> come_alive(transaction& t, arrival how);
  void tear_down() noexcept;
  void leave() noexcept;
  void drop_what_a_child_lacks() noexcept;
  result<void> pass_the_door(void** door);
  result<void> look_before_reading(bool verify);
  result<void> look_at_a_copy();
  u16 attached_bits() const noexcept;
  void begin_claim(region_claim& claim, u32 id, int fd) const noexcept;
  static void end_claim(region_claim& claim) noexcept;
  bool vouch_for(const membership& claim) noexcept;
  void move_to_a_record_of_its_own() noexcept;
  void report_statistics() noexcept;
  friend struct ::annex::registry_access;
  void discard_retired() noexcept;
  void close_regions() noexcept;
  void start_watcher();
  void stop_watcher() noexcept;

  void* allocate_class(u32 size_class, const placement& p, bool* clean) noexcept;
  void* allocate_extent(const placement& p, u64 size_bytes, u64* dirty_bytes,
                        u32 only_slot = any_slot) noexcept;
  void* allocate_class_in(thread_cache& c, u32 slot, u32 size_class, const placement& p) noexcept;
  bool make_room_in(u32& stage, u32 slot, u64 size_bytes) noexcept;
  void* allocate_large(const placement& p) noexcept;
  std::optional<extent_place> find_extent(transaction& t, const placement& p, extent_request& q,
                                          local_region** where, u32 only_slot = any_slot) noexcept;
  bool make_room(u32& stage, const placement& p, u64 size_bytes) noexcept;
  slab_record* slab_of(const local_region& region, u32 granule) const noexcept;
  void* take_block(thread_cache& c, u32 size_class, bool* clean) noexcept;
  void* take_block(thread_cache& c, u32 size_class, bool* clean, u32* doubles) noexcept;
  bool add_slab(thread_cache& c, u32 size_class, u32 only_slot = any_slot) noexcept;
  std::optional<live_block> find_for_reallocate(void* block) noexcept;
  void* move_to(void* moved, void* block, u64 bytes, const placement& p) noexcept;
  bool has_room_for(const local_region& region, const void* block, u64 bytes) const noexcept;
  bool zero_if_asked(void* block, const placement& p, bool clean) noexcept;
  lock_identity identity(std::unique_lock<std::mutex>& service) noexcept;
  [[gnu::noinline]] static void free_elsewhere(void* block) noexcept;
  static bool free_anywhere(void* block) noexcept;
  void free_in(local_region& region, void* block) noexcept;
  void free_slab_block(local_region& region, void* block, u64 offset, granule_entry g) noexcept;
  void free_to_other(local_region& region, slab_record* slab, u32 block,
                     const void* address) noexcept;
  void recover_thread(transaction& t, u32 slot, bool dead) noexcept;
  void recover_member(transaction& t, u32 member, bool release_record) noexcept;
  void repair_cache(thread_cache& c) noexcept;
  void return_pool_objects(transaction& t, u32 slot, u32 member, u32* doubles) noexcept;

  result<local_region*> attach_slot(u32 slot, void* base_by_hand);
  result<int> open_memory(const region_record& r, u32 slot) noexcept;
  result<void> check_length(const local_region& view) const noexcept;
  // ---- pinning.cpp
  result<void> check_physical(const local_region& view, void* base) noexcept;

  void detach_view(local_region& view) noexcept;
  bool has_live_blocks(transaction& t, u32 slot, frozen_caches* frozen) noexcept;
  result<void> check_removable(u32 slot);
  std::string who_holds(u32 slot);
  void free_region(transaction& t, u32 slot) noexcept;
  u32 find_region_id(u64 length_bytes) noexcept;
  void set_region_state(transaction& t, u32 slot, region_state state) noexcept;

  segment segment_;
  std::string name_, path_;
  u32 index_ = 0;
  const u64 number_ = next_number();
  heap_files files_;
  os::kept_file file_, life_;  // the segment; the file of lives beside it
  std::atomic<u32> damage_{0};
  u32 users_ = 1;  // shares of this attachment; under the registry's mutex
  u32 member_ = 0;
  double_frees found_;  // under the heap lock
  u16 service_slot_ = no_owner;
  std::vector<membership> shares_;  // records of further attaches in this process
  void* life_pin_ = nullptr;        // of os::hold_byte(): this member lives
  std::mutex service_mutex_;
  std::mutex memory_mutex_;
  attach_policy policy_ = attach_policy::automatic;
  bool forked_ = false;
  region_views views_;
  observer_list observers_;
  std::atomic<u32> seen_epoch_{0};
  std::function<bool(size_t)> grow_;
  std::thread watcher_;
  std::atomic<bool> watcher_stop_{false};

  // IOVA → region: ordered by lowest IOVA, with the highest so far, rebuilt when regions came or
  // went.
  struct bus_span {
    u64 lowest, highest, highest_so_far;
    u32 slot;
  };
  std::vector<bus_span> bus_spans_;
  u32 bus_epoch_ = ~u32{0};
  std::mutex bus_mutex_;
};

/// A number that a node may have, or any_node.
result<void> check_numa_node(int node);
/// No page at base, base + stride, … is on another node (any_node: there is none); those that are
/// not there are not looked at.
result<void> check_node(const void* base, u64 bytes, u64 stride, int node);
/// Every page there, by several threads. fd: of the file behind it, or -1: to say what is wrong.
result<void> populate_memory(char* base, u64 bytes, u64 page_bytes, int fd, unsigned threads,
                             const std::function<void(u64, u64)>& progress);
/// Populates and pins; refuses with what is wrong.
result<os::pinned*> pin_memory(void* base, u64 bytes, touch access, unsigned threads,
                               const std::function<void(u64, u64)>& progress);

/// Name rules: 1 to 31 of [A-Za-z0-9_.-], no leading dot.
result<void> check_heap_name(std::string_view name);
result<void> check_zone_name(std::string_view name);
/// The hidden file in which members of a heap lock their bytes.
std::string life_name(std::string_view name, u64 heap_id);

}  // namespace detail
}  // namespace annex
