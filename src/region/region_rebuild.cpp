// region/region_rebuild.cpp - which regions a damaged segment has (region_rules.hpp).
//
// A region whose record nothing vouches for is kept as it is: nothing in it is handed out. Before
// anything is written to a region's tables it is known whose bytes they are.
#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/mend.hpp"
#include "region/iova_map.hpp"
#include "region/region_rules.hpp"

namespace annex::detail {
namespace {

constexpr u32 most_runs_to_mend = 256;  // each byte of them is tried

// ---- the record -------------------------------------------------------------------------------

void mend_record(rebuilding& rb, region_record& r, u32 slot) {
  const sealed_bytes parts[] = {
      {&r.id, offsetof(region_record, free_granules) - offsetof(region_record, id)},
      {&r.granules, offsetof(region_record, iova_index_shift) - offsetof(region_record, granules)},
      {r.path, sizeof r.path},
      {&r.same_address, 1},
      {&r.pinned, 1},
      {&r.first_unsure, sizeof r.first_unsure}};
  const u32 id = r.id.value;
  switch (mend_by_seal(r.seal, {parts[0], parts[1], parts[2], parts[3], parts[4], parts[5]},
                       [&] { return seal_of_region(r); })) {
    case mending::fits: break;
    case mending::byte:
      rb.say("region {} in slot {}: a word of its record is right again, by its seal (it was {})",
             r.id.value, slot, id);
      break;
    case mending::seal: rb.say("region {}: its seal is right again", id); break;
    case mending::failed:
      rb.notes<regions_known>().unsealed.insert(slot);
      rb.doubt(
          "region {}: its record does not fit its seal: its length, its file or where it lies "
          "may not be what they were; nothing that is free in it is handed out; move what is "
          "live, and remove it",
          id);
  }
  if (r.state.value != region_active && r.state.value != region_draining)
    rb.fix(r.state, region_active, fmt::format("region {}: its state", r.id.value));
}

// What can't be told any more is taken for more than it was: handles become stale, none names
// another block.
void rebuild_numbers(rebuilding& rb, region_record& r, u32 slot) {
  if (!are_numbers_right(r, slot)) {
    rb.doubt(
        "region {}: the numbers of its handles do not agree: handles that were given out may be "
        "stale",
        r.id.value);
    auto possible = [](u64 numbers) { return numbers <= all_numbers / 2 ? numbers : 0; };
    r.numbers_used = std::max(possible(r.numbers_used), possible(~r.numbers_used_inverted));
    r.numbers_used_inverted = ~r.numbers_used;
  }
  const generations_of_region all = generations_in(r, slot);
  for (u32& floor : r.floors)
    if (floor >= all.count)
      rb.fix(floor, all.count - 1,
             fmt::format("region {}: generations that were given out", r.id.value));
}

// ---- IOVAs ------------------------------------------------------------------------------------

// The runs, by their seal; from now on they are taken. False: nothing vouches for them.
bool mend_runs(rebuilding& rb, region_record& r) {
  const u64 bytes = u64{r.iova_run_count} * sizeof(iova_run);
  if (!lies_in_arena(rb.s, r.iova_runs, bytes)) return false;
  auto* const runs = rb.s.chunk<iova_run>(r.iova_runs);
  auto right_seal = [&] { return seal_of_runs(runs, r.iova_run_count); };
  const bool is_coming = r.state.value == region_partial;
  bool is_right = u64{r.iova_run_count} <= r.length_bytes / r.page_bytes &&
                  (is_coming || r.iova_seal == right_seal());
  if (!is_right && r.iova_run_count <= most_runs_to_mend) {
    is_right = mend_by_seal(r.iova_seal, {{runs, bytes}}, right_seal) != mending::failed;
    if (is_right) rb.say("region {}: its IOVA runs are right again, by their seal", r.id.value);
  }
  return is_right && are_sane_runs(r, runs) && rb.take(r.iova_runs, bytes);
}

void forget_iovas(rebuilding& rb, region_record& r) {
  rb.doubt(
      "region {}: nothing vouches for its bus addresses; they are forgotten: remove it and add "
      "it again",
      r.id.value);
  r.iova_runs = r.iova_order = r.iova_index = r.iova_run_count = r.iova_index_shift = 0;
  r.lowest_iova = r.highest_iova = r.longest_run_bytes = r.iova_seal = 0;
  if (r.state.value != region_partial) r.seal = seal_of_region(r);
}

// Order and index of the runs, and what the record says of them.
void write_iova_tables(rebuilding& rb, region_record& r, const iova_tables& right) {
  rb.fix(r.iova_index_shift, right.index_shift,
         fmt::format("region {}: the step of the IOVA index", r.id.value));
  rb.fix(r.lowest_iova, right.lowest, fmt::format("region {}: the lowest IOVA", r.id.value));
  rb.fix(r.highest_iova, right.highest, fmt::format("region {}: the highest IOVA", r.id.value));
  rb.fix(r.longest_run_bytes, right.longest_run_bytes,
         fmt::format("region {}: the longest IOVA run", r.id.value));
  if (!rb.take(r.iova_order, u64{r.iova_run_count} * sizeof(u32)) ||
      !rb.take(r.iova_index, right.index.size() * sizeof(u32)))
    return;
  auto write = [&](chunk_ref ref, const std::vector<u32>& table, const char* what) {
    if (std::memcmp(rb.s.chunk<u32>(ref), table.data(), table.size() * sizeof(u32)) == 0) return;
    rb.say("region {}: the {} of its IOVA runs was built anew", r.id.value, what);
    std::copy(table.begin(), table.end(), rb.s.chunk<u32>(ref));
  };
  write(r.iova_order, right.order, "order");
  write(r.iova_index, right.index, "index");
}

void rebuild_iovas(rebuilding& rb, region_record& r) {
  if (r.iova_run_count == 0) return;
  if (!mend_runs(rb, r)) return forget_iovas(rb, r);
  const iova_run* const runs = rb.s.chunk<iova_run>(r.iova_runs);
  const auto right = index_runs({runs, runs + r.iova_run_count}, r.length_bytes, r.page_bytes);
  if (!right) return forget_iovas(rb, r);
  write_iova_tables(rb, r, *right);
}

// ---- which there are --------------------------------------------------------------------------

// False: there is none in this slot.
bool mend_region(rebuilding& rb, u32 slot, bool is_counted) {
  region_record& r = region_at(rb.s, slot);
  if (!is_counted) {
    rb.say(
        "slot {} has no region: its record's state and the header's mark differ, and the header "
        "does not count it",
        slot);
    r.state.value = region_free;
    return false;
  }
  // Or going: its record is not sealed yet.
  const bool is_coming = r.state.value == region_partial && r.live_extents == 0;
  if (!is_coming) mend_record(rb, r, slot);
  // Before anything is written: whose these bytes are.
  if (!is_sane_region(rb.s, r, slot) ||
      !rb.take(r.granules, u64{r.granule_count} * sizeof(granule_entry)) ||
      !rb.take(r.extents, u64{r.granule_count} * sizeof(extent_entry))) {
    rb.doubt("region {} in slot {}: its record can't be; nothing of it can be rebuilt", r.id.value,
             slot);
    return true;
  }
  rebuild_numbers(rb, r, slot);
  rebuild_iovas(rb, r);
  if (!is_coming) rb.notes<regions_known>().usable.emplace(slot, known_region(rb.s, r, slot));
  return true;
}

bool is_marked(const segment_header& h, u32 slot) {
  return (h.used_regions[slot / 64] >> (slot % 64) & 1) != 0;
}

// The slots that are looked at end here: those that the header speaks of in any way.
u32 end_of_slots(const rebuilding& rb) {
  const u32 limit = rb.s.region_limit();
  u32 end = std::min(rb.h.region_slots_used, limit);
  if (rb.h.next_region_id <= limits::region_slots)
    end = std::max(end, std::min(limit, rb.h.next_region_id));
  for (u32 slot = 0; slot < limit; ++slot)
    if (is_marked(rb.h, slot)) end = std::max(end, slot + 1);
  return end;
}

}  // namespace

// A region exists if its record is not free, if the header marks its slot, and if the header counts
// it: two of the three decide.
void find_regions(rebuilding& rb) {
  segment_header& h = rb.h;
  const u32 limit = rb.s.region_limit(), end = end_of_slots(rb);
  auto is_free = [&](u32 slot) { return region_at(rb.s, slot).state.value == region_free; };
  u32 certain = 0, next_id = 1, slots_used = 0;
  for (u32 slot = 0; slot < end; ++slot)
    certain += is_marked(h, slot) && !is_free(slot);
  std::vector<u64> used(std::size(h.used_regions));
  for (u32 slot = 0; slot < end; ++slot) {
    if (is_free(slot) && !is_marked(h, slot)) continue;
    const bool agree = !is_free(slot) && is_marked(h, slot);
    if (!mend_region(rb, slot, agree || certain < h.region_count)) continue;
    if (!agree) ++certain;
    used[slot / 64] |= u64{1} << (slot % 64);
    slots_used = slot + 1;
    next_id = std::max(next_id, region_at(rb.s, slot).id.value + 1);
  }
  for (u32 word = 0; word < used.size(); ++word)
    rb.fix(h.used_regions[word], used[word], "the slots with a region");
  rb.fix(h.region_slots_used,
         std::max(h.region_slots_used <= limit ? h.region_slots_used : 0, slots_used),
         "the slots that ever had a region");
  rb.fix(h.region_count, certain, "the count of regions");
  if (h.next_region_id < next_id) rb.fix(h.next_region_id, next_id, "the next region's id");
  if (h.region_hint >= limit) h.region_hint = 0;
}

bool take_words(rebuilding& rb, const known_region& region, chunk_ref ref, u32 count) {
  if (!lies_in_arena(rb.s, ref, u64{count} * sizeof(u32))) return false;
  const u32* const words = rb.s.chunk<u32>(ref);
  const bool can_be = std::all_of(words, words + count,
                                  [&](u32 word) { return is_sane_word(region.generations, word); });
  return can_be && rb.take(ref, u64{count} * sizeof(u32));
}

}  // namespace annex::detail
