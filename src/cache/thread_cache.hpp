// cache/thread_cache.hpp - free blocks that one thread keeps, in the segment, so that they come
// back when it dies.
//
//   magazine of a class:  entries_of(class)[0 … count)   free blocks of this thread's own slabs;
//                                                        the top is handed out next
//   entry:                region slot << 48 | offset | entry_is_clean: zeros, never handed out
//
//   allocate   e = entries[count-1]; fence; count = count-1   <- commit: before it free, after live
//   free       entries[count] = e;   fence; count = count+1   <- commit
//   refill     write above count; fence; count = n; fence; clear the free bits
//              (in between a block is in both: the union counts)
//   flush      set the free bits; fence; move the rest down; fence; count = n
//
// Refill and flush say so in the magazine (moving) while a block may be in both. So whoever takes
// over from a thread, or from whoever stood in for it, tells what rule R2 left there from what the
// program freed twice: a block of a magazine that is not moving and of its slab's free bits, or of
// two entries, was freed twice.
//
// Who may touch a thread's magazines, free bitmaps and partial lists (rule C1):
//   the thread itself, with busy set and frozen clear, or holding the heap lock; or
//   a holder of the heap lock, after the thread is dead, or frozen and not busy.
//
//   thread:   busy = 1; fence; frozen? → busy = 0, wait for the heap lock; then read what a freezer
//             may change: the count, the entries, whose slab it is. What was read sooner may be
//             from before a freezer came and went.
//   freezer:  frozen = asked; process barrier; wait until not busy; frozen = held; …; frozen = no
//
// The barrier is the kernel's (membarrier), so the thread pays two plain stores and a load. Frozen
// is set and cleared within one holding of the heap lock. If the freezer dies, the one who takes
// the lock over clears it, and repairs the cache first where it says held: busy alone can't tell,
// since a thread that is about to see frozen sets it for a moment.
// docs/design/models/cache_recall.pml checks all interleavings and deaths.
//
// Freeing a block of another thread's slab touches neither cache: one compare-and-swap of a word of
// the slab's remote bitmap (commit), then a hint bit in the owner's slot, which may be lost.
#pragma once
#include <array>

#include "base/function_ref.hpp"
#include "region/address_index.hpp"
#include "region/region_views.hpp"
#include "shared/arena.hpp"
#include "slab/slab_record.hpp"

