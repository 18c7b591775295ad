// heap/repairing.hpp - a damaged heap's indexes built anew (care/), by one who is alone with it.
//
// The door of the heap (shared/liveness.hpp) keeps out whoever comes; whoever is a member already
// must go first. A death in the middle: repair again.
#pragma once
#include <string_view>

#include <annex/types.hpp>

#include "base/failure.hpp"

namespace annex::detail {

result<repair_report> repair_heap(std::string_view name);

}  // namespace annex::detail
