// shared/rebuilding.cpp - see rebuilding.hpp.
#include "shared/rebuilding.hpp"

namespace annex::detail {

bool rebuilding::is_taken(u64 begin, u64 end) const {
  const auto next = taken.lower_bound(begin);
  return (next != taken.end() && next->first < end) ||
         (next != taken.begin() && std::prev(next)->second > begin);
}

bool rebuilding::take(chunk_ref ref, u64 bytes) {
  if (!lies_in_arena(s, ref, bytes)) return false;
  const u64 begin = u64{ref} * chunk_unit_bytes, end = begin + chunk_bytes(bytes);
  if (is_taken(begin, end)) return false;
  taken.emplace(begin, end);
  return true;
}

u64 rebuilding::end_of_taken(u64 at) const {
  const auto after = taken.upper_bound(at);
  if (after == taken.begin() || std::prev(after)->second <= at) return 0;
  return std::prev(after)->second;
}

}  // namespace annex::detail
