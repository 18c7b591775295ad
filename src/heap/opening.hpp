// heap/opening.hpp - attaching to a heap.
//
// The header is checked before anything in it is believed; when nobody else is attached, the whole
// segment is. Threads: any. What is returned is shared by this process's users of the heap
// (closing.hpp).
#pragma once
#include <string_view>

#include <annex/types.hpp>

#include "heap/membership.hpp"

namespace annex::detail {

class local_heap;

/// What to do with an ephemeral heap that no living member vouches for.
enum class worthless { attached, ended };
/// Shares what this process has attached already, unless a member of its own is asked for.
result<local_heap*> attach_heap(std::string_view name, const attach_options& options,
                                bool as_another_member = false,
                                worthless left = worthless::attached);
/// A segment by its descriptor, which is taken over: on failure it is closed.
result<local_heap*> open_segment(int fd, std::string_view name, const heap_files& files,
                                 const attach_options& options, arrival how);

/// There is no annex directory: so there is no heap. For sentences.
std::unexpected<error> refuse_without_directory(std::string_view name, const error& why);

}  // namespace annex::detail
