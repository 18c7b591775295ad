// heap/audit.cpp - every invariant, checked against numbers that are not believed.
//
// inspect_segment() compares each number with what it may be before it uses it, walks no list further than it can be long,
// and notes which bytes of the arena belong to whom: a segment it passes is safe to work on, whoever wrote it.
// Invariants E1-E7 are in extent/extents.hpp, S1-S10 in slab/slab_record.hpp; besides them:
//   A1  arena: no byte belongs to two chunks, every chunk lies below the top        R1  region records and tables are sane
//   R2  regions: the seals fit what the record and its IOVA runs say
//   A2  arena: every byte below the top belongs to somebody, or to a free list
//   M1  members and threads: states, counts and links are sane                      Z1  zones: linked, counted, backed
//   M2  a member's record counts what it holds: large blocks, holdings, orphan slabs, and, when dead, objects of pools
//   M3  a large block on its way is named by a thread's slot and its seal           Z2  pools: an object is in it or with a member
//   Z6  zones: every generation was given out; the count of them is there twice
//   Z3  what released pools and rings left belongs to no zone (docs/design/0011)
//   Z4  zones, pools and rings: the seals fit                                       Z5  rings: slots are of one round, or the next
//   C1  a still thread's magazines hold free blocks of its own slabs, each once
//   H1 to H3  handles: region/generation.hpp
#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "heap/sanity.hpp"

namespace annex::detail {
namespace {

// Granules inside an extent that are looked at, from its start: looking costs memory.
constexpr u32 interior_looks = 4096;

class inspector {
 public:
  inspector(const segment& s, const std::vector<bool>& still, bool locked, audit_report* report,
            bool after_a_death)
      : s_(s),
        h_(s.header()),
        still_(still),
        locked_(locked),
        after_a_death_(after_a_death),
        report_(*report) {}

  void run() {
    check_arena();
    check_members();
    for (const u32 slot : used_region_slots(s_))
      check_region(slot);
    for (u32 word = 0; word < std::size(h_.used_regions); ++word)
      if (h_.used_regions[word] != 0 &&
          (word >= region_words(h_) ||
           word * 64 + 63 - static_cast<u32>(std::countl_zero(h_.used_regions[word])) >=
               h_.region_slots_used))
        broken("R1: regions lie in slots behind the {} that were ever used", h_.region_slots_used);
    for (u32 word = 0; word < std::size(h_.free_regions); ++word)
      if (locked_ && (h_.free_regions[word] & ~h_.used_regions[word]) != 0)
        broken("R1: regions that do not exist are said to have free memory (word {})", word);
    check_threads();
    check_orphans();
    check_zones();
    check_holders();
    if (locked_ && regions_ != h_.region_count)
      broken("R1: {} regions exist, the header counts {}", regions_, h_.region_count);
    if (locked_ && slabs_linked_.size() != slabs_found_)
      broken("S4: {} slabs exist, {} are in a lane or orphan list", slabs_found_,
             slabs_linked_.size());
    check_overlap();
  }

