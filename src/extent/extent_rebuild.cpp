// extent/extent_rebuild.cpp - the extents of a damaged segment (extent_rules.hpp).
//
//   an extent in use is one by its seal; a free one by the kinds at both ends, its length, its
//   foot and its list. What lies between certain ones is looked at by itself:
//
//   [ certain ][ neither      ][ certain ]   one byte of the entry changed back; its slab or zone
//               ^ mend                       found by their own seals; three of a free extent's
//                                            marks; else it is in use, by nobody that is known
//
// A death in the middle: repair again.
#include <algorithm>
#include <cstring>

#include "base/mend.hpp"
#include "extent/extent_rules.hpp"
#include "shared/member_rules.hpp"

namespace annex::detail {
namespace {

constexpr u32 interior_looks = 4096;

class region_rebuild {
 public:
  region_rebuild(rebuilding& rb, const known_region& region, bool keeps_all)
      : rb_(rb),
        t_(region),
        r_(*region.record),
        name_(fmt::format("region {}", region.id)),
        users_(rb.notes<extent_users>().all),
        keeps_all_(keeps_all) {}

  void run() {
    for (u32 at = 0; at < t_.granule_count;)
      at += rebuild_at(at);
    rebuild_bins();
    rebuild_sums();
  }

 private:
  struct run_of_free {
    u32 at, length;
  };

  // ---- what the extent at a granule is

  // By its seal; granule_inside: nothing that is certain.
  u8 kind_in_use(u32 at) const noexcept {
    const extent_entry& e = t_.extents[at];
    if (e.length == 0 || e.length > t_.granule_count - at) return granule_inside;
    for (const u8 kind : {granule_large, granule_slab, granule_zone})
      if ((kind == granule_large) == (e.holder != 0) &&
          e.seal == seal_of_extent(e, kind, at, t_.id))
        return kind;
    return granule_inside;
  }

  bool is_free_run(u32 at) const noexcept {
    const extent_entry& e = t_.extents[at];
    if (e.length == 0 || e.length > t_.granule_count - at || e.holder != 0 || e.record != 0)
      return false;
    const u32 last = at + e.length - 1;
    return t_.granules[at].kind == granule_free && t_.granules[last].kind == granule_free &&
           t_.extents[last].foot == at;
  }

  // Whether an extent seems to begin here, for whoever looks where one ends whose length is not
  // known.
  bool begins_something(u32 at) {
    if (kind_in_use(at) != granule_inside || is_free_run(at) || is_large(t_.granules[at].kind))
      return true;
    return std::any_of(users_.begin(), users_.end(),
                       [&](const extent_user& user) { return user.has_one(rb_, t_, at); });
  }
  u32 length_until_something(u32 at) {
    u32 length = 1;
    while (length < t_.granule_count - at && !begins_something(at + length))
      ++length;
    return length;
  }

  // ---- an entry that is not certain

  // The extent that is said to be at this granule and reaches so far. Its kind; granule_inside:
  // nothing tells.
  u8 mend(u32 at, u32 length) {
    u8 kind = mend_length(at, length);
    if (kind == granule_inside) kind = mend_entry(at, length);
    if (kind == granule_inside) kind = ask_users(at, length);
    if (kind == granule_inside && is_free_by_marks(at, length)) kind = granule_free;
    return kind;
  }

  u8 mend_length(u32 at, u32 length) {
    extent_entry& e = t_.extents[at];
    const u32 before = e.length;
    e.length = length;
    const u8 kind = kind_in_use(at);
    if (kind != granule_inside)
      rb_.say("{}: the extent at granule {} had length {}; its seal says {}", name_, at, before,
              length);
    else
      e.length = before;
    return kind;
  }

  u8 mend_entry(u32 at, u32 length) {
    for (const u8 kind : {granule_large, granule_slab, granule_zone})
      if (mend_entry_as(at, length, kind)) {
        rb_.say("{}: the entry of the extent at granule {} is right again, by its seal", name_, at);
        return kind;
      }
    return granule_inside;
  }

