// platform/pinning.hpp - pages that stay where they are, and where that is in physical memory.
//
// Errors are errno values (0: done). Any thread may call.
#pragma once
#include <functional>
#include <vector>

#include "base/units.hpp"

namespace annex::os {

/// Pages that are neither moved nor taken away until unpin() or the process's end; populates them.
/// Several threads; 0: one per CPU. Errors: ENOMEM (locked-memory limit, or no memory), EFAULT
/// (can't be pinned: not writable, a disk file), ENOSYS, EPERM.
struct pinned;
struct pin_result {
  pinned* held = nullptr;
  int error = 0;
};
pin_result pin(void* address, u64 bytes, unsigned threads,
               const std::function<void(u64 done, u64 all)>& progress);
void unpin(pinned* held);  // null: nothing

/// Where pages lie, in the order of their addresses; a run is contiguous in both. EPERM: the kernel
/// hides it from this process; ENODATA: a page is not there.
struct physical_run {
  u64 offset, address, bytes;
};
int physical_runs(const void* address, u64 bytes, u64 page_bytes, std::vector<physical_run>* out);

}  // namespace annex::os
