// heap/creating.hpp - making a heap, or opening the one there is.
//
// An unnamed file is filled and then given its name in one step: a half-made heap is never seen. A
// death anywhere leaves nothing, or a complete heap. Threads: any.
#pragma once
#include <string_view>

#include <annex/types.hpp>

#include "base/failure.hpp"

namespace annex::detail {

class local_heap;

result<local_heap*> create_heap(std::string_view name, const heap_options& options,
                                bool is_private);
/// Attaches, or creates what is not there; is_new says which.
result<local_heap*> open_heap(std::string_view name, const heap_options& options, bool* is_new);

}  // namespace annex::detail
