// heap/placing.hpp - what a placement asks for, in numbers: may it be, which slabs can serve it,
// does a block lie as asked.
#pragma once
#include <annex/types.hpp>

#include "cache/thread_cache.hpp"

namespace annex::detail {

/// Whether a block may have so many bytes.
bool is_size(u64 bytes) noexcept;
/// The one place where a placement's numbers are looked at: afterwards no sum of them wraps.
bool is_possible(const placement& p) noexcept;
/// The class of the slabs that can serve a placement; 0: an extent of its own.
u32 class_for(const placement& p) noexcept;
/// Whether the block lies as asked. Slabs know addresses only: what a placement says of IOVAs is
/// looked at here.
bool is_as_asked(const placement& p, const local_region& region, const void* block) noexcept;

}  // namespace annex::detail
