// heap/sanity.cpp - a heap that was found damaged is not worked on.
#include "base/failure.hpp"
#include "heap/local_heap.hpp"

namespace annex::detail {

result<void> local_heap::refuse_if_damaged() const {
  if (!segment_.is_damaged()) return {};
  return refuse(errc::corrupt,
                "\"{}\" is damaged: words in its segment can't be; close it everywhere, then "
                "`annex check --repair`",
                name_);
}

}  // namespace annex::detail
