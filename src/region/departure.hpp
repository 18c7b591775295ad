// region/departure.hpp - a thread or a member that is gone, as the structures of a segment are told
// of it (care/structures.hpp).
//
// Each structure takes back what is its own, under the heap lock, in transactions of bounded size,
// and may be asked again: if the one who recovers dies, the next one begins anew.
#pragma once
#include "region/tenure.hpp"

namespace annex {

/// A thread that ended, or is dead.
struct gone_thread {
  u32 index;     // of its slot
  u32 member;    // whose it was
  u64 state;     // of the slot: as long as it is the same, nobody else has finished this
  u32* doubles;  // blocks and objects that turn out to be freed twice are counted here
};

}  // namespace annex
