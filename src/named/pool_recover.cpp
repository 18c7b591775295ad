// named/pool_recover.cpp - objects of pools that a thread or member that is gone kept or has.
#include <algorithm>

#include "named/pool_caches.hpp"
#include "named/pool_rules.hpp"

namespace annex::detail {

bool recover_pool_caches(tenure& t, const gone_thread& gone) noexcept {
  return_pool_objects(t, gone.index, gone.member, gone.doubles);
  return true;
}

// What is in its hands stays its own until it is given back or reaped: it is counted.
void recover_pool_objects(tenure& t, u32 member) noexcept {
  u32 objects = 0;
  for_each_pool(t.seg(), [&](const zone_record&, const known_pool& pool) {
    const u16* const holders = pool.holders(t.seg().thread_limit());
    objects += static_cast<u32>(
        std::count(holders, holders + pool.object_count, static_cast<u16>(member)));
  });
  t.put(t.seg().member(member).pool_objects_held, objects);
}

}  // namespace annex::detail
