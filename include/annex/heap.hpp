// annex/heap.hpp - a named set of memory regions that blocks are allocated from, shared by any
// process.
//
//   auto heap = annex::heap::create("packets").value();
//   heap.bring_memory({.length_bytes = 256 << 20}).value();
//   void* block = heap.allocate(1500);
//   annex::heap::free(block);
//
// Threads: every function may be called from any thread at any time, except that closing a heap
// must not race with its use. Processes: any process may attach by name, in any order, and be
// killed at any instruction. Not async-signal-safe.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <annex/observer.hpp>
#include <annex/types.hpp>

namespace annex {

namespace detail {
class local_heap;
}

/// A heap, as this process has it open. Made by create(), attach() or create_private(); what is
/// made by `heap()` is none.
class ANNEX_PUBLIC heap {
 public:
  /// No heap: `false`. To be assigned to.
  heap() = default;
  /// other is no heap afterwards. Blocks, handles, pools and rings stay valid.
  heap(heap&& other) noexcept;
  /// Closes the heap that was open here.
  heap& operator=(heap&& other) noexcept;
  /// Closes it: this process detaches. Nothing is freed; a private heap ends.
  ~heap();
  /// Whether it is open.
  explicit operator bool() const noexcept { return impl_ != nullptr; }

  // ---- the heap itself --------------------------------------------------------------------------
  /// Makes an empty heap. Errors: invalid_name, name_taken, invalid_argument (a limit), permission,
  /// os_failure.
  static result<heap> create(std::string_view name, const heap_options& = {});
  /// Attaches to the heap of this name, or creates it where there is none: of many processes that
  /// do so at once, exactly one creates and the others attach, and one that is killed in the middle
  /// leaves nothing that the others would have to wait for. The options are for the one who
  /// creates; an existing heap keeps its own. is_new says who that was: it has no memory yet. A
  /// creator may die before it has brought any, so ask stats().region_count rather than trust that
  /// somebody did.
  ///
  /// A heap persists: it stays, with its blocks, when every process has closed it, until destroy()
  /// (or `annex destroy NAME`) ends it or the machine restarts. One made `ephemeral` is worthless
  /// once no member lives: it is ended and created anew here. To read only, attach. Errors: those
  /// of create and attach.
  static result<heap> open(std::string_view name, const heap_options& = {}, bool* is_new = nullptr);
  /// Makes a heap without a name for this process alone. Errors: invalid_argument, os_failure.
  static result<heap> create_private(const heap_options& = {});
  /// Joins a heap. Again in the same process: another member in the same mapping, so that addresses
  /// and handles are shared; read-only and writable attachments are two mappings. Errors:
  /// invalid_name, no_such_heap, incompatible_layout, corrupt (heap::repair), permission,
  /// limit_reached, heap_in_use (it is being repaired), already_attached (here, with the other
  /// attach_policy), os_failure.
  static result<heap> attach(std::string_view name, const attach_options& = {});
  /// Ends a heap. Errors: invalid_name, no_such_heap, heap_in_use, blocks_live,
  /// incompatible_layout, corrupt, permission.
  static result<void> destroy(std::string_view name);
  /// Rebuilds every index of a damaged heap from the truth (blocks, zones, holders) and says what
  /// it changed; what nothing vouches for stays in use and is named (repair_report::uncertain), a
  /// dead member "(uncertain)" has what is nobody's. Blocks stay where they are. Nobody may be
  /// attached. Errors: invalid_name, no_such_heap, heap_in_use, corrupt (the header itself),
  /// incompatible_layout, permission, os_failure.
  static result<repair_report> repair(std::string_view name);
  /// Everything in the annex directory that has a heap's name; what can't be read, is damaged, or
  /// is no heap says so (heap_summary::problem). Writes nothing. Errors: permission (the directory
  /// can't be read, or is not to be trusted), os_failure.
  static result<std::vector<heap_summary>> list();

  std::string_view name() const noexcept;  ///< empty for a private heap
  /// The same in every process, and of no other heap.
  heap_id id() const noexcept;
  member_id self() const noexcept;  ///< this process among the members

