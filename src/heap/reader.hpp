// heap/reader.hpp - what a process that only reads does before it believes a segment.
//
// Nothing is completed in the file and nothing locked.
#pragma once
#include "attached/attachment.hpp"

namespace annex::detail {

/// What nobody alive vouches for is inspected as it lies; whoever comes meanwhile and changes
/// something is seen alive afterwards, and has inspected it himself. verify: in any case. Errors:
/// corrupt.
result<void> look_before_reading(attachment& heap, bool verify);

}  // namespace annex::detail
