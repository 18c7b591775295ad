// region/region_views.cpp - see region_views.hpp.
#include "region/region_views.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "platform/files.hpp"
#include "platform/memory.hpp"

namespace annex {

namespace {

// The region's tables, if they lie where they say and are as long as they must be. Reads a copy
// that nobody changes.
bool load_tables(const segment& s, const region_record& r, local_region& v) noexcept {
  const u32 shift = r.granule_shift;
  if (shift != limits::granule_shift && shift != limits::small_granule_shift) return false;
  if (r.length_bytes == 0 || r.length_bytes > limits::largest_region_bytes ||
      r.granule_count != divide_up(r.length_bytes, u64{1} << shift))
    return false;
  auto* const granules =
      s.find_chunk<granule_entry>(r.granules, u64{r.granule_count} * sizeof(granule_entry));
  auto* const extents =
      s.find_chunk<extent_entry>(r.extents, u64{r.granule_count} * sizeof(extent_entry));
  if (granules == nullptr || extents == nullptr) return false;
  v.granule_base = granules;
  v.granules = {granules, r.granule_count};
  v.extents = {extents, r.granule_count};
  v.granule_count = r.granule_count;
  v.region_bytes = r.length_bytes;
  v.granule_shift = shift;
  v.granule_mask = static_cast<u32>(low_bits(shift));
  v.tables.open(s, r);
  return true;
}

bool load_iovas(const segment& s, const region_record& r, local_region& v) noexcept {
  if (r.iova_run_count == 0) return true;
  if (r.iova_index_shift < log2_floor(limits::smallest_page_bytes) || r.iova_index_shift > 63 ||
      r.iova_run_count > r.length_bytes / limits::smallest_page_bytes)
    return false;
  const u64 slices = (r.length_bytes >> r.iova_index_shift) + 2;
  const auto* const runs =
      s.find_chunk<iova_run>(r.iova_runs, u64{r.iova_run_count} * sizeof(iova_run));
  const auto* const order = s.find_chunk<u32>(r.iova_order, u64{r.iova_run_count} * sizeof(u32));
  const auto* const index = s.find_chunk<u32>(r.iova_index, slices * sizeof(u32));
  if (runs == nullptr || order == nullptr || index == nullptr) return false;
  v.iovas = {runs, index, order, r.iova_run_count, r.iova_index_shift, r.length_bytes};
  v.iova_run_count = r.iova_run_count;
  return true;
}

}  // namespace

void load_view(const segment& s, region_record& record, local_region& v) noexcept {
  region_record r;
  std::memcpy(static_cast<void*>(&r), &record, sizeof r);
  v.record = &record;
  v.id = r.id.value;
  v.access = r.access == static_cast<u8>(touch::none) ? touch::none : touch::read_write;
  v.heap_id = s.header().heap_id;
  v.generations = generations_in(r, v.slot);
  v.granule_shift = limits::granule_shift;
  v.granule_mask = static_cast<u32>(low_bits(limits::granule_shift));
  // A view without tables is no region: every index leads to nobody's entry. It has no id, so that
  // the next look asks again.
  if (!load_tables(s, r, v) || !load_iovas(s, r, v)) v.id = 0;
}

bool is_backed(const local_region& v, u32 first, u32 last) noexcept {
  const region_record& r = *v.record;
  if (r.first_unsure == 0 || last < r.first_unsure) return true;
  const u64 begin = u64{std::max(first, r.first_unsure)} << v.granule_shift;
  const u64 end = std::min((u64{last} + 1) << v.granule_shift, v.region_bytes);
  const int fd = fd_of(v);
  return fd >= 0 && os::allocate_range(fd, r.fd_offset + begin, end - begin) == 0;
}

bool region_views::open(const segment& s, u32 heap_index, u64 heap_number,
                        detail::local_heap* heap) {
  segment_ = &s;
  heap_number_ = heap_number;
  heap_index_ = heap_index;
  heap_ = heap;
  const u64 bytes = align_up(u64{slots_that_can_be_named} * sizeof(void*), os::page_bytes());
  const auto views = os::reserve(bytes, true), bases = os::reserve(2 * bytes, true);
  views_ = static_cast<local_region**>(views.address);
  bases_ = static_cast<char**>(bases.address);
  return views_ != nullptr && bases_ != nullptr;
}

region_views::~region_views() {
  const u64 bytes = align_up(u64{slots_that_can_be_named} * sizeof(void*), os::page_bytes());
  if (views_ != nullptr) os::unmap(views_, bytes);
  if (bases_ != nullptr) os::unmap(bases_, 2 * bytes);
}

region_record* region_views::find(u32 id) const noexcept {
  if (id == 0) return nullptr;
  const u32 slot = slot_of(id);
  if (slot >= slots()) return nullptr;
  region_record& r = record(slot);
  const u32 state = r.state.load(std::memory_order_acquire);  // sync(published)
  return (state == region_active || state == region_draining) &&
                 r.id.load(std::memory_order_relaxed) == id
             ? &r
             : nullptr;
}

local_region& region_views::renew(u32 slot) noexcept {
  std::lock_guard guard(mutex_);
  region_record& r = record(slot);
  local_region* const view = views_[slot];
  if (view != nullptr && view->id == r.id.load(std::memory_order_relaxed)) return *view;
  // Attached, or being attached just now: regions::synchronize() sees to it, with nobody in
  // between.
  if (view != nullptr) {
    view->next_retired = std::exchange(retired_, view);
    view->usable.store(0, std::memory_order_relaxed);
    set_place(slot, nullptr, 0);
  }
  local_region* made = address_index::make_region();
  made->heap_index = heap_index_;
  made->heap_number = heap_number_;
  made->heap = heap_;
  made->slot = slot;
  made->entry_base = u64{slot} << 48;
  load_view(*segment_, r, *made);
  set_view(slot, made);
  if (slot >= local_slots_.load(std::memory_order_relaxed))
    local_slots_.store(slot + 1, std::memory_order_relaxed);
  return *made;
}

void region_views::set_base(local_region& view, void* base, u64 length_bytes) noexcept {
  if (base == nullptr) view.usable.store(0, std::memory_order_relaxed);
  // A thread that frees reads the base first, then the length: what was not a block of this region
  // does not become one.
  if (base == nullptr) view.length_bytes = 0;
  compiler_fence();
  view.base = static_cast<char*>(base);
  compiler_fence();
  view.length_bytes = length_bytes;
  if (views_[view.slot] == &view)
    set_place(view.slot, view.base, base != nullptr ? length_bytes : 0);
}

void region_views::set_place(u32 slot, char* base, u64 length_bytes) noexcept {
  bases_[slot] = base;
  reinterpret_cast<u64*>(bases_ + slots_that_can_be_named)[slot] = length_bytes;
}

local_region* region_views::take_retired() noexcept {
  std::lock_guard guard(mutex_);
  return std::exchange(retired_, nullptr);
}

void region_views::drop(local_region& view) noexcept {
  std::lock_guard guard(mutex_);
  // The slot's region was replaced meanwhile: this one has been retired.
  if (views_[view.slot] != &view) return;
  view.usable.store(0, std::memory_order_relaxed);
  set_place(view.slot, nullptr, 0);
  set_view(view.slot, nullptr);
  address_index::discard_region(&view);
}

}  // namespace annex
