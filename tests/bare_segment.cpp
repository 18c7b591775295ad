// tests/bare_segment.cpp - see bare_segment.hpp.
#include "bare_segment.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "platform/files.hpp"
#include "platform/memory.hpp"
#include "platform/processes.hpp"
#include "shared/header.hpp"

namespace annex {

bare_segment::bare_segment(u64 reserve_bytes) {
  constexpr u32 members = 64, threads = 64, regions = 4;
  const table_plan plan = plan_tables(members, threads, regions);
  const int fd = os::create_memory_file("annex-bare", 0).fd;
  if (os::set_length(fd, plan.arena_at + spare_file_bytes) != 0) std::abort();
  file_.take(fd, {}, true);
  life_.take(os::create_memory_file("annex-bare-lives", 0).fd, {}, true);
  void* const base = os::map_file(fd, 0, reserve_bytes, true, 0).address;
  if (base == nullptr) std::abort();

  auto& h = *static_cast<segment_header*>(base);
  h.magic = segment_magic;
  h.layout_major = layout_major;
  h.layout_minor = layout_minor;
  h.layout_hash = layout_hash();
  h.heap_id = 1;
  h.reserve_bytes = reserve_bytes;
  std::strcpy(h.name, "bare");
  h.member_limit = members;
  h.thread_limit = threads;
  h.region_limit = regions;
  h.zone_limit = 16;
  detail::place_tables(h, plan);
  h.next_region_id = 1;
  h.state.store(segment_ready, std::memory_order_relaxed);
  h.seal = seal_of_header(h);

  segment_ = segment(base, &file_, &life_, true, segment_geometry(h), reserve_bytes);
  segment_.keep_damage_in(&damage_);
  if (!views_.open(segment_, 0, 1, nullptr)) std::abort();
  me_ = join();
}

bare_segment::~bare_segment() {
  for (local_region* region : regions_) {
    views_.set_base(*region, nullptr, 0);
    views_.drop(*region);
  }
  os::unmap(segment_.base(), segment_.mapped_bytes());
}

lock_identity bare_segment::join() {
  const member_claim claim = claim_membership(segment_, false);
  if (claim.member == 0) std::abort();
  segment_.member(claim.member).state.store(member_live, std::memory_order_release);
  return {claim.slot, claim.member};
}

local_region& bare_segment::add_region(u64 length_bytes, u64 base,
                                       const std::vector<iova>& page_iovas, u64 page_bytes) {
  const auto tables = must(make_iova_tables(page_iovas, page_bytes));
  transaction t(segment_, me_);
  const u32 id = header().next_region_id, slot = views_.slot_of(id);
  const u8 shift = granule_shift_of(length_bytes);
  const u64 granules = divide_up(length_bytes, u64{1} << shift);
  auto copied = [&]<class T>(const std::vector<T>& table) -> chunk_ref {
    if (table.empty()) return 0;
    const chunk_ref ref = allocate_chunk(t, table.size() * sizeof(T));
    std::copy(table.begin(), table.end(), segment_.chunk<T>(ref));
    return ref;
  };
  region_record& r = views_.record(slot);
  r.length_bytes = length_bytes;
  r.page_bytes = page_bytes;
  r.adder_base = base;
  r.adder = me_.member;
  r.granule_shift = shift;
  r.access = static_cast<u8>(touch::read_write);
  r.granule_count = static_cast<u32>(granules);
  r.granules = allocate_chunk(t, granules * sizeof(granule_entry),
                              backing_of_table(granules * sizeof(granule_entry)));
  r.extents = allocate_chunk(t, granules * sizeof(extent_entry),
                             backing_of_table(granules * sizeof(extent_entry)));
  if (r.granules == 0 || r.extents == 0) std::abort();
  if (!tables.runs.empty()) {
    r.iova_runs = copied(tables.runs);
    r.iova_order = copied(tables.order);
    r.iova_index = copied(tables.index);
  }
  r.iova_run_count = static_cast<u32>(tables.runs.size());
  r.iova_index_shift = tables.index_shift;
  r.lowest_iova = tables.lowest;
  r.highest_iova = tables.highest;
  r.longest_run_bytes = tables.longest_run_bytes;
  r.numbers_used_inverted = ~r.numbers_used;
  r.first_clean_check = ~r.first_clean;
  header().next_region_id = id + 1;
  header().region_slots_used = std::max(header().region_slots_used, slot + 1);
  header().used_regions[slot / 64] |= u64{1} << (slot % 64);
  r.id.store(id, std::memory_order_relaxed);
  r.state.store(region_active, std::memory_order_relaxed);
  r.seal = seal_of_region(r);

  local_region& view = views_.at(slot);
  views_.set_base(view, reinterpret_cast<void*>(base), length_bytes);
  if (view.id != id || !extents(view).back_ends()) std::abort();
  extents(view).make_free(t);
  make_usable(view);
  regions_.push_back(&view);
  return view;
}

u32 a_seed() {
  const char* const given = std::getenv("ANNEX_MODEL_SEED");
  return given != nullptr ? static_cast<u32>(std::strtoul(given, nullptr, 10))
                          : static_cast<u32>(os::random_number());
}

std::string what_is_wrong_with_arena(const segment& s,
                                     const std::vector<std::pair<chunk_ref, u64>>& held) {
  struct piece {
    u64 begin, bytes;
    const char* whose;
  };
  const arena_lists& a = s.header().arena;
  std::vector<piece> pieces;
  for (const auto& [ref, bytes] : held)
    pieces.push_back({u64{ref} * chunk_unit_bytes, chunk_bytes(bytes), "somebody's"});
  bool is_list = true;
  auto follow = [&](chunk_ref head, u64 bytes) {
    for (chunk_ref ref = head; ref != 0 && is_list;
         ref = *s.at<chunk_ref>(u64{ref} * chunk_unit_bytes)) {
      is_list = s.has_chunk(ref, bytes) && pieces.size() < 100'000;
      if (!is_list) return;
      pieces.push_back({u64{ref} * chunk_unit_bytes, bytes, "free"});
    }
  };
  for (u64 units = 1; units < std::size(a.small_free); ++units)
    follow(a.small_free[units], units * chunk_unit_bytes);
  for (u32 i = 0; i < std::size(a.large_free); ++i)
    follow(a.large_free[i], large_chunk_bytes(i));
  if (!is_list) return "a list of free chunks leads outside, or runs in a circle";
  if (a.small_end > a.small_top)
    pieces.push_back({a.small_top, a.small_end - a.small_top, "to be cut into small chunks"});
  std::sort(pieces.begin(), pieces.end(),
            [](const piece& one, const piece& other) { return one.begin < other.begin; });
  u64 end = s.geometry().arena_at;
  for (const piece& p : pieces) {
    if (p.begin != end)
      return fmt::format("{}, but a chunk ({}) begins at {}",
                         p.begin > end ? fmt::format("bytes from {} on belong to nobody", end)
                                       : fmt::format("bytes up to {} belong to another", end),
                         p.whose, p.begin);
    end += p.bytes;
  }
  if (end != a.top) return fmt::format("chunks end at {}, the arena's top is {}", end, a.top);
  if (a.top + spare_file_bytes > a.file_bytes || a.file_bytes > s.file_bytes())
    return fmt::format("top {}, file_bytes {}, the file has {}", a.top, a.file_bytes,
                       s.file_bytes());
  return {};
}

std::string what_is_wrong_with_extents(const segment& s, const local_region& region) {
  const region_record& r = *region.record;
  const auto& e = region.extents;
  const auto& g = region.granules;
  u64 free = 0;
  u32 in_use = 0, free_extents = 0, end_of_use = 0;
  bool last_was_free = false;
  for (u32 at = 0; at < r.granule_count;) {
    const u32 length = e[at].length;
    if (length == 0 || length > r.granule_count - at)
      return fmt::format("E1: the extent at {} has length {}", at, length);
    const u8 kind = g[at].kind;
    if (kind == granule_free) {
      if (last_was_free) return fmt::format("E2: two free extents touch at {}", at);
      if (e[at + length - 1].foot != at || g[at + length - 1].kind != granule_free)
        return fmt::format("E3: the foot of the free extent at {} says {}", at,
                           e[at + length - 1].foot);
      free += length;
      ++free_extents;
    } else if (kind == granule_large || kind == granule_zone || kind == granule_slab ||
               kind == granule_slab_held) {
      if (e[at].seal != seal_of_extent(e[at], kind, at, region.id))
        return fmt::format("E7: the seal of the extent at {} does not fit", at);
      if ((e[at].holder != 0) != (kind == granule_large))
        return fmt::format("E7: the extent at {} of kind {} has holder {}", at, kind, e[at].holder);
      if (!is_sane_name(r, region.generations, u64{at} << region.granule_shift,
                        extents(region).end_of(at), e[at].name))
        return fmt::format("H1: the extent at {} has the name's word {:#x}", at, e[at].name);
      ++in_use;
      end_of_use = at + length;
    } else {
      return fmt::format("E1: an extent at {} is of kind {}", at, kind);
    }
    const bool is_slab = kind == granule_slab || kind == granule_slab_held;
    for (u32 i = at + 1; i < at + length - (kind == granule_free && length > 1 ? 1 : 0); ++i)
      if (!is_slab && g[i].kind != granule_inside)
        return fmt::format("E1: granule {} inside the extent at {} is of kind {}", i, at,
                           g[i].kind);
    last_was_free = kind == granule_free;
    at += length;
  }
  u32 in_bins = 0;
  for (u32 bin = 0; bin < extent_bins; ++bin) {
    u32 before = no_extent;
    for (u32 at = r.bins[bin]; at != no_extent; before = at, at = e[at].next) {
      if (at >= r.granule_count || g[at].kind != granule_free || bin_of(e[at].length) != bin ||
          e[at].previous != before || ++in_bins > free_extents)
        return fmt::format("E3: the list of bin {} is wrong at {}", bin, at);
    }
    if ((r.bin_bits[bin / 8] >> (bin % 8) & 1) != (r.bins[bin] != no_extent))
      return fmt::format("E4: bin {} is marked wrong", bin);
    if ((r.bin_groups >> (bin / 8) & 1) != (r.bin_bits[bin / 8] != 0))
      return fmt::format("E4: the group of bin {} is marked wrong", bin);
  }
  if (in_bins != free_extents)
    return fmt::format("E3: {} free extents, {} in bins", free_extents, in_bins);
  if (free != r.free_granules)
    return fmt::format("E5: {} granules are free, the record says {}", free, r.free_granules);
  if (in_use != r.live_extents)
    return fmt::format("E5: {} extents are in use, the record says {}", in_use, r.live_extents);
  const bool said_free = (s.header().free_regions[region.slot / 64] >> (region.slot % 64) & 1) != 0;
  if (said_free != (free != 0)) return fmt::format("E5: the region is said to have free granules");
  if (end_of_use > r.first_clean || r.first_clean_check != ~r.first_clean)
    return fmt::format("E6: in use up to {}, never given out from {} (check {:#x})", end_of_use,
                       r.first_clean, r.first_clean_check);
  return {};
}

}  // namespace annex
