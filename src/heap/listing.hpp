// heap/listing.hpp - every heap of the annex directory, and what else lies there.
#pragma once
#include <vector>

#include <annex/types.hpp>

#include "base/failure.hpp"

namespace annex::detail {

result<std::vector<heap_summary>> list_heaps();

}  // namespace annex::detail