  // ---- memory -----------------------------------------------------------------------------------
  /// Adds memory: all or nothing. Errors: invalid_argument, bad_alignment, bad_page_size,
  /// bad_length, bad_iova, iova_overlap, region_overlap, not_mapped, not_writable, no_cpu_access
  /// (zeroing untouchable memory), wrong_node, vetoed, limit_reached, read_only, forked_away. Cost:
  /// O(IOVA runs), not O(bytes), unless zeroing is asked for.
  result<region_id> add_memory(const memory_range&);
  /// Makes or opens memory, then adds it; removing unmaps it. What a file system, the machine or a
  /// limit of the process can't hold is refused, and what lies on a file system is reserved there
  /// (memory_source::reserve, overcommit): no write to a block of it kills. Errors: those of
  /// add_memory, not_supported, permission, out_of_memory (the place, what is free there, and what
  /// mends it), wrong_memory (a descriptor that is too short), os_failure (EFBIG: the file size
  /// limit).
  result<region_id> bring_memory(const memory_source&);
  /// Takes a region back when nothing in it is live. Errors: no_such_region, blocks_live, leased,
  /// observed_elsewhere, deadline_passed (an observer), read_only. On error nothing has changed and
  /// allocation goes on.
  result<void> remove_memory(region_id);
  /// Stops allocation from the region, takes back what caches hold, waits for the last block,
  /// removes it. Errors: those of remove_memory, deadline_passed (names who holds what), canceled.
  /// On error the region serves again.
  result<void> drain_memory(region_id, std::chrono::nanoseconds deadline);
  /// Makes a drain_memory of this region, in any process, return canceled. Errors: no_such_region,
  /// read_only, forked_away.
  result<void> cancel_drain(region_id);
  /// Says where another process's region lies here. Errors: no_such_region, already_attached,
  /// bad_alignment, region_overlap, not_mapped, not_writable, wrong_memory (a file of another
  /// inode), vetoed.
  result<void> attach_memory(region_id, void* base);
  /// Maps a region with an fd or path here now instead of on first use. Errors: no_such_region,
  /// already_attached, cannot_attach, wrong_memory, vetoed.
  result<void> attach_memory(region_id);
  /// Forgets a region here; its blocks live on for the others. Errors: no_such_region,
  /// not_attached, leased, forked_away, deadline_passed (an observer). Not allowed to race with use
  /// of its blocks in this process.
  result<void> detach_memory(region_id);
  /// Touches every page in parallel and checks its NUMA node. Errors: no_such_region, not_attached,
  /// no_cpu_access, out_of_memory, wrong_node.
  result<void> prefault(
      region_id, unsigned threads = 0,
      const std::function<void(std::uint64_t done, std::uint64_t total)>& progress = {});
  /// Follows what other processes did: attaches, detaches and tells observers. Slow paths do it by
  /// themselves.
  void synchronize();

  // ---- blocks -----------------------------------------------------------------------------------
  /// A block of at least size_bytes (1 byte to 16 TiB), aligned to 16 (64 from 64 bytes up in steps
  /// of 64). nullptr: last_failure() explains. Size 0 is nullptr too (bad_request): it is nearly
  /// always a length that came out wrong, and a block without a byte would have to be told from
  /// every other by its address alone.
  void* allocate(std::size_t size_bytes) noexcept;
  /// A block as the placement says; nullptr: last_failure() explains.
  void* allocate(const placement&) noexcept;
  /// Fills as much of blocks as it can with blocks of size_bytes, from the front; returns how many.
  std::size_t allocate_bulk(std::size_t size_bytes, std::span<void*> blocks) noexcept;
  /// Grows or shrinks, in place when it can; else allocates, copies, frees. nullptr: the old block
  /// is unchanged. A null block is an allocation; size 0 frees and returns nullptr. What the block
  /// was asked with is not remembered: one that moves is aligned as by allocate(size_bytes) and may
  /// lie anywhere in its heap. Say it again with the second form.
  void* reallocate(void* block, std::size_t size_bytes) noexcept;
  /// The same, and the block is as the placement says afterwards: a block that is not so already
  /// moves. Which bytes are new only the caller knows: `zeroed` is refused (bad_request). The node
  /// is for a block that moves.
  void* reallocate(void* block, const placement&) noexcept;
  /// Frees a block of any heap, allocated by any thread or process. nullptr is ignored. A mistake
  /// (heap_options::on_misuse; an address in no attached region stops the program): what is no live
  /// block, a block of a removed or detached region or a closed heap, any block in a process that
  /// attached read-only. Freeing twice is found at once, or, in a heap that is not checked, when
  /// the block leaves the thread's cache: in this process's name that is a mistake, in another's it
  /// is counted (heap_stats::misuse_count) and logged. In a forked child of a private heap it does
  /// nothing: the blocks are the parent's.
  static void free(void* block) noexcept;
  /// Frees each as free() does; null pointers among them are ignored.
  static void free_bulk(std::span<void* const> blocks) noexcept;
  /// How many bytes a block really has; 0 for what is no live block (a small block freed a moment
  /// ago may still have its size, while a cache keeps it).
  static std::size_t usable_size(const void* block) noexcept;
  /// Why this thread's last allocation returned nullptr.
  static explanation last_failure() noexcept;
  /// What to do here when there is no room for size_bytes: called, without any lock, by the thread
  /// that wants them, before other threads' caches are recalled; it may add memory. True: try
  /// again. Several threads may call it at once; an allocation inside it that finds no room either
  /// is refused. Set it before other threads allocate.
  void on_shortage(std::function<bool(std::size_t size_bytes)> grow);
  /// Gives back what this process's threads keep in their caches. In a read-only process there is
  /// nothing to give.
  void trim() noexcept;

