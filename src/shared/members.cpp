// shared/members.cpp - see members.hpp.
#include "shared/members.hpp"

namespace annex {

void release_member_if_done(transaction& t, u32 id) noexcept {
  if (id == 0 || id > t.seg().member_limit()) return;
  member_record& m = t.seg().member(id);
  if (m.state.load(std::memory_order_relaxed) == member_dead && m.extents_held == 0 &&
      m.holdings == 0 && m.slabs_orphaned == 0 && m.pool_objects_held == 0)
    t.put(m.state, member_free);  // sync(member)
}

}  // namespace annex