 private:
  template <class... Args>
  void broken(fmt::format_string<Args...> format, Args&&... args) {
    if (report_.broken.size() < 100)
      report_.broken.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  bool gave_up() const { return report_.broken.size() >= 100; }

  // The chunk lies in the arena; its bytes are noted as taken.
  bool take(chunk_ref ref, u64 bytes, const char* what) {
    const u64 at = u64{ref} * chunk_unit_bytes;
    if (!lies_in_arena(s_, ref, bytes)) {
      broken("A1: chunk {} of {} bytes ({}) lies outside the arena [{}, {})", ref, bytes, what,
             s_.geometry().arena_at, h_.arena.top);
      return false;
    }
    taken_.push_back({at, at + chunk_bytes(bytes), what});
    return true;
  }

  void check_arena() {
    const u64 most = h_.arena.top / chunk_unit_bytes;
    if (h_.arena.small_top > h_.arena.small_end || h_.arena.small_end > h_.arena.top ||
        h_.arena.small_top % chunk_unit_bytes != 0 ||
        (h_.arena.small_end != 0 && h_.arena.small_top < s_.geometry().arena_at) ||
        h_.arena.top % chunk_unit_bytes != 0)
      broken("A1: the run for small chunks [{}, {}) is not below the top {}", h_.arena.small_top,
             h_.arena.small_end, h_.arena.top);
    else if (h_.arena.small_end > h_.arena.small_top)
      taken_.push_back({h_.arena.small_top, h_.arena.small_end, "unused run"});
    auto walk = [&](chunk_ref head, u64 bytes) {
      u64 steps = 0;
      for (chunk_ref ref = head; ref != 0; ref = *s_.chunk<chunk_ref>(ref))
        if (!take(ref, bytes, "free chunk") || ++steps > most)
          return broken("A1: the list of free chunks of {} bytes does not end", bytes);
    };
    for (u32 units = 1; units < std::size(h_.arena.small_free); ++units)
      walk(h_.arena.small_free[units], units * chunk_unit_bytes);
    for (u32 i = 0; i < std::size(h_.arena.large_free); ++i) {
      walk(h_.arena.large_free[i], large_chunk_bytes(i));
    }
    if (h_.arena.small_free[0] != 0) broken("A1: there is a list of empty chunks");
  }

  void check_members() {
    for (u32 id = 1; id <= s_.members_used(); ++id) {
      const member_record& m = s_.member(id);
      ++report_.checked;
      if (m.state.value > member_joining) broken("M1: member {} has state {}", id, m.state.value);
      if (m.region_claims != 0 && m.state.value != member_free)
        take(m.region_claims, u64{s_.region_limit()} * sizeof(region_claim), "claims");
    }
  }

  void check_holders() {
    if (!locked_ || !report_.holds()) return;
    for (u32 id = 1; id <= s_.members_used(); ++id) {
      const member_record& m = s_.member(id);
      const tally& h = held_[id];
      const bool objects_hold = m.state.value != member_dead || m.pool_objects_held == h.objects;
      if (m.state.value == member_free && h.extents + h.holdings + h.orphans + h.objects != 0)
        broken("M2: member {} holds something, but its record is free", id);
      if (m.extents_held != h.extents || m.holdings != h.holdings ||
          m.slabs_orphaned != h.orphans || !objects_hold)
        broken(
            "M2: member {} holds {} large blocks, {} holdings, {} orphan slabs and {} objects, its "
            "record says {}, {}, {} and {}",
            id, h.extents, h.holdings, h.orphans, h.objects, m.extents_held, m.holdings,
            m.slabs_orphaned, m.pool_objects_held);
    }
    for (const auto& [id, h] : held_)
      if (id > s_.members_used() && h.extents + h.holdings + h.orphans + h.objects != 0)
        broken("M2: member {} holds something, but only {} records were ever used", id,
               s_.members_used());
  }

  bool check_iovas(const region_record& r, u32 id) {
    if (r.iova_run_count == 0) return true;
    const u64 slices = r.iova_index_shift < 64 ? (r.length_bytes >> r.iova_index_shift) + 2 : 0;
    if (r.iova_index_shift < 12 || r.iova_index_shift > 63 ||
        u64{r.iova_run_count} > r.length_bytes / r.page_bytes ||
        !take(r.iova_runs, u64{r.iova_run_count} * sizeof(iova_run), "IOVA runs") ||
        !take(r.iova_order, u64{r.iova_run_count} * 4, "IOVA order") ||
        !take(r.iova_index, slices * 4, "IOVA index")) {
      broken("R1: region {} has impossible IOVA tables", id);
      return false;
    }
    const iova_run* runs = s_.chunk<iova_run>(r.iova_runs);
    const u32* order = s_.chunk<u32>(r.iova_order);
    const u32* index = s_.chunk<u32>(r.iova_index);
    if (!are_sane_runs(r, runs)) {
      broken("R1: region {} has impossible IOVA runs", id);
      return false;
    }
    for (u32 i = 0; i < r.iova_run_count; ++i)
      if (order[i] >= r.iova_run_count ||
          (i != 0 && runs[order[i]].address <= runs[order[i - 1]].address)) {
        broken("R1: region {} has an impossible order of IOVA runs", id);
        return false;
      }
    for (u64 i = 0; i < slices; ++i)
      if (index[i] >= r.iova_run_count || (i != 0 && index[i] < index[i - 1]) ||
          runs[index[i]].offset > i << r.iova_index_shift) {
        broken("R1: region {} has an impossible IOVA index", id);
        return false;
      }
    return true;
  }

  void check_region(u32 slot) {
    const region_record& r = s_.at<region_record>(s_.geometry().regions_at)[slot];
    const u32 state = r.state.value, id = r.id.value;
    const bool bit = (h_.free_regions[slot / 64] >> (slot % 64) & 1) != 0;
    if (state == region_free) return broken("R1: slot {} is marked used but has no region", slot);
    ++report_.checked;
    ++regions_;
    if (!is_sane_region(s_, r, slot))
      return broken("R1: the record of region {} in slot {} is impossible (state {}, {} bytes)", id,
                    slot, state, r.length_bytes);
    if (!take(r.granules, u64{r.granule_count} * sizeof(granule_entry), "granules") ||
        !take(r.extents, u64{r.granule_count} * sizeof(extent_entry), "extents") ||
        !check_iovas(r, id))
      return;
    if (state == region_partial) {
      if (r.live_extents != 0)
        broken("R1: region {} is on its way in or out, but has {} extents in use", id,
               r.live_extents);
      return;
    }
    if (locked_ && r.seal != seal_of_region(r))
      return broken("R2: the record of region {} does not fit its seal", id);
    if (locked_ &&
        r.iova_seal != (r.iova_run_count == 0
                            ? 0
                            : seal_of_runs(s_.chunk<iova_run>(r.iova_runs), r.iova_run_count)))
      broken("R2: the IOVA runs of region {} do not fit their seal", id);
    if (locked_ && r.first_clean != ~r.first_clean_check)
      broken("E6: region {} has a mark of memory never given out that does not agree with itself",
             id);
    if (id >= h_.next_region_id)
      broken("R1: region {} exists, but the next one would be {}", id, h_.next_region_id);
    usable_.insert(slot);
    const generations_of_region generations = generations_in(r, slot);
    if (!are_numbers_right(r, slot))
      broken("H3: region {}: the numbers of its handles are impossible", id);
    for (const u32 floor : r.floors)
      if (floor >= generations.count) {
        broken("H3: region {}: {} is said to have been given out of {} generations", id, floor,
               generations.count);
        break;
      }
    const auto* g = s_.chunk<granule_entry>(r.granules);
    const auto* e = s_.chunk<extent_entry>(r.extents);
    u64 free = 0, live = 0, free_extents = 0;
    u32 given = 0;
    bool before_free = false;
    for (u32 at = 0; at < r.granule_count && !gave_up();) {
      const u32 length = e[at].length;
      ++report_.checked;
      if (length == 0 || length > r.granule_count - at)
        return broken("E1: region {}: the extent at granule {} has length {}", id, at, length);
      const u8 kind = g[at].kind;
      for (u32 i = 1; i < length && i < interior_looks; ++i) {
        const u8 inside = g[at + i].kind;
        const bool right =
            kind == granule_slab || kind == granule_slab_held
                ? inside == kind
                : inside ==
                      (kind == granule_free && i == length - 1 ? granule_free : granule_inside);
        if (!right) {
          broken("S3: region {}: granule {} inside the extent at {} (kind {}) has kind {}", id,
                 at + i, at, kind, inside);
          break;
        }
      }
      if (kind == granule_free) {
        if (before_free) broken("E2: region {}: two free extents touch at granule {}", id, at);
        if (e[at + length - 1].foot != at)
          broken("E3: region {}: the foot of the free extent at {} names {}", id, at,
                 e[at + length - 1].foot);
        free += length;
        ++free_extents;
      } else if (kind == granule_slab || kind == granule_slab_held) {
        ++live;
        check_slab(r, slot, at, length);
      } else if (kind == granule_large || kind == granule_zone) {
        ++live;
        if (e[at].holder > s_.member_limit() || u64{e[at].lead} * 64 >= u64{1} << r.granule_shift)
          broken("E1: region {}: the extent at {} has holder {} and lead {}", id, at, e[at].holder,
                 e[at].lead);
        if (locked_ && (kind == granule_large) != (e[at].holder != 0))
          broken("E7: region {}: the extent at {} is {} and has holder {}", id, at,
                 kind == granule_large ? "a large block" : "a zone", e[at].holder);
        if (kind == granule_zone)
          zones_backed_.insert(u64{slot} << 32 | at);
        else
          ++held_[e[at].holder].extents;
      } else {
        broken("E1: region {}: the extent at granule {} has kind {}", id, at, kind);
      }
      if (locked_ && kind != granule_free && e[at].seal != seal_of_extent(e[at], kind, at, id))
        broken("E7: region {}: the extent at {} does not fit its seal", id, at);
      const u64 begin = u64{at} << r.granule_shift,
                end = std::min(u64{at + length} << r.granule_shift, r.length_bytes);
      const bool is_named = kind != granule_zone || (e[at].name & word_is_named) != 0;
      if (kind != granule_free &&
          (!is_named || !is_sane_name(r, generations, begin, end, e[at].name)))
        broken("H1: region {}: the extent at granule {} has an impossible generation", id, at);
      before_free = kind == granule_free;
      if (kind != granule_free) given = at + length;
      at += length;
    }
    if (free != r.free_granules)
      broken("E5: region {} has {} free granules, its record says {}", id, free, r.free_granules);
    if (given > r.first_clean)
      broken(
          "E6: region {} is in use up to granule {}, its record says that nothing from {} on was "
          "ever given out",
          id, given, r.first_clean);
    if (live != r.live_extents)
      broken("E5: region {} has {} live extents, its record says {}", id, live, r.live_extents);
    if (locked_ && bit != (state == region_active && free != 0))
      broken("E5: region {} with {} free granules is {}said to have free memory", id, free,
             bit ? "" : "not ");
    u64 listed = 0;
    for (u32 bin = 0; bin < extent_bins; ++bin) {
      u32 previous = no_extent;
      for (u32 at = r.bins[bin]; at != no_extent; at = e[at].next) {
        if (at >= r.granule_count || g[at].kind != granule_free || e[at].length == 0 ||
            bin_of(e[at].length) != bin || e[at].previous != previous || ++listed > free_extents)
          return broken("E3: region {}: bin {} is not a list of free extents of its length", id,
                        bin);
        previous = at;
      }
      const bool marked = (r.bin_bits[bin / 8] >> (bin % 8) & 1) != 0;
      if (marked != (r.bins[bin] != no_extent))
        broken("E4: region {}: bin {} is marked {}", id, bin, marked);
    }
    for (u32 group = 0; group < extent_bins / 8; ++group)
      if (((r.bin_groups >> group & 1) != 0) != (r.bin_bits[group] != 0))
        broken("E4: region {}: bin group {} is marked wrong", id, group);
    if (extent_bins / 8 < 64 && (r.bin_groups >> (extent_bins / 8)) != 0)
      broken("E4: region {}: bin groups beyond the last are marked", id);
    if (listed != free_extents)
      broken("E3: region {}: {} free extents, {} in bins", id, free_extents, listed);
  }

  void check_slab(const region_record& r, u32 slot, u32 at, u32 length) {
    const auto* g = s_.chunk<granule_entry>(r.granules);
    const chunk_ref ref = s_.chunk<extent_entry>(r.extents)[at].record;
    if (!take(ref, sizeof(slab_record), "slab record")) return;
    taken_.pop_back();
    auto* slab = s_.chunk<slab_record>(ref);
    if (!is_sane_slab(s_, *slab, r, slot, at, length))
      return broken("S1: region {}: the slab at granule {} has an impossible record", r.id.value,
                    at);
    if (!take(ref, slab_record_bytes(slab->words), "slab record")) return;
    ++slabs_found_;
    slabs_.insert(ref);
    for (u32 i = 0; i < length; ++i)
      if (std::bit_cast<u64>(g[at + i]) !=
          std::bit_cast<u64>(
              slab_granule(*slab, i, slab->owner, g[at + i].kind, r.granule_shift))) {
        broken("S3: region {}: granule {} does not name its slab's owner and class", r.id.value,
               at + i);
        break;
      }
    if (const chunk_ref generations = s_.chunk<extent_entry>(r.extents)[at].generations;
        generations != 0) {
      if (!take(generations, u64{slab->capacity} * sizeof(u32), "generations")) return;
      check_words(r, slot, s_.chunk<u32>(generations), slab->capacity, "slab");
      if (locked_ && slab->owner != no_owner && g[at].kind != granule_slab_held)
        broken(
            "H2: region {}: the slab at granule {} has generations, but its owner's frees go past "
            "them",
            r.id.value, at);
    }
    u64 steps = 0;
    for (chunk_ref held = slab->holdings; held != 0; held = s_.chunk<holding_record>(held)->next) {
      auto* holding = s_.chunk<holding_record>(held);
      if (!take(held, holding_record_bytes(slab->words), "holding") ||
          ++steps > s_.member_limit() || holding->words != slab->words || holding->member == 0 ||
          holding->member > s_.member_limit())
        return broken("S5: region {}: the slab at granule {} has an impossible holding", r.id.value,
                      at);
      if (locked_ && holding->seal != holding->right_seal(ref))
        return broken("S10: region {}: a holding of the slab at granule {} does not fit its seal",
                      r.id.value, at);
      ++held_[holding->member].holdings;
    }
    if (slab->owner == no_owner) ++held_[slab->member].orphans;
    check_witnesses(*slab, r, at);
    const bool is_still =
        slab->owner == no_owner ? locked_ : slab->owner < still_.size() && still_[slab->owner];
    if (!is_still) return;
    u32 count = 0;
    u64 summary = 0;
    for (u32 w = 0; w < slab->words; ++w) {
      const u64 bits = slab->free_bits(w);
      if ((bits & held_bits(s_, slab, w)) != 0)
        broken("S5: region {}: the slab at granule {} has free blocks with a holder", r.id.value,
               at);
      count += static_cast<u32>(std::popcount(bits));
      if (bits != 0) summary |= u64{1} << w;
    }
    if (count != slab->free_count || summary != slab->summary)
      broken("S1: region {}: the slab at granule {} has {} free blocks, its record says {}",
             r.id.value, at, count, slab->free_count);
    if (slab->in_partial == 0 && count != 0 && slab->owner != no_owner)
      broken("S4: region {}: the slab at granule {} has {} free blocks but is in no partial list",
             r.id.value, at, count);
  }

  // Each word of a slab against its witness. What a death may have left half done (the owner's, in
  // the middle of a slow path, or that of one who had the lock) is not told from damage, and
  // harmless: a block that only one word calls free counts as taken.
  void check_witnesses(slab_record& slab, const region_record& r, u32 at) {
    if (!locked_) return;
    if (slab.seal != slab.right_seal())
      return broken("S9: region {}: the record of the slab at granule {} does not fit its seal",
                    r.id.value, at);
    const bool is_settled = is_at_rest(slab.owner);
    for (u32 w = 0; w < slab.words; ++w) {
      const u64 free = slab.free_words()[w], taken = slab.taken_words()[w],
                valid = slab.valid_bits(w);
      const bool agree = is_remote_word(slab.remote_words()[2 * w].value) &&
                         is_remote_word(slab.remote_words()[2 * w + 1].value);
      if (!agree)
        return broken(
            "S8: region {}: the slab at granule {} has blocks that others freed, by a word that "
            "does not agree with itself",
            r.id.value, at);
      if (((free | slab.remote_bits(w)) & ~valid) != 0)
        return broken("S1: region {}: the slab at granule {} has blocks beyond its capacity",
                      r.id.value, at);
      if ((free & taken) != 0 || (is_settled && free != ~taken))
        return broken(
            "S7: region {}: the slab at granule {} has blocks that only one of its words calls "
            "free",
            r.id.value, at);
    }
    if (!slab.is_clean_mark_right())
      return broken(
          "S6: region {}: the slab at granule {} has a mark of blocks never handed out that does "
          "not agree with itself",
          r.id.value, at);
    u32 seen = 0;
    for (chunk_ref ref = slab.holdings; ref != 0 && seen++ <= limits::slab_blocks;
         ref = s_.chunk<holding_record>(ref)->next) {
      holding_record& holding = *s_.chunk<holding_record>(ref);
      for (u32 w = 0; w < holding.words; ++w)
        if (const u64 held = holding.bits()[w], gone = holding.gone_words()[w];
            (held & gone) != 0 || (is_settled && held != ~gone))
          return broken(
              "S10: region {}: a holding of the slab at granule {} has blocks that only one of its "
              "words calls its own",
              r.id.value, at);
    }
    for (u32 block = slab.first_clean(); is_settled && block < slab.capacity; ++block)
      if ((slab.free_words()[block / 64] >> (block % 64) & 1) == 0)
        return broken(
            "S6: region {}: the slab at granule {} has blocks in use that were never handed out",
            r.id.value, at);
  }

  // Nobody died while it changed the slabs of this owner, and nobody changes them now.
  bool is_at_rest(u16 owner) const {
    if (owner == no_owner) return !after_a_death_;
    if (!still_.empty()) return owner < still_.size() && still_[owner];
    const chunk_ref ref = owner < s_.slots_used() ? s_.slot(owner).cache : 0;
    if (after_a_death_ || !lies_in_arena(s_, ref, sizeof(thread_cache))) return false;
    const auto& c = *s_.chunk<thread_cache>(ref);
    return c.slot == owner && c.key != 0 && c.busy.value == 0 && c.frozen.value != frozen_held;
  }

  void check_words(const region_record& r, u32 slot, const u32* words, u32 count,
                   const char* what) {
    const generations_of_region all = generations_in(r, slot);
    if (!std::all_of(words, words + count, [&](u32 word) { return is_sane_word(all, word); }))
      broken("H1: region {}: the generations of a {} are impossible", r.id.value, what);
  }

  // A list of slabs linked through lane_next; every one must belong here.
  void check_list(chunk_ref head, u16 owner, u32 lane_or_class, bool orphans) {
    chunk_ref previous = 0;
    for (chunk_ref ref = head; ref != 0; ref = s_.chunk<slab_record>(ref)->lane_next) {
      auto* slab = s_.chunk<slab_record>(ref);
      if (!slabs_.contains(ref) || slab->owner != owner || slab->lane_previous != previous ||
          (orphans ? slab->size_class : slab->lane) != lane_or_class ||
          !slabs_linked_.insert(ref).second)
        return broken("S4: the {} list {} of thread {} is not a list of its slabs",
                      orphans ? "orphan" : "lane", lane_or_class, owner);
      previous = ref;
    }
  }

  void check_threads() {
    std::vector<u64> cached;
    for (u32 i = 0; i < s_.slots_used() && !gave_up(); ++i) {
      const thread_slot& slot = s_.slot(i);
      const u32 member = member_of_state(slot.state.load(std::memory_order_acquire));
      if (slot.cache != 0 && !take(slot.cache, sizeof(thread_cache), "thread cache")) continue;
      if (locked_ && slot.inflight_region_1 != 0 && !slot.has_inflight())
        broken("M3: thread {} has a block on its way that does not fit its seal", i);
      if (member == 0) continue;
      ++report_.checked;
      // A record may be free while the last slot of its member is not: it died while it closed.
      if (member > s_.member_limit() || slot.inflight_region_1 > s_.region_limit()) {
        broken("M1: thread {} belongs to member {}, which is nobody", i, member);
        continue;
      }
      if (slot.cache == 0) continue;
      const auto* c = s_.chunk<thread_cache>(slot.cache);
      if (c->slot != i) continue;  // claimed, not started
      if (locked_)
        for (u32 lane = 0; lane < limits::lanes; ++lane) {
          check_list(c->lanes[lane], static_cast<u16>(i), lane, false);
          if (c->lanes[lane] != 0 && (c->used_lanes[lane / 64] >> (lane % 64) & 1) == 0)
            broken("S4: lane {} of thread {} has slabs, but is not marked", lane, i);
        }
      if (locked_ && c->key != 0 && c->key != (i | u32{granule_slab} << 16)) {
        broken("C1: thread {} is not the one its cache was made for", i);
        continue;
      }
      // Half recovered, or not started: its lanes count, the rest does not.
      if (c->key == 0) continue;
      const bool is_still = i < still_.size() && still_[i];
      for (u32 k = 1; k < class_count; ++k) {
        const magazine& m = c->magazines[k];
        const u32 n = m.count.value;
        if (n > magazine_slots || m.capacity.value > magazine_slots ||
            m.block_bytes != class_bytes[k] || m.divisor != class_divisor[k]) {
          broken("C1: thread {}: the magazine of class {} is impossible", i, k);
          continue;
        }
        if (locked_) check_partial(m, static_cast<u16>(i), k);
        for (u32 at = 0; at < n; ++at) {
          const u64 entry = c->entries_of(k)[at];
          const u32 region_slot = static_cast<u32>(entry >> region_shift);
          if (!usable_.contains(region_slot)) {
            broken("C1: thread {} keeps a block of a region that is not there", i);
            break;
          }
          const auto [slab, index] =
              find_cached_block(s_, entry, k, [&](chunk_ref ref) { return slabs_.contains(ref); });
          // A block that was freed twice may outlive its slab in the cache: recovery says so, and
          // drops it.
          if (slab == nullptr && !is_still &&
              !is_slab_of_class(region_slot, entry & offset_mask, k))
            continue;
          if (slab == nullptr) {
            broken("C1: thread {} keeps an address that is no block of class {}", i, k);
            break;
          }
          if (!is_still) continue;
          if (slab->owner != i || (slab->free_words()[index / 64] >> (index % 64) & 1) != 0)
            broken("C1: thread {} keeps a block that is {}", i,
                   slab->owner != i ? "not its own" : "free in its slab too");
          cached.push_back(entry & ~entry_is_clean);
        }
      }
    }
    std::sort(cached.begin(), cached.end());
    if (std::adjacent_find(cached.begin(), cached.end()) != cached.end())
      broken("S2: a block is in two magazines");
  }

  // Only asked of regions whose record was looked at.
  bool is_slab_of_class(u32 region_slot, u64 offset, u32 size_class) const {
    const region_record& r = s_.at<region_record>(h_.regions_at)[region_slot];
    if (offset >> r.granule_shift >= r.granule_count) return true;
    const granule_entry g = s_.chunk<granule_entry>(r.granules)[offset >> r.granule_shift];
    return (g.kind == granule_slab || g.kind == granule_slab_held) && g.size_class == size_class;
  }

  void check_partial(const magazine& m, u16 owner, u32 size_class) {
    const bool is_still = owner < still_.size() && still_[owner];
    if (!is_still) return;  // recovery builds it anew
    chunk_ref previous = 0;
    u64 steps = 0;
    for (chunk_ref ref = m.partial; ref != 0; ref = s_.chunk<slab_record>(ref)->partial_next) {
      auto* slab = slabs_.contains(ref) ? s_.chunk<slab_record>(ref) : nullptr;
      if (slab == nullptr || slab->owner != owner || slab->size_class != size_class ||
          slab->partial_previous != previous || slab->in_partial == 0 || ++steps > slabs_found_)
        return broken("S4: the partial list of class {} of thread {} is not a list of its slabs",
                      size_class, owner);
      previous = ref;
    }
  }

  void check_orphans() {
    if (!locked_) return;
    for (u32 k = 0; k < std::size(h_.orphans); ++k) {
      if ((k == 0 || k >= class_count) && h_.orphans[k] != 0)
        broken("S4: orphans of class {}, which does not exist", k);
      else
        check_list(h_.orphans[k], no_owner, k, true);
    }
  }

  void check_zones() {
    u32 count = 0;
    for_each_zone_bucket(s_, [&](chunk_ref chain) { check_zone_chain(chain, &count); });
    if (count != h_.zone_count && locked_)
      broken("Z1: {} zones exist, the header counts {}", count, h_.zone_count);
    if (locked_ && h_.zone_generations != h_.zone_generations_again)
      broken("Z6: {} zones were ever reserved by one count, {} by the other", h_.zone_generations,
             h_.zone_generations_again);
    if (locked_ && !zones_backed_.empty())
      broken("Z1: {} extents belong to zones that are not there", zones_backed_.size());
    if (locked_) check_spares();
  }

  // What released pools and rings left for the next ones.
  void check_spares() {
    const u64 most = h_.arena.top / chunk_unit_bytes;
    u64 steps = 0;
    for (chunk_ref ref = h_.spare_pools; ref != 0; ref = s_.chunk<zone_record>(ref)->next) {
      if (!is_sane_spare_pool(s_, ref) || ++steps > most)
        return broken("Z3: the list of released pools' records leads to something else");
      take(ref, sizeof(zone_record), "spare zone record");
    }
    for (chunk_ref ref = h_.spare_rings; ref != 0; ref = s_.chunk<ring_table>(ref)->next_spare) {
      if (sane_spare_capacity(s_, ref) == 0 || ++steps > most)
        return broken("Z3: the list of released rings' tables leads to something else");
      take(ref, ring_table_bytes(s_.chunk<ring_table>(ref)->capacity), "spare ring table");
    }
  }

  void check_zone_chain(chunk_ref chain, u32* count) {
    for (chunk_ref ref = chain; ref != 0; ref = s_.chunk<zone_record>(ref)->next) {
      if (!take(ref, sizeof(zone_record), "zone record")) return;
      auto* z = s_.chunk<zone_record>(ref);
      ++report_.checked;
      if (++*count > h_.zone_count + (locked_ ? 0 : 1000))
        return broken("Z1: more zones than the {} the header counts", h_.zone_count);
      if (!is_sane_zone(*z)) return broken("Z1: a zone record is impossible");
      if (locked_ && z->seal != seal_of_zone(*z))
        return broken("Z4: the record of zone \"{}\" does not fit its seal", z->name);
      if (locked_ && (z->generation == 0 || z->generation > h_.zone_generations))
        return broken("Z6: zone \"{}\" is of generation {}, and {} were reserved", z->name,
                      z->generation, h_.zone_generations);
      if (locked_ && zone_chain(s_, zone_bucket_of(z->name)) != chain)
        return broken("Z1: zone \"{}\" is not in the chain of its name", z->name);
      if (z->region_slot != no_region) {
        const region_record* r =
            usable_.contains(z->region_slot)
                ? &s_.at<region_record>(s_.geometry().regions_at)[z->region_slot]
                : nullptr;
        const bool backed =
            r != nullptr && zones_backed_.erase(u64{z->region_slot} << 32 | z->granule) == 1 &&
            s_.chunk<extent_entry>(r->extents)[z->granule].record == ref &&
            z->offset_bytes >> r->granule_shift == z->granule &&
            z->offset_bytes + z->size_bytes <= r->length_bytes &&
            z->offset_bytes + z->size_bytes <=
                u64{z->granule + s_.chunk<extent_entry>(r->extents)[z->granule].length}
                    << r->granule_shift;
        if (!backed)
          return broken("Z1: zone \"{}\" is not backed by an extent of its size", z->name);
      } else if (z->type != zone_type::ring)
        return broken("Z1: zone \"{}\" has no memory", z->name);
      if (z->type == zone_type::plain) continue;
      if (!take(z->table, z->table_bytes, "table") || z->table_bytes < sizeof(pool_table))
        return broken("Z1: \"{}\" has an impossible table", z->name);
      if (z->type == zone_type::pool)
        check_pool(*z);
      else
        check_ring(*z);
    }
  }

  void check_pool(const zone_record& z) {
    const known_pool pool = sane_pool(s_, z);
    if (!pool || pool.table->first_word > pool.words)
      return broken("Z1: pool \"{}\" has an impossible table", z.name);
    if (locked_ && (z.incarnation.value == 0 || z.incarnation.value > h_.incarnations))
      broken("Z1: pool \"{}\" has number {}, and {} were made", z.name, z.incarnation.value,
             h_.incarnations);
    if (locked_ && pool.table->seal != pool.table->right_seal())
      return broken("Z4: the table of pool \"{}\" does not fit its seal", z.name);
    if (pool.table->generations != 0 && z.region_slot != no_region) {
      if (!take(pool.table->generations, u64{pool.object_count} * sizeof(u32), "generations"))
        return;
      check_words(s_.at<region_record>(s_.geometry().regions_at)[z.region_slot], z.region_slot,
                  s_.chunk<u32>(pool.table->generations), pool.object_count, "pool");
      if (locked_ && pool.table->only_member != several_members)
        broken("H2: pool \"{}\" has generations, but gives go past them", z.name);
    }
    u64 in_bits = 0, in_caches = 0;
    std::vector<bool> kept(pool.object_count);
    for (u32 w = 0; w < pool.words; ++w) {
      in_bits += static_cast<u64>(std::popcount(pool.bits()[w]));
      if (locked_ && w < pool.table->first_word && pool.bits()[w] != 0)
        broken("Z1: pool \"{}\" has objects before the first word that is looked at", z.name);
      if ((pool.bits()[w] & ~low_bits(std::min<u32>(64, pool.object_count - w * 64))) != 0)
        broken("Z1: pool \"{}\" has objects beyond its last", z.name);
    }
    if (locked_ && in_bits != pool.table->in_bits.value)
      broken("Z1: pool \"{}\" has {} objects in it, its table says {}", z.name, in_bits,
             pool.table->in_bits.value);
    for (u32 i = 0; i < s_.thread_limit(); ++i) {
      const chunk_ref ref = pool.caches()[i];
      if (ref == 0) continue;
      if (!take(ref, sizeof(pool_cache), "pool cache")) return;
      const auto* cache = s_.chunk<pool_cache>(ref);
      const u32 count = cache->count.load(std::memory_order_relaxed);
      if (count > pool_cache_slots || cache->capacity > pool_cache_slots) {
        broken("Z1: pool \"{}\": the cache of thread {} is impossible", z.name, i);
        continue;
      }
      for (u32 n = 0; n < count; ++n)
        if (const u64 at = __atomic_load_n(&cache->entries[n], __ATOMIC_RELAXED);
            at / pool.object_bytes >= pool.object_count || at % pool.object_bytes != 0) {
          broken("Z1: pool \"{}\": thread {} keeps {:#x}, which is no object", z.name, i, at);
          break;
        } else
          kept[at / pool.object_bytes] = true;
    }
    // One that was given twice may lie in two places until it leaves a cache: the program's
    // mistake, said then.
    for (u32 i = 0; i < pool.object_count; ++i)
      in_caches += kept[i] && (pool.bits()[i / 64] >> (i % 64) & 1) == 0;
    if (locked_ && in_bits + in_caches > pool.object_count)
      broken("Z1: pool \"{}\" has {} free objects of {}", z.name, in_bits + in_caches,
             pool.object_count);
    const u16* const holders = pool.holders(s_.thread_limit());
    u64 out = 0;
    for (u32 i = 0; i < pool.object_count; ++i) {
      const u16 holder = __atomic_load_n(&holders[i], __ATOMIC_RELAXED);
      const bool in_pool = (pool.bits()[i / 64] >> (i % 64) & 1) != 0;
      if (locked_ && in_pool && holder != 0) {
        broken("Z2: pool \"{}\": object {} is in it, and with member {}", z.name, i, holder);
        break;
      }
      if (locked_ && !in_pool && holder == 0) {
        broken("Z2: pool \"{}\": object {} is neither in it nor with a member", z.name, i);
        break;
      }
      if (locked_ && holder != 0 && pool.table->only_member != several_members &&
          pool.table->only_member != holder) {
        broken("Z1: pool \"{}\" was said to be used by member {} alone, but {} has objects", z.name,
               pool.table->only_member, holder);
        break;
      }
      if (holder > (locked_ ? s_.members_used() : s_.member_limit())) {
        broken("Z1: pool \"{}\": object {} is held by member {}, who is nobody", z.name, i, holder);
        break;
      }
      if (holder == 0 || in_pool || kept[i]) continue;
      ++out;
      ++held_[holder].objects;
    }
    if (report_.exact && in_bits + in_caches + out != pool.object_count)
      broken(
          "Z2: pool \"{}\": {} objects are in it, {} in caches and {} with members; together they "
          "are not {}",
          z.name, in_bits, in_caches, out, pool.object_count);
  }

  void check_ring(const zone_record& z) {
    const u64 capacity = sane_capacity(s_, z);
    auto* ring = s_.chunk<ring_table>(z.table);
    if (capacity == 0) return broken("Z1: ring \"{}\" has an impossible table", z.name);
    if (locked_ && !are_sane_slots(*ring, capacity))
      broken("Z5: ring \"{}\" has slots that are of no round, or counters that are not near them",
             z.name);
    if (locked_ && (ring->incarnation.value == 0 || ring->incarnation.value > h_.incarnations))
      broken("Z1: ring \"{}\" has number {}, and {} were made", z.name, ring->incarnation.value,
             h_.incarnations);
    if (locked_ && ring->seal != ring->right_seal())
      broken("Z4: the table of ring \"{}\" does not fit its seal", z.name);
    for (const ring_taker& taker : ring->takers)
      if (count_in_hand(taker.hand.value) > in_hand_limit ||
          confirmed_in_hand(taker.hand.value) > in_hand_limit ||
          member_of_claim(taker.claim.value) > s_.member_limit())
        broken("Z1: ring \"{}\" has an impossible taker", z.name);
  }

  void check_overlap() {
    std::sort(taken_.begin(), taken_.end(),
              [](const piece& a, const piece& b) { return a.begin < b.begin; });
    for (size_t i = 1; i < taken_.size(); ++i)
      if (taken_[i].begin < taken_[i - 1].end)
        return broken("A1: bytes {} to {} belong to a {} and to a {}", taken_[i].begin,
                      taken_[i - 1].end, taken_[i - 1].what, taken_[i].what);
    if (!locked_ || !report_.holds()) return;  // what a broken table leads to was not looked at
    u64 end = s_.geometry().arena_at;
    for (const piece& p : taken_) {
      if (p.begin != end)
        return broken("A2: bytes {} to {} of the metadata belong to nobody", end, p.begin);
      end = p.end;
    }
    if (end != h_.arena.top)
      broken("A2: bytes {} to {} of the metadata belong to nobody", end, h_.arena.top);
  }

  struct piece {
    u64 begin, end;
    const char* what;
  };
  const segment& s_;
  const segment_header& h_;
  const std::vector<bool>& still_;
  const bool locked_, after_a_death_;
  audit_report& report_;
  std::vector<piece> taken_;
  std::unordered_set<chunk_ref> slabs_, slabs_linked_;
  std::unordered_set<u32> usable_;
  std::unordered_set<u64> zones_backed_;
  struct tally {
    u32 extents = 0, holdings = 0, orphans = 0, objects = 0;
  };
  std::unordered_map<u32, tally> held_;  // by member; 0: nobody
  u64 slabs_found_ = 0, regions_ = 0;
};

}  // namespace

void inspect_segment(const segment& s, const std::vector<bool>& still, bool locked,
                     audit_report* report, bool after_a_death) {
  inspector(s, still, locked, report, after_a_death).run();
}

result<audit_report> local_heap::audit() {
  audit_report report;
  if (is_read_only() || !ensure_member()) {
    // Looked at while it moves: a finding counts only if nobody changed the heap meanwhile.
    for (int tries = 0; tries < 20; ++tries) {
      const u64 before = segment_.header().lock_sequence.load(std::memory_order_acquire);
      report = {};
      inspect_segment(segment_, {}, false, &report);
      if (report.holds() ||
          (before == segment_.header().lock_sequence.load(std::memory_order_acquire) &&
           before % 2 == 0))
        return report;
    }
    report.broken.clear();
    return report;
  }
  locked t(*this);
  frozen_caches frozen = recover_and_freeze(*t);
  std::vector<bool> still(segment_.slots_used(), false);
  for (const thread_cache* c : frozen.caches)
    still[c->slot] = true;
  report.exact = frozen.not_still == 0;
  inspect_segment(segment_, still, true, &report);
  thaw(frozen);
  return report;
}

}  // namespace annex::detail
