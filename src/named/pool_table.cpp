// named/pool_table.cpp - see pool_table.hpp.
#include "named/pool_table.hpp"

#include <algorithm>

namespace annex {
namespace {

// Puts per transaction stay far below the journal's room.
constexpr u32 objects_per_transaction = 256;  // up to three puts each

}  // namespace

u32* generation_word(const segment& s, const known_pool& pool, u64 object) noexcept {
  // sync(published).
  const chunk_ref ref = std::atomic_ref(pool.table->generations).load(std::memory_order_acquire);
  if (ref == 0 || object >= pool.object_count) return nullptr;
  u32* const table = s.find_chunk<u32>(ref, u64{pool.object_count} * sizeof(u32));
  return table != nullptr ? table + object : nullptr;
}

bool make_generations(transaction& t, const known_pool& pool) noexcept {
  if (pool.table->generations != 0) return true;
  // Zeros: every object as it began.
  const chunk_ref ref = allocate_chunk(t, u64{pool.object_count} * sizeof(u32));
  if (ref == 0) {
    t.roll_back();
    return false;
  }
  // If the rest is undone it says too much, which is slower and never wrong.
  store_word(pool.table->only_member, several_members);
  compiler_fence();
  t.put(pool.table->generations, ref);
  t.commit();
  return true;
}

known_pool look_for_pool_table(const segment& s, chunk_ref ref, u64 table_bytes) noexcept {
  if (ref == 0 || table_bytes < sizeof(pool_table)) return {};
  auto* const table = s.find_chunk<pool_table>(ref, table_bytes);
  if (table == nullptr) return {};
  const known_pool pool(table, __atomic_load_n(&table->object_bytes, __ATOMIC_RELAXED),
                        __atomic_load_n(&table->object_count, __ATOMIC_RELAXED));
  const bool can_be = pool.object_count != 0 && pool.object_bytes != 0 &&
                      pool.words == table->words &&
                      table_bytes >= pool_table_bytes(pool.object_count, s.thread_limit());
  return can_be ? pool : known_pool{};
}

known_pool find_pool_table(const segment& s, chunk_ref ref, u64 table_bytes) noexcept {
  if (ref == 0) return {};
  const known_pool pool = look_for_pool_table(s, ref, table_bytes);
  if (!pool) s.mark_damaged("the table of a pool can't be");
  return pool;
}

u32 refill_pool_cache(transaction& t, const known_pool& pool, pool_cache& cache,
                      u32 wanted) noexcept {
  pool_table& table = *pool.table;
  const u32 before = entries_in(cache);
  // Before anything is taken; if the rest is undone it says too much, which is slower and never
  // wrong.
  const auto me = static_cast<u16>(t.member());
  if (table.only_member != me)
    store_word(table.only_member, table.only_member == 0 ? me : several_members);
  compiler_fence();
  u16* const holders = pool.holders(t.seg().thread_limit());
  u32 n = before;
  u32 w = table.first_word;
  wanted = std::min({wanted, objects_per_transaction, pool_cache_slots - before});
  for (; w < pool.words && n - before < wanted; ++w) {
    u64 rest = pool.bits()[w];
    if (rest == 0) continue;
    while (rest != 0 && n - before < wanted) {
      const u32 object = w * 64 + static_cast<u32>(std::countr_zero(rest));
      cache.entries[n++] = object * pool.object_bytes;  // above count: nobody looks there
      t.put(holders[object], me);
      rest &= rest - 1;
    }
    t.put(pool.bits()[w], rest);
    if (rest != 0) break;
  }
  t.put(table.first_word, w);
  t.put(table.in_bits, table.in_bits.load(std::memory_order_relaxed) - (n - before));
  t.put(cache.count, n);
  t.commit();
  return t.seg().is_damaged() ? 0 : n - before;
}

u32 flush_pool_cache(transaction& t, const known_pool& pool, pool_cache& cache, u32 member,
                     u32 keep) noexcept {
  pool_table& table = *pool.table;
  u32 doubles = 0;
  while (count_in(cache) > keep && !t.seg().is_damaged()) {
    const u32 n = entries_in(cache);
    const u32 left = n - keep > objects_per_transaction ? n - objects_per_transaction : keep;
    u16* const holders = pool.holders(t.seg().thread_limit());
    u32 returned = 0;
    for (u32 i = left; i < n; ++i) {
      const u64 object = cache.entries[i] / pool.object_bytes;
      if (object >= pool.object_count) continue;
      const u64 bit = u64{1} << (object % 64);
      // It was given twice.
      if ((pool.bits()[object / 64] & bit) != 0 || holders[object] != member) {
        ++doubles;
        continue;
      }
      ++returned;
      t.put(holders[object], 0);
      t.put(pool.bits()[object / 64], pool.bits()[object / 64] | bit);
      if (object / 64 < table.first_word) t.put(table.first_word, static_cast<u32>(object / 64));
    }
    t.put(table.in_bits, table.in_bits.load(std::memory_order_relaxed) + returned);
    t.put(cache.count, left);
    t.commit();
  }
  return doubles;
}

}  // namespace annex
