// heap/pool_table.hpp - the truth about a pool's objects, in the segment.
//
//   bits[i]        object i is in the pool
//   a cache        object i is kept by a thread (pool_cache, one per thread slot that used the pool)
//   holders[i]     the member whose thread took i out of the bits; 0 while it is in them
//
//   take     count = count-n        <- commit           return   entries[count …] = offsets; fence; count = count+n   <- commit
//
// So what a member has in its hands is what it holds and none of its caches keeps: taking and returning write no holder.
// An object that another member took goes straight into the bits: a cache keeps its own member's objects only.
// Refill and flush are transactions; a dead thread's cache goes back to bits, which sets the holders right.
// A cache is its thread's while that thread's busy word is set (rule C1 of cache/thread_cache.hpp).
#pragma once
#include "cache/thread_cache.hpp"

namespace annex {

inline constexpr u32 pool_cache_slots = 512;
inline constexpr u16 several_members = 0xffff;

struct pool_cache {
  shared_word<u32> count;
  u32 capacity;
  u32 padding[14];
  u64 entries[pool_cache_slots];  // offsets in the pool's memory: an address is one addition away
};

struct pool_table {
  u64 object_bytes;    // stride
  u32 object_count, words;
  u32 cache_objects;   // capacity of a cache; 0: no caches
  shared_word<u32> in_bits;   // index: objects in bits
  u32 first_word;      // index: no word before it has a bit
  u16 only_member;     // who alone has ever taken an object; 0: nobody; several_members
  u16 padding0;
  u32 padding[8];
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
/// All but `keep` objects of a cache into the bits. Returns how many were there already: they had been given twice.
u32 flush_pool_cache(transaction& t, pool_table& pool, pool_cache& cache, u32 keep) noexcept;

}  // namespace annex
