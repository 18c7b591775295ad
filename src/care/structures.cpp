// care/structures.cpp - see structures.hpp.
#include "care/structures.hpp"

#include "cache/cache_rules.hpp"
#include "extent/large_blocks.hpp"
#include "named/pool_rules.hpp"
#include "named/ring_rules.hpp"
#include "shared/arena_rules.hpp"
#include "shared/header_rules.hpp"
#include "shared/member_rules.hpp"
#include "shared/members.hpp"

namespace annex::detail {
namespace {

constexpr structure all[] = {
    {.name = "header", .find = find_header, .count = count_header},
    {.name = "arena",
     .check = check_arena,
     .check_whole = check_tiling,
     .find = find_arena_top,
     .rebuild_whole = rebuild_arena},
    {.name = "region",
     .check = check_regions,
     .check_whole = check_region_count,
     .recover_member = recover_regions,
     .find = find_regions,
     .count = count_regions},
    {.name = "extent",
     .check = check_extents,
     .recover_thread = recover_large_block,
     .reclaim = reclaim_large_blocks,
     .rebuild = rebuild_extents,
     .count = count_extents},
    {.name = "slab",
     .check = check_slabs,
     .check_whole = check_slabs_are_linked,
     .find = find_slabs,
     .count = count_slabs},
    {.name = "cache",
     .check = check_caches,
     .recover_thread = recover_cache,
     .reclaim = reclaim_slab_blocks,
     .find = find_caches,
     .rebuild = rebuild_caches,
     .count = count_caches},
    {.name = "zone",
     .check = check_zones,
     .find = find_zones,
     .rebuild = rebuild_zones,
     .count = count_zones},
    {.name = "pool",
     .check = check_pools,
     .recover_thread = recover_pool_caches,
     .recover_member = recover_pool_objects,
     .reclaim = reclaim_pool_objects,
     .find = find_pools},
    {.name = "ring", .check = check_rings, .find = find_rings},
    {.name = "member",
     .check = check_members,
     .recover_member = [](tenure& t, u32 member) { recover_claims(t, member); },
     .reclaim = [](reclaiming& r) { release_member_if_done(r.t, r.member); },
     .rebuild = rebuild_members,
     .count = count_members},
};

}  // namespace

std::span<const structure> structures() noexcept {
  return all;
}

}  // namespace annex::detail
