// shared/header_rules.hpp - the rules of the header: what is written once fits its seal.
//
// An audit needs none of them: whoever attaches has compared the header with its seal before the
// segment was mapped. A repair changes one byte back, or the seal, and takes from the file's length
// and from the limits what these tell better.
#pragma once
#include "shared/counting.hpp"
#include "shared/rebuilding.hpp"

namespace annex::detail {

/// Changes one byte of the header back, or its seal, if that is what was damaged, and what the
/// file's length or the limits tell. True: it fits its seal now, or did.
bool mend_header(segment_header& h, u64 file_bytes);

/// The same for the segment under repair, whose lock nobody holds any more.
void find_header(rebuilding& rb);

/// What the header itself counts.
void count_header(counting& c);

}  // namespace annex::detail
