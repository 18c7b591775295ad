// named/pool_rules.hpp - the rules of pools: an object is in the pool, or with a member.
//
// Invariants (audit):
//   Z2  an object is in it or with a member; counts and caches agree with that
//   Z3  what released pools left belongs to no zone (docs/design/0011)
//   H2  a pool with generations is several members' (region/generation.hpp)
// and Z1, Z4 of their tables (zone_rules.hpp).
//
// Truth: the bits and the holders. Counts are an index. Caches are believed where the audit found
// nothing; else what they kept stays with its members. A pool whose table can't be believed is a
// plain zone from then on.
#pragma once
#include "named/pool_table.hpp"
#include "named/zone_rules.hpp"
#include "region/departure.hpp"

namespace annex::detail {

/// The table of a pool's zone; false: it can't be one.
known_pool sane_pool(const segment& s, const zone_record& z) noexcept;
/// Whether this can be the record of a pool that was released; its link too.
bool is_sane_spare_pool(const segment& s, chunk_ref ref) noexcept;

void check_pools(inspection& in);
/// Tells the zones whom to ask about pools.
void find_pools(rebuilding& rb);

/// Objects that a thread that is gone kept go back to their pools. True: done.
bool recover_pool_caches(tenure& t, const gone_thread& gone) noexcept;
/// How many objects a member that is gone has, in its record.
void recover_pool_objects(tenure& t, u32 member) noexcept;
/// Objects that a dead member holds.
void reclaim_pool_objects(reclaiming& r) noexcept;

}  // namespace annex::detail
