// region/region_state.hpp - the steps of a region's life as transactions: from state to state, and
// its record free again.
//
// The drawing of the states is in region/region_record.hpp. Each function is one transaction under
// the heap lock: a death in the middle leaves the region as it was.
#pragma once
#include "region/region_views.hpp"
#include "region/tenure.hpp"

namespace annex {

/// Active, draining or partial, and what follows from it: whether memory is looked for in it.
void set_region_state(tenure& t, u32 slot, region_state state) noexcept;
/// The record and its tables go.
void free_region(tenure& t, u32 slot) noexcept;

}  // namespace annex
