// heap/local_heap.hpp - one attached heap in this process: its parts under one name.
//
//   here         what this process has of it (attached/attachment.hpp)
//   membership   who this process is in it          memory      regions: added, attached, drained
//   care         recover, reap, audit, see          observing   observers and leases
//   blocks       allocate, free, explain            bytes       handles, bus addresses
//   zones        named things
//
// A part knows those above it in this list of members, none below. Opening and closing are
// functions of their own: opening.hpp, creating.hpp, closing.hpp, destroying.hpp, repairing.hpp,
// listing.hpp, forking.hpp.
#pragma once
#include <annex/heap.hpp>

#include "heap/addressing.hpp"
#include "heap/caretaker.hpp"
#include "heap/membership.hpp"
#include "heap/observing.hpp"
#include "heap/regions.hpp"
#include "heap/requests.hpp"
#include "heap/zones.hpp"

namespace annex::detail {

class local_heap {
 public:
  attachment here;
  detail::membership membership{here};
  caretaker care{here, membership};
  regions memory{here, membership, care};
  detail::observing observing{here, membership, memory};
  requests blocks{here, membership, memory, care};
  addressing bytes{here, membership, memory};
  detail::zones zones{here, membership, memory, care, blocks};
  // Under the registry's mutex:
  u32 users = 1;          // shares of this attachment
  bool is_ready = false;  // it is set up
  u32 being_left = 0;     // by threads that end and give it their caches back

  /// Only a heap of a name, and not a child's before it has joined, is shared with whoever attaches
  /// it again.
  bool can_be_shared() const noexcept { return !here.forked && !here.has_option(option_private); }
  static local_heap* of(const heap& h) noexcept { return h.internal(); }
  static heap face_of(local_heap* h) noexcept { return heap(h); }
};

}  // namespace annex::detail
