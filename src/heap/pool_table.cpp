// heap/pool_table.cpp - see pool_table.hpp.
#include "heap/pool_table.hpp"

namespace annex {
namespace {

// Puts per transaction stay far below the journal's room.
constexpr u32 objects_per_transaction = 256;

}  // namespace

u32 refill_pool_cache(transaction& t, pool_table& pool, pool_cache& cache, u32 wanted) noexcept {
  const u32 before = cache.count.load(std::memory_order_relaxed);
  u32 n = before;
  u32 w = pool.first_word;
  if (wanted > objects_per_transaction) wanted = objects_per_transaction;
  for (; w < pool.words && n - before < wanted; ++w) {
    u64 rest = pool.bits()[w];
    if (rest == 0) continue;
    while (rest != 0 && n - before < wanted) {
      cache.entries[n++] = w * 64 + static_cast<u32>(std::countr_zero(rest));  // above count: nobody looks there
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

void flush_pool_cache(transaction& t, pool_table& pool, pool_cache& cache, u32 keep) noexcept {
  while (cache.count.load(std::memory_order_relaxed) > keep) {
    const u32 n = cache.count.load(std::memory_order_relaxed);
    const u32 left = n - keep > objects_per_transaction ? n - objects_per_transaction : keep;
    u16* const holders = pool.holders(t.seg().header().thread_limit);
    for (u32 i = left; i < n; ++i) {
      const u32 object = cache.entries[i];
      if (object >= pool.object_count) continue;
      holders[object] = 0;
      t.put(pool.bits()[object / 64], pool.bits()[object / 64] | u64{1} << (object % 64));
      if (object / 64 < pool.first_word) t.put(pool.first_word, object / 64);
    }
    t.put(pool.in_bits, pool.in_bits.load(std::memory_order_relaxed) + (n - left));
    t.put(cache.count, left);
    t.commit();
  }
}

}  // namespace annex
