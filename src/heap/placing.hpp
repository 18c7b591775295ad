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
/// As it was asked for, with what is left out and what follows from it filled in.
placement completed(const placement& asked) noexcept;
/// What an extent has to be like.
extent_request request_for(const placement& p, u64 size_bytes, granule_kind kind,
                           u16 holder) noexcept;
/// Whether where a block lies matters beyond the alignment of its address.
bool is_constrained(const placement& p) noexcept;
/// The class of the slabs that can serve a placement; 0: an extent of its own.
u32 class_for(const placement& p) noexcept;
/// The class of the slabs that may serve a placement in this region, most of whose blocks lie as
/// asked; 0: none.
u32 class_in(const placement& p, const local_region& region) noexcept;
/// Whether the block lies as asked. Slabs know addresses only: what a placement says of IOVAs is
/// looked at here.
bool is_as_asked(const placement& p, const local_region& region, const void* block) noexcept;

}  // namespace annex::detail