namespace annex {

inline constexpr u32 magazine_slots = 128;
// What a damaged granule may say a class is, at most: it leads no further than the file is longer
// than its last chunk.
inline constexpr u32 largest_class_number = 63;
static_assert(class_count <= largest_class_number + 1 &&
              sizeof(u64) * (largest_class_number + 2 - class_count) * (magazine_slots + 8) +
                      256 * sizeof(u64) <=
                  spare_file_bytes);
inline constexpr u32 first_capacity = 8;
// Blocks moved at once: what the slowest of 10,000 operations takes.
inline constexpr u32 largest_batch = 32;
constexpr u32 largest_capacity_of(u32 bytes) noexcept {
  return bytes <= 1 * KiB ? magazine_slots : bytes <= 8 * KiB ? 64 : 16;
}

/// The count as the hits read it: its lowest byte. Whatever lies there leads at most 127 entries
/// behind the magazine.
[[gnu::always_inline]] inline u32 count_for_a_hit(const shared_word<u32>& count) noexcept {
  static_assert(magazine_slots < 256 && std::endian::native == std::endian::little);
  return __atomic_load_n(reinterpret_cast<const u8*>(&count.value), __ATOMIC_RELAXED);
}

struct alignas(64) magazine {
  bounded_word<u32, magazine_slots> count;
  at_most<u32, magazine_slots> capacity;
  u64 divisor;  // class_divisor of base/size_class.hpp
  u32 block_bytes;
  u32 empties;        // index: slabs of the class without a live block
  chunk_ref partial;  // index: slabs with free blocks
  u32 made;           // index: slabs cut less those given back: the next one's size
  u32 moving;         // 1: entries may be in their slabs' bitmaps too, or here twice
  u32 padding[7];
  u64 entries[magazine_slots];
};
static_assert(offsetof(magazine, entries) == 64);

/// Large blocks that the thread keeps (cache/kept_extents.hpp), the oldest first.
inline constexpr u32 most_kept_extents = 16;
inline constexpr u64 most_kept_bytes = 64 * MiB;
struct kept_extents {
  bounded_word<u32, most_kept_extents> count;
  u32 padding;
  shared_word<u64> bytes;          // index: of all of them
  u64 entries[most_kept_extents];  // region slot << 32 | granule
};

// frozen_look, in addition: something this thread remembers has gone (a pool was released); it
// forgets it when it has the heap lock next, and takes no hit before.
enum frozen_state : u32 { frozen_no = 0, frozen_asked = 1, frozen_held = 2, frozen_look = 4 };

struct thread_cache {
  // What the granules of this thread's slabs say: owner | granule_slab << 16.
  u32 key;
  shared_word<u32> busy;
  shared_word<u32> frozen;
  u32 member;
  u32 next_lane;
  u16 slot, checked;
  u32 padding[10];
  u64 used_lanes[limits::lanes / 64];  // index: a lane without its bit is empty
  chunk_ref lanes[limits::lanes];
  magazine magazines[class_count];
  kept_extents kept;
  u64* entries_of(u32 size_class) noexcept { return magazines[size_class].entries; }
  const u64* entries_of(u32 size_class) const noexcept { return magazines[size_class].entries; }
};

/// Where a size's magazine lies in a cache, in bytes: like class_table, but with nothing to
/// calculate behind it.
inline constexpr auto magazine_table = [] {
  std::array<u32, class_table.size()> at{};
  for (u64 i = 0; i < at.size(); ++i)
    at[i] = static_cast<u32>(offsetof(thread_cache, magazines) + class_table[i] * sizeof(magazine));
  return at;
}();
inline magazine* magazine_for(thread_cache* c, u64 size_bytes) noexcept {
  return reinterpret_cast<magazine*>(reinterpret_cast<char*>(c) +
                                     magazine_table[class_table_index(size_bytes)]);
}

inline constexpr u32 region_shift = 48;
inline constexpr u64 entry_is_clean = 1;
inline constexpr u64 offset_mask = (u64{1} << region_shift) - 1 - entry_is_clean;

struct pool_cache;

/// A region without bytes.
inline constinit local_region no_place{};

/// What the fast path needs of this thread: its caches by local heap index, the cache it used last
/// and the heap that one is of (by a number that no two heaps of a process have), and where its
/// last free went.
struct thread_state {
  thread_cache* const* caches = nullptr;
  u32 cache_count = 0;
  u64 heap_number = 0;
  thread_cache* cache = nullptr;  // there, if heap_number is not 0
  local_region* last_region = &no_place;
  u64 pool_number = 0;  // of the pool it used last, and its caches there
  pool_cache* pool = nullptr;
  thread_cache* pool_thread = nullptr;
};
extern constinit thread_local thread_state this_thread [[gnu::tls_model("initial-exec")]];

/// Under the heap lock.
inline frozen_state frozen_of(const thread_cache& c) noexcept {
  // sync(frozen): what a freezer that died did before it said so is seen.
  return static_cast<frozen_state>(c.frozen.load(std::memory_order_acquire) & ~u32{frozen_look});
}
inline void set_frozen(thread_cache& c, frozen_state state) noexcept {
  // sync(frozen).
  c.frozen.store((c.frozen.load(std::memory_order_relaxed) & frozen_look) | state,
                 std::memory_order_release);
}

/// The region of an address; the one of the thread's last free is looked at first. Null: none.
inline local_region* region_of(const void* address) noexcept {
  local_region* const last = this_thread.last_region;
  return static_cast<u64>(static_cast<const char*>(address) - last->base) < last->length_bytes
             ? last
             : address_index::find(address);
}

inline thread_cache* cache_of(u32 heap_index) noexcept {
  return heap_index < this_thread.cache_count ? this_thread.caches[heap_index] : nullptr;
}

/// The thread uses another heap than the last time. Null: it has no cache there yet.
[[gnu::noinline]] thread_cache* turn_to(u32 heap_index, u64 heap_number) noexcept;

/// Whether the entry's block begins in memory that is mapped here: entries lie in the segment, and
/// anybody may have been there.
[[gnu::always_inline]] inline bool leads_somewhere(char* const* bases, u64 entry) noexcept {
  return (entry & offset_mask) < region_views::lengths_beside(bases)[entry >> region_shift];
}
/// An entry of the thread's magazine; false: take the slow path.
[[gnu::always_inline]] inline bool take_entry(thread_cache* c, char* const* bases, u64 size_bytes,
                                              u64* taken) noexcept {
  // Ordered before the load by the freezer's process barrier.
  c->busy.store(1, std::memory_order_relaxed);
  compiler_fence();
  // sync(frozen): before anything that a freezer changes is read.
  if (!is_zero(c->frozen.value)) [[unlikely]] {
    c->busy.store(0, std::memory_order_release);
    return false;
  }
  magazine* m = magazine_for(c, size_bytes);
  asm("" : "+r"(m));  // one register for it
  const u32 n = count_for_a_hit(m->count);
  if (n == 0) [[unlikely]] {
    // sync(busy): what was read here was read before a freezer changes it.
    c->busy.store(0, std::memory_order_release);
    return false;
  }
  const u64 entry = m->entries[n - 1];
  if (!leads_somewhere(bases, entry)) [[unlikely]] {
    // sync(busy): as above.
    c->busy.store(0, std::memory_order_release);
    return false;
  }
  compiler_fence();
  m->count.store(n - 1, std::memory_order_relaxed);  // commit
  compiler_fence();
  c->busy.store(0, std::memory_order_release);  // sync(busy): the freezer sees all of it
  *taken = entry;
  return true;
}
[[gnu::always_inline]] inline char* block_of(char* const* bases, u64 entry) noexcept {
  return bases[entry >> region_shift] + (entry & offset_mask);
}
/// A block from the thread's magazine; false: take the slow path.
[[gnu::always_inline]] inline bool take_cached(thread_cache* c, char* const* bases, u64 size_bytes,
                                               void** block) noexcept {
  u64 entry = 0;
  if (!take_entry(c, bases, size_bytes, &entry)) [[unlikely]]
    return false;
  *block = block_of(bases, entry);
  return true;
}

/// Whether one of the slab's blocks begins at this offset; granule: the word of the slab's granule
/// there; divisor(): of its class, asked when it is needed.
template <class Divisor>
[[gnu::always_inline]] inline bool begins_block(const local_region& region, u64 offset, u64 granule,
                                                Divisor divisor) noexcept {
  const u64 in_granule = offset & region.granule_mask;
  if (in_granule >= (granule >> 48) * blocks_end_unit) [[unlikely]]
    return false;
  const u64 in_slab = in_granule + ((granule >> 32 & 0xffff) << region.granule_shift);
  return is_block_start(in_slab, divisor());
}

/// Puts a block of the thread's own slab into its magazine; false: take the slow path, which also
/// finds out what is wrong.
[[gnu::always_inline]] inline bool put_cached(thread_cache* c, const local_region& region,
                                              u64 offset) noexcept {
  c->busy.store(1, std::memory_order_relaxed);
  compiler_fence();
  // sync(frozen): before anything that a freezer changes is read. Whose slab it is belongs to that:
  // a freezer makes orphans.
  if (!is_zero(c->frozen.value)) [[unlikely]] {
    c->busy.store(0, std::memory_order_release);
    return false;
  }
  // Fields by shifts: the compiler takes the struct apart through memory.
  const u64 word =
      std::bit_cast<u64>(load_granule(region.granule_base + (offset >> region.granule_shift)));
  if ((static_cast<u32>(word) & 0xffffff) == c->key) [[likely]] {
    const u64 size_class = word >> 24 & largest_class_number;
    magazine* m = c->magazines + size_class;
    asm("" : "+r"(m));  // one register for it, not one for each of its fields
    const auto divisor = [&] {
      asm("" : "+r"(m));  // read now and not sooner: registers are short
      return m->divisor;
    };
    if (begins_block(region, offset, word, divisor)) [[likely]] {
      // What follows is read behind the check, so that nothing has to be saved on the stack for it.
      compiler_fence();
      const u32 n = count_for_a_hit(m->count);
      u64* const top = m->entries + n;
      const u64 entry = region.entry_base | offset;
      // Before an empty magazine's first entry lie zeros: the first block of slot 0's region takes
      // the slow path then.
      if (n < m->capacity.value && top[-1] != entry) [[likely]] {
        *top = entry;
        compiler_fence();
        m->count.store(n + 1, std::memory_order_relaxed);  // commit
        compiler_fence();
        c->busy.store(0, std::memory_order_release);  // sync(busy)
        return true;
      }
    }
  }
  c->busy.store(0, std::memory_order_release);  // sync(busy)
  return false;
}

/// Sets busy for as long as the cache may be touched (rule C1). entered() false: it is frozen; wait
/// for the heap lock, try again.
class busy_scope {
 public:
  explicit busy_scope(thread_cache& c) noexcept : cache_(c) {
    // Ordered before the load by the freezer's process barrier.
    c.busy.store(1, std::memory_order_relaxed);
    compiler_fence();
    entered_ = is_zero(c.frozen.value);  // sync(frozen)
  }
  ~busy_scope() {
    compiler_fence();
    cache_.busy.store(0, std::memory_order_release);  // sync(busy)
  }
  busy_scope(const busy_scope&) = delete;
  busy_scope& operator=(const busy_scope&) = delete;
  bool entered() const noexcept { return entered_; }

