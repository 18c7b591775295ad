// heap/pool_table.hpp - the truth about a pool's objects, in the segment.
//
//   bits[i]        object i is in the pool
//   a cache        object i is kept by a thread (pool_cache, one per thread slot that used the pool)
//   holders[i]     member that has it, 0 while it is in bits or in a cache
//
//   take     holders[i] = me; fence; count = count-1         <- commit        return   entries[count] = i; fence;
//                                                                                      count = count+1  <- commit; holders[i] = 0
//   refill and flush are transactions; a dead thread's cache goes back to bits, which sets the holders right.
// A cache is its thread's while that thread's busy word is set (rule C1 of cache/thread_cache.hpp).
#pragma once
#include "cache/thread_cache.hpp"

namespace annex {

inline constexpr u32 pool_cache_slots = 512;

struct pool_cache {
  shared_word<u32> count;
  u32 capacity;
  u32 padding[14];
  u32 entries[pool_cache_slots];
};

struct pool_table {
  u64 object_bytes;    // stride
  u32 object_count, words;
  u32 cache_objects;   // capacity of a cache; 0: no caches
  shared_word<u32> in_bits;   // index: objects in bits
  u32 first_word;      // index: no word before it has a bit
  u32 padding[9];
  // u64 bits[words]; chunk_ref caches[thread_limit]; u16 holders[object_count]
  u64* bits() noexcept { return reinterpret_cast<u64*>(this + 1); }
  chunk_ref* caches() noexcept { return reinterpret_cast<chunk_ref*>(bits() + words); }
  u16* holders(u32 thread_limit) noexcept { return reinterpret_cast<u16*>(caches() + thread_limit); }
};
static_assert(sizeof(pool_table) == 64);

constexpr u64 pool_table_bytes(u32 objects, u32 thread_limit) noexcept {
  return sizeof(pool_table) + divide_up(objects, 64) * 8 + u64{thread_limit} * 4 + u64{objects} * 2;
}

/// Objects from the bits into a cache that has room; returns how many. One transaction.
u32 refill_pool_cache(transaction& t, pool_table& pool, pool_cache& cache, u32 wanted) noexcept;
/// All but `keep` objects of a cache into the bits. One transaction.
void flush_pool_cache(transaction& t, pool_table& pool, pool_cache& cache, u32 keep) noexcept;

}  // namespace annex
