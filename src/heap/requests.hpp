// heap/requests.hpp - blocks asked for and given back, but for the hits (heap/fast_path.hpp).
//
//   allocate.cpp      sizes → magazine, slab, extent
//   allocate_in.cpp   the same, in one region
//   allocate_placed.cpp   the same, where the placement says
//   reallocate.cpp    the block stays, or its bytes move
//   explain.cpp       why there is none
//   free.cpp          address → magazine, remote bitmap, extent
//   keeping.cpp       large blocks that the thread keeps
//
// Threads and processes: any. The first comment of each file says what is left if the process dies.
#pragma once
#include <functional>
#include <span>

#include "cache/blocks.hpp"
#include "cache/kept_extents.hpp"
#include "cache/orphans.hpp"
#include "heap/caretaker.hpp"
#include "heap/regions.hpp"

// Of a function that nobody takes the address of: it need not begin with the instruction that jumps
// by address must lead to.
#if defined(__CET__) && (__CET__ & 1) != 0
#define ANNEX_NO_JUMP_MARK [[gnu::nocf_check]]
#else
#define ANNEX_NO_JUMP_MARK
#endif

namespace annex::detail {

struct leaving_block;  // free.cpp

class requests : public part {
 public:
  requests(attachment& heap, membership& member, regions& memory, caretaker& care) noexcept
      : part(heap), member_(member), memory_(memory), care_(care) {}

  // ---- allocate.cpp
  void* allocate(u64 size_bytes) noexcept;
  void* allocate(const placement& p) noexcept;
  /// Zeros, or null; not from memory the CPU may not touch.
  void* allocate_cleared(u64 size_bytes) noexcept;
  size_t allocate_bulk(u64 size_bytes, std::span<void*> blocks) noexcept;
  /// This thread's cache of the heap. Null: no room for one, or no member.
  thread_cache* make_cache() noexcept;
  void on_shortage(std::function<bool(size_t)> grow) { grow_ = std::move(grow); }
  /// Room for an extent, in a region that is usable here; its region in *where. Under the heap
  /// lock.
  std::optional<extent_place> find_extent(tenure& t, const placement& p, extent_request& q,
                                          local_region** where, u32 only_slot = any_slot) noexcept;
  /// One step further each time it is called for a request, beginning with stage 0. False: nothing
  /// is left to try.
  bool make_room(u32& stage, const placement& p, u64 size_bytes) noexcept;
  // ---- allocate_in.cpp
  /// A block in this region or none, for what must not lie apart (annex/offset_allocator.hpp). Size
  /// and alignment of p count.
  void* allocate_in(region_id region, const placement& p) noexcept;
  // ---- reallocate.cpp
  void* reallocate(void* block, u64 size_bytes) noexcept;
  void* reallocate(void* block, const placement& p) noexcept;
  /// A large block of this heap, without moving it; false: no room, or no large block.
  bool resize_in_place(void* block, u64 size_bytes) noexcept;

  // ---- free.cpp
  /// Any block of any heap of this process; what is no block is reported.
  /// Called by name only, so it needs no mark for jumps by address.
  ANNEX_NO_JUMP_MARK static void free(void* block) noexcept;
  /// The same, for whoever knows that it is no hit.
  [[gnu::noinline]] static void free_past_hit(void* block) noexcept;
  /// False, and nothing done: the address is in no region of any heap here.
  static bool free_if_known(void* block) noexcept;
  static size_t usable_size(const void* block) noexcept;
  /// Whether this process may give a block or object back; if not, it has been said, where it is a
  /// mistake.
  bool may_free(const void* block, const local_region* region) noexcept;

  // ---- keeping.cpp
  /// Large blocks go back to their regions at once: for whoever gives memory back as soon as
  /// nothing is live in it. Before anything is freed.
  void keep_no_large_blocks() noexcept { keeps_large_ = false; }

  // ---- explain.cpp
  void* explain(explanation::cause why, const placement& p) noexcept;
  /// Of an allocation that had to lie in one region, in the caller's words.
  static void* explain_one_region(const placement& p, std::string_view sentence) noexcept;
  static explanation last_failure() noexcept;

 private:
  // ---- allocate_placed.cpp
  void* allocate_fitting(const placement& p) noexcept;
  void* take_fitting(thread_cache& c, local_region& region, u32 size_class, const placement& p,
                     bool* clean) noexcept;

  void* allocate_class(u32 size_class, const placement& p, bool* clean) noexcept;
  void* allocate_extent(const placement& p, u64 size_bytes, u64* dirty_bytes,
                        u32 only_slot = any_slot) noexcept;
  void* allocate_class_in(thread_cache& c, u32 slot, u32 size_class, const placement& p) noexcept;
  void* allocate_large(const placement& p) noexcept;
  void* take_kept_block(u64 size_bytes, const kept_wish* wish = nullptr) noexcept;
  void* take_kept_block(const placement& p) noexcept;
  void give_back_oldest(thread_cache& c, u32 how_many) noexcept;
  void wait_for_freezer() noexcept;
  bool keep_large(local_region& region, u32 granule) noexcept;
  bool make_room_in(u32& stage, u32 slot, u64 size_bytes) noexcept;
  void* take_block(thread_cache& c, u32 size_class, bool* clean) noexcept;
  void* take_block(thread_cache& c, u32 size_class, bool* clean, u32* doubles) noexcept;
  bool add_slab(thread_cache& c, u32 size_class, u32 only_slot = any_slot) noexcept;
  std::optional<live_block> find_for_reallocate(void* block) noexcept;
  void* move_to(void* moved, void* block, u64 bytes, const placement& p) noexcept;
  bool has_room_for(const local_region& region, const void* block, u64 bytes) const noexcept;
  bool zero_if_asked(void* block, const placement& p, bool clean) noexcept;
  static bool free_in_its_heap(void* block) noexcept;
  void free_past_cache(local_region& region, void* block) noexcept;
  void free_into_slab(local_region& region, void* block, u64 offset, granule_entry g) noexcept;
  void free_own(thread_cache& c, const leaving_block& b) noexcept;
  void free_others(const leaving_block& b) noexcept;

  membership& member_;
  regions& memory_;
  caretaker& care_;
  std::function<bool(size_t)> grow_;
  bool keeps_large_ = true;
};

}  // namespace annex::detail
