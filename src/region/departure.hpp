// region/departure.hpp - a thread or a member that is gone, as the structures of a segment are told
// of it (care/structures.hpp).
//
// Each structure takes back what is its own, under the heap lock, in transactions of bounded size,
// and may be asked again: if the one who recovers dies, the next one begins anew. What is reclaimed
// goes a block, a slab or an object at a time; the rest stays the dead member's.
#pragma once
#include <algorithm>
#include <vector>

#include <annex/types.hpp>

#include "region/tenure.hpp"

namespace annex {

/// A thread that ended, or is dead.
struct gone_thread {
  u32 index;     // of its slot
  u32 member;    // whose it was
  u64 state;     // of the slot: as long as it is the same, nobody else has finished this
  u32* doubles;  // blocks and objects that turn out to be freed twice are counted here
};

/// What a dead member holds, on its way back: all of it, or what was chosen.
struct reclaiming {
  tenure& t;
  const u32 member;
  const std::vector<handle>* const only;  // sorted; null: everything
  size_t freed = 0;
  u32 skipped = 0;  // slabs that were not searched: the cache of their owner was not still

  bool is_chosen(handle where) const noexcept {
    return only == nullptr || std::binary_search(only->begin(), only->end(), where);
  }
};

}  // namespace annex
