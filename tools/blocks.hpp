// tools/blocks.hpp - words for kinds of blocks.
#pragma once
#include <annex/annex.hpp>

namespace annex::tool {

/// "small", "large", "zone", "pool object".
const char* name_of(block_kind kind);

}  // namespace annex::tool
