// heap/detaching.cpp - regions leave this process, and stay in the heap.
//
//   observers begin, finish → no thread of this process serves from it → its addresses lead nowhere
//   → the claim ends → unmapped
//
// A death on the way leaves a claim, which ends with its member.
#include <chrono>
#include <utility>

#include "care/recovery.hpp"
#include "heap/regions.hpp"
#include "platform/memory.hpp"
#include "platform/pinning.hpp"
#include "region/address_index.hpp"

namespace annex::detail {

namespace {

using clock = std::chrono::steady_clock;

}  // namespace

// From now on no thread of this process gets a block of the region, from its cache or a slab.
// False, and nothing has changed: one of them could not be held still.
bool regions::stop_serving_here(local_region& view) noexcept {
  locked t(heap_);
  // Relaxed: whoever finds it so leaves it alone, or looks again under memory_mutex.
  view.usable.store(0, std::memory_order_relaxed);
  frozen_caches frozen = freeze_all(*t, self());
  // Else none can be.
  const bool has_barrier = segment_.header().no_barrier.load(std::memory_order_relaxed) == 0;
  const bool all_still = frozen.not_still == 0 || !has_barrier;
  if (all_still)
    take_region_out_of_caches(*t, view.slot, frozen);
  else
    make_usable(view);
  frozen.thaw();
  return all_still;
}

result<void> regions::detach_memory(region_id region) {
  ANNEX_TRY(refuse_in_callback(heap_, "detaching memory"));
  if (!is_read_only() && !member_.ensure_member())
    return refuse(errc::forked_away, "this forked child is no member of the heap");
  std::lock_guard guard(heap_.memory_mutex);
  const u32 id = static_cast<u32>(region), slot = views_.slot_of(id);
  if (views_.find(id) == nullptr)
    return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
  local_region& view = views_.at(slot);
  if (view.base == nullptr)
    return refuse(errc::not_attached, "region {} is not attached in this process", id);
  if (const region_claim* const mine = member_.claim_here(view);
      mine != nullptr && mine->leases.load(std::memory_order_relaxed) != 0)
    return refuse(errc::leased, "region {} is held by a lease of this process; end it first", id);
  if (auto done = observers_.let_go(view_for_observers(view), clock::now() + detach_time); !done)
    return done;
  if (!is_read_only() && !stop_serving_here(view)) {
    (void)observers_.agree(view_for_observers(view));
    return refuse(errc::heap_in_use,
                  "a thread of this process is stopped in the middle of an allocation and may keep "
                  "blocks of region {}; continue it, then detach again",
                  id);
  }
  view.observed_removal = true;
  detach_view(view);
  views_.drop(view);
  return {};
}

// Unmaps a region here and forgets it. Under memory_mutex.
void regions::detach_view(local_region& view) noexcept {
  char* const base = view.base;
  const u64 length = view.length_bytes;
  if (base == nullptr) return;
  if (!view.observed_removal && !observers_.empty())
    (void)observers_.let_go(view_for_observers(view), clock::now() + detach_time);
  address_index::leave(base);
  if (region_claim* const mine = member_.claim_here(view); mine != nullptr) end_claim(*mine);
  views_.set_base(view, nullptr, 0);
  os::unpin(std::exchange(view.pins, nullptr));
  if (view.mapped_by_annex) os::unmap(base, length);
  close_fd(view);
}

// Views of regions whose slots have others by now.
void regions::discard_retired() noexcept {
  for (local_region* old = views_.take_retired(); old != nullptr;) {
    local_region* const next = old->next_retired;
    detach_view(*old);
    address_index::discard_region(old);
    old = next;
  }
}

void regions::close_regions() noexcept {
  discard_retired();
  for (u32 slot = 0; slot < views_.local_slots(); ++slot) {
    local_region* view = views_.existing(slot);
    if (view == nullptr) continue;
    detach_view(*view);
    if (this_thread.last_region == view) this_thread.last_region = &no_place;
    views_.drop(*view);
  }
}

}  // namespace annex::detail
