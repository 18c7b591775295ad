// devices/registrations.hpp - what an observer keeps for each region: found from any block in a few ns, kept until the region has gone.
//
//   entry of the region's slot: used, region, what the device was told        a region's number modulo the slots: those that exist at once differ
//
// Threads: begin, publish, hide, end and for_each under the observer's lock; find from any thread, wait-free. An entry stays for the next region of its slot. A live block's
// region can't go, so what find() returns for it stays.
#pragma once
#include "devices/region_table.hpp"

namespace annex::devices {

template <class T>
class registrations {
 public:
  registrations() : entries_(std::make_unique<std::unique_ptr<entry>[]>(limits::region_slots)) {}

  /// Of a region that is registered, whether it is found or not.
  T* of(region_id region) noexcept {
    entry* const e = entries_[slot_of(region)].get();
    return e != nullptr && e->used && e->region == region ? &e->what : nullptr;
  }
  /// Room for a region that is not; used when it is published.
  T& begin(region_id region) {
    auto& e = entries_[slot_of(region)];
    if (!e) e = std::make_unique<entry>();
    e->region = region;
    return e->what;
  }
  void publish(region_id region) noexcept {
    entries_[slot_of(region)]->used = true;
    table_.enter(region, slot_of(region));
  }
  /// No longer found.
  void hide(region_id region) noexcept {
    if (of(region) != nullptr) table_.leave(region);
  }
  void end(region_id region) noexcept {
    hide(region);
    if (of(region) != nullptr) entries_[slot_of(region)]->used = false;
  }
  /// Of a block's region.
  const T* find(region_id region) const noexcept {
    const auto slot = table_.find(region);
    return slot ? &entries_[*slot]->what : nullptr;
  }
  template <class Visit>
  void for_each(const Visit& visit) {
    for (u32 i = 0; i < limits::region_slots; ++i)
      if (entries_[i] && entries_[i]->used) visit(entries_[i]->what);
  }

 private:
  struct entry {
    bool used = false;
    region_id region{};
    T what{};
  };
  static u32 slot_of(region_id region) noexcept { return static_cast<u32>(region) % limits::region_slots; }
  region_table table_;
  std::unique_ptr<std::unique_ptr<entry>[]> entries_;
};

}  // namespace annex::devices
