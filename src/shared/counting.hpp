// shared/counting.hpp - the figures of a heap, added up structure by structure down the list of
// care/structures.hpp.
//
// Nobody is held still for it and no lock is taken: a heap at work moves meanwhile, and the figures
// with it, so a difference may come out below zero and is taken as zero. Nothing is allocated: an
// allocation that failed asks for these figures.
#pragma once
#include <annex/types.hpp>

#include "shared/segment.hpp"

namespace annex {

class region_views;

namespace detail {

struct counting {
  const segment& s;
  region_views& views;
  heap_stats out;
  /// Of slabs; of their blocks that are not free, for whom what caches keep is still to be taken
  /// off.
  u64 slab_bytes = 0, slab_live_bytes = 0;
  /// Of large blocks that threads keep.
  u64 kept_extent_bytes = 0;
};

}  // namespace detail
}  // namespace annex
