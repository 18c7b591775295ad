// region/region_recover.cpp - a region that somebody was adding, draining or removing when he died.
//
//   partial    on its way in: never seen by anybody; on its way out: gone. Its file goes, its
//              record is free
//   draining   serves again
#include <cstring>

#include "platform/report.hpp"
#include "region/region_rules.hpp"
#include "region/region_state.hpp"

namespace annex::detail {

void recover_regions(tenure& t, u32 member) noexcept {
  for (const u32 slot : used_region_slots(t.seg())) {
    region_record& r = t.views().record(slot);
    if (r.worker != member) continue;
    const u32 state = r.state.load(std::memory_order_relaxed);
    if (state == region_draining) set_region_state(t, slot, region_active);
    if (state != region_partial) continue;
    region_record gone;
    std::memcpy(static_cast<void*>(&gone), &r, sizeof gone);
    if (const auto places = t.files().places_of(gone); places)
      t.files().remove_memory(*places, t.seg(), gone);
    else
      log(log_level::warn, "the file of a region that a dead process was removing is left: {}",
          places.error().message());
    free_region(t, slot);
  }
}

}  // namespace annex::detail
