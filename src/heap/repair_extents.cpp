// heap/repair_extents.cpp - regions, extents and slabs of a damaged segment.
//
//   an extent in use is one by its seal; a free one by the kinds at both ends, its length, its
//   foot and its list. What lies between certain ones is looked at by itself:
//
//   [ certain ][ neither      ][ certain ]   one byte of the entry changed back; its slab or zone
//               ^ mend_extent                found by their own seals; three of a free extent's
//                                            marks; else it is in use, by nobody that is known
//
// A block is free if its two words say so. A region whose record nothing vouches for is kept as it
// is: nothing in it is handed out.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/mend.hpp"
#include "heap/rebuilder.hpp"

namespace annex::detail {
namespace {

constexpr u32 most_runs_to_mend = 256;  // each byte of them is tried
constexpr u32 interior_looks = 4096;

// All but its generation, which stays if it can be one (rebuild_name).
void set_in_use(extent_entry& e, u32 length, u16 holder, u16 lead, chunk_ref record) noexcept {
  e.length = length;
  e.holder = holder;
  e.lead = lead;
  e.record = record;
}

bool is_slab(u8 kind) noexcept {
  return kind == granule_slab || kind == granule_slab_held;
}

}  // namespace

// ---- which regions there are --------------------------------------------------------------------

// A region exists if its record is not free, if the header marks its slot, and if the header counts
// it: two of the three decide.
void rebuilder::find_regions() {
  const u32 limit = s_.region_limit();
  u32 last = std::min(h_.region_slots_used, limit);
  if (h_.next_region_id <= limits::region_slots)
    last = std::max(last, std::min(limit, h_.next_region_id));
  auto is_marked = [&](u32 slot) { return (h_.used_regions[slot / 64] >> (slot % 64) & 1) != 0; };
  for (u32 slot = 0; slot < limit; ++slot)
    if (is_marked(slot)) last = std::max(last, slot + 1);
  u32 certain = 0, next_id = 1, slots_used = 0;
  for (u32 slot = 0; slot < last; ++slot)
    certain += is_marked(slot) && region(slot).state.value != region_free;
  std::vector<u64> used(std::size(h_.used_regions));
  for (u32 slot = 0; slot < last; ++slot) {
    region_record& r = region(slot);
    if (r.state.value == region_free && !is_marked(slot)) continue;
    const bool agree = r.state.value != region_free && is_marked(slot);
    if (!mend_region(slot, agree || certain < h_.region_count)) continue;
    if (!agree) ++certain;
    used[slot / 64] |= u64{1} << (slot % 64);
    slots_used = slot + 1;
    next_id = std::max(next_id, r.id.value + 1);
  }
  for (u32 word = 0; word < used.size(); ++word)
    fix(h_.used_regions[word], used[word], "the slots with a region");
  fix(h_.region_slots_used,
      std::max(h_.region_slots_used <= limit ? h_.region_slots_used : 0, slots_used),
      "the slots that ever had a region");
  fix(h_.region_count, certain, "the count of regions");
  if (h_.next_region_id < next_id) fix(h_.next_region_id, next_id, "the next region's id");
  if (h_.region_hint >= limit) h_.region_hint = 0;
}

// False: there is none in this slot.
bool rebuilder::mend_region(u32 slot, bool is_counted) {
  region_record& r = region(slot);
  if (!is_counted) {
    say("slot {} has no region: its record's state and the header's mark differ, and the header "
        "does not count it",
        slot);
    r.state.value = region_free;
    return false;
  }
  const bool is_coming = r.state.value == region_partial &&
                         r.live_extents == 0;  // or going: its record is not sealed yet
  if (!is_coming) {
    const sealed_bytes parts[] = {
        {&r.id, offsetof(region_record, free_granules) - offsetof(region_record, id)},
        {&r.granules,
         offsetof(region_record, iova_index_shift) - offsetof(region_record, granules)},
        {r.path, sizeof r.path},
        {&r.same_address, 1},
        {&r.pinned, 1},
        {&r.first_unsure, sizeof r.first_unsure}};
    const u32 id = r.id.value;
    switch (mend_by_seal(r.seal, {parts[0], parts[1], parts[2], parts[3], parts[4], parts[5]},
                         [&] { return seal_of_region(r); })) {
      case mending::fits: break;
      case mending::byte:
        say("region {} in slot {}: a word of its record is right again, by its seal (it was {})",
            r.id.value, slot, id);
        break;
      case mending::seal: say("region {}: its seal is right again", id); break;
      case mending::failed:
        unsealed_.insert(slot);
        doubt(
            "region {}: its record does not fit its seal: its length, its file or where it lies "
            "may not be what they were; nothing that is free in it is handed out; move what is "
            "live, and remove it",
            id);
    }
    if (r.state.value != region_active && r.state.value != region_draining)
      fix(r.state, region_active, fmt::format("region {}: its state", r.id.value));
  }
  // Before anything is written: whose these bytes are.
  if (!is_sane_region(s_, r, slot) ||
      !take(r.granules, u64{r.granule_count} * sizeof(granule_entry)) ||
      !take(r.extents, u64{r.granule_count} * sizeof(extent_entry))) {
    doubt("region {} in slot {}: its record can't be; nothing of it can be rebuilt", r.id.value,
          slot);
    return true;
  }
  rebuild_numbers(r, slot);
  rebuild_iovas(r);
  if (!is_coming) usable_.insert(slot);
  return true;
}

void rebuilder::rebuild_iovas(region_record& r) {
  if (r.iova_run_count == 0) return;
  const u64 runs_bytes = u64{r.iova_run_count} * sizeof(iova_run),
            order_bytes = u64{r.iova_run_count} * sizeof(u32);
  auto* const runs =
      lies_in_arena(s_, r.iova_runs, runs_bytes) ? s_.chunk<iova_run>(r.iova_runs) : nullptr;
  auto right_seal = [&] { return seal_of_runs(runs, r.iova_run_count); };
  const bool is_coming = r.state.value == region_partial;
  bool is_right = runs != nullptr && u64{r.iova_run_count} <= r.length_bytes / r.page_bytes &&
                  (is_coming || r.iova_seal == right_seal());
  if (!is_right && runs != nullptr && r.iova_run_count <= most_runs_to_mend) {
    is_right = mend_by_seal(r.iova_seal, {{runs, runs_bytes}}, right_seal) != mending::failed;
    if (is_right) say("region {}: its IOVA runs are right again, by their seal", r.id.value);
  }
  is_right = is_right && are_sane_runs(r, runs) && take(r.iova_runs, runs_bytes);
  const auto right = is_right
                         ? index_runs({runs, runs + r.iova_run_count}, r.length_bytes, r.page_bytes)
                         : result<iova_tables>(std::unexpected(error{}));
  if (!right) {
    doubt(
        "region {}: nothing vouches for its bus addresses; they are forgotten: remove it and add "
        "it again",
        r.id.value);
    r.iova_runs = r.iova_order = r.iova_index = r.iova_run_count = r.iova_index_shift = 0;
    r.lowest_iova = r.highest_iova = r.longest_run_bytes = r.iova_seal = 0;
    if (!is_coming) r.seal = seal_of_region(r);
    return;
  }
  fix(r.iova_index_shift, right->index_shift,
      fmt::format("region {}: the step of the IOVA index", r.id.value));
  fix(r.lowest_iova, right->lowest, fmt::format("region {}: the lowest IOVA", r.id.value));
  fix(r.highest_iova, right->highest, fmt::format("region {}: the highest IOVA", r.id.value));
  fix(r.longest_run_bytes, right->longest_run_bytes,
      fmt::format("region {}: the longest IOVA run", r.id.value));
  if (!take(r.iova_order, order_bytes) || !take(r.iova_index, right->index.size() * sizeof(u32)))
    return;
  auto write = [&](chunk_ref ref, const std::vector<u32>& table, const char* what) {
    if (std::memcmp(s_.chunk<u32>(ref), table.data(), table.size() * sizeof(u32)) == 0) return;
    say("region {}: the {} of its IOVA runs was built anew", r.id.value, what);
    std::copy(table.begin(), table.end(), s_.chunk<u32>(ref));
  };
  write(r.iova_order, right->order, "order");
  write(r.iova_index, right->index, "index");
}

void rebuilder::rebuild_regions() {
  std::vector<u64> with_memory(std::size(h_.free_regions));
  for (const u32 slot : usable_) {
    rebuild_extents(slot);
    region_record& r = region(slot);
    if (unsealed_.contains(slot)) r.seal = seal_of_region(r);
    if (r.state.value == region_active && r.free_granules != 0)
      with_memory[slot / 64] |= u64{1} << (slot % 64);
  }
  for (u32 word = 0; word < with_memory.size(); ++word)
    fix(h_.free_regions[word], with_memory[word], "the regions with free memory");
}

// ---- extents ------------------------------------------------------------------------------------

// What the extent at this granule is used for, by its seal; granule_inside: nothing that is
// certain.
u8 rebuilder::kind_in_use(const tables& t, u32 at) const noexcept {
  const extent_entry& e = t.e[at];
  if (e.length == 0 || e.length > t.r.granule_count - at) return granule_inside;
  for (const u8 kind : {granule_large, granule_slab, granule_zone})
    if ((kind == granule_large) == (e.holder != 0) &&
        e.seal == seal_of_extent(e, kind, at, t.r.id.value))
      return kind;
  return granule_inside;
}

bool rebuilder::is_free_run(const tables& t, u32 at) const noexcept {
  const extent_entry& e = t.e[at];
  if (e.length == 0 || e.length > t.r.granule_count - at || e.holder != 0 || e.record != 0)
    return false;
  return t.g[at].kind == granule_free && t.g[at + e.length - 1].kind == granule_free &&
         t.e[at + e.length - 1].foot == at;
}

// Whether an extent seems to begin here, for who looks where one ends whose length is not known.
bool rebuilder::begins_something(const tables& t, u32 at) {
  if (kind_in_use(t, at) != granule_inside || is_free_run(t, at) || t.g[at].kind == granule_large ||
      zones_at_.contains({t.slot, at}))
    return true;
  return is_slab(t.g[at].kind) && t.g[at].distance == 0 && find_slab(t.slot, at) != 0;
}

// The extent that is said to be at this granule and reaches so far. Its kind; granule_inside:
// nothing tells.
u8 rebuilder::mend_extent(tables& t, u32 at, u32 length) {
  extent_entry& e = t.e[at];
  const extent_entry before = e;
  e.length = length;
  if (const u8 kind = kind_in_use(t, at); kind != granule_inside) {
    say("{}: the extent at granule {} had length {}; its seal says {}", t.name, at, before.length,
        length);
    return kind;
  }
  e.length = before.length;
  for (const u8 kind : {granule_large, granule_slab, granule_zone}) {
    u32 seal = e.seal;
    auto right_seal = [&] { return seal_of_extent(e, kind, at, t.r.id.value); };
    // The seal itself can only be what is damaged where everything else fits.
    const bool fits = e.length == length && (kind == granule_large) == (e.holder != 0) &&
                      (is_slab(t.g[at].kind) ? kind == granule_slab : t.g[at].kind == kind);
    const mending done = mend_by_seal(seal,
                                      {{&e.length, sizeof e.length},
                                       {&e.holder, sizeof e.holder},
                                       {&e.lead, sizeof e.lead},
                                       {&e.record, sizeof e.record},
                                       {&e.name, sizeof e.name},
                                       {&e.generations, sizeof e.generations}},
                                      right_seal);
    if (e.name != before.name)
      e.name |= word_is_named;  // no seal tells: to think so is never wrong
    if (done == mending::byte
            ? e.length != 0 && e.length <= length && (kind == granule_large) == (e.holder != 0)
            : done == mending::seal && fits) {
      e.seal = seal;
      say("{}: the entry of the extent at granule {} is right again, by its seal", t.name, at);
      return kind;
    }
    e = before;
  }
  if (is_slab(t.g[at].kind) && t.g[at].distance == 0)
    if (const chunk_ref ref = find_slab(t.slot, at);
        ref != 0 && s_.chunk<slab_record>(ref)->size_class == t.g[at].size_class) {
      say("{}: the slab at granule {} was found by its record", t.name, at);
      set_in_use(e, length, 0, 0, ref);
      return granule_slab;
    }
  if (const auto zone = zones_at_.find({t.slot, at}); zone != zones_at_.end()) {
    const auto* z = s_.chunk<zone_record>(zone->second);
    say("{}: zone \"{}\" at granule {} was found by its record", t.name, z->name, at);
    const u64 lead_bytes = z->offset_bytes - (u64{at} << t.r.granule_shift);
    set_in_use(e, length, 0, static_cast<u16>(lead_bytes / 64), zone->second);
    return granule_zone;
  }
  const u32 last = at + length - 1;
  const bool is_listed = e.previous == no_extent
                             ? t.r.bins[bin_of(length)] == at
                             : e.previous < t.r.granule_count && t.e[e.previous].next == at;
  const u32 marks = u32{e.length == length} + u32{t.g[at].kind == granule_free} +
                    u32{length > 1 && t.g[last].kind == granule_free} + u32{t.e[last].foot == at} +
                    u32{is_listed};
  if (e.holder == 0 && e.record == 0 && marks >= 3) {
    say("{}: the extent at granule {} is free, by three of its marks", t.name, at);
    e.length = length;
    return granule_free;
  }
  return granule_inside;
}

// A block of somebody's, so that nobody is given these granules.
void rebuilder::keep_as_block(tables& t, u32 at, u32 length, u32 holder) {
  extent_entry& e = t.e[at];
  const u16 lead = u64{e.lead} * 64 < u64{1} << t.r.granule_shift && t.g[at].kind == granule_large
                       ? e.lead
                       : u16{0};
  set_in_use(e, length, static_cast<u16>(holder), lead, 0);
  e.generations = 0;
}

void rebuilder::rebuild_extents(u32 slot) {
  region_record& r = region(slot);
  tables t{r, s_.chunk<granule_entry>(r.granules), s_.chunk<extent_entry>(r.extents), slot,
           fmt::format("region {}", r.id.value)};
  struct run {
    u32 at, length;
  };
  std::vector<run> free_runs;
  u32 free = 0, live = 0, given = 0;
  const bool keeps_all = unsealed_.contains(slot);
  for (u32 at = 0; at < r.granule_count;) {
    u8 kind = kind_in_use(t, at);
    if (kind == granule_inside && is_free_run(t, at)) kind = granule_free;
    u32 length = t.e[at].length;
    if (kind == granule_inside) {
      for (length = 1; length < r.granule_count - at && !begins_something(t, at + length);)
        ++length;
      kind = mend_extent(t, at, length);
      if (kind != granule_inside) length = t.e[at].length;
    }
    if (kind == granule_slab && !restore_slab(t, at, length)) kind = granule_inside;
    if (kind == granule_inside || (kind == granule_free && keeps_all)) {
      if (kind == granule_inside)
        doubt(
            "{}: the {} bytes at offset {:#x} are in use, but nothing vouches for how, by whom, or "
            "where blocks begin in them; they are kept for member {}",
            t.name,
            std::min(u64{length} << r.granule_shift, r.length_bytes - (u64{at} << r.granule_shift)),
            u64{at} << r.granule_shift, nobody());
      keep_as_block(t, at, length, nobody());
      kind = granule_large;
    }
    auto set_kind = [&](u32 granule, u8 right) {
      if (t.g[granule].kind == right) return;
      say("{}: granule {} has kind {}, not {}", t.name, granule, right, t.g[granule].kind);
      t.g[granule] = granule_entry{no_owner, right, 0, 0, 0};
    };
    if (kind != granule_slab) {
      set_kind(at, kind);
      for (u32 i = 1; i < length && i < interior_looks; ++i)
        set_kind(at + i, kind == granule_free && i == length - 1 ? granule_free : granule_inside);
      if (kind == granule_free && length > 1) set_kind(at + length - 1, granule_free);
    }
    if (kind == granule_zone) zone_extents_[t.e[at].record] = place{slot, at, length};
    if (kind == granule_large) {
      if (t.e[at].holder > s_.member_limit()) {
        doubt(
            "{}: the block at granule {} was said to be member {}'s, who is nobody; it is listed "
            "under member {}",
            t.name, at, t.e[at].holder, nobody());
        t.e[at].holder = static_cast<u16>(nobody());
      }
      ++tallies_[t.e[at].holder].extents;
    }
    if (kind != granule_free) {
      rebuild_name(t, at, kind);
      t.e[at].seal = seal_of_extent(t.e[at], kind, at, r.id.value);
      ++live;
      given = at + length;
    } else if (!free_runs.empty() && free_runs.back().at + free_runs.back().length == at) {
      say("{}: the free extents at granules {} and {} touched", t.name, free_runs.back().at, at);
      t.g[at] = t.g[at - 1] = granule_entry{no_owner, granule_inside, 0, 0, 0};
      free_runs.back().length += length;
      free += length;
    } else {
      free_runs.push_back({at, length});
      free += length;
    }
    at += length;
  }
  if (!are_bins_right(t, free_runs.size())) {
    say("{}: the lists of its {} free extents were built anew", t.name, free_runs.size());
    std::fill(std::begin(r.bins), std::end(r.bins), no_extent);
    std::fill(std::begin(r.bin_bits), std::end(r.bin_bits), u8{0});
    r.bin_groups = 0;
    for (const run& f : free_runs) {
      const u32 bin = bin_of(f.length), head = r.bins[bin];
      t.g[f.at] = t.g[f.at + f.length - 1] = granule_entry{no_owner, granule_free, 0, 0, 0};
      t.e[f.at].length = f.length;
      t.e[f.at].previous = no_extent;
      t.e[f.at].next = head;
      t.e[f.at + f.length - 1].foot = f.at;
      if (head != no_extent) t.e[head].previous = f.at;
      r.bins[bin] = f.at;
      r.bin_bits[bin / 8] = static_cast<u8>(r.bin_bits[bin / 8] | 1u << (bin % 8));
      r.bin_groups |= u64{1} << (bin / 8);
    }
  }
  for (const run& f : free_runs)
    fix(t.e[f.at + f.length - 1].foot, f.at,
        fmt::format("{}: the foot of the free extent at granule {}", t.name, f.at));
  fix(r.free_granules, free, t.name + ": free granules");
  fix(r.live_extents, live, t.name + ": live extents");
  // In doubt all of it was given out: it is cleared again before it is handed out as zeros.
  const bool is_marked_right = r.first_clean == ~r.first_clean_check &&
                               r.first_clean <= r.granule_count && given <= r.first_clean;
  if (!is_marked_right) fix(r.first_clean, r.granule_count, t.name + ": memory never given out");
  r.first_clean_check = ~r.first_clean;
}

bool rebuilder::are_bins_right(const tables& t, u64 free_extents) const {
  u64 listed = 0, groups = 0;
  for (u32 bin = 0; bin < extent_bins; ++bin) {
    u32 previous = no_extent;
    for (u32 at = t.r.bins[bin]; at != no_extent; at = t.e[at].next) {
      if (at >= t.r.granule_count || t.g[at].kind != granule_free || t.e[at].length == 0 ||
          bin_of(t.e[at].length) != bin || t.e[at].previous != previous || ++listed > free_extents)
        return false;
      previous = at;
    }
    if (((t.r.bin_bits[bin / 8] >> (bin % 8) & 1) != 0) != (t.r.bins[bin] != no_extent))
      return false;
    if (t.r.bins[bin] != no_extent) groups |= u64{1} << (bin / 8);
  }
  return listed == free_extents && groups == t.r.bin_groups;
}

// ---- handles (region/generation.hpp) ------------------------------------------------------------

// What can't be told any more is taken for more than it was: handles become stale, none names
// another block.
void rebuilder::rebuild_numbers(region_record& r, u32 slot) {
  if (!are_numbers_right(r, slot)) {
    doubt(
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
      fix(floor, all.count - 1,
          fmt::format("region {}: generations that were given out", r.id.value));
}

// Of an extent in use.
void rebuilder::rebuild_name(const tables& t, u32 at, u8 kind) {
  extent_entry& e = t.e[at];
  const generations_of_region all = generations_in(t.r, t.slot);
  const u64 begin = u64{at} << t.r.granule_shift;
  const u64 end = std::min(u64{at + e.length} << t.r.granule_shift, t.r.length_bytes);
  const u32 named = kind == granule_zone ? word_is_named : 0;
  if (is_sane_name(t.r, all, begin, end, e.name)) {
    if ((e.name & named) == named) return;
    say("{}: the zone at granule {} has a name again", t.name, at);
    e.name |= named;
    return;
  }
  doubt("{}: the extent at granule {} has an impossible generation: handles of it are stale",
        t.name, at);
  e.name = name_word(floor_of(t.r, all, begin, end)) | named;
}

// Without its table nobody knows what its blocks were called: they begin half a turn further. Who
// calls this seals the entry.
void rebuilder::forget_table(region_record& r, u32 slot, u32 at, extent_entry& e) {
  const generations_of_region all = generations_in(r, slot);
  const u32 generation = all.behind(count_in(e.name), all.count / 2);
  const u32 part_shift = all.offset_bits - 6;
  const u64 first = (u64{at} << r.granule_shift) >> part_shift;
  const u64 last = ((u64{at + e.length} << r.granule_shift) - 1) >> part_shift;
  for (u64 part = first; part <= last && part < region_parts; ++part)
    r.floors[part] = std::max(r.floors[part], generation);
  e.name = name_word(generation) | (e.name & word_is_named);
}

// False: this is no table of generations.
bool rebuilder::take_words(const region_record& r, u32 slot, chunk_ref ref, u32 count) {
  if (!lies_in_arena(s_, ref, u64{count} * sizeof(u32))) return false;
  const generations_of_region all = generations_in(r, slot);
  const u32* const words = s_.chunk<u32>(ref);
  const bool can_be =
      std::all_of(words, words + count, [&](u32 word) { return is_sane_word(all, word); });
  return can_be && take(ref, u64{count} * sizeof(u32));
}

// ---- slabs --------------------------------------------------------------------------------------

// The record that says, by its seal, that it is of the slab there. Looked for once, in what is not
// a region's table.
chunk_ref rebuilder::find_slab(u32 slot, u32 granule) {
  if (!slabs_were_searched_) {
    slabs_were_searched_ = true;
    const u64 end = h_.arena.top - sizeof(slab_record);
    for (u64 at = s_.geometry().arena_at; at <= end;) {
      const auto after = taken_.upper_bound(at);
      if (after != taken_.begin() && std::prev(after)->second > at) {
        at = align_up(std::prev(after)->second, chunk_unit_bytes);
        continue;
      }
      const auto& slab = *s_.at<slab_record>(at);
      const bool is_one = slab.size_class != 0 && slab.size_class < class_count &&
                          slab.capacity != 0 && slab.capacity <= limits::slab_blocks &&
                          slab.seal == slab.right_seal();
      if (is_one)
        slabs_at_[{slab.region, slab.granule}] = static_cast<chunk_ref>(at / chunk_unit_bytes);
      at += chunk_unit_bytes;
    }
  }
  const auto found = slabs_at_.find({slot, granule});
  return found != slabs_at_.end() ? found->second : 0;
}

// False: there is none that could be believed.
bool rebuilder::restore_slab(tables& t, u32 at, u32 length) {
  const chunk_ref ref = t.e[at].record;
  if (!lies_in_arena(s_, ref, sizeof(slab_record)) ||
      is_taken(u64{ref} * chunk_unit_bytes, u64{ref} * chunk_unit_bytes + sizeof(slab_record)) ||
      length > limits::slab_granules)
    return false;
  auto* slab = s_.chunk<slab_record>(ref);
  const std::string name = fmt::format("{}: the slab at granule {}", t.name, at);
  if (!mend_slab(t, slab, at, length)) return false;
  fix(slab->words, divide_up(slab->capacity, 64), name + ": its words");
  if (!take(ref, slab_record_bytes(slab->words))) return false;
  if (slab->lane >= limits::lanes) fix(slab->lane, 0, name + ": its lane");
  if (slab->owner != no_owner && slab->owner >= s_.thread_limit())
    fix(slab->owner, no_owner, name + ": its owner");
  restore_blocks(t, slab, at);
  if (!slab->is_clean_mark_right()) {
    say("{}: all of its blocks may have been handed out before", name);
    slab->set_first_clean(slab->capacity);
  }
  for (u32 block = slab->first_clean(); block < slab->capacity; ++block)
    if ((slab->free_words()[block / 64] >> (block % 64) & 1) == 0)
      slab->set_first_clean(slab->capacity);
  count_free(slab, name + ": its free blocks");
  slabs_.emplace(ref, place{t.slot, at, length});
  rebuild_holdings(t, slab, at);
  extent_entry& e = t.e[at];
  if (e.generations != 0 && !take_words(t.r, t.slot, e.generations, slab->capacity)) {
    doubt("{} has impossible generations: handles of its blocks are stale", name);
    e.generations = 0;
    forget_table(t.r, t.slot, at, e);
  }
  return true;
}

// Its class, capacity, place and member: by its seal; else by where it lies and what its granules
// say.
bool rebuilder::mend_slab(const tables& t, slab_record* slab, u32 at, u32 length) {
  const u64 begin = u64{at} << t.r.granule_shift,
            end = std::min(begin + (u64{length} << t.r.granule_shift), t.r.length_bytes);
  auto capacity_of = [&](u32 size_class) {
    return std::min<u64>((end - begin) / class_bytes[size_class], limits::slab_blocks);
  };
  auto right_seal = [&] { return slab->right_seal(); };
  auto fits = [&] {
    return slab->seal == right_seal() && slab->granule == at && slab->region == t.slot &&
           slab->size_class < class_count && slab->size_class != 0 && slab->capacity != 0 &&
           slab->capacity <= capacity_of(slab->size_class) && is_member(slab->member);
  };
  if (fits()) return true;
  const slab_record before = *slab;
  (void)mend_by_seal(slab->seal,
                     {{&slab->granule, sizeof slab->granule},
                      {&slab->region, sizeof slab->region},
                      {&slab->member, sizeof slab->member},
                      {&slab->size_class, 1},
                      {&slab->capacity, sizeof slab->capacity}},
                     right_seal);
  if (!fits()) {
    *slab = before;
    std::map<u32, u32> votes;
    for (u32 i = 0; i < length; ++i)
      if (const granule_entry& g = t.g[at + i];
          is_slab(g.kind) && g.distance == i && g.size_class != 0 && g.size_class < class_count)
        ++votes[g.size_class];
    const auto most =
        std::max_element(votes.begin(), votes.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    if (most == votes.end() || capacity_of(most->first) == 0) return false;
    slab->granule = at;
    slab->region = static_cast<u16>(t.slot);
    slab->size_class = static_cast<u8>(most->first);
    slab->capacity = static_cast<u32>(capacity_of(most->first));
    for (u32 id = s_.member_limit(); id != 0 && !fits(); --id)
      slab->member = static_cast<u16>(id);
  }
  if (fits()) {
    say("{}: the record of the slab at granule {} is right again, by its seal", t.name, at);
    return true;
  }
  slab->member = static_cast<u16>(nobody());
  slab->seal = slab->right_seal();
  doubt(
      "{}: the slab at granule {} has blocks of {} bytes by its granules, but nothing vouches for "
      "its record; who holds its blocks is not known: member {} does",
      t.name, at, class_bytes[slab->size_class], nobody());
  return true;
}

// A block is free only if both of its words say so.
void rebuilder::restore_blocks(const tables& t, slab_record* slab, u32 at) {
  std::vector<u32> doubtful;
  u64 dropped = 0;
  const bool keeps_all = unsealed_.contains(t.slot);
  // Its owner died in the middle of a slow path: what only one word says is what that left.
  const chunk_ref cache = slab->owner < s_.thread_limit() ? s_.slot(slab->owner).cache : 0;
  const bool was_busy =
      lies_in_arena(s_, cache, sizeof(thread_cache)) &&
      s_.chunk<thread_cache>(cache)->slot == slab->owner &&
      (s_.chunk<thread_cache>(cache)->busy.value != 0 || s_.chunk<thread_cache>(cache)->key == 0 ||
       s_.chunk<thread_cache>(cache)->frozen.value == frozen_held);
  for (u32 w = 0; w < slab->words; ++w) {
    u64& free = slab->free_words()[w];
    u64& taken = slab->taken_words()[w];
    const u64 valid = slab->valid_bits(w), agreed = keeps_all ? 0 : free & ~taken & valid;
    u64 doubts = keeps_all ? 0 : (free ^ ~taken) & valid;
    if (was_busy) doubts &= free;
    dropped += static_cast<u64>(std::popcount(free & ~valid));
    if (free != agreed) store_word(free, agreed);
    compiler_fence();
    taken = ~agreed;
    for (u32 half = 0; half < 2; ++half) {
      u64& word = slab->remote_words()[2 * w + half].value;
      const u64 here = valid >> (half * 32) & 0xffffffff;
      if (!is_remote_word(word)) {
        doubts |= here << (half * 32) & ~agreed;
        word = no_remote;
      } else if (keeps_all) {
        word = no_remote;
      } else if ((word & 0xffffffff & ~here) != 0) {
        dropped += static_cast<u64>(std::popcount(word & 0xffffffff & ~here));
        word = (word & here) | (~(word & here) & 0xffffffff) << 32;
      }
      // Who moved this word died: what has arrived in the bitmap has not been taken away yet.
      if (slab->moving == w + 1)
        if (const u64 arrived = word & agreed >> (half * 32) & 0xffffffff; arrived != 0)
          word ^= arrived | arrived << 32;
    }
    for (; doubts != 0; doubts &= doubts - 1)
      doubtful.push_back(w * 64 + static_cast<u32>(std::countr_zero(doubts)));
  }
  slab->moving = 0;
  if (dropped != 0)
    say("{}: the slab at granule {} had {} free blocks beyond its capacity", t.name, at, dropped);
  if (doubtful.empty()) return;
  std::string which;
  const u32 bytes = class_bytes[slab->size_class];
  for (size_t i = 0; i < doubtful.size();) {  // neighbours together
    size_t last = i;
    while (last + 1 < doubtful.size() && doubtful[last + 1] == doubtful[last] + 1)
      ++last;
    const u64 first_offset = (u64{at} << t.r.granule_shift) + u64{doubtful[i]} * bytes;
    which += fmt::format("{}{:#x}", which.empty() ? "" : ", ", first_offset);
    if (last != i)
      which += fmt::format(" to {:#x}", first_offset + u64{doubtful[last] - doubtful[i]} * bytes);
    i = last + 1;
  }
  doubt(
      "{}: nothing vouches for whether these {} blocks of {} bytes are free or live, so they stay "
      "in use, with member {}: those at offset {}",
      t.name, doubtful.size(), bytes, slab->member, which);
}

void rebuilder::rebuild_holdings(const tables& t, slab_record* slab, u32 at) {
  u32 steps = 0;
  for (chunk_ref* link = &slab->holdings; *link != 0;) {
    auto* holding = lies_in_arena(s_, *link, holding_record_bytes(slab->words))
                        ? s_.chunk<holding_record>(*link)
                        : nullptr;
    const chunk_ref ref = s_.ref_of(slab);
    if (holding != nullptr && holding->words != slab->words)
      fix(holding->words, slab->words, "the words of a record of who holds blocks");
    if (holding != nullptr)
      (void)mend_by_seal(holding->seal, {{&holding->member, sizeof holding->member}},
                         [&] { return holding->right_seal(ref); });
    if (holding == nullptr || holding->seal != holding->right_seal(ref) ||
        !is_member(holding->member) || ++steps > s_.member_limit() ||
        !take(*link, holding_record_bytes(slab->words))) {
      doubt(
          "{}: the slab at granule {} had a record of who holds its older blocks, which is "
          "damaged: they are listed under member {}",
          t.name, at, slab->member);
      *link = 0;
      break;
    }
    u64 doubtful = 0;
    for (u32 w = 0; w < slab->words; ++w) {
      const u64 in_use = slab->valid_bits(w) & ~slab->free_words()[w];
      doubtful += static_cast<u64>(std::popcount((holding->bits()[w] ^ ~holding->gone_words()[w]) &
                                                 in_use & ~slab->remote_bits(w)));
      fix(holding->bits()[w], holding->held_bits(w) & in_use, "free blocks with a holder");
      holding->gone_words()[w] = ~holding->bits()[w];
    }
    if (doubtful != 0)
      doubt(
          "{}: the slab at granule {}: whether {} blocks of {} bytes are member {}'s or member "
          "{}'s is not known: they are listed under {}",
          t.name, at, doubtful, class_bytes[slab->size_class], holding->member, slab->member,
          slab->member);
    ++tallies_[holding->member].holdings;
    link = &holding->next;
  }
}

// what empty: the numbers have been said already.
void rebuilder::count_free(slab_record* slab, const std::string& what) {
  u32 count = 0;
  u64 summary = 0;
  for (u32 w = 0; w < slab->words; ++w) {
    count += static_cast<u32>(std::popcount(slab->free_words()[w]));
    if (slab->free_words()[w] != 0) summary |= u64{1} << w;
  }
  if (!what.empty()) {
    fix(slab->free_count, count, what);
    fix(slab->summary, summary, what + " (which words have some)");
  }
  slab->free_count = count;
  slab->summary = summary;
}

}  // namespace annex::detail
