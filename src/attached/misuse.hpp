// attached/misuse.hpp - saying that the program made a mistake: a block freed twice, freed where it
// does not lie, used after it was gone.
//
// heap_options::on_misuse decides: the program is stopped with the report, or the mistake is
// counted (heap_stats::misuse_count), logged, and nothing is done. No lock is held by the caller.
#pragma once
#include <string_view>

#include "attached/attachment.hpp"
#include "region/tenure.hpp"

namespace annex::detail {

/// block: null, or the address that was meant; region: null, or where it lies.
void report_misuse(const attachment& heap, std::string_view what, const void* block,
                   const local_region* region) noexcept;
/// What was found under the heap lock; nothing if nothing was.
void say_doubles(const attachment& heap, const double_frees& found) noexcept;

}  // namespace annex::detail
