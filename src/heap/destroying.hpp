// heap/destroying.hpp - the end of a heap: refused while blocks are live or members attached; the
// state word commits, then the files of its regions go, then its names.
//
// A process that dies behind the commit leaves a heap that is marked destroyed: whoever next
// attaches, creates or destroys that name removes what is left (remains.hpp).
#pragma once
#include <string_view>

#include "base/failure.hpp"

namespace annex::detail {

/// only_ephemeral: else name_taken. Errors: no_such_heap, heap_in_use, blocks_live.
result<void> destroy_heap(std::string_view name, bool only_ephemeral = false);

}  // namespace annex::detail
