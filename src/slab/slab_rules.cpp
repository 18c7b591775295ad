// slab/slab_rules.cpp - see slab_rules.hpp: what an audit asks of slabs.
#include "slab/slab_rules.hpp"

#include <bit>

#include "shared/member_rules.hpp"

namespace annex::detail {

bool is_sane_slab(const segment& s, const slab_record& slab, const known_region& region, u32 at,
                  u32 length) noexcept {
  const u32 size_class = slab.size_class;
  return size_class != 0 && size_class < class_count && slab.capacity != 0 &&
         slab.capacity <= limits::slab_blocks && slab.words == divide_up(slab.capacity, 64) &&
         u64{slab.capacity} * class_bytes[size_class] <= u64{length} << region.granule_shift &&
         slab.granule == at && slab.region == region.slot && slab.member <= s.member_limit() &&
         slab.member != 0 && slab.lane < limits::lanes &&
         (slab.owner == no_owner || slab.owner < s.thread_limit()) &&
         length <= limits::slab_granules &&
         region.offset_of(at) + u64{slab.capacity} * class_bytes[size_class] <= region.length_bytes;
}

namespace {

class slab_check {
 public:
  slab_check(inspection& in, const known_region& region, const extent_run& where)
      : in_(in),
        region_(region),
        id_(region.id),
        at_(where.granule),
        length_(where.length),
        ref_(region.extents[where.granule].record) {}

  void run() {
    if (!check_record()) return;
    check_granules();
    if (!check_generations() || !check_holdings()) return;
    if (slab_->owner == no_owner) ++held_by(in_, slab_->member).orphans;
    if (in_.locked) check_witnesses();
    const bool is_still = slab_->owner == no_owner ? in_.locked : in_.is_still(slab_->owner);
    if (is_still) check_counts();
  }

 private:
  // Its header is compared before its words are looked at. False: there is none to be believed.
  bool check_record() {
    if (!in_.reach(ref_, sizeof(slab_record), "slab record")) return false;
    slab_ = in_.s.chunk<slab_record>(ref_);
    if (!is_sane_slab(in_.s, *slab_, region_, at_, length_)) {
      in_.broken("S1: region {}: the slab at granule {} has an impossible record", id_, at_);
      return false;
    }
    if (!in_.take(ref_, slab_record_bytes(slab_->words), "slab record")) return false;
    auto& seen = in_.notes<slabs_seen>();
    ++seen.found;
    seen.records.insert(ref_);
    return true;
  }

  void check_granules() {
    for (u32 i = 0; i < length_; ++i) {
      const granule_entry& g = region_.granules[at_ + i];
      const granule_entry right =
          slab_granule(*slab_, i, slab_->owner, g.kind, region_.granule_shift);
      if (std::bit_cast<u64>(g) != std::bit_cast<u64>(right))
        return in_.broken("S3: region {}: granule {} does not name its slab's owner and class", id_,
                          at_ + i);
    }
  }

  bool check_generations() {
    const chunk_ref generations = region_.extents[at_].generations;
    if (generations == 0) return true;
    if (!in_.take(generations, u64{slab_->capacity} * sizeof(u32), "generations")) return false;
    check_words(in_, region_, in_.s.chunk<u32>(generations), slab_->capacity, "slab");
    if (in_.locked && slab_->owner != no_owner &&
        load_granule(&region_.granules[at_]).kind != granule_slab_held)
      in_.broken(
          "H2: region {}: the slab at granule {} has generations, but its owner's frees go past "
          "them",
          id_, at_);
    return true;
  }

  bool check_holdings() {
    u64 steps = 0;
    for (chunk_ref held = slab_->holdings; held != 0;
         held = in_.s.chunk<holding_record>(held)->next) {
      auto* holding = in_.s.chunk<holding_record>(held);
      if (!in_.take(held, holding_record_bytes(slab_->words), "holding") ||
          ++steps > in_.s.member_limit() || holding->words != slab_->words ||
          holding->member == 0 || holding->member > in_.s.member_limit()) {
        in_.broken("S5: region {}: the slab at granule {} has an impossible holding", id_, at_);
        return false;
      }
      if (in_.locked && holding->seal != holding->right_seal(ref_)) {
        in_.broken("S10: region {}: a holding of the slab at granule {} does not fit its seal", id_,
                   at_);
        return false;
      }
      ++held_by(in_, holding->member).holdings;
    }
    return true;
  }

  // Each word of a slab against its witness. What a death may have left half done (the owner's, in
  // the middle of a slow path, or that of one who had the lock) is not told from damage, and
  // harmless: a block that only one word calls free counts as taken.
  void check_witnesses() {
    if (slab_->seal != slab_->right_seal())
      return in_.broken("S9: region {}: the record of the slab at granule {} does not fit its seal",
                        id_, at_);
    const bool is_settled = in_.is_settled(slab_->owner);
    for (u32 w = 0; w < slab_->words; ++w)
      if (!check_word(w, is_settled)) return;
    if (!slab_->is_clean_mark_right())
      return in_.broken(
          "S6: region {}: the slab at granule {} has a mark of blocks never handed out that does "
          "not agree with itself",
          id_, at_);
    if (check_holders_witnesses(is_settled) && is_settled) check_clean_blocks();
  }

