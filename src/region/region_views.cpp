// region/region_views.cpp - see region_views.hpp.
#include "region/region_views.hpp"

#include <utility>

#include "platform/os.hpp"

namespace annex {

void load_view(const segment& s, region_record& r, local_region& v) noexcept {
  v.record = &r;
  v.id = r.id.load(std::memory_order_relaxed);
  v.granules = s.chunk<granule_entry>(r.granules);
  v.extents = s.chunk<extent_entry>(r.extents);
  v.granule_shift = r.granule_shift;
  v.granule_mask = static_cast<u32>(low_bits(r.granule_shift));
  v.access = static_cast<touch>(r.access);
  v.heap_id = s.header().heap_id;
  v.tables.open(s, r);
  v.iovas = {};
  v.iova_run_count = r.iova_run_count;
  if (r.iova_run_count != 0)
    v.iovas = {s.chunk<iova_run>(r.iova_runs), s.chunk<u32>(r.iova_index), s.chunk<u32>(r.iova_order), r.iova_run_count, r.iova_index_shift, r.length_bytes};
}

void remove_owned_file(const region_record& r) noexcept {
  if (r.backing == backing_owned && r.path[0] == '/') os::remove_file_if(r.path, r.device, r.inode);
}

bool region_views::open(const segment& s, u32 heap_index, u64 heap_number, detail::local_heap* heap) {
  segment_ = &s;
  heap_number_ = heap_number;
  heap_index_ = heap_index;
  heap_ = heap;
  const u64 bytes = align_up(u64{limits::region_slots} * sizeof(void*), os::page_bytes());
  const auto views = os::reserve(bytes, true), bases = os::reserve(bytes, true);
  views_ = static_cast<local_region**>(views.address);
  bases_ = static_cast<char**>(bases.address);
  return views_ != nullptr && bases_ != nullptr;
}

region_views::~region_views() {
  const u64 bytes = align_up(u64{limits::region_slots} * sizeof(void*), os::page_bytes());
  if (views_ != nullptr) os::unmap(views_, bytes);
  if (bases_ != nullptr) os::unmap(bases_, bytes);
}

region_record* region_views::find(u32 id) const noexcept {
  if (id == 0) return nullptr;
  const u32 slot = id % limits::region_slots;
  if (slot >= slots()) return nullptr;
  region_record& r = record(slot);
  const u32 state = r.state.load(std::memory_order_acquire);  // sync(published)
  return (state == region_active || state == region_draining) && r.id.load(std::memory_order_relaxed) == id ? &r : nullptr;
}

local_region& region_views::renew(u32 slot) noexcept {
  std::lock_guard guard(mutex_);
  region_record& r = record(slot);
  local_region*& view = views_[slot];
  if (view != nullptr && view->id == r.id.load(std::memory_order_relaxed)) return *view;
  if (view != nullptr && view->base != nullptr) {
    retired_.push_back(view);
    bases_[slot] = nullptr;
  } else if (view != nullptr) {
    address_index::discard_region(view);
  }
  local_region* made = address_index::make_region();
  made->heap_index = heap_index_;
  made->heap_number = heap_number_;
  made->heap = heap_;
  made->slot = slot;
  made->entry_base = u64{slot} << 48;
  load_view(*segment_, r, *made);
  view = made;
  if (slot >= local_slots_.load(std::memory_order_relaxed)) local_slots_.store(slot + 1, std::memory_order_relaxed);
  return *made;
}

void region_views::set_base(local_region& view, void* base) noexcept {
  view.base = static_cast<char*>(base);
  view.length_bytes = base != nullptr ? view.record->length_bytes : 0;
  if (views_[view.slot] == &view) bases_[view.slot] = view.base;
}

std::vector<local_region*> region_views::take_retired() {
  std::lock_guard guard(mutex_);
  return std::exchange(retired_, {});
}

void region_views::drop(u32 slot) noexcept {
  std::lock_guard guard(mutex_);
  if (views_[slot] == nullptr) return;
  bases_[slot] = nullptr;
  address_index::discard_region(views_[slot]);
  views_[slot] = nullptr;
}

}  // namespace annex
