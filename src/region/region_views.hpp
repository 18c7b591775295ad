// region/region_views.hpp - every region of a heap as this process sees it, by slot; attached or
// not.
//
// Slabs and extents of a region that is not mapped here can still be looked after: their metadata
// is in the segment. So there is a view of every region; its base is null until the region is
// attached. bases() is what the fast path adds to.
//
// Threads: at() from any thread that holds the heap lock or owns a block or slab of the region;
// changes of base under the local heap's region mutex. A slot whose region was replaced gets a new
// view; the old one is retired for regions::synchronize() to detach.
#pragma once
#include <mutex>

#include "region/address_index.hpp"
#include "shared/segment.hpp"

namespace annex {

/// Slots that an entry of a magazine or a record can name, existing or not: the tables here have
/// room for them all.
inline constexpr u32 slots_that_can_be_named = 1u << 16;

class region_views {
 public:
  region_views() = default;
  ~region_views();
  region_views(const region_views&) = delete;
  region_views& operator=(const region_views&) = delete;

  /// False: no address space for the tables.
  bool open(const segment& s, u32 heap_index, u64 heap_number, detail::local_heap* heap);

  region_record& record(u32 slot) const noexcept {
    return segment_->entry<region_record>(segment_->geometry().regions_at, slot, slots());
  }
  /// The view of the region that has this slot now.
  local_region& at(u32 named_slot) noexcept {
    const u32 slot = named_slot % slots_that_can_be_named;  // it may come from the segment
    local_region* const view = existing(slot);
    if (view != nullptr && view->id == record(slot).id.load(std::memory_order_relaxed)) [[likely]]
      return *view;
    return renew(slot);
  }
  u32 slot_of(u32 id) const noexcept { return region_slot_of(id, slots()); }
  /// The view if there is one, of whatever region.
  local_region* existing(u32 slot) const noexcept {
    return __atomic_load_n(&views_[slot], __ATOMIC_ACQUIRE);  // sync(view)
  }
  /// Null, or the record of a region that is neither free nor still being added.
  region_record* find(u32 id) const noexcept;

  char* const* bases() const noexcept { return bases_; }
  /// How many bytes are mapped at each of the bases: behind them. 0: none.
  static const u64* lengths_beside(char* const* bases) noexcept {
    return reinterpret_cast<const u64*>(bases + slots_that_can_be_named);
  }
  /// As long as it is mapped here, whatever its record says later. Null, 0: not attached any more.
  void set_base(local_region& view, void* base, u64 length_bytes) noexcept;
  /// Views whose slots have others by now, linked by next_retired; the caller has them.
  local_region* take_retired() noexcept;
  /// Forgets a view that is not attached any more, unless its slot has another already.
  void drop(local_region& view) noexcept;
  /// Around a fork: no change is half done in the child.
  void before_fork() noexcept { mutex_.lock(); }
  void after_fork() noexcept { mutex_.unlock(); }
  /// Slots from here on have no view in this process.
  u32 local_slots() const noexcept { return local_slots_.load(std::memory_order_relaxed); }
  u32 slots() const noexcept { return segment_->region_limit(); }

 private:
  local_region& renew(u32 slot) noexcept;
  void set_view(u32 slot, local_region* view) noexcept {
    __atomic_store_n(&views_[slot], view, __ATOMIC_RELEASE);  // sync(view)
  }
  void set_place(u32 slot, char* base, u64 length_bytes) noexcept;
  const segment* segment_ = nullptr;
  local_region** views_ = nullptr;
  char** bases_ = nullptr;
  u32 heap_index_ = 0;
  u64 heap_number_ = 0;
  detail::local_heap* heap_ = nullptr;
  std::atomic<u32> local_slots_{0};
  std::mutex mutex_;
  local_region* retired_ = nullptr;
};

/// Fills in what the segment says of the region: tables, IOVAs.
void load_view(const segment& s, region_record& record, local_region& view) noexcept;

}  // namespace annex
