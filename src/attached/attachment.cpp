// attached/attachment.cpp - see attachment.hpp.
#include "attached/attachment.hpp"

namespace annex::detail {

u64 attachment::next_number() noexcept {
  static std::atomic<u64> numbers{0};
  return numbers.fetch_add(1, std::memory_order_relaxed) + 1;
}

result<void> attachment::refuse_if_damaged() const {
  if (!seg.is_damaged()) return {};
  return refuse(errc::corrupt,
                "\"{}\" is damaged: words in its segment can't be; close it everywhere, then "
                "`annex check --repair`",
                name);
}

}  // namespace annex::detail
