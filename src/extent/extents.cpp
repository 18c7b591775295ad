// extent/extents.cpp - see extents.hpp.
#include "extent/extents.hpp"

#include <algorithm>
#include <limits>

namespace annex {
namespace {

constexpr u32 sorted_steps = 16;  // how far a free extent is put in order in its bin
// Granules, in search of a block's start: looking costs memory where tables are sparse.
constexpr u32 steps_back = 4096;

}  // namespace

void extents::set_kind(transaction& t, u32 granule, granule_kind kind) noexcept {
  t.put(region_.granules[granule], granule_entry{no_owner, kind, 0, 0, 0});
}

void extents::count_free(transaction& t, u32 granules) noexcept {
  t.put(record_.free_granules, granules);
  u64& word = t.seg().header().free_regions[region_.slot / 64];
  const u64 bit = u64{1} << (region_.slot % 64);
  const bool usable =
      granules != 0 && record_.state.load(std::memory_order_relaxed) == region_active;
  if (((word & bit) != 0) != usable) t.put(word, word ^ bit);
}

// Granules below end are no longer known to be zeros.
void extents::mark_given(transaction& t, u32 end) noexcept {
  if (end <= record_.first_clean) return;
  t.put(record_.first_clean, end);
  t.put(record_.first_clean_check, ~end);
}

void extents::insert(transaction& t, u32 granule, u32 length) noexcept {
  const bounded_table<extent_entry>& e = region_.extents;
  const u32 bin = bin_of(length);
  u32 before = no_extent, after = record_.bins[bin];
  for (u32 steps = 0; steps < sorted_steps && after != no_extent && after < granule; ++steps) {
    before = after;
    after = e[after].next;
  }
  t.put(e[granule].length, length);
  t.put(e[granule + length - 1].foot, granule);
  t.put(e[granule].previous, before);
  t.put(e[granule].next, after);
  if (after != no_extent) t.put(e[after].previous, granule);
  if (before != no_extent)
    t.put(e[before].next, granule);
  else
    t.put(record_.bins[bin], granule);
  if (!bin_is_used(record_, bin)) {
    t.put(record_.bin_bits[bin / 8], static_cast<u8>(record_.bin_bits[bin / 8] | 1u << (bin % 8)));
    t.put(record_.bin_groups, record_.bin_groups | u64{1} << (bin / 8));
  }
  set_kind(t, granule, granule_free);
  if (length > 1) set_kind(t, granule + length - 1, granule_free);
}

void extents::remove(transaction& t, u32 granule) noexcept {
  const bounded_table<extent_entry>& e = region_.extents;
  const u32 length = e[granule].length, bin = bin_of(length), previous = e[granule].previous,
            next = e[granule].next;
  if (next != no_extent) t.put(e[next].previous, previous);
  if (previous != no_extent) {
    t.put(e[previous].next, next);
  } else {
    t.put(record_.bins[bin], next);
    if (next == no_extent) {
      t.put(record_.bin_bits[bin / 8],
            static_cast<u8>(record_.bin_bits[bin / 8] & ~(1u << (bin % 8))));
      if (record_.bin_bits[bin / 8] == 0)
        t.put(record_.bin_groups, record_.bin_groups & ~(u64{1} << (bin / 8)));
    }
  }
  set_kind(t, granule, granule_inside);
  if (length > 1) set_kind(t, granule + length - 1, granule_inside);
}

void extents::seal(transaction& t, u32 granule) noexcept {
  extent_entry& e = region_.extents[granule];
  t.put(e.seal, seal_of_extent(e, load_granule(&region_.granules[granule]).kind, granule,
                               record_.id.load(std::memory_order_relaxed)));
}

bool extents::back_ends() const noexcept {
  const u32 last = region_.granule_count - 1;
  return region_.tables.back(0, 0) && region_.tables.back(last, last);
}

void extents::make_free(transaction& t) noexcept {
  for (u32& bin : record_.bins)
    bin = no_extent;  // not published yet: no log needed
  record_.bin_groups = 0;
  std::fill(std::begin(record_.bin_bits), std::end(record_.bin_bits), u8{0});
  insert(t, 0, region_.granule_count);
  count_free(t, region_.granule_count);
}

std::optional<extent_place> extents::take(transaction& t, u32 granule, u64 offset,
                                          const extent_request& q) noexcept {
  const u32 whole = length_at(region_, granule);
  const u32 first = static_cast<u32>(offset >> region_.granule_shift);
  const u32 last = static_cast<u32>((offset + q.size_bytes - 1) >> region_.granule_shift);
  const u32 length = last - first + 1;
  const u32 before = first > granule ? first - 1 : first,
            after = last + 1 < granule + whole ? last + 1 : last;
  const bool there = q.kind == granule_slab
                         ? region_.tables.back(before, after)
                         : region_.tables.back(before, first) && region_.tables.back(last, after);
  if (!there || !is_backed(region_, first, last)) return {};
  remove(t, granule);
  if (first > granule) insert(t, granule, first - granule);
  if (last + 1 < granule + whole) insert(t, last + 1, granule + whole - last - 1);
  const u64 clean = offset_of(record_.first_clean);
  mark_given(t, last + 1);
  extent_entry& e = region_.extents[first];
  t.put(e.length, length);
  t.put(e.holder, q.holder);
  t.put(e.lead, static_cast<u16>((offset - offset_of(first)) / 64));
  t.put(e.record, 0);
  t.put(e.name, name_word(floor_of(record_, region_.generations, offset_of(first), end_of(first))));
  t.put(e.generations, 0);
  set_kind(t, first, q.kind);
  seal(t, first);
  count_free(t, record_.free_granules - length);
  t.put(record_.live_extents, record_.live_extents + 1);
  return extent_place{first, offset, clean};
}

// A slab lies as low as it can: what slabs leave behind then lies together, and the rest of the
// region stays in one piece.
std::optional<extent_place> extents::allocate_low(transaction& t, u32 first_bin,
                                                  const extent_request& q) noexcept {
  u32 lowest = no_extent;
  u64 offset = 0;
  for (u32 bin = next_used_bin(record_, first_bin); bin < extent_bins;
       bin = next_used_bin(record_, bin + 1)) {
    if (record_.bins[bin] >= lowest) continue;
    const auto found = place_in(record_.bins[bin], q);
    // A slab begins with a granule.
    if (!found || (*found & region_.granule_mask) != 0) continue;
    lowest = record_.bins[bin];
    offset = *found;
  }
  return lowest != no_extent ? take(t, lowest, offset, q) : std::nullopt;
}

std::optional<extent_place> extents::allocate(transaction& t, const extent_request& q) noexcept {
  const u64 granule_bytes = u64{1} << region_.granule_shift;
  const u64 wanted = divide_up(q.size_bytes, granule_bytes);
  if (wanted > record_.free_granules || !may_fit(record_, q)) return {};
  const u32 length = static_cast<u32>(wanted);
  const bool free_of_constraints =
      q.align_bytes <= limits::smallest_page_bytes && q.boundary_bytes == 0 && !q.iova_contiguous;
  const u32 sure = bin_that_fits(length), possible = bin_of(length);
  auto search_bin = [&](u32 bin) -> std::optional<extent_place> {
    u32 looked_at = 0;
    for (u32 g = record_.bins[bin]; g != no_extent; g = region_.extents[g].next) {
      if (++looked_at > region_.granule_count) {
        t.seg().mark_damaged("a list of free extents has no end");
        return {};
      }
      if (const auto offset = place_in(g, q))
        if (const auto place = take(t, g, *offset, q)) return place;
    }
    return {};
  };
  if (q.kind == granule_slab && free_of_constraints) {
    extent_request wish = q;
    wish.boundary_bytes = q.wished_boundary_bytes;
    if (wish.boundary_bytes != 0)
      if (const auto place = allocate_low(t, sure, wish)) return place;
    if (const auto place = allocate_low(t, sure, q)) return place;
  }
  // Without constraints the first extent of the first bin serves, but for a region whose last
  // granule is cut short.
  if (free_of_constraints) {
    for (u32 bin = next_used_bin(record_, sure); bin < extent_bins;
         bin = next_used_bin(record_, bin + 1))
      if (auto place = search_bin(bin)) return place;
    return possible != sure && bin_is_used(record_, possible) ? search_bin(possible) : std::nullopt;
  }
  for (u32 bin = next_used_bin(record_, possible); bin < extent_bins;
       bin = next_used_bin(record_, bin + 1))
    if (auto place = search_bin(bin)) return place;
  return {};
}

void extents::free(transaction& t, u32 granule) noexcept {
  const bounded_table<extent_entry>& e = region_.extents;
  u32 first = granule, length = length_at(region_, granule);
  const u8 kind = load_granule(&region_.granules[granule]).kind;
  if (!is_slab(kind) && (e[granule].name & word_is_named) != 0)
    retire_generation(t, record_, region_.generations, offset_of(granule), end_of(granule),
                      count_in(e[granule].name));
  count_free(t, record_.free_granules + length);
  t.put(record_.live_extents, record_.live_extents - 1);
  t.put(e[granule].record, 0);
  t.put(e[granule].holder, 0);
  set_kind(t, granule, granule_inside);
  const u32 after = first + length;
  if (after < region_.granule_count &&
      load_granule(&region_.granules[after]).kind == granule_free) {
    remove(t, after);
    length += e[after].length;
  }
  if (first > 0 && load_granule(&region_.granules[first - 1]).kind == granule_free) {
    const u32 before = e[first - 1].foot;
    remove(t, before);
    length += first - before;
    first = before;
  }
  insert(t, first, length);
}

bool extents::resize(transaction& t, u32 granule, u64 end_offset,
                     bool keep_iova_contiguous) noexcept {
  const bounded_table<extent_entry>& e = region_.extents;
  if (end_offset > region_.region_bytes) return false;
  const u32 old_length = length_at(region_, granule);
  const u32 length =
      static_cast<u32>(divide_up(end_offset, u64{1} << region_.granule_shift)) - granule;
  if (length == old_length) return true;
  const u32 after = granule + old_length;
  const bool next_is_free =
      after < region_.granule_count && load_granule(&region_.granules[after]).kind == granule_free;
  const u32 room = next_is_free ? e[after].length : 0;
  if (length > old_length) {
    if (length - old_length > room) return false;
    if (keep_iova_contiguous) {
      const auto bus = region_.iovas.at(offset_of(granule));
      if (bus && bus->contiguous_bytes >= offset_of(after) - offset_of(granule) &&
          bus->contiguous_bytes < end_offset - offset_of(granule))
        return false;
    }
  }
  const u32 end = granule + length, free_end = after + room;
  if (free_end > end && !region_.tables.back(end - 1, end)) return false;
  if (end > after && !is_backed(region_, after, end - 1)) return false;
  const u32 generation = count_in(e[granule].name);
  const u64 old_end = offset_of(after);
  if (length > old_length) {
    // A handle of what lay there before must not become one of this block: it begins anew, unless
    // somebody has its handle.
    const u32 floor = floor_of(record_, region_.generations, old_end, end_offset);
    if (higher_of(record_, region_.generations, generation, floor) != generation) {
      if ((e[granule].name & word_is_named) != 0) return false;
      t.put(e[granule].name, name_word(floor));
    }
  } else {
    // It may have come from the rest.
    raise_floor(t, record_, region_.generations, offset_of(granule), end_offset, generation);
    if ((e[granule].name & word_is_named) != 0)
      retire_generation(t, record_, region_.generations, end_offset, old_end, generation);
  }
  if (next_is_free) remove(t, after);
  if (free_end > end) insert(t, end, free_end - end);
  mark_given(t, end);
  t.put(e[granule].length, length);
  seal(t, granule);
  count_free(t, record_.free_granules + old_length - length);
  return true;
}

u32 extents::first_of(u32 granule) const noexcept {
  auto holds = [&](u32 first) {
    const u8 kind = load_granule(&region_.granules[first]).kind;
    return (kind == granule_large || kind == granule_zone) &&
           granule - first < length_at(region_, first);
  };
  for (const bool by_hints : {true, false}) {  // a hint may be of what lay here before
    u32 at = granule;
    for (u32 steps = 0; steps < steps_back; ++steps) {
      const granule_entry g = load_granule(&region_.granules[at]);
      if (g.kind != granule_inside) {
        if (holds(at)) return at;
        break;
      }
      const u32 step = by_hints && g.distance != 0 ? g.distance : 1;
      if (step > at) break;
      at -= step;
    }
  }
  for (u32 at = 0; at <= granule;) {
    const u32 length = length_at(region_, at);
    if (length == 0) break;
    if (granule - at < length) return holds(at) ? at : no_extent;
    at += length;
  }
  return no_extent;
}

// Of a block that is longer than a hint reaches, from hint to hint.
void extents::remember_first(u32 granule, u32 first) const noexcept {
  constexpr u32 longest = std::numeric_limits<u16>::max();
  for (u32 at = granule, distance = 0; at > first; at -= distance) {
    distance = std::min(at - first, longest);
    const granule_entry seen = load_granule(&region_.granules[at]);
    if (seen.kind != granule_inside || !region_.tables.back_granules(at, at)) return;
    if (seen.distance == distance) continue;
    granule_entry hint = seen;
    hint.distance = static_cast<u16>(distance);
    // Only if it is what it was: a transaction may be cutting this place anew.
    u64 expected = std::bit_cast<u64>(seen);
    std::atomic_ref(*reinterpret_cast<u64*>(&region_.granules[at]))
        .compare_exchange_strong(expected, std::bit_cast<u64>(hint), std::memory_order_relaxed);
  }
}

u32 longest_free(const local_region& region, u64* holes) noexcept {
  const region_record& record = *region.record;
  const bounded_table<extent_entry>& entries = region.extents;
  u32 longest = 0;
  u64 count = 0;
  for (u32 bin = extent_bins; bin-- > 0;) {
    if (!bin_is_used(record, bin)) continue;
    for (u32 g = record.bins[bin];
         g != no_extent && g < region.granule_count && count <= region.granule_count;
         g = entries[g].next) {
      longest = std::max(longest, entries[g].length);
      ++count;
    }
    if (holes == nullptr) break;  // the highest bin holds the longest
  }
  if (holes != nullptr) *holes = count;
  return longest;
}

}  // namespace annex
