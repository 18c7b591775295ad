// named/pool_caches.cpp - see pool_caches.hpp; the protocol is in pool_table.hpp.
#include "named/pool_caches.hpp"

#include <algorithm>

namespace annex {

void for_each_pool(const segment& s,
                   function_ref<void(const zone_record&, const known_pool&)> visit) {
  if (s.header().zone_count == 0) return;
  for_each_zone_bucket(s, [&](chunk_ref chain) {
    list_walk walk(s);
    for (chunk_ref ref = chain; ref != 0 && walk.goes_on(); ref = s.chunk<zone_record>(ref)->next)
      if (const auto* zone = s.chunk<zone_record>(ref); zone->type == zone_type::pool)
        if (const known_pool pool = find_pool_table(s, zone->table, zone->table_bytes))
          visit(*zone, pool);
  });
}

u32 busy_member_of(const segment& s, const known_pool& pool, const frozen_caches& frozen,
                   u32 own_slot) noexcept {
  for (u32 i = 0; i < s.slots_used(); ++i) {
    // sync(slot): what whoever had it before left is seen.
    const u32 member = member_of_state(s.slot(i).state.load(std::memory_order_acquire));
    if (member == 0 || i == own_slot || pool.caches()[i] == 0) continue;
    // Not started.
    if (const chunk_ref cache = s.slot(i).cache;
        cache == 0 || s.chunk<thread_cache>(cache)->key == 0)
      continue;
    if (frozen.of(i) == nullptr) return member;
  }
  return 0;
}

void flush_pool_caches(tenure& t, const known_pool& pool, const frozen_caches& frozen) noexcept {
  for (const thread_cache* c : frozen)
    if (const chunk_ref cache = pool.caches()[c->slot]; cache != 0)
      *t.doubles_of(c->member) +=
          flush_pool_cache(t, pool, *t.seg().chunk<pool_cache>(cache), c->member, 0);
}

void return_pool_objects(transaction& t, u32 slot, u32 member, u32* doubles) noexcept {
  for_each_pool(t.seg(), [&](const zone_record&, const known_pool& pool) {
    if (const chunk_ref cache = pool.caches()[slot]; cache != 0)
      *doubles += flush_pool_cache(t, pool, *t.seg().chunk<pool_cache>(cache), member, 0);
  });
}

// The pool's zone is being released: its caches go with it, in the same transaction or before.
void release_pool_caches(tenure& t, const zone_record& z) noexcept {
  const known_pool pool = find_pool_table(t.seg(), z.table, z.table_bytes);
  if (!pool) return;
  for (u32 i = 0; i < t.seg().thread_limit(); ++i)
    if (const chunk_ref cache = pool.caches()[i]; cache != 0) {
      t.put(pool.caches()[i], 0);
      free_chunk(t, cache, sizeof(pool_cache));
      t.commit();
    }
  const chunk_ref generations = pool.table->generations;
  if (generations == 0 || z.region_slot == no_region) return;
  const local_region& region = t.views().at(z.region_slot);
  const generations_of_region& all = region.generations;
  const u32 first = all.behind(count_in(region.extents[z.granule].name), 1);
  const u32 highest =
      generation_above(*region.record, all, first, pool.object_count,
                       [&](u64 object) { return generation_word(t.seg(), pool, object); });
  raise_floor(t, *region.record, all, z.offset_bytes, z.offset_bytes + z.size_bytes, highest);
  t.put(pool.table->generations, 0);
  free_chunk(t, generations, u64{pool.object_count} * sizeof(u32));
}

// One object of a dead member, into the pool. One transaction.
void take_pool_object_back(transaction& t, const known_pool& pool, u32 object) noexcept {
  pool_table& table = *pool.table;
  u16& holder = pool.holders(t.seg().thread_limit())[object];
  member_record& m = t.seg().member(holder);
  t.put(pool.bits()[object / 64], pool.bits()[object / 64] | u64{1} << (object % 64));
  t.put(table.in_bits, table.in_bits.load(std::memory_order_relaxed) + 1);
  if (object / 64 < table.first_word) t.put(table.first_word, object / 64);
  if (m.pool_objects_held > 0) t.put(m.pool_objects_held, m.pool_objects_held - 1);
  t.put(holder, 0);
  t.commit();
  // The waiter's process barrier, or the heap lock, orders it after the commit.
  tell_waiters(table.object_signal);
}

}  // namespace annex
