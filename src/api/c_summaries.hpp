// api/c_summaries.hpp - what lists and snapshots say, as C has it. Each refers to the strings of
// the C++ value it is made of.
#pragma once
#include "api/c_face.hpp"

namespace annex::c_face {

inline annex_stats as_c(const heap_stats& s) noexcept {
  annex_stats c{};
  c.struct_bytes = sizeof c;
  c.total_bytes = s.total_bytes;
  c.used_bytes = s.used_bytes;
  c.cached_bytes = s.cached_bytes;
  c.free_bytes = s.free_bytes;
  c.largest_free_bytes = s.largest_free_bytes;
  c.live_blocks = s.live_blocks;
  c.region_count = s.region_count;
  c.member_count = s.member_count;
  c.metadata_bytes = s.metadata_bytes;
  c.zone_count = s.zone_count;
  c.thread_count = s.thread_count;
  c.slab_count = s.slab_count;
  c.hole_count = s.hole_count;
  c.misuse_count = s.misuse_count;
  c.lock_steals = s.lock_steals;
  c.recovered_threads = s.recovered_threads;
  return c;
}

static_assert(static_cast<int>(huge_pages::automatic) == ANNEX_HUGE_automatic &&
              static_cast<int>(huge_pages::never) == ANNEX_HUGE_never &&
              static_cast<int>(huge_pages::aligned) == ANNEX_HUGE_aligned &&
              static_cast<int>(huge_pages::always) == ANNEX_HUGE_always);
inline annex_region_summary as_c(const region_summary& s) noexcept {
  annex_region_summary c{};
  c.struct_bytes = sizeof c;
  c.id = static_cast<std::uint32_t>(s.id);
  c.numa_node = s.numa_node;
  c.length_bytes = s.length_bytes;
  c.page_bytes = s.page_bytes;
  c.free_bytes = s.free_bytes;
  c.largest_free_bytes = s.largest_free_bytes;
  c.granule_bytes = s.granule_bytes;
  c.no_cpu_access = as_number(s.access == touch::none);
  c.draining = as_number(s.draining);
  c.base = s.base;
  c.origin = s.origin;
  c.adder = static_cast<std::uint32_t>(s.adder);
  c.huge = static_cast<std::uint32_t>(s.huge);
  c.iova_runs = s.iova_runs;
  c.first_iova = static_cast<std::uint64_t>(s.first_iova);
  c.backing = s.backing.c_str();
  return c;
}

inline annex_zone_summary as_c(const zone_summary& s) noexcept {
  annex_zone_summary c{};
  c.struct_bytes = sizeof c;
  c.name = s.name.c_str();
  c.kind = s.kind.c_str();
  c.handle = static_cast<std::uint64_t>(s.where);
  c.size_bytes = s.size_bytes;
  c.generation = s.generation;
  c.committed = as_number(s.committed);
  c.maker = static_cast<std::uint32_t>(s.maker);
  c.maker_process_id = s.maker_process_id;
  c.maker_alive = as_number(s.maker_alive);
  return c;
}

static_assert(static_cast<int>(block_kind::slab_block) == ANNEX_BLOCK_slab_block &&
              static_cast<int>(block_kind::large) == ANNEX_BLOCK_large &&
              static_cast<int>(block_kind::zone) == ANNEX_BLOCK_zone &&
              static_cast<int>(block_kind::pool_object) == ANNEX_BLOCK_pool_object);
inline annex_block_summary as_c(const block_summary& s) noexcept {
  annex_block_summary c{};
  c.struct_bytes = sizeof c;
  c.kind = static_cast<std::uint32_t>(s.kind);
  c.holder = static_cast<std::uint32_t>(s.holder);
  c.handle = static_cast<std::uint64_t>(s.where);
  c.address = s.address;
  c.size_bytes = s.size_bytes;
  return c;
}

static_assert(static_cast<int>(map_use::free) == ANNEX_MAP_free &&
              static_cast<int>(map_use::large) == ANNEX_MAP_large &&
              static_cast<int>(map_use::zone) == ANNEX_MAP_zone &&
              static_cast<int>(map_use::slab) == ANNEX_MAP_slab);
inline annex_map_piece as_c(const map_piece& s) noexcept {
  annex_map_piece c{};
  c.struct_bytes = sizeof c;
  c.region = static_cast<std::uint32_t>(s.region);
  c.use = static_cast<std::uint32_t>(s.use);
  c.offset_bytes = s.offset_bytes;
  c.length_bytes = s.length_bytes;
  c.live_bytes = s.live_bytes;
  c.cached_bytes = s.cached_bytes;
  c.block_bytes = s.block_bytes;
  c.holder = static_cast<std::uint32_t>(s.holder);
  return c;
}

inline annex_member_summary as_c(const member_summary& s) noexcept {
  annex_member_summary c{};
  c.struct_bytes = sizeof c;
  c.id = static_cast<std::uint32_t>(s.id);
  c.process_id = s.process_id;
  c.program = s.program.c_str();
  c.alive = as_number(s.alive);
  c.self = as_number(s.self);
  c.threads = s.threads;
  c.cached_bytes = s.cached_bytes;
  c.held_blocks = s.held_blocks;
  c.held_bytes = s.held_bytes;
  return c;
}

}  // namespace annex::c_face