  bool check_word(u32 w, bool is_settled) {
    const u64 free = slab_->free_words()[w], taken = slab_->taken_words()[w],
              valid = slab_->valid_bits(w);
    const bool agree = is_remote_word(slab_->remote_words()[u64{2} * w].value) &&
                       is_remote_word(slab_->remote_words()[u64{2} * w + 1].value);
    if (!agree)
      in_.broken(
          "S8: region {}: the slab at granule {} has blocks that others freed, by a word that "
          "does not agree with itself",
          id_, at_);
    else if (((free | slab_->remote_bits(w)) & ~valid) != 0)
      in_.broken("S1: region {}: the slab at granule {} has blocks beyond its capacity", id_, at_);
    else if ((free & taken) != 0 || (is_settled && free != ~taken))
      in_.broken(
          "S7: region {}: the slab at granule {} has blocks that only one of its words calls "
          "free",
          id_, at_);
    else
      return true;
    return false;
  }

  bool check_holders_witnesses(bool is_settled) {
    u32 seen = 0;
    for (chunk_ref ref = slab_->holdings; ref != 0 && seen++ <= limits::slab_blocks;
         ref = in_.s.chunk<holding_record>(ref)->next) {
      holding_record& holding = *in_.s.chunk<holding_record>(ref);
      for (u32 w = 0; w < holding.words; ++w) {
        const u64 held = holding.bits()[w], gone = holding.gone_words()[w];
        if ((held & gone) == 0 && (!is_settled || held == ~gone)) continue;
        in_.broken(
            "S10: region {}: a holding of the slab at granule {} has blocks that only one of its "
            "words calls its own",
            id_, at_);
        return false;
      }
    }
    return true;
  }

  void check_clean_blocks() {
    for (u32 block = slab_->first_clean(); block < slab_->capacity; ++block)
      if ((slab_->free_words()[block / 64] >> (block % 64) & 1) == 0)
        return in_.broken(
            "S6: region {}: the slab at granule {} has blocks in use that were never handed out",
            id_, at_);
  }

  void check_counts() {
    u32 count = 0;
    u64 summary = 0;
    for (u32 w = 0; w < slab_->words; ++w) {
      const u64 bits = slab_->free_bits(w);
      if ((bits & held_bits(in_.s, slab_, w)) != 0)
        in_.broken("S5: region {}: the slab at granule {} has free blocks with a holder", id_, at_);
      count += static_cast<u32>(std::popcount(bits));
      if (bits != 0) summary |= u64{1} << w;
    }
    if (count != slab_->free_count || summary != slab_->summary)
      in_.broken("S1: region {}: the slab at granule {} has {} free blocks, its record says {}",
                 id_, at_, count, slab_->free_count);
    if (slab_->in_partial == 0 && count != 0 && slab_->owner != no_owner)
      in_.broken(
          "S4: region {}: the slab at granule {} has {} free blocks but is in no partial list", id_,
          at_, count);
  }

  inspection& in_;
  const known_region& region_;
  const u32 id_, at_, length_;
  const chunk_ref ref_;
  slab_record* slab_ = nullptr;
};

void check_orphans(inspection& in) {
  const auto& orphans = in.h.orphans;
  for (u32 k = 0; k < std::size(orphans); ++k)
    if ((k == 0 || k >= class_count) && orphans[k] != 0)
      in.broken("S4: orphans of class {}, which does not exist", k);
    else
      check_slab_list(in, orphans[k], no_owner, k, true);
}

}  // namespace

void check_slab_list(inspection& in, chunk_ref head, u16 owner, u32 lane_or_class,
                     bool are_orphans) {
  auto& seen = in.notes<slabs_seen>();
  chunk_ref previous = 0;
  for (chunk_ref ref = head; ref != 0; ref = in.s.chunk<slab_record>(ref)->lane_next) {
    auto* slab = in.s.chunk<slab_record>(ref);
    if (!seen.records.contains(ref) || slab->owner != owner || slab->lane_previous != previous ||
        (are_orphans ? slab->size_class : slab->lane) != lane_or_class ||
        !seen.linked.insert(ref).second)
      return in.broken("S4: the {} list {} of thread {} is not a list of its slabs",
                       are_orphans ? "orphan" : "lane", lane_or_class, owner);
    previous = ref;
  }
}

void check_slabs(inspection& in) {
  const auto& regions = in.notes<regions_known>();
  for (const extent_run& where : in.notes<extents_seen>().slabs) {
    if (in.gave_up()) break;
    slab_check(in, *regions.find(where.slot), where).run();
  }
  if (in.locked) check_orphans(in);
}

void check_slabs_are_linked(inspection& in) {
  const auto& seen = in.notes<slabs_seen>();
  if (in.locked && seen.linked.size() != seen.found)
    in.broken("S4: {} slabs exist, {} are in a lane or orphan list", seen.found,
              seen.linked.size());
}

void count_slabs(counting& c) {
  for_each_region_in_use(c.s, c.views, [&](const local_region& region) {
    walk_extents(region, [&](u32 granule, u32, u8 kind) {
      slab_record* const slab = is_slab(kind) ? slab_of(c.s, region, granule) : nullptr;
      if (slab == nullptr) return;
      ++c.out.slab_count;
      const u64 live = live_blocks(slab);
      c.out.live_blocks += live;
      c.slab_live_bytes += live * class_bytes[slab->size_class];
      c.slab_bytes += bytes_at(region, granule);
    });
  });
}

}  // namespace annex::detail
