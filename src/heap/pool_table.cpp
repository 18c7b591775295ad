// heap/pool_table.cpp - see pool_table.hpp.
#include "heap/pool_table.hpp"

namespace annex {
namespace {

// Puts per transaction stay far below the journal's room.
constexpr u32 objects_per_transaction = 256;  // up to three puts each

}  // namespace

u32 refill_pool_cache(transaction& t, pool_table& pool, pool_cache& cache, u32 wanted) noexcept {
  const u32 before = cache.count.load(std::memory_order_relaxed);
  // Before anything is taken; if the rest is undone it says too much, which is slower and never wrong.
  const auto me = static_cast<u16>(t.member());
  if (pool.only_member != me) store_word(pool.only_member, pool.only_member == 0 ? me : several_members);
  compiler_fence();
  u16* const holders = pool.holders(t.seg().header().thread_limit);
  u32 n = before;
  u32 w = pool.first_word;
  if (wanted > objects_per_transaction) wanted = objects_per_transaction;
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
  t.put(pool.first_word, w);
  t.put(pool.in_bits, pool.in_bits.load(std::memory_order_relaxed) - (n - before));
  t.put(cache.count, n);
  t.commit();
  return n - before;
}

u32 flush_pool_cache(transaction& t, pool_table& pool, pool_cache& cache, u32 keep) noexcept {
  u32 all_doubles = 0;
  while (cache.count.load(std::memory_order_relaxed) > keep) {
    const u32 n = cache.count.load(std::memory_order_relaxed);
    const u32 left = n - keep > objects_per_transaction ? n - objects_per_transaction : keep;
    u16* const holders = pool.holders(t.seg().header().thread_limit);
    u32 doubles = 0;
    for (u32 i = left; i < n; ++i) {
      const u64 object = cache.entries[i] / pool.object_bytes;
      if (object >= pool.object_count) continue;
      t.put(holders[object], 0);
      const u64 bit = u64{1} << (object % 64);
      if ((pool.bits()[object / 64] & bit) != 0) {  // it was given twice
        ++doubles;
        continue;
      }
      t.put(pool.bits()[object / 64], pool.bits()[object / 64] | bit);
      if (object / 64 < pool.first_word) t.put(pool.first_word, static_cast<u32>(object / 64));
    }
    t.put(pool.in_bits, pool.in_bits.load(std::memory_order_relaxed) + (n - left) - doubles);
    t.put(cache.count, left);
    t.commit();
    all_doubles += doubles;
  }
  return all_doubles;
}

}  // namespace annex
