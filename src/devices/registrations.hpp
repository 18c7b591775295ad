// devices/registrations.hpp - what an observer keeps for each region: found from any block in a few
// ns, kept until the region has gone.
//
//   entry of the region's slot: used, heap, region, what the device was told
//       index = region id % region_slots, unique among live regions
//
// Serves one heap: that of the first region added. An entry stays for the next region of its slot.
// A live block's region can't go, so what find() returns for it stays.
// Threads: all but find under the observer's lock; find from any thread, wait-free.
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
  bool is_of_another_heap(heap_id heap) const noexcept {
    return heap_ != heap_id{} && heap_ != heap;
  }
  /// Room for a region that is not; used when it is published.
  T& begin(region_id region) {
    auto& e = entries_[slot_of(region)];
    if (!e) e = std::make_unique<entry>();
    e->region = region;
    return e->what;
  }
  void publish(const region_view& region) noexcept {
    entry& e = *entries_[slot_of(region.region)];
    e.used = true;
    e.heap = heap_ = region.heap;
    table_.enter(region.region, slot_of(region.region));
  }
  /// No longer found.
  void hide(region_id region) noexcept {
    if (of(region) != nullptr) table_.leave(region);
  }
  /// Of one that is hidden.
  void end(region_id region) noexcept { entries_[slot_of(region)]->used = false; }
  struct place {
    const T* what;     ///< null: of no region that is registered
    u64 offset_bytes;  ///< of the byte, in its region
  };
  place find(const void* byte) const noexcept {
    const auto where = heap::locate(byte);
    if (!where) return {};
    const auto slot = table_.find(where->region);
    if (!slot || entries_[*slot]->heap != where->heap) return {};
    return {&entries_[*slot]->what, where->offset_bytes};
  }
  template <class Visit>
  void for_each(const Visit& visit) {
    for (u32 i = 0; i < limits::region_slots; ++i)
      if (entries_[i] && entries_[i]->used) visit(entries_[i]->what);
  }

 private:
  struct entry {
    bool used = false;
    heap_id heap{};
    region_id region{};
    T what{};
  };
  static u32 slot_of(region_id region) noexcept {
    return static_cast<u32>(region) % limits::region_slots;
  }
  heap_id heap_{};
  region_table table_;
  std::unique_ptr<std::unique_ptr<entry>[]> entries_;
};

}  // namespace annex::devices
