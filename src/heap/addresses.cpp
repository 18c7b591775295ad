// heap/addresses.cpp - handles and bus addresses, both ways.
//
// address_of goes over regions by lowest IOVA, then over the region's runs; the list of regions is rebuilt when the region
// table's epoch has changed. A handle is a region id (20 bits) and an offset (44): resolve() checks region, range and that
// the block is live, and attaches the region if need be.
#include <algorithm>

#include "heap/local_heap.hpp"

namespace annex::detail {

void* local_heap::address_of(iova address) noexcept {
  const u64 wanted = static_cast<u64>(address);
  std::lock_guard guard(bus_mutex_);
  if (const u32 epoch = segment_.header().region_epoch.load(std::memory_order_acquire); epoch != bus_epoch_) {
    bus_epoch_ = epoch;
    bus_spans_.clear();
    for (const u32 slot : used_region_slots(segment_)) {
      const region_record& r = views_.record(slot);
      if (r.state.load(std::memory_order_acquire) >= region_active && r.iova_run_count != 0) bus_spans_.push_back({r.lowest_iova, r.highest_iova, 0, slot});
    }
    std::sort(bus_spans_.begin(), bus_spans_.end(), [](const bus_span& a, const bus_span& b) { return a.lowest < b.lowest; });
    u64 highest = 0;
    for (bus_span& s : bus_spans_) s.highest_so_far = highest = std::max(highest, s.highest);
  }
  auto span = std::upper_bound(bus_spans_.begin(), bus_spans_.end(), wanted, [](u64 a, const bus_span& s) { return a < s.lowest; });
  while (span != bus_spans_.begin()) {
    --span;
    if (span->highest_so_far < wanted) break;  // nothing further down reaches so high
    if (span->highest < wanted) continue;
    local_region& view = views_.at(span->slot);
    if (view.base == nullptr) continue;
    if (const auto offset = view.iovas.offset_of(wanted)) return view.base + *offset;
  }
  return nullptr;
}

handle local_heap::handle_of(const void* p) const noexcept {
  const local_region* region = address_index::find(p);
  if (region == nullptr || region->heap != this) return null_handle;
  return handle_at(region->id, static_cast<u64>(static_cast<const char*>(p) - region->base));
}

result<void*> local_heap::resolve(handle h) {
  const u64 word = static_cast<u64>(h), offset = word & low_bits(limits::handle_offset_bits);
  const u32 id_bits = static_cast<u32>(word >> limits::handle_offset_bits), slot = id_bits % limits::region_slots;
  if (h == null_handle || id_bits == 0 || slot >= views_.slots()) return refuse(errc::foreign_handle, "{:#x} is no handle of heap \"{}\"", word, name_);
  const region_record& r = views_.record(slot);
  const u32 id = r.id.load(std::memory_order_acquire);
  if (r.state.load(std::memory_order_acquire) < region_active || handle_bits_of(id) != id_bits)
    return refuse(errc::stale_handle, "the region of handle {:#x} has been removed", word);
  if (offset >= r.length_bytes) return refuse(errc::foreign_handle, "handle {:#x} points behind region {} of {} bytes", word, id, r.length_bytes);
  auto attached = ensure_attached(slot);
  if (!attached) return std::unexpected(attached.error());
  local_region& view = **attached;
  const bool live = find_block(view, offset, true).has_value();
  if (!live) return refuse(errc::stale_handle, "the block of handle {:#x} has been freed", word);
  return view.base + offset;
}

}  // namespace annex::detail
