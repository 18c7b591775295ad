// heap/life_file.hpp - the file in which members lock their bytes (shared/liveness.hpp): opened,
// made, made again where it is missing.
//
// Whoever may write to the heap may open it, nobody else.
#pragma once
#include <string_view>

#include "attached/attachment.hpp"

namespace annex::detail {

/// The permissions of the file, from those of the segment.
u32 mode_of_lives(u32 file_mode) noexcept;
/// An unnamed one for a heap that is being created.
result<void> make_life_file(attachment& heap, u32 file_mode);
/// The one of a heap that is attached. Where it is missing it is made again, if the process table
/// knows none of the heap's members; a reader does without. Errors: no_such_heap, corrupt,
/// heap_in_use, what the system says.
result<void> open_life_file(attachment& heap, u32 file_mode);
/// Without the file nobody can tell who lives but by the process table, which may know a member by
/// an accident only. Errors: heap_in_use. For repair, which has nothing mapped yet.
result<void> refuse_if_anybody_may_live(const open_directory& where, std::string_view name, int fd,
                                        const segment_header& h);

}  // namespace annex::detail
