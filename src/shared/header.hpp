// shared/header.hpp - the first bytes of a segment: written once, and what they must say before
// anything behind them is believed.
//
// Threads and processes: filling is for the one who makes the segment, before it has a name;
// checking is for a copy that nobody changes meanwhile.
#pragma once
#include <annex/types.hpp>

#include "base/failure.hpp"
#include "shared/liveness.hpp"

namespace annex::detail {

/// Limits that a heap may have. Errors: invalid_argument.
result<void> check_options(const heap_options& o);
/// The header of a file of so many bytes, as it is now: what is checked in the copy is what is
/// used. 0, or an errno value; EINVAL: the file is shorter than a header.
int copy_header(int fd, u64 file_bytes, segment_header* h) noexcept;
/// The header as far as it must be right before the segment is mapped as a whole. Errors: corrupt,
/// incompatible_layout.
result<void> check_header(const segment_header& h, u64 file_bytes);
/// Where the tables of such a heap lie, with the records that are kept for those who mend.
table_plan plan_of(const heap_options& o) noexcept;
/// The header of a new heap, in a file that reads as zero. name empty: a private heap.
void fill_header(segment_header& h, std::string_view name, const heap_options& options,
                 bool is_private) noexcept;

/// Where the tables of a new segment lie, its arena behind them, empty.
void place_tables(segment_header& h, const table_plan& plan) noexcept;

}  // namespace annex::detail
