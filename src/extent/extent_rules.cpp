// extent/extent_rules.cpp - see extent_rules.hpp: what an audit asks of extents.
#include "extent/extent_rules.hpp"

#include "platform/files.hpp"
#include "shared/member_rules.hpp"

namespace annex::detail {
namespace {

// Granules inside an extent that are looked at, from its start: looking costs memory.
constexpr u32 interior_looks = 4096;

class region_check {
 public:
  region_check(inspection& in, const known_region& region)
      : in_(in),
        t_(region),
        r_(*region.record),
        seen_(in.notes<extents_seen>()),
        tallies_(in.notes<member_tallies>().of) {}

  void run() {
    if (in_.locked && r_.first_clean != ~r_.first_clean_check)
      in_.broken(
          "E6: region {} has a mark of memory never given out that does not agree with itself",
          t_.id);
    if (!check_tiling_of_region()) return;
    check_sums();
    if (!check_bins()) return;
    check_groups();
  }

 private:
  // E1, E2. False: the walk ends at a length that can't be, and its sums say nothing.
  bool check_tiling_of_region() {
    bool before_free = false;
    for (u32 at = 0; at < t_.granule_count && !in_.gave_up();) {
      const u32 length = t_.extents[at].length;
      in_.count_one();
      if (length == 0 || length > t_.granule_count - at) {
        in_.broken("E1: region {}: the extent at granule {} has length {}", t_.id, at, length);
        return false;
      }
      const u8 kind = load_granule(&t_.granules[at]).kind;
      check_interior(at, length, kind);
      if (kind == granule_free) {
        if (before_free)
          in_.broken("E2: region {}: two free extents touch at granule {}", t_.id, at);
        check_free(at, length);
      } else {
        check_in_use(at, length, kind);
        given_ = at + length;
      }
      before_free = kind == granule_free;
      at += length;
    }
    return true;
  }

  void check_interior(u32 at, u32 length, u8 kind) {
    for (u32 i = 1; i < length && i < interior_looks; ++i) {
      const u8 inside = kind_inside(at, length, at + i);
      const u8 right = is_slab(kind)                             ? kind
                       : kind == granule_free && i == length - 1 ? u8{granule_free}
                                                                 : u8{granule_inside};
      if (inside != right)
        return in_.broken("S3: region {}: granule {} inside the extent at {} (kind {}) has kind {}",
                          t_.id, at + i, at, kind, inside);
    }
  }

  // The pages with the first and the last granule of an extent are there, those between may never
  // have been written, and zeros are granule_inside (region/table_pages.hpp).
  u8 kind_inside(u32 at, u32 length, u32 granule) {
    const granule_entry* const entry = &t_.granules[granule];
    const u64 page = page_of(entry);
    if (page == page_of(&t_.granules[at]) || page == page_of(&t_.granules[at + length - 1]))
      return entry->kind;
    if (page != asked_page_) is_asked_page_hole_ = os::is_hole(in_.s.fd(), asked_page_ = page);
    return is_asked_page_hole_ ? u8{granule_inside} : entry->kind;
  }

  u64 page_of(const granule_entry* entry) const noexcept {
    const auto at = static_cast<u64>(reinterpret_cast<const char*>(entry) -
                                     reinterpret_cast<const char*>(&in_.s.header()));
    return align_down(at, limits::smallest_page_bytes);
  }

  void check_free(u32 at, u32 length) {
    const u32 foot = t_.extents[at + length - 1].foot;
    if (foot != at)
      in_.broken("E3: region {}: the foot of the free extent at {} names {}", t_.id, at, foot);
    free_ += length;
    ++free_extents_;
  }

  void check_in_use(u32 at, u32 length, u8 kind) {
    const extent_entry& e = t_.extents[at];
    if (is_slab(kind)) {
      ++live_;
      seen_.slabs.push_back({t_.slot, at, length});
    } else if (is_large(kind) || kind == granule_zone) {
      ++live_;
      check_holder(at, kind);
      if (kind == granule_kept)
        seen_.kept.push_back({t_.slot, at, load_granule(&t_.granules[at]).owner});
    } else {
      in_.broken("E1: region {}: the extent at granule {} has kind {}", t_.id, at, kind);
    }
    if (in_.locked && e.seal != seal_of_extent(e, kind, at, t_.id))
      in_.broken("E7: region {}: the extent at {} does not fit its seal", t_.id, at);
    const bool is_named = kind != granule_zone || (e.name & word_is_named) != 0;
    if (!is_named ||
        !is_sane_name(r_, t_.generations, t_.offset_of(at), t_.end_of(at, length), e.name))
      in_.broken("H1: region {}: the extent at granule {} has an impossible generation", t_.id, at);
  }