 private:
  thread_cache& cache_;
  bool entered_;
};

/// Before a slab is linked into the lane.
inline void mark_lane(thread_cache& c, u32 lane) noexcept {
  store_word(c.used_lanes[lane / 64], c.used_lanes[lane / 64] | u64{1} << (lane % 64));
  compiler_fence();
}
/// Calls visit for the head of every lane that may hold slabs.
template <class Visit>
void for_each_lane(thread_cache& c, Visit visit) noexcept {
  for (u32 word = 0; word < limits::lanes / 64; ++word)
    for (u64 bits = c.used_lanes[word]; bits != 0; bits &= bits - 1)
      visit(c.lanes[word * 64 + static_cast<u32>(std::countr_zero(bits))]);
}

// ---- slow parts; the caller has the right to the cache (rule C1) --------------------------------

void start_cache(thread_cache& c, u16 slot, u32 member, bool checked) noexcept;

/// The slab a block of this view lies in; null: the granule belongs to no slab.
slab_record* slab_at(const segment& s, const local_region& region, u64 offset) noexcept;

/// Fills an empty magazine from the thread's slabs. False: they have no free block. *doubles: as
/// collect().
bool refill(const segment& s, region_views& views, thread_cache& c, u32 size_class,
            u32* doubles) noexcept;
/// One block straight from a slab's bitmap, for checked heaps. ~0: none. *doubles: as collect().
u64 take_direct(const segment& s, region_views& views, thread_cache& c, u32 size_class,
                u32* doubles) noexcept;
/// One block in this region: the magazine's top, or straight from a slab's bitmap. ~0: none. (A
/// magazine is not searched.)
/// *doubles: as collect().
u64 take_in_region(const segment& s, region_views& views, thread_cache& c, u32 size_class,
                   u32 region_slot, u32* doubles) noexcept;
/// What take_fitting() found where there was no such block.
enum class fitting_search : u8 {
  found,
  none,     ///< among those that were looked at: a new slab may have one
  hopeless  ///< in a slab all of which is free there is none either
};
/// One block in this region of which fits(offset) says yes, as take_in_region() takes them, and
/// what to do where there is none. Looks at a bounded number of slabs and blocks.
fitting_search take_fitting(const segment& s, region_views& views, thread_cache& c, u32 size_class,
                            u32 region_slot, function_ref<bool(u64)> fits, u64* entry,
                            u32* doubles) noexcept;
/// Gives the older part of a magazine back to the slabs, keeping `keep` entries. *doubles counts
/// blocks that were free already, and those whose slab has gone since because all of it was free;
/// not where somebody died moving them.
void flush(const segment& s, region_views& views, thread_cache& c, u32 size_class, u32 keep,
           u32* doubles) noexcept;
/// Every entry into its slab's bitmap, of a thread that is gone: its indexes (counts, partial
/// lists) are not to be trusted.
void give_back_magazine(const segment& s, region_views& views, thread_cache& c, u32 size_class,
                        u32* doubles) noexcept;
/// Gives back only the entries of one region.
void flush_region(const segment& s, region_views& views, thread_cache& c, u32 region_slot,
                  u32* doubles) noexcept;
/// Marks a block that is not free in its slab's bitmap.
void free_direct(const segment& s, thread_cache& c, slab_record* slab, u32 block) noexcept;
/// Takes over what others freed into the slabs of hinted lanes (all: of every lane). True when
/// anything came.
bool collect_lanes(const segment& s, thread_cache& c, bool all, u32* doubles) noexcept;

void add_partial(const segment& s, thread_cache& c, slab_record* slab) noexcept;
void remove_partial(const segment& s, thread_cache& c, slab_record* slab) noexcept;

}  // namespace annex
