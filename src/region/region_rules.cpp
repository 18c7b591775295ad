// region/region_rules.cpp - see region_rules.hpp: what an audit asks of regions.
#include "region/region_rules.hpp"

#include <algorithm>
#include <cstring>

namespace annex::detail {

bool is_sane_region(const segment& s, const region_record& r, u32 slot) noexcept {
  const u32 limit = s.member_limit(), id = r.id.value;
  const bool shift_is_known =
      r.granule_shift == limits::granule_shift || r.granule_shift == limits::small_granule_shift;
  return r.state.value <= region_draining && id != 0 &&
         region_slot_of(id, s.region_limit()) == slot && shift_is_known && r.length_bytes != 0 &&
         r.length_bytes <= limits::largest_region_bytes && is_power_of_two(r.page_bytes) &&
         r.page_bytes >= limits::smallest_page_bytes &&
         r.page_bytes <= limits::largest_page_bytes && r.length_bytes % r.page_bytes == 0 &&
         r.granule_count == divide_up(r.length_bytes, u64{1} << r.granule_shift) && r.access <= 1 &&
         r.backing <= backing_owned && r.align_shift <= 63 &&
         std::memchr(r.path, 0, sizeof r.path) != nullptr && r.adder <= limit && r.worker <= limit;
}

bool are_sane_runs(const region_record& r, const iova_run* runs) noexcept {
  for (u32 i = 0; i < r.iova_run_count; ++i) {
    const u64 end = i + 1 < r.iova_run_count ? runs[i + 1].offset : r.length_bytes;
    if (runs[i].offset >= end || end > r.length_bytes || (i == 0 && runs[0].offset != 0) ||
        runs[i].address + (end - runs[i].offset - 1) < runs[i].address)
      return false;
  }
  return true;
}

known_region::known_region(const segment& s, region_record& r, u32 region_slot) noexcept
    : record(&r),
      granules(s.chunk<granule_entry>(r.granules)),
      extents(s.chunk<extent_entry>(r.extents)),
      length_bytes(r.length_bytes),
      granule_count(r.granule_count),
      granule_shift(r.granule_shift),
      slot(region_slot),
      id(r.id.value),
      generations(generations_in(r, region_slot)) {}

namespace {

bool take_iova_tables(inspection& in, const region_record& r) {
  const u64 slices = r.iova_index_shift < 64 ? (r.length_bytes >> r.iova_index_shift) + 2 : 0;
  return r.iova_index_shift >= 12 && r.iova_index_shift <= 63 &&
         u64{r.iova_run_count} <= r.length_bytes / r.page_bytes &&
         in.take(r.iova_runs, u64{r.iova_run_count} * sizeof(iova_run), "IOVA runs") &&
         in.take(r.iova_order, u64{r.iova_run_count} * 4, "IOVA order") &&
         in.take(r.iova_index, slices * 4, "IOVA index");
}

bool is_sane_order(const region_record& r, const iova_run* runs, const u32* order) {
  for (u32 i = 0; i < r.iova_run_count; ++i)
    if (order[i] >= r.iova_run_count ||
        (i != 0 && runs[order[i]].address <= runs[order[i - 1]].address))
      return false;
  return true;
}

bool is_sane_index(const region_record& r, const iova_run* runs, const u32* index) {
  const u64 slices = (r.length_bytes >> r.iova_index_shift) + 2;
  for (u64 i = 0; i < slices; ++i)
    if (index[i] >= r.iova_run_count || (i != 0 && index[i] < index[i - 1]) ||
        runs[index[i]].offset > i << r.iova_index_shift)
      return false;
  return true;
}

// False: said, and nothing of the region is looked at.
bool check_iovas(inspection& in, const region_record& r, u32 id) {
  if (r.iova_run_count == 0) return true;
  if (!take_iova_tables(in, r)) {
    in.broken("R1: region {} has impossible IOVA tables", id);
    return false;
  }
  const iova_run* const runs = in.s.chunk<iova_run>(r.iova_runs);
  if (!are_sane_runs(r, runs)) {
    in.broken("R1: region {} has impossible IOVA runs", id);
    return false;
  }
  if (!is_sane_order(r, runs, in.s.chunk<u32>(r.iova_order))) {
    in.broken("R1: region {} has an impossible order of IOVA runs", id);
    return false;
  }
  if (!is_sane_index(r, runs, in.s.chunk<u32>(r.iova_index))) {
    in.broken("R1: region {} has an impossible IOVA index", id);
    return false;
  }
  return true;
}

// The record and the places of its tables. False: nothing else of it is looked at.
bool check_record(inspection& in, const region_record& r, u32 slot) {
  const u32 state = r.state.value, id = r.id.value;
  if (!is_sane_region(in.s, r, slot)) {
    in.broken("R1: the record of region {} in slot {} is impossible (state {}, {} bytes)", id, slot,
              state, r.length_bytes);
    return false;
  }
  if (!in.take(r.granules, u64{r.granule_count} * sizeof(granule_entry), "granules") ||
      !in.take(r.extents, u64{r.granule_count} * sizeof(extent_entry), "extents") ||
      !check_iovas(in, r, id))
    return false;
  if (state != region_partial) return true;
  if (r.live_extents != 0)
    in.broken("R1: region {} is on its way in or out, but has {} extents in use", id,
              r.live_extents);
  return false;
}

// R2. False: the record may be another's.
bool check_seals(inspection& in, const region_record& r, u32 id) {
  if (!in.locked) return true;
  if (r.seal != seal_of_region(r)) {
    in.broken("R2: the record of region {} does not fit its seal", id);
    return false;
  }
  const u64 right =
      r.iova_run_count == 0 ? 0 : seal_of_runs(in.s.chunk<iova_run>(r.iova_runs), r.iova_run_count);
  if (r.iova_seal != right) in.broken("R2: the IOVA runs of region {} do not fit their seal", id);
  return true;
}

void check_numbers(inspection& in, const known_region& region) {
  const region_record& r = *region.record;
  if (!are_numbers_right(r, region.slot))
    in.broken("H3: region {}: the numbers of its handles are impossible", region.id);
  for (const u32 floor : r.floors)
    if (floor >= region.generations.count)
      return in.broken("H3: region {}: {} is said to have been given out of {} generations",
                       region.id, floor, region.generations.count);
}

void check_region(inspection& in, u32 slot) {
  region_record& r = region_at(in.s, slot);
  const u32 id = r.id.value;
  if (r.state.value == region_free)
    return in.broken("R1: slot {} is marked used but has no region", slot);
  in.count_one();
  auto& regions = in.notes<regions_known>();
  ++regions.there;
  if (!check_record(in, r, slot) || !check_seals(in, r, id)) return;
  if (id >= in.h.next_region_id)
    in.broken("R1: region {} exists, but the next one would be {}", id, in.h.next_region_id);
  const known_region region(in.s, r, slot);
  check_numbers(in, region);
  regions.usable.emplace(slot, region);
}

// The header's bits: of slots that had a region, and of regions that are there.
void check_marks(inspection& in) {
  const segment_header& h = in.h;
  for (u32 word = 0; word < std::size(h.used_regions); ++word)
    if (h.used_regions[word] != 0 &&
        (word >= region_words(h) ||
         word * 64 + 63 - static_cast<u32>(std::countl_zero(h.used_regions[word])) >=
             h.region_slots_used))
      in.broken("R1: regions lie in slots behind the {} that were ever used", h.region_slots_used);
  for (u32 word = 0; word < std::size(h.free_regions); ++word)
    if (in.locked && (h.free_regions[word] & ~h.used_regions[word]) != 0)
      in.broken("R1: regions that do not exist are said to have free memory (word {})", word);
}

}  // namespace

void check_regions(inspection& in) {
  for (const u32 slot : used_region_slots(in.s))
    check_region(in, slot);
  check_marks(in);
}

void check_region_count(inspection& in) {
  const u64 there = in.notes<regions_known>().there;
  if (in.locked && there != in.h.region_count)
    in.broken("R1: {} regions exist, the header counts {}", there, in.h.region_count);
}

void check_words(inspection& in, const known_region& region, const u32* words, u32 count,
                 const char* what) {
  if (!std::all_of(words, words + count,
                   [&](u32 word) { return is_sane_word(region.generations, word); }))
    in.broken("H1: region {}: the generations of a {} are impossible", region.id, what);
}

void count_regions(counting& c) {
  for_each_region_in_use(c.s, c.views, [&](const local_region& region) {
    ++c.out.region_count;
    c.out.total_bytes += region.region_bytes;
  });
}

}  // namespace annex::detail
