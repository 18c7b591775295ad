// region/region_views.hpp - every region of a heap as this process sees it, by slot; attached or not.
//
// Slabs and extents of a region that is not mapped here can still be looked after: their metadata is in the segment. So
// there is a view of every region; its base is null until the region is attached. bases() is what the fast path adds to.
//
// Threads: at() from any thread that holds the heap lock or owns a block or slab of the region; changes of base under the
// local heap's region mutex. A slot whose region was replaced gets a new view; an attached old one is retired for
// local_heap::synchronize() to detach.
#pragma once
#include <mutex>

#include "region/address_index.hpp"
#include "shared/segment.hpp"

namespace annex {

class region_views {
 public:
  region_views() = default;
  ~region_views();
  region_views(const region_views&) = delete;
  region_views& operator=(const region_views&) = delete;

  /// False: no address space for the tables.
  bool open(const segment& s, u32 heap_index, u64 heap_number, detail::local_heap* heap);

  region_record& record(u32 slot) const noexcept { return segment_->at<region_record>(segment_->header().regions_at)[slot]; }
  /// The view of the region that has this slot now.
  local_region& at(u32 slot) noexcept {
    local_region* view = views_[slot];
    if (view != nullptr && view->id == record(slot).id.load(std::memory_order_relaxed)) [[likely]] return *view;
    return renew(slot);
  }
  /// The view if there is one, of whatever region.
  local_region* existing(u32 slot) const noexcept { return views_[slot]; }
  /// Null, or the record of a region that is neither free nor still being added.
  region_record* find(u32 id) const noexcept;

  char* const* bases() const noexcept { return bases_; }
  void set_base(local_region& view, void* base) noexcept;
  std::vector<local_region*> take_retired();
  void drop(u32 slot) noexcept;
  /// Slots from here on have no view in this process.
  u32 local_slots() const noexcept { return local_slots_.load(std::memory_order_relaxed); }
  u32 slots() const noexcept { return segment_->header().region_limit; }

 private:
  local_region& renew(u32 slot) noexcept;
  const segment* segment_ = nullptr;
  local_region** views_ = nullptr;
  char** bases_ = nullptr;
  u32 heap_index_ = 0;
  u64 heap_number_ = 0;
  detail::local_heap* heap_ = nullptr;
  std::atomic<u32> local_slots_{0};
  std::mutex mutex_;
  std::vector<local_region*> retired_;
};

/// The file annex made for the region, if it did. The region must be partial, or its heap destroyed: nobody maps it any more.
void remove_owned_file(const region_record& record) noexcept;

/// Fills in what the segment says of the region: tables, IOVAs.
void load_view(const segment& s, region_record& record, local_region& view) noexcept;

}  // namespace annex
