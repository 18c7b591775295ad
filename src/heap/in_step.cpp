// heap/in_step.cpp - this process in step with the regions of the heap: what is gone is let go of,
// what is new is attached.
//
//   gone, or drained elsewhere and not in use here   → observers let go → detached
//   active, not here, and observers watch            → attached
//
// Nothing is written to the segment but what attaching and detaching write.
#include <algorithm>
#include <chrono>
#include <mutex>
#include <optional>

#include "heap/regions.hpp"

namespace annex::detail {

namespace {

using clock = std::chrono::steady_clock;

bool attaches_by_itself(const region_record& r) noexcept {
  return r.backing != backing_none || r.same_address != 0;
}

}  // namespace

bool regions::attach_more() noexcept {
  if (policy_ == attach_policy::manual || is_inside_callback()) return false;
  bool any = false;
  for (const u32 slot : used_region_slots(segment_)) {
    const region_record& r = views_.record(slot);
    // sync(published): what the record says is seen.
    if (r.state.load(std::memory_order_acquire) != region_active || !attaches_by_itself(r))
      continue;
    if (!is_usable_here(views_.at(slot))) any |= ensure_attached(slot).has_value();
  }
  return any;
}

// Whether another process drains the region, and nothing of it is in use here.
bool regions::may_leave_to_drainer(const local_region& view) noexcept {
  const region_record& r = *view.record;
  // sync(published): the region's number is seen with its state.
  if (r.state.load(std::memory_order_acquire) != region_draining ||
      r.id.load(std::memory_order_relaxed) != view.id)
    return false;
  if (std::atomic_ref(const_cast<u32&>(r.live_extents)).load(std::memory_order_relaxed) != 0)
    return false;
  if (view.draining_here.load(std::memory_order_relaxed) != 0) return false;
  const region_claim* const mine = member_.claim_here(view);
  return mine == nullptr || mine->leases.load(std::memory_order_relaxed) == 0;
}

// Allocation and leases ask for the heap lock too: from now on there are none here. False: there is
// something.
bool regions::leave_to_drainer(local_region& view) noexcept {
  std::optional<locked> t;
  if (!is_read_only()) t.emplace(heap_);
  if (!may_leave_to_drainer(view)) return false;
  // Relaxed: as in stop_serving_here().
  view.usable.store(0, std::memory_order_relaxed);
  return true;
}

void regions::synchronize() noexcept {
  // sync(epoch): the region table is seen as it was changed.
  const u32 epoch = segment_.header().region_epoch.load(std::memory_order_acquire);
  if (is_inside_callback()) return;
  std::unique_lock guard(heap_.memory_mutex, std::try_to_lock);
  if (!guard) return;  // somebody is at it
  const bool watched = !observers_.empty();
  u32 slots = views_.local_slots();
  for (const u32 slot : used_region_slots(segment_))
    slots = std::max(slots, slot + 1);
  for (u32 slot = 0; slot < slots; ++slot) {
    local_region* view = views_.existing(slot);
    const region_record& r = views_.record(slot);
    // sync(published): what the record says is seen.
    const u32 state = r.state.load(std::memory_order_acquire);
    if (view != nullptr && is_usable_here(*view)) {
      const bool gone = state == region_free || state == region_partial ||
                        r.id.load(std::memory_order_relaxed) != view->id;
      // A drainer in another process waits for our observers; it has made sure, or will, that
      // nothing is live.
      const bool leave = watched && may_leave_to_drainer(*view);
      if (leave && !gone) {
        // The callbacks take their time: the region may serve again when they are done.
        if (!observers_.let_go(view_for_observers(*view), clock::now() + detach_time) ||
            !leave_to_drainer(*view)) {
          // In use again; the next look asks again.
          (void)observers_.agree(view_for_observers(*view));
          continue;
        }
        view->observed_removal = true;
      }
      if (gone || leave) {
        detach_view(*view);
        views_.drop(*view);
      }
    } else if (watched && state == region_active && policy_ == attach_policy::automatic &&
               attaches_by_itself(r)) {
      (void)attach_slot(slot, nullptr);  // so that devices know it before it is used here
    }
  }
  discard_retired();
  seen_epoch_.store(epoch, std::memory_order_relaxed);
}

}  // namespace annex::detail