  // One byte of the entry changed back, or its seal, if it is of this kind. False: as it was.
  bool mend_entry_as(u32 at, u32 length, u8 kind) const {
    extent_entry& e = t_.extents[at];
    const extent_entry before = e;
    const u8 said = t_.granules[at].kind;
    u32 seal = e.seal;
    // The seal itself can only be what is damaged where everything else fits.
    const bool fits = e.length == length && (kind == granule_large) == (e.holder != 0) &&
                      (is_slab(said)    ? kind == granule_slab
                       : is_large(said) ? kind == granule_large
                                        : said == kind);
    const mending done = mend_by_seal(seal,
                                      {{&e.length, sizeof e.length},
                                       {&e.holder, sizeof e.holder},
                                       {&e.lead, sizeof e.lead},
                                       {&e.record, sizeof e.record},
                                       {&e.name, sizeof e.name},
                                       {&e.generations, sizeof e.generations}},
                                      [&] { return seal_of_extent(e, kind, at, t_.id); });
    // No seal tells whether it has a name: to think so is never wrong.
    if (e.name != before.name) e.name |= word_is_named;
    const bool can_be =
        e.length != 0 && e.length <= length && (kind == granule_large) == (e.holder != 0);
    if (done == mending::byte ? can_be : done == mending::seal && fits) {
      e.seal = seal;
      return true;
    }
    e = before;
    return false;
  }

  u8 ask_users(u32 at, u32 length) {
    for (const extent_user& user : users_)
      if (user.write_entry(rb_, t_, at, length)) return user.kind;
    return granule_inside;
  }

  bool is_free_by_marks(u32 at, u32 length) {
    extent_entry& e = t_.extents[at];
    const u32 last = at + length - 1;
    const bool is_listed = e.previous == no_extent
                               ? r_.bins[bin_of(length)] == at
                               : e.previous < t_.granule_count && t_.extents[e.previous].next == at;
    const u32 marks = u32{e.length == length} + u32{t_.granules[at].kind == granule_free} +
                      u32{length > 1 && t_.granules[last].kind == granule_free} +
                      u32{t_.extents[last].foot == at} + u32{is_listed};
    if (e.holder != 0 || e.record != 0 || marks < 3) return false;
    rb_.say("{}: the extent at granule {} is free, by three of its marks", name_, at);
    e.length = length;
    return true;
  }

  // ---- one extent

  // Returns its length.
  u32 rebuild_at(u32 at) {
    u8 kind = kind_in_use(at);
    if (kind == granule_inside && is_free_run(at)) kind = granule_free;
    u32 length = t_.extents[at].length;
    if (kind == granule_inside) {
      length = length_until_something(at);
      kind = mend(at, length);
      if (kind != granule_inside) length = t_.extents[at].length;
    }
    if (kind == granule_large && is_kept(at)) kind = free_kept(at, length);
    if (!restore_what_lies_there(at, length, kind)) kind = granule_inside;
    if (kind == granule_inside || (kind == granule_free && keeps_all_))
      kind = keep_as_block(at, length, kind);
    if (kind != granule_slab) set_kinds(at, length, kind);
    if (kind == granule_free)
      add_free(at, length);
    else
      finish_in_use(at, length, kind);
    return length;
  }

  // By a thread, which is dead, by two witnesses.
  bool is_kept(u32 at) const {
    return t_.granules[at].kind == granule_kept &&
           rb_.notes<extents_kept>().places.contains(extents_seen::zone_place(t_.slot, at));
  }
  u8 free_kept(u32 at, u32 length) {
    extent_entry& e = t_.extents[at];
    const granule_entry end{no_owner, granule_free, 0, 0, 0};
    t_.granules[at] = t_.granules[at + length - 1] = end;
    t_.extents[at + length - 1].foot = at;
    // No damage: the records said as much.
    if (e.holder <= rb_.s.member_limit() && rb_.s.member(e.holder).extents_held != 0)
      --rb_.s.member(e.holder).extents_held;
    e.holder = 0;
    e.record = 0;
    r_.free_granules += length;
    --r_.live_extents;
    kept_at_ = at;
    kept_end_ = at + length;
    return granule_free;
  }

  bool restore_what_lies_there(u32 at, u32 length, u8 kind) {
    return std::all_of(users_.begin(), users_.end(), [&](const extent_user& user) {
      return user.kind != kind || user.restore(rb_, t_, at, length);
    });
  }

