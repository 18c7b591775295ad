// shared/names.hpp - what heaps and zones may be called, and the file of lives that follows from
// it.
//
// Threads and processes: anybody, any time; nothing is locked or written.
#pragma once
#include <string>
#include <string_view>

#include <annex/error.hpp>

#include "base/units.hpp"

namespace annex::detail {

/// 1 to 31 of [A-Za-z0-9_.-], no leading dot. Errors: invalid_name.
result<void> check_heap_name(std::string_view name);
/// 1 to 63 bytes, none of them 0. Errors: invalid_name.
result<void> check_zone_name(std::string_view name);
/// The hidden file in which members of a heap lock their bytes.
std::string life_name(std::string_view name, u64 heap_id);

}  // namespace annex::detail
