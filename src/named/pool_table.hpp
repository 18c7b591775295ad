// named/pool_table.hpp - the truth about a pool's objects, in the segment.
//
//   bits[i]        object i is in the pool
//   a cache        object i is kept by a thread (pool_cache, one per thread slot that used the
//                  pool)
//   holders[i]     the member whose thread took i out of the bits; 0 while it is in them
//
//   take     count = count-n                                      <- commit
//   return   entries[count …] = offsets; fence; count = count+n   <- commit
//
// So what a member has in its hands is what it holds and none of its caches keeps: taking and
// returning write no holder. An object that another member took goes straight into the bits: a
// cache keeps its own member's objects only. Refill and flush are transactions; a dead thread's
// cache goes back to bits, which sets the holders right.
//
// Generations (region/generation.hpp): an object whose handle was asked for is named until it is
// given back.
//
// An object given twice lies in the caches twice, or there and in the bits, until it leaves them:
// then the second is dropped and the table is right. Until then it may be handed out twice; the
// audit takes it for one. A cache is its thread's while that thread's busy word is set (rule C1 of
// cache/thread_cache.hpp).
#pragma once
#include "cache/thread_cache.hpp"
#include "shared/waiting.hpp"

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
  u64 object_bytes;  // stride
  u32 object_count, words;
  u32 cache_objects;         // capacity of a cache; 0: no caches
  shared_word<u32> in_bits;  // index: objects in bits
  u32 first_word;            // index: no word before it has a bit
  u16 only_member;           // who alone has ever taken an object; 0: nobody; several_members
  u16 padding0;
  // U32[object_count], once somebody asked a handle of one; then only_member is several_members.
  chunk_ref generations;
  shared_word<u32> object_signal;  // shared/waiting.hpp: of those who wait for an object
  openers opened;
  u32 padding[2];
  u64 seal;  // of what never changes (right_seal)
  u64 right_seal() const noexcept {
    return seal_of({object_bytes, u64{object_count} << 32 | words, cache_objects});
  }
  // u64 bits[words]; chunk_ref caches[thread_limit]; u16 holders[object_count]: known_pool says
  // where
};
static_assert(sizeof(pool_table) == 64);

/// A pool's table, and its counts as they were when it was found or opened, of which its parts
/// follow: whoever changes them in the segment meanwhile leads nobody out of the table.
struct known_pool {
  pool_table* table = nullptr;
  u64 object_bytes = 0;
  u32 object_count = 0;
  u32 words = 0;
  known_pool() = default;
  known_pool(pool_table* t, u64 bytes, u32 count) noexcept
      : table(t),
        object_bytes(bytes),
        object_count(count),
        words(static_cast<u32>(divide_up(count, 64))) {}
  explicit operator bool() const noexcept { return table != nullptr; }
  u64* bits() const noexcept { return reinterpret_cast<u64*>(table + 1); }
  chunk_ref* caches() const noexcept { return reinterpret_cast<chunk_ref*>(bits() + words); }
  u16* holders(u32 thread_limit) const noexcept {
    return reinterpret_cast<u16*>(caches() + thread_limit);
  }
};

/// How many it has, as far as that can be: its lower half. Whatever lies there leads at most so far
/// behind the cache as the file is longer than its last chunk.
[[gnu::always_inline]] inline u32 count_in(const pool_cache& cache) noexcept {
  static_assert(pool_cache_slots < 65536 && u64{65536} * sizeof(u64) < spare_file_bytes &&
                std::endian::native == std::endian::little);
  return __atomic_load_n(reinterpret_cast<const u16*>(&cache.count.value), __ATOMIC_RELAXED);
}

/// How many of its entries there are, beyond which nothing is read.
inline u32 entries_in(const pool_cache& cache) noexcept {
  return std::min(count_in(cache), pool_cache_slots);
}

constexpr u64 pool_table_bytes(u32 objects, u32 thread_limit) noexcept {
  return sizeof(pool_table) + divide_up(objects, 64) * 8 + u64{thread_limit} * 4 + u64{objects} * 2;
}

/// An object's word in the table of generations; null: nobody ever asked for a handle of one.
u32* generation_word(const segment& s, const known_pool& pool, u64 object) noexcept;
/// Makes the table; every give goes object by object from then on, and forgets its handles. False:
/// no metadata left. Commits.
bool make_generations(transaction& t, const known_pool& pool) noexcept;
/// Before the object is in the pool or a cache: its handles are stale from now on.
inline void forget_object(const segment& s, const local_region& region, const known_pool& pool,
                          u32 zone_generation, u64 object) noexcept {
  if (u32* const word = generation_word(s, pool, object))
    forget_name(*region.record, region.generations, region.generations.behind(zone_generation, 1),
                *word);
}
/// A pool's table by its zone's words; false: it can't be one, or is being released.
known_pool look_for_pool_table(const segment& s, chunk_ref table, u64 table_bytes) noexcept;
/// The same under the heap lock: false where there is none, or where it can't be one (the segment
/// is then marked as damaged).
known_pool find_pool_table(const segment& s, chunk_ref table, u64 table_bytes) noexcept;

/// Objects from the bits into a cache that has room; returns how many. One transaction.
u32 refill_pool_cache(transaction& t, const known_pool& pool, pool_cache& cache,
                      u32 wanted) noexcept;
/// All but `keep` objects of a member's cache into the bits. Returns how many were there already,
/// or with another member by now: they had been given twice.
u32 flush_pool_cache(transaction& t, const known_pool& pool, pool_cache& cache, u32 member,
                     u32 keep) noexcept;

}  // namespace annex
