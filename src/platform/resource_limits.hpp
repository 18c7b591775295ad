// platform/resource_limits.hpp - what this process may have (ulimit); ~0: no limit.
//
// Any thread may call; a limit may be changed at any time, by others too.
#pragma once
#include "base/units.hpp"

namespace annex::os {

u64 locked_memory_limit();
u64 file_size_limit();
u64 descriptor_limit();
u64 address_space_limit();

}  // namespace annex::os
