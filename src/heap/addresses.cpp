// heap/addresses.cpp - from a bus address to the address here.
//
// address_of goes over regions by lowest IOVA, then over the region's runs; the list of regions is
// rebuilt when the region table's epoch has changed.
#include <algorithm>

#include "heap/addressing.hpp"

namespace annex::detail {

void* addressing::address_of(iova address) noexcept {
  const u64 wanted = static_cast<u64>(address);
  std::lock_guard guard(bus_mutex_);
  // sync(epoch): the region table is seen as it was changed.
  if (const u32 epoch = segment_.header().region_epoch.load(std::memory_order_acquire);
      epoch != bus_epoch_) {
    bus_epoch_ = epoch;
    bus_spans_.clear();
    for (const u32 slot : used_region_slots(segment_)) {
      const region_record& r = views_.record(slot);
      // sync(published): what the record says is seen.
      if (r.state.load(std::memory_order_acquire) >= region_active && r.iova_run_count != 0)
        bus_spans_.push_back({r.lowest_iova, r.highest_iova, 0, slot});
    }
    std::sort(bus_spans_.begin(), bus_spans_.end(),
              [](const bus_span& a, const bus_span& b) { return a.lowest < b.lowest; });
    u64 highest = 0;
    for (bus_span& s : bus_spans_)
      s.highest_so_far = highest = std::max(highest, s.highest);
  }
  auto span = std::upper_bound(bus_spans_.begin(), bus_spans_.end(), wanted,
                               [](u64 a, const bus_span& s) { return a < s.lowest; });
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

}  // namespace annex::detail