  // A block of somebody's, so that nobody is given these granules.
  u8 keep_as_block(u32 at, u32 length, u8 kind) {
    if (kind == granule_inside)
      rb_.doubt(
          "{}: the {} bytes at offset {:#x} are in use, but nothing vouches for how, by whom, or "
          "where blocks begin in them; they are kept for member {}",
          name_, std::min(u64{length} << t_.granule_shift, t_.length_bytes - t_.offset_of(at)),
          t_.offset_of(at), nobody_known(rb_));
    extent_entry& e = t_.extents[at];
    const bool has_lead =
        u64{e.lead} * 64 < u64{1} << t_.granule_shift && t_.granules[at].kind == granule_large;
    set_in_use(e, length, static_cast<u16>(nobody_known(rb_)), has_lead ? e.lead : u16{0}, 0);
    e.generations = 0;
    return granule_large;
  }

  void set_kind(u32 granule, u8 right) {
    granule_entry& g = t_.granules[granule];
    if (g.kind == right) return;
    rb_.say("{}: granule {} has kind {}, not {}", name_, granule, right, g.kind);
    g = granule_entry{no_owner, right, 0, 0, 0};
  }
  void set_kinds(u32 at, u32 length, u8 kind) {
    set_kind(at, kind);
    for (u32 i = 1; i < length && i < interior_looks; ++i)
      set_kind(at + i, kind == granule_free && i == length - 1 ? granule_free : granule_inside);
    if (kind == granule_free && length > 1) set_kind(at + length - 1, granule_free);
  }

  void finish_in_use(u32 at, u32 length, u8 kind) {
    extent_entry& e = t_.extents[at];
    if (kind == granule_large) {
      if (e.holder > rb_.s.member_limit()) {
        rb_.doubt(
            "{}: the block at granule {} was said to be member {}'s, who is nobody; it is listed "
            "under member {}",
            name_, at, e.holder, nobody_known(rb_));
        e.holder = static_cast<u16>(nobody_known(rb_));
      }
      ++held_by(rb_, e.holder).extents;
    }
    rebuild_name(at, kind);
    e.seal = seal_of_extent(e, kind, at, t_.id);
    ++live_;
    given_ = at + length;
  }

  // The generation of an extent in use.
  void rebuild_name(u32 at, u8 kind) {
    extent_entry& e = t_.extents[at];
    const u64 begin = t_.offset_of(at), end = t_.end_of(at, e.length);
    const u32 named = kind == granule_zone ? word_is_named : 0;
    if (is_sane_name(r_, t_.generations, begin, end, e.name)) {
      if ((e.name & named) == named) return;
      rb_.say("{}: the zone at granule {} has a name again", name_, at);
      e.name |= named;
      return;
    }
    rb_.doubt("{}: the extent at granule {} has an impossible generation: handles of it are stale",
              name_, at);
    e.name = name_word(floor_of(r_, t_.generations, begin, end)) | named;
  }

  void add_free(u32 at, u32 length) {
    free_ += length;
    if (free_runs_.empty() || free_runs_.back().at + free_runs_.back().length != at)
      return free_runs_.push_back({at, length});
    if (at != kept_at_ && at != kept_end_)
      rb_.say("{}: the free extents at granules {} and {} touched", name_, free_runs_.back().at,
              at);
    t_.granules[at] = t_.granules[at - 1] = granule_entry{no_owner, granule_inside, 0, 0, 0};
    free_runs_.back().length += length;
  }

  // ---- the whole region

  bool are_bins_right() const {
    u64 listed = 0, groups = 0;
    for (u32 bin = 0; bin < extent_bins; ++bin) {
      if (!is_bin_right(bin, &listed)) return false;
      if (((r_.bin_bits[bin / 8] >> (bin % 8) & 1) != 0) != (r_.bins[bin] != no_extent))
        return false;
      if (r_.bins[bin] != no_extent) groups |= u64{1} << (bin / 8);
    }
    return listed == free_runs_.size() && groups == r_.bin_groups;
  }
  bool is_bin_right(u32 bin, u64* listed) const {
    u32 previous = no_extent;
    for (u32 at = r_.bins[bin]; at != no_extent; at = t_.extents[at].next) {
      if (at >= t_.granule_count || t_.granules[at].kind != granule_free) return false;
      const extent_entry& e = t_.extents[at];
      if (e.length == 0 || bin_of(e.length) != bin || e.previous != previous ||
          ++*listed > free_runs_.size())
        return false;
      previous = at;
    }
    return true;
  }