  void check_holder(u32 at, u8 kind) {
    const extent_entry& e = t_.extents[at];
    if (e.holder > in_.s.member_limit() || u64{e.lead} * 64 >= u64{1} << t_.granule_shift)
      in_.broken("E1: region {}: the extent at {} has holder {} and lead {}", t_.id, at, e.holder,
                 e.lead);
    if (in_.locked && is_large(kind) != (e.holder != 0))
      in_.broken("E7: region {}: the extent at {} is {} and has holder {}", t_.id, at,
                 is_large(kind) ? "a large block" : "a zone", e.holder);
    if (kind == granule_zone)
      seen_.zones.insert(extents_seen::zone_place(t_.slot, at));
    else
      ++tallies_[e.holder].extents;
  }

  // E5, E6.
  void check_sums() {
    if (free_ != r_.free_granules)
      in_.broken("E5: region {} has {} free granules, its record says {}", t_.id, free_,
                 r_.free_granules);
    if (given_ > r_.first_clean)
      in_.broken(
          "E6: region {} is in use up to granule {}, its record says that nothing from {} on was "
          "ever given out",
          t_.id, given_, r_.first_clean);
    if (live_ != r_.live_extents)
      in_.broken("E5: region {} has {} live extents, its record says {}", t_.id, live_,
                 r_.live_extents);
    const bool bit = (in_.h.free_regions[t_.slot / 64] >> (t_.slot % 64) & 1) != 0;
    if (in_.locked && bit != (r_.state.value == region_active && free_ != 0))
      in_.broken("E5: region {} with {} free granules is {}said to have free memory", t_.id, free_,
                 bit ? "" : "not ");
  }

  // E3, E4. False: a bin leads elsewhere.
  bool check_bins() {
    for (u32 bin = 0; bin < extent_bins; ++bin) {
      if (!check_bin(bin)) {
        in_.broken("E3: region {}: bin {} is not a list of free extents of its length", t_.id, bin);
        return false;
      }
      const bool marked = (r_.bin_bits[bin / 8] >> (bin % 8) & 1) != 0;
      if (marked != (r_.bins[bin] != no_extent))
        in_.broken("E4: region {}: bin {} is marked {}", t_.id, bin, marked);
    }
    return true;
  }

  // Each step is compared with the region before it is followed, and there are no more than free
  // extents.
  bool check_bin(u32 bin) {
    u32 previous = no_extent;
    for (u32 at = r_.bins[bin]; at != no_extent; at = t_.extents[at].next) {
      if (at >= t_.granule_count || load_granule(&t_.granules[at]).kind != granule_free)
        return false;
      const extent_entry& e = t_.extents[at];
      if (e.length == 0 || bin_of(e.length) != bin || e.previous != previous ||
          ++listed_ > free_extents_)
        return false;
      previous = at;
    }
    return true;
  }

  void check_groups() {
    for (u32 group = 0; group < extent_bins / 8; ++group)
      if (((r_.bin_groups >> group & 1) != 0) != (r_.bin_bits[group] != 0))
        in_.broken("E4: region {}: bin group {} is marked wrong", t_.id, group);
    if (extent_bins / 8 < 64 && (r_.bin_groups >> (extent_bins / 8)) != 0)
      in_.broken("E4: region {}: bin groups beyond the last are marked", t_.id);
    if (listed_ != free_extents_)
      in_.broken("E3: region {}: {} free extents, {} in bins", t_.id, free_extents_, listed_);
  }

  inspection& in_;
  const known_region& t_;
  const region_record& r_;
  extents_seen& seen_;
  std::unordered_map<u32, member_tallies::tally>& tallies_;
  u64 free_ = 0, live_ = 0, free_extents_ = 0, listed_ = 0;
  u32 given_ = 0;
  u64 asked_page_ = ~u64{0};  // of the segment
  bool is_asked_page_hole_ = false;
};

}  // namespace

void check_extents(inspection& in) {
  for (const auto& [slot, region] : in.notes<regions_known>().usable)
    region_check(in, region).run();
}

void count_extents(counting& c) {
  for_each_region_in_use(c.s, c.views, [&](const local_region& region) {
    walk_extents(region, [&](u32 granule, u32, u8 kind) {
      const u64 bytes = bytes_at(region, granule);
      if (kind == granule_free) {
        c.out.free_bytes += bytes;
        ++c.out.hole_count;
        c.out.largest_free_bytes = std::max(c.out.largest_free_bytes, bytes);
      } else if (kind == granule_kept) {
        c.kept_extent_bytes += bytes;
      } else if (kind == granule_large || kind == granule_zone) {
        c.out.used_bytes += bytes;
        ++c.out.live_blocks;
      }
    });
  });
}

}  // namespace annex::detail
