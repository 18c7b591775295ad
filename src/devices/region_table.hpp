// devices/region_table.hpp - a number per region of a heap, found from any address in a few ns.
//
//   entry[region id % region slots] = region id << 32 | number
//       ids of regions that exist at once differ in the index
//
// Threads: enter and leave by whoever adds or removes (one at a time per region); find from any
// thread, wait-free. A live block's region can't leave, so what find returns for it stays true as
// long as it lives.
#pragma once
#include <annex/heap.hpp>

#include <atomic>
#include <memory>
#include <optional>

#include "base/limits.hpp"

namespace annex::devices {

class region_table {
 public:
  region_table() : entries_(std::make_unique<std::atomic<u64>[]>(limits::region_slots)) {}
  // sync(region table).
  void enter(region_id id, u32 number) noexcept {
    at(id).store(u64{static_cast<u32>(id)} << 32 | number, std::memory_order_release);
  }
  void leave(region_id id) noexcept { at(id).store(0, std::memory_order_release); }
  std::optional<u32> find(region_id id) const noexcept {
    // sync(region table): what the number leads to is there.
    const u64 entry = at(id).load(std::memory_order_acquire);
    if (entry >> 32 != static_cast<u32>(id)) return {};
    return static_cast<u32>(entry);
  }

 private:
  std::atomic<u64>& at(region_id id) const noexcept {
    return entries_[static_cast<u32>(id) % limits::region_slots];
  }
  std::unique_ptr<std::atomic<u64>[]> entries_;
};

}  // namespace annex::devices