  void rebuild_bins() {
    if (!are_bins_right()) {
      if (kept_at_ == no_extent)
        rb_.say("{}: the lists of its {} free extents were built anew", name_, free_runs_.size());
      std::fill(std::begin(r_.bins), std::end(r_.bins), no_extent);
      std::fill(std::begin(r_.bin_bits), std::end(r_.bin_bits), u8{0});
      r_.bin_groups = 0;
      for (const run_of_free& f : free_runs_)
        put_into_bin(f);
    }
    for (const run_of_free& f : free_runs_)
      rb_.fix(t_.extents[f.at + f.length - 1].foot, f.at,
              fmt::format("{}: the foot of the free extent at granule {}", name_, f.at));
  }

  void put_into_bin(const run_of_free& f) {
    const u32 bin = bin_of(f.length), head = r_.bins[bin], last = f.at + f.length - 1;
    t_.granules[f.at] = t_.granules[last] = granule_entry{no_owner, granule_free, 0, 0, 0};
    t_.extents[f.at].length = f.length;
    t_.extents[f.at].previous = no_extent;
    t_.extents[f.at].next = head;
    t_.extents[last].foot = f.at;
    if (head != no_extent) t_.extents[head].previous = f.at;
    r_.bins[bin] = f.at;
    r_.bin_bits[bin / 8] = static_cast<u8>(r_.bin_bits[bin / 8] | 1u << (bin % 8));
    r_.bin_groups |= u64{1} << (bin / 8);
  }

  void rebuild_sums() {
    rb_.fix(r_.free_granules, free_, name_ + ": free granules");
    rb_.fix(r_.live_extents, live_, name_ + ": live extents");
    // In doubt all of it was given out: it is cleared again before it is handed out as zeros.
    const bool is_marked_right = r_.first_clean == ~r_.first_clean_check &&
                                 r_.first_clean <= t_.granule_count && given_ <= r_.first_clean;
    if (!is_marked_right)
      rb_.fix(r_.first_clean, t_.granule_count, name_ + ": memory never given out");
    r_.first_clean_check = ~r_.first_clean;
  }

  rebuilding& rb_;
  const known_region& t_;
  region_record& r_;
  const std::string name_;
  const std::vector<extent_user>& users_;
  const bool keeps_all_;
  std::vector<run_of_free> free_runs_;
  u32 free_ = 0, live_ = 0, given_ = 0;
  u32 kept_at_ = no_extent, kept_end_ = no_extent;  // the last one that a thread kept
};

}  // namespace

void rebuild_extents(rebuilding& rb) {
  const auto& regions = rb.notes<regions_known>();
  std::vector<u64> with_memory(std::size(rb.h.free_regions));
  for (const auto& [slot, region] : regions.usable) {
    const bool is_unsealed = regions.unsealed.contains(slot);
    region_rebuild(rb, region, is_unsealed).run();
    region_record& r = *region.record;
    if (is_unsealed) r.seal = seal_of_region(r);
    if (r.state.value == region_active && r.free_granules != 0)
      with_memory[slot / 64] |= u64{1} << (slot % 64);
  }
  for (u32 word = 0; word < with_memory.size(); ++word)
    rb.fix(rb.h.free_regions[word], with_memory[word], "the regions with free memory");
}

void forget_generations(const known_region& region, u32 granule) noexcept {
  const generations_of_region& all = region.generations;
  extent_entry& e = region.extents[granule];
  const u32 generation = all.behind(count_in(e.name), all.count / 2);
  const u32 part_shift = all.offset_bits - 6;
  const u64 first = region.offset_of(granule) >> part_shift;
  const u64 last = ((u64{granule + e.length} << region.granule_shift) - 1) >> part_shift;
  for (u64 part = first; part <= last && part < region_parts; ++part)
    region.record->floors[part] = std::max(region.record->floors[part], generation);
  e.name = name_word(generation) | (e.name & word_is_named);
}

}  // namespace annex::detail
