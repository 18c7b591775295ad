// region/address_index.hpp - from any address of this process to its region, wait-free, whatever the number of regions.
//
//   root, 1 GiB each        [128 Ki entries, untouched ones cost nothing]
//     ├─ region             the whole GiB is the region's
//     └─ table, 2 MiB each  [512 entries]
//          ├─ region
//          └─ table, 4 KiB each [512 entries] ─ region
//
// Regions are whole 4 KiB pages, so three loads at most decide; a huge region costs one store per GiB to enter.
// Addresses above 2^47 (five-level paging) are looked up in the ordered map that also refuses overlaps.
//
// Threads: find() from any thread without a lock; enter() and leave() take a process-wide mutex. Tables are never freed.
// Processes: nothing here is shared.
#pragma once
#include "region/local_region.hpp"

namespace annex::address_index {

/// The region that the address belongs to, or null.
local_region* find(const void* address) noexcept;

/// Claims [base, base + length) before anything is published. Errors: region_overlap.
result<void> reserve(const void* base, u64 length_bytes);
/// Makes a reserved range findable.
void enter(local_region* region) noexcept;
/// Gives a range back, whether entered or only reserved.
void leave(const void* base) noexcept;

/// A local_region, from a pool; give it back only after leave().
local_region* make_region();
void discard_region(local_region* region) noexcept;

}  // namespace annex::address_index