  // ---- addresses --------------------------------------------------------------------------------
  /// Where any byte of any region lies; wait-free, a few ns whatever the number of regions.
  static std::optional<location> locate(const void*) noexcept;
  /// The address here of a bus address; O(log runs), however many regions lie
  /// among each other. nullptr: no region of this heap attached here
  /// has it.
  void* address_of(iova) const noexcept;
  /// The handle of a byte of a live block, zone or pool object. Asked again, while the block is
  /// live, it is the same; once the block has been freed (or moved by reallocate), it is stale for
  /// ever: no later block at this place has it, in whatever kind of heap, whoever freed it and
  /// however. The same goes for removed memory. A process that is killed in the middle of a free
  /// may leave a live block without a handle; ask again.
  ///
  /// For ever: a place has 2^(50-k) generations in a region of up to 2^k bytes (1 GiB: a million,
  /// at most 2^30 in small ones), less those that earlier regions in its slot used up, and uses one
  /// each time a block there is freed whose handle had been asked for; after as many, its handles
  /// begin again. Large blocks and zones share the generations of a 64th of the region. Handles of
  /// removed regions never come again.
  ///
  /// null_handle: in no live block of this heap (a block that was freed a moment ago may still be
  /// taken for live, if another thread's cache keeps it), or there is no metadata left to remember
  /// the name in. About 20 ns; the first one in a slab or pool takes the heap lock, and from then
  /// on frees into that take longer (20 ns; 4 in a pool), and 10 ns more for a block with a handle.
  /// In a process that may not write (attach_options::read_only), and in lists
  /// (block_summary::where): the handle of a block that nobody asked a handle of is the one that it
  /// would get, and resolves as long as any such block lies there.
  handle handle_of(const void*) const noexcept;
  /// The address here of a handle; attaches its region if need be. Errors: stale_handle (region
  /// gone, or block freed), foreign_handle (never was one), cannot_attach, not_attached (manual
  /// policy).
  result<void*> resolve(handle) const;

  // ---- zones ------------------------------------------------------------------------------------
  /// Allocates a block under a name (1 to 63 bytes). size_bytes 0: the largest that meets the
  /// placement in what is free; the heap never grows for it. It can be
  /// found at once, or, with visibility::on_commit, when commit_zone() says that it is filled:
  /// until then find_zone() refuses it with not_committed. If its maker dies first, it stays so,
  /// listed with its maker (for_each_zone), until somebody releases it or reserves the name anew,
  /// which takes its place. Errors: invalid_name, zone_exists (another one, or one that a living
  /// maker fills), invalid_argument, out_of_memory (last_failure() explains), limit_reached,
  /// read_only.
  result<zone> reserve_zone(std::string_view name, const placement&,
                            visibility = visibility::at_once);
  /// From now on it is found, with everything that this thread wrote into it before. `filled` is
  /// what reserve_zone() gave: if the name belongs to another generation by now, that one is not
  /// touched. Again: nothing changes. Only its maker's process may. Errors: invalid_name,
  /// no_such_zone (released, or another generation), wrong_kind, heap_in_use (another process fills
  /// it), read_only.
  result<void> commit_zone(std::string_view name, const zone& filled);
  /// The zone of this name; its region is attached if need be. Errors: invalid_name, no_such_zone,
  /// not_committed, cannot_attach, wrong_kind (a pool or ring).
  result<zone> find_zone(std::string_view name) const;
  /// Waits, up to so long, until a zone of this name with a generation above after_generation can
  /// be found (0: any). Also in a process that attached read-only. Whoever was to commit it may
  /// die: the next one's is waited for. Zero or less: looks once. Errors: those of find_zone but
  /// for no_such_zone and not_committed; deadline_passed.
  result<zone> wait_zone(std::string_view name, std::chrono::nanoseconds deadline,
                         std::uint64_t after_generation = 0) const;
  /// Frees the zone. Whoever still uses it must have let go: its memory may be another block's at
  /// once. Its handle (zone::where) is stale from then on, by which a reader that asks resolve()
  /// after it has read knows that what it read was all of this generation. Errors: invalid_name,
  /// no_such_zone, wrong_kind, read_only, heap_in_use (another process, which lives, is filling
  /// it).
  result<void> release_zone(std::string_view name);

