// heap/closing.hpp - the end of an attachment in this process.
//
// Caches flushed, regions let go, member record freed, byte lock dropped with its mapping. A death
// in between is the death of a member: recovery does the rest.
#pragma once

namespace annex::detail {

class local_heap;

/// Ends one user's share; the last one's ends the attachment. No thread uses the heap any more.
void close_heap(local_heap* heap) noexcept;
/// Ends the attachment, whoever shares it.
void tear_down(local_heap* heap) noexcept;

}  // namespace annex::detail
