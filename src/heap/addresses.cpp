// heap/addresses.cpp - from a bus address to the address here.
//
// The index of runs (region/bus_index.hpp) follows the regions when the region table's epoch has
// changed.
#include "heap/addressing.hpp"

namespace annex::detail {

void* addressing::address_of(iova address) noexcept {
  std::lock_guard guard(bus_mutex_);
  // sync(epoch): the region table is seen as it was changed.
  bus_.follow(segment_, views_, segment_.header().region_epoch.load(std::memory_order_acquire));
  const auto found = bus_.find(views_, static_cast<u64>(address));
  return found && found->region->base != nullptr ? found->region->base + found->offset_bytes
                                                 : nullptr;
}

}  // namespace annex::detail
