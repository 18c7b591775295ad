// named/pool_recover.cpp - objects of pools that a thread or member that is gone kept or has.
#include <algorithm>

#include "named/naming.hpp"
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

namespace {

void reclaim_of_pool(reclaiming& r, const zone_record& z, const known_pool& pool) noexcept {
  if (z.region_slot == no_region) return;
  const segment& s = r.t.seg();
  const u16* const holders = pool.holders(s.thread_limit());
  const local_region& region = r.t.views().at(z.region_slot);
  const u32 generation = count_in(region.extents[z.granule].name);
  for (u32 object = 0; object < pool.object_count; ++object) {
    if (holders[object] != r.member) continue;
    if (r.only != nullptr && !r.is_chosen(where_is(s, region, z, pool, object))) continue;
    forget_object(s, region, pool, generation, object);
    take_pool_object_back(r.t, pool, object);
    ++r.freed;
  }
}

}  // namespace

void reclaim_pool_objects(reclaiming& r) noexcept {
  for_each_pool(r.t.seg(),
                [&](const zone_record& z, const known_pool& pool) { reclaim_of_pool(r, z, pool); });
}

}  // namespace annex::detail
