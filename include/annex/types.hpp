// annex/types.hpp - the values that go in and out of a heap: addresses, options, reports.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <annex/error.hpp>

namespace annex {

/// A bus (DMA) address. no_iova means that the byte has none.
enum class iova : std::uint64_t {};
/// The byte has no bus address.
inline constexpr iova no_iova{~std::uint64_t{0}};
/// A region of a heap. Never 0, never reused within a heap; once 2^32 of them have been used up, no
/// more regions are added.
enum class region_id : std::uint32_t {};
/// A heap, the same number in every process that attaches it.
enum class heap_id : std::uint64_t {};
/// An attached process, counted per heap. 0 is nobody.
enum class member_id : std::uint32_t {};
/// A byte's name that means the same in every process: where it lies, and a generation that tells
/// its block from those that lay there before (heap::handle_of says how exactly). Bytes of one
/// block are as far apart in their handles as in memory. Within one heap.
///
///     63      58 57    44 43           k k-1     0        in a region of up to 2^k bytes
///     [generation][ slot ][ generation  ][ offset ]
///
/// The slot is the region's id modulo the region limit rounded up to a power of two. The first
/// handle in a new heap's region has generation 0.
enum class handle : std::uint64_t {};
/// The handle of nothing.
inline constexpr handle null_handle{};

/// What devices may call the byte of a handle: region_view::remote_base and the offset, without the
/// generation. It is the region's and offset's for as long as the region is there, whatever lies
/// there. region_bytes: the region's length.
constexpr std::uint64_t remote_address(handle h, std::uint64_t region_bytes) noexcept {
  constexpr int slot_shift = 44, slot_bits = 14;
  constexpr std::uint64_t slot_mask = ((std::uint64_t{1} << slot_bits) - 1) << slot_shift;
  std::uint64_t offset_mask = 4095;
  while (offset_mask < region_bytes - 1)
    offset_mask = offset_mask << 1 | 1;
  return static_cast<std::uint64_t>(h) & (slot_mask | offset_mask);
}

/// Any NUMA node will do.
inline constexpr int any_node = -1;

/// What the CPU may do to a region's bytes in this process.
enum class touch : std::uint8_t { read_write, none };
/// What adding does to the contents.
/// keep: what the memory contains is not known. zero: annex writes zeros. is_zero: it is all zeros
/// already, as fresh from the kernel. Zeroed blocks out of memory known to be zero, and not handed
/// out since, need no clearing.
enum class fill : std::uint8_t { keep, zero, is_zero };
/// Transparent huge pages (2 MiB on x86-64) for a region's memory, in every process that attaches
/// it. For a block that is used at random they save most misses of the address translation, and
/// populating is two to four times as fast; memory that is used a little here and there gets more
/// resident. docs/design/0023 has the figures.
/// automatic: memory that annex makes is as `aligned` says where it is populated anyway, else it is
/// left as it is; given memory is left as it is. never: small pages, also where the machine would
/// give huge ones. aligned: the whole aligned pieces of it shall be huge, as far as the kernel has
/// them; shared memory and files in memory are populated for it unless overcommit is asked for.
/// always: the same, populated at once and made huge (Linux 6.1), or refused.
enum class huge_pages : std::uint8_t { automatic, never, aligned, always };
/// What a program mistake does: stop the program with a report, or count, log and refuse.
enum class misuse_policy : std::uint8_t { stop, refuse };
/// How a process gets regions that others added: when it needs them, or only by attach_memory().
enum class attach_policy : std::uint8_t { automatic, manual };

/// Memory to add. Base, length and page size in bytes.
struct memory_range {
  void* base = nullptr;           ///< aligned to page_bytes
  std::size_t length_bytes = 0;   ///< whole pages, up to 16 TiB
  std::size_t page_bytes = 4096;  ///< power of two, 4 KiB to 1 GiB: the unit of IOVA contiguity
  /// One per page, multiples of 64, up to the last page there is; or empty.
  std::span<const iova> page_iovas{};
  int fd = -1;                  ///< lets other processes map it; annex keeps a duplicate
  std::uint64_t fd_offset = 0;  ///< where the range begins in fd, bytes; a multiple of 4096
  /// Verified against the kernel when the CPU may touch the bytes.
  int numa_node = any_node;
  touch access = touch::read_write;  ///< none: never read or written, need not even be mapped
  fill contents = fill::keep;        ///< what is done to the bytes
  /// The kernel neither moves nor takes its pages away while a member has it attached; each pins
  /// for itself.
  bool pin = false;
  /// A promise: every member that has this memory has it here; they attach it without being told.
  bool same_address = false;
  /// Asked of the kernel for the range, here and in every process that attaches it; hugetlb memory
  /// and devices have the pages they have.
  huge_pages huge = huge_pages::automatic;
  unsigned threads = 0;  ///< that pin it, in pieces of 1 GiB; 0: one per CPU
  /// Of pinning, by any of them, one call at a time.
  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress{};
};

/// What a block must be like.
struct placement {
  std::size_t size_bytes = 0;  ///< of the block
  /// Power of two; of the address here, and of the IOVA too if iova_contiguous.
  std::size_t align_bytes = 64;
  /// Power of two, at least size_bytes: the block crosses no multiple of it; 0: none.
  std::size_t boundary_bytes = 0;
  bool iova_contiguous = false;  ///< only from memory with IOVAs, which follow each other
  bool zeroed = false;           ///< refused for memory without CPU access
  int numa_node = any_node;      ///< preferred; other nodes serve when it is full
  /// Power of two, of the IOVA alone: align_bytes is then of the address alone. 0: align_bytes says
  /// both. Other than 0: iova_contiguous.
  std::size_t iova_align_bytes = 0;
  /// No byte of the block has a higher IOVA: the mask of a device that can't reach everything.
  /// Other than no_iova, which allows any: iova_contiguous.
  iova highest_iova = no_iova;
};

/// Where a byte lies.
struct location {
  heap_id heap{};                     ///< the heap
  region_id region{};                 ///< the region of it
  std::size_t offset_bytes = 0;       ///< from the region's start
  std::optional<iova> bus_address{};  ///< nothing: the region has no IOVAs
  /// IOVAs go on without a break for so long; without IOVAs: to the region's end.
  std::size_t contiguous_bytes = 0;
};

/// When a zone that is reserved can be found: at once, or when heap::commit_zone() says that it has
/// been filled.
enum class visibility : std::uint8_t { at_once, on_commit };

/// A named block.
struct zone {
  void* address = nullptr;     ///< in this process
  std::size_t size_bytes = 0;  ///< at least what was asked for
  handle where{};              ///< the handle of its first byte
  region_id region{};          ///< the region it lies in
  iova bus_address = no_iova;  ///< of the first byte
  /// Tells it from earlier and later zones of the same name: each zone of a heap has a higher one
  /// than all before, also after a repair.
  std::uint64_t generation = 0;
};

/// What a new heap is like. Kept in the heap: whoever attaches gets the same.
struct heap_options {
  /// What a mistake of the program does, in every process.
  misuse_policy on_misuse = misuse_policy::stop;
  /// Catch every double free at once, list live blocks exactly; a few ns more.
  bool checked = false;
  bool reclaim_dead = false;  ///< free the blocks of a member as soon as its death is noticed
  /// Worthless once no member lives (its memory died with them): then create() takes the name over,
  /// and destroy() does not mind live blocks.
  bool ephemeral = false;
  unsigned file_mode = 0600;  ///< of the segment and of backing files annex makes
  /// Address space reserved for the segment; 2 MiB to 1 TiB. A private heap.
  std::size_t metadata_limit_bytes = std::size_t{64} << 30;
  ///< with the default takes less where address space is short
  std::uint32_t member_limit = 4096;   ///< attached or dead with blocks, at once; up to 60,000
  std::uint32_t thread_limit = 16384;  ///< threads that allocate at once; up to 60,000
  std::uint32_t region_limit = 16384;  ///< at once; up to 16,384
  std::uint32_t zone_limit = 131072;   ///< at once; up to 16,777,216
};

/// How this process joins a heap.
struct attach_options {
  /// The segment is mapped without write permission: look, don't touch.
  bool read_only = false;
  attach_policy regions = attach_policy::automatic;  ///< how it gets regions that others add
  /// Check the whole segment first; always done when nobody else is attached.
  bool verify = false;
  /// Map files, devices and descriptors that others brought wherever they lie, whoever they belong
  /// to, and addresses that they named: this user trusts everybody who may write to the heap with
  /// that. Needed only where others may write to it, or where it is another user's; see
  /// docs/security.md.
  bool foreign_memory = false;
};

/// A heap of the annex directory, or what lies there under such a name.
struct heap_summary {
  std::string name;                  ///< as in heap::attach()
  heap_id id{};                      ///< heap::id()
  std::uint64_t total_bytes = 0;     ///< of all regions
  std::uint64_t used_bytes = 0;      ///< in live blocks
  std::uint64_t metadata_bytes = 0;  ///< of the segment file that is really in use
  std::uint32_t region_count = 0;    ///< of them
  std::uint32_t zone_count = 0;      ///< zones, pools and rings
  std::uint32_t member_count = 0;    ///< attached, and the dead who hold blocks
  /// Empty: it is fine; else why its figures are missing or wrong, and what to do.
  std::string problem{};
};

/// All in bytes or counts, taken without stopping anyone; exact when nobody is allocating.
struct heap_stats {
  std::uint64_t total_bytes = 0;  ///< of all regions
  std::uint64_t used_bytes = 0;   ///< in live blocks, rounded to what they occupy
  /// Free blocks that threads keep, and free blocks of slabs.
  std::uint64_t cached_bytes = 0;
  std::uint64_t free_bytes = 0;          ///< in no extent
  std::uint64_t largest_free_bytes = 0;  ///< what one allocation could get
  std::uint64_t live_blocks = 0;         ///< of every kind
  std::uint64_t region_count = 0;        ///< attached here or not
  std::uint64_t zone_count = 0;          ///< zones, pools and rings
  std::uint64_t member_count = 0;        ///< attached, and the dead who hold blocks
  std::uint64_t thread_count = 0;        ///< that have a cache
  std::uint64_t slab_count = 0;          ///< of equal blocks
  std::uint64_t hole_count = 0;          ///< stretches of free granules
  std::uint64_t metadata_bytes = 0;      ///< of the segment file that is really in use
  std::uint64_t misuse_count = 0;        ///< refused program mistakes
  std::uint64_t lock_steals = 0;         ///< locks taken over from dead members
  std::uint64_t recovered_threads = 0;   ///< caches taken back from the dead
};

/// A region as for_each_region() shows it.
struct region_summary {
  region_id id{};                        ///< never used again in this heap
  std::uint64_t length_bytes = 0;        ///< of all of it
  std::uint64_t page_bytes = 0;          ///< what its IOVAs are counted in
  std::uint64_t free_bytes = 0;          ///< in no extent
  std::uint64_t largest_free_bytes = 0;  ///< what one allocation could get of it
  /// What it is cut into: 64 KiB, or 4 KiB in regions below 32 MiB.
  std::uint64_t granule_bytes = 0;
  int numa_node = any_node;          ///< of its memory, or any_node
  touch access = touch::read_write;  ///< none: no process touches it
  bool draining = false;             ///< nothing is allocated from it: it is being removed
  /// What is asked of the kernel; automatic: nothing. heap::huge_bytes() says what it gave.
  huge_pages huge = huge_pages::automatic;
  void* base = nullptr;         ///< in this process, null when not attached
  std::uint64_t origin = 0;     ///< where its adder had it, as a number
  member_id adder{};            ///< who added it; perhaps gone
  std::uint64_t iova_runs = 0;  ///< 0: no IOVAs
  iova first_iova = no_iova;    ///< of its first byte
  /// Path, or how the memory can be reached; empty: only by hand.
  std::string backing;
};

/// What a live block is. slab_block: one of many equal ones. large: granules of its own. zone: a
/// named one. pool_object: out of a pool.
enum class block_kind : std::uint8_t { slab_block, large, zone, pool_object };
/// What to do with a block of a dead member: free it, or leave it where it is, listed under the
/// dead member.
enum class reap_choice : std::uint8_t { free, keep };
/// A live block as for_each_block() and reap() show it.
struct block_summary {
  block_kind kind{};  ///< what it is
  /// Its handle, if somebody asked for it; else the one it would get (heap::handle_of).
  handle where{};
  void* address = nullptr;     ///< null when the region is not attached here
  std::size_t size_bytes = 0;  ///< that it occupies
  member_id holder{};          ///< in whose name it is
};

/// A member of a heap: an attachment of a process, alive or dead.
struct member_summary {
  member_id id{};      ///< for heap::reap()
  int process_id = 0;  ///< as it sees itself: of its own PID namespace
  /// Its name as the kernel has it; printable() before it is shown.
  std::string program;
  bool alive = false;              ///< as the kernel says
  bool self = false;               ///< the one that asks
  std::uint64_t threads = 0;       ///< that have a cache
  std::uint64_t cached_bytes = 0;  ///< free blocks that they keep
  std::uint64_t held_blocks = 0;   ///< live blocks in its name
  std::uint64_t held_bytes = 0;    ///< that they occupy
};

/// A zone, pool or ring as for_each_zone() shows it.
struct zone_summary {
  std::string name;  ///< any bytes; printable() before it is shown
  /// Of its first byte; null_handle for a ring, which has none in a region.
  handle where{};
  std::uint64_t size_bytes = 0;  ///< of its block; 0 for a ring
  std::string kind;              ///< zone, pool or ring
  bool committed = true;         ///< false: it is being filled, or was when its maker died
  std::uint64_t generation = 0;  ///< of a zone (zone::generation)
  member_id maker{};             ///< who reserved it
  int maker_process_id = 0;      ///< as the maker sees itself: of its own PID namespace
  bool maker_alive = false;      ///< as the kernel says
};

/// What granules are used for.
enum class map_use : std::uint8_t { free, large, zone, slab };
/// One stretch of a region, for maps: granules of one use.
struct map_piece {
  region_id region{};              ///< the region
  map_use use{};                   ///< what for
  std::uint64_t offset_bytes = 0;  ///< of its first byte in the region
  std::uint64_t length_bytes = 0;  ///< whole granules
  std::uint64_t live_bytes = 0;    ///< for slabs: in live blocks
  std::uint64_t cached_bytes = 0;  ///< for slabs: in free ones
  std::uint32_t block_bytes = 0;   ///< for slabs
  member_id holder{};              ///< in whose name it is; of a slab: whose thread owns it
};

/// What a snapshot looks at, and how far it goes.
struct snapshot_options {
  bool map_pieces = true;  ///< heap_snapshot::map_pieces is filled
  std::uint32_t most_extents =
      1u << 20;  ///< looked at, of all regions together: what bounds its time and memory
  /// For one in which nothing changed, 1 to 100; each takes as long as the first.
  std::uint32_t tries = 3;
};

/// A heap as it was at one moment, or, if it was at work, during a short while.
struct heap_snapshot {
  heap_stats stats;                     ///< the figures
  std::vector<region_summary> regions;  ///< by id
  std::vector<zone_summary> zones;      ///< by name
  std::vector<member_summary> members;  ///< by id
  std::vector<map_piece> map_pieces;    ///< of region after region, as in `regions`, by offset
  /// The heap changed, or may have, while all tries were made: parts may be of different moments.
  /// False: all of it is of one moment, as far as blocks that came and went again leave it.
  bool changed = false;
  bool complete = true;  ///< false: `problem` says what is missing
  /// Empty: it is fine; else what is damaged or missing, and what to do.
  std::string problem{};
  /// Who had the heap lock before and after the last try, if it was one holding: stopped, perhaps;
  /// 0: nobody.
  member_id lock_holder{};
  /// Equal in two snapshots: regions, extents and zones have not changed in between.
  std::uint64_t sequence = 0;
  std::uint64_t taken_ns = 0;  ///< when it was finished, of the monotonic clock
  std::uint32_t tries = 0;     ///< how many were made
};

/// What an audit found.
struct audit_report {
  std::uint64_t checked = 0;  ///< objects looked at
  /// Everything was held still; false: read-only, best effort.
  bool exact = false;
  /// One sentence each, beginning with the invariant's number.
  std::vector<std::string> broken;
  /// Whether every invariant holds.
  bool holds() const noexcept { return broken.empty(); }
};

/// What a repair found and did.
struct repair_report {
  std::vector<std::string> found;    ///< what the audit said before
  std::vector<std::string> changed;  ///< one sentence each
  /// What nothing vouches for, one sentence each: it is not handed out; look at it, then reap or
  /// release it.
  std::vector<std::string> uncertain;
  audit_report after;  ///< what is broken still: truth that nothing else tells
};

/// Why the last allocation of this thread failed.
struct explanation {
  /// What was in the way. docs/errors/out_of_memory.md says what mends each.
  enum class cause : std::uint8_t {
    none,
    no_region,
    no_fit,
    alignment,
    boundary,
    contiguity,
    no_addresses,
    limit,
    bad_request,
    not_attached,
    no_cpu_access,
    read_only,
    forked_away,
    damaged,
    /// The block had to lie in one region: of a container.
    one_region
  };
  cause why = cause::none;               ///< none: the last allocation succeeded
  std::uint64_t requested_bytes = 0;     ///< of the allocation
  std::uint64_t free_bytes = 0;          ///< then, in all regions
  std::uint64_t largest_free_bytes = 0;  ///< then, in one piece
  std::uint64_t hole_count = 0;          ///< then: stretches of free granules
  std::uint64_t cached_bytes = 0;        ///< free, but kept by threads and slabs
  /// What a member holds.
  struct holding {
    member_id who{};          ///< 0: nobody
    int process_id = 0;       ///< of its own PID namespace
    std::uint64_t bytes = 0;  ///< in live blocks
  };
  holding top[3]{};     ///< who holds most
  char text[320] = {};  ///< what happened, the figures, and the remedy
  /// The text. Valid as long as this object.
  std::string_view message() const noexcept { return text; }
};

/// Ways to get memory in one call.
struct memory_source {
  /// Where memory comes from; each with its fields below.
  enum class kind : std::uint8_t { anonymous, shared, hugetlb, file, device, descriptor };
  /// Shared: a file in the annex directory (named heaps) or a memfd (private ones).
  kind from = kind::shared;
  std::size_t length_bytes = 0;   ///< whole pages
  std::size_t page_bytes = 4096;  ///< hugetlb: 2 MiB or 1 GiB; 4 KiB otherwise
  /// File: created or grown as needed; device: /dev/dax…; hugetlb: directory of a hugetlbfs, or
  /// empty for a memfd.
  std::string path{};
  std::uint64_t offset_bytes = 0;  ///< into the file or descriptor, a multiple of 4096
  /// Descriptor: mapped as it is, never made longer; annex keeps a duplicate.
  int fd = -1;
  int numa_node = any_node;  ///< bound before the first touch
  /// Touch every page now; refused when the machine is short. No write to it kills afterwards.
  bool prefault = false;
  unsigned threads = 0;                ///< for prefault and pin; 0: one per CPU
  std::span<const iova> page_iovas{};  ///< as in memory_range: of an IOMMU domain, say; or empty
  /// As in memory_range: populated and pinned before anything else is done with it; `progress`
  /// counts it.
  bool pin = false;
  /// IOVAs from /proc/self/pagemap, runs merged; needs privilege, and pinned or hugetlb pages.
  bool physical_iovas = false;
  /// Every page is taken from its file system now, untouched, or the memory is refused: afterwards
  /// no write to it kills. What `shared` and `file` do by themselves on a file system (about 0.2 s
  /// a GiB in /dev/shm, no time on a disk); asked for, it holds for private heaps and descriptors
  /// too, and a file system that can't is an error. Anonymous memory is populated.
  bool reserve = false;
  /// More than there is: neither is anything looked at nor reserved, pages come when they are
  /// touched, and a write that finds none ends the program (SIGBUS, or the machine's out-of-memory
  /// killer). Not with reserve, prefault or pin.
  bool overcommit = false;
  /// Of anonymous memory, of shared memory and of files in memory (tmpfs); for others `aligned` and
  /// `always` are refused.
  huge_pages huge = huge_pages::automatic;
  /// Of reserving, populating or pinning.
  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress{};
};

}  // namespace annex

#endif
