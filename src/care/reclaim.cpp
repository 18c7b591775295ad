// care/reclaim.cpp - see reclaim.hpp.
#include "care/reclaim.hpp"

#include "care/structures.hpp"

namespace annex {

size_t free_held_by(tenure& t, u32 member, const std::vector<handle>* only, u32* skipped) noexcept {
  reclaiming held{t, member, only};
  for (const detail::structure& s : detail::structures())
    if (s.reclaim != nullptr) s.reclaim(held);
  t.commit();
  if (skipped != nullptr) *skipped += held.skipped;
  return held.freed;
}

}  // namespace annex