  // ---- observers --------------------------------------------------------------------------------
  /// Tells the observer of every region, then of changes. Errors: vetoed (it is told to remove
  /// those it had accepted).
  result<observation> observe(observer&);
  /// Keeps a region from being removed until the lease ends or this process dies. Errors:
  /// no_such_region, not_attached, read_only.
  result<lease> hold(region_id);

  // ---- seeing -----------------------------------------------------------------------------------
  /// The figures of now, without stopping anyone.
  heap_stats stats() const;
  /// Checks every invariant. Exact for a writable attach (holds everybody still for a moment), else
  /// best effort.
  result<audit_report> audit() const;
  /// Shows every region, also those that are not attached here. The callback may use the heap.
  void for_each_region(const std::function<void(const region_summary&)>&) const;
  /// How many bytes of a region are in transparent huge pages now: as mapped here, where it is
  /// attached, else in another process that has it. Reads /proc/PID/smaps, which takes the kernel
  /// some 10 us for each MiB of small pages of that process. Errors: no_such_region, not_supported
  /// (not known: nobody who has it may be looked into).
  result<std::uint64_t> huge_bytes(region_id) const;
  /// Shows every zone, pool and ring. The callback may use the heap.
  void for_each_zone(const std::function<void(const zone_summary&)>&) const;
  /// Every live block. Slab blocks that lie in a thread's cache are not live. Holds the heap still
  /// meanwhile: don't allocate in the callback. Errors: read_only.
  result<void> for_each_block(const std::function<void(const block_summary&)>&) const;
  /// Shows every stretch of every region in order of address, for maps. Best effort while others
  /// allocate.
  void for_each_map_piece(const std::function<void(const map_piece&)>&) const;
  /// Everybody who is attached, and the dead who still hold blocks.
  std::vector<member_summary> members() const;
  /// All of the above but the blocks, and the figures of stats(), in one look: for pages that show
  /// a heap at work. It takes no lock of the heap and stops nobody, so no member, not even one that
  /// is stopped with the heap lock in its hand, makes it wait, and it makes no member wait; never
  /// refused. Exact when nobody changes anything; else it says so (heap_snapshot::changed), and its
  /// figures are of different moments. From any process, also attached read-only; of a damaged heap
  /// it says what it can (problem). May be called by several threads at once. Cost: about as much
  /// as stats(), members() and the map together.
  heap_snapshot snapshot(const snapshot_options& = {}) const;
  /// Takes back caches and half-done operations of dead members; returns how many members were
  /// dead. Slow paths do it too.
  std::size_t recover() noexcept;
  /// Frees every block of a dead member, pool objects included; returns how many. With look, every
  /// block is shown first and only those it chooses are freed, if the dead member still holds them
  /// then; look is called without any lock and may use the heap. Whoever reaches a block through a
  /// handle must not free it while it is being reaped. Errors: invalid_argument (alive, or nobody),
  /// read_only, forked_away.
  result<std::size_t> reap(member_id,
                           const std::function<reap_choice(const block_summary&)>& look = {});

  /// For annex's own libraries.
  detail::local_heap* internal() const noexcept { return impl_; }

 private:
  explicit heap(detail::local_heap* impl) noexcept : impl_(impl) {}
  friend class detail::local_heap;
  detail::local_heap* impl_ = nullptr;
};

/// The directory of segments: `$ANNEX_DIR`, else `$XDG_RUNTIME_DIR/annex`, else
/// `/dev/shm/annex-UID`. A relative ANNEX_DIR means what it meant when this process (or the one
/// that forked it) first used it.
ANNEX_PUBLIC std::string directory();

}  // namespace annex

#endif
