// region/address_index.hpp - from any address of this process to its region, wait-free, whatever
// the number of regions.
//
//   root, 1 GiB each        [128 Ki entries, untouched ones cost nothing]
//     ├─ region             the whole GiB is the region's
//     └─ table, 2 MiB each  [512 entries]
//          ├─ region
//          └─ table, 4 KiB each [512 entries] ─ region
//
// Regions are whole 4 KiB pages, so three loads at most decide; a huge region costs one store per
// GiB to enter. Addresses above 2^47 (five-level paging) are looked up in the ordered map that also
// refuses overlaps.
//
// Threads: find() from any thread without a lock; enter() and leave() take a process-wide mutex.
// Tables are never freed. Processes: nothing here is shared.
#pragma once
#include <array>

#include "region/local_region.hpp"

namespace annex::address_index {

inline constexpr u32 root_shift = 30, middle_shift = 21, leaf_shift = 12, address_bits = 47;
inline constexpr u64 is_table = 1;  // in an entry: the rest leads to a table, not to a region
struct table {
  std::array<shared_word<u64>, 512> entries{};
};
inline table* table_in(u64 entry) noexcept {
  return reinterpret_cast<table*>(entry - is_table);
}
// 1 MiB, untouched but where there is memory.
extern constinit std::array<shared_word<u64>, u64{1} << (address_bits - root_shift)> root;
/// For addresses above address_bits.
local_region* find_far(const void* address) noexcept;

/// The region that an address below 2^address_bits belongs to, or null.
inline local_region* find_near(const void* address) noexcept {
  const u64 at = reinterpret_cast<u64>(address);
  if ((at >> address_bits) != 0) [[unlikely]]
    return nullptr;
  u64 entry = root[at >> root_shift].load(std::memory_order_acquire);  // sync(index)
  if ((entry & is_table) != 0) {
    // sync(index).
    entry = table_in(entry)->entries[(at >> middle_shift) & 511].load(std::memory_order_acquire);
    // sync(index).
    if ((entry & is_table) != 0)
      entry = table_in(entry)->entries[(at >> leaf_shift) & 511].load(std::memory_order_acquire);
  }
  return reinterpret_cast<local_region*>(entry);
}
/// The region that the address belongs to, or null.
inline local_region* find(const void* address) noexcept {
  local_region* const near = find_near(address);
  return near != nullptr || (reinterpret_cast<u64>(address) >> address_bits) == 0
             ? near
             : find_far(address);
}

/// Claims [base, base + length) before anything is published. Errors: region_overlap.
result<void> reserve(const void* base, u64 length_bytes);
/// Makes a reserved range findable.
void enter(local_region* region) noexcept;
/// Gives a range back, whether entered or only reserved.
void leave(const void* base) noexcept;

/// Around a fork: no change is half done in the child.
void before_fork() noexcept;
void after_fork() noexcept;

/// A local_region, from a pool; give it back only after leave().
local_region* make_region();
void discard_region(local_region* region) noexcept;

}  // namespace annex::address_index
