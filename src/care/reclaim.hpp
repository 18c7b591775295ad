// care/reclaim.hpp - freeing what a dead member holds, structure by structure.
//
// Under the heap lock, a transaction for each block, slab or object: dying in between is dying
// before or after one of them, and the rest stays with the dead member.
#pragma once
#include <vector>

#include <annex/types.hpp>

#include "region/tenure.hpp"

namespace annex {

/// Frees what the member holds (only: these, sorted; null: everything). Returns how many; *skipped
/// counts slabs whose owner could not be held still.
size_t free_held_by(tenure& t, u32 member, const std::vector<handle>* only, u32* skipped) noexcept;

}  // namespace annex
