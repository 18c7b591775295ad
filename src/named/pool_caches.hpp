// named/pool_caches.hpp - objects of pools that threads keep: given back when the thread goes, when
// somebody needs them, and when the pool is released.
//
// Everything here runs under the heap lock; caches of others are touched while they are held still
// (cache/still.hpp). A death between two transactions leaves each object in one place.
#pragma once

#include "base/function_ref.hpp"
#include "cache/still.hpp"
#include "named/pool_table.hpp"
#include "named/zone_record.hpp"

namespace annex {

/// Calls visit for every pool whose table can be one.
void for_each_pool(const segment& s,
                   function_ref<void(const zone_record&, const known_pool&)> visit);
/// A live thread that has a cache of the pool and is not held still: its member; 0: none.
u32 busy_member_of(const segment& s, const known_pool& pool, const frozen_caches& frozen,
                   u32 own_slot) noexcept;
/// What the caches that are held still keep of a pool, into the pool.
void flush_pool_caches(tenure& t, const known_pool& pool, const frozen_caches& frozen) noexcept;
/// What a thread that is gone kept of any pool, into the pools.
void return_pool_objects(transaction& t, u32 slot, u32 member, u32* doubles) noexcept;
/// The pool's zone is being released: its caches go with it, in the same transaction or before.
void release_pool_caches(tenure& t, const zone_record& z) noexcept;
/// One object of a dead member, into the pool. One transaction.
void take_pool_object_back(transaction& t, const known_pool& pool, u32 object) noexcept;

}  // namespace annex
