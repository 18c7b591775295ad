// heap/repair.cpp - every index of a damaged segment, built anew from the truth. For one who is
// alone with it.
//
//   truth (kept), and its witness                    index (rebuilt)
//   header: limits, places; a seal                   counts
//   regions: records, IOVA runs; a seal for each     slots used, with memory; indexes of runs
//   extents in use: their entries; a seal for each   kinds, free and live counts
//   free extents: kinds, length, foot, list          lists
//   slabs: class, place, member; a seal              capacity, counts, granules, lanes, orphans
//   blocks: free and taken bits; remote, by halves   first and last words with free ones
//   magazines: none                                  (believed where the audit finds nothing; else
//                                                    their blocks stay with the slab's member)
//   zones: records, chains; a seal for each          where their extents lie, counts, pages
//   pools: bits and holders                          counts; caches (as magazines)
//   rings: slots, which have to be of one round      counters
//   generations of extents: a seal                   (impossible ones begin anew, above:
//   generations of blocks and objects: none          docs/design/0013)
//   members, threads: who they were                  what they hold, in numbers
//   arena: what all of these occupy                  free lists: the rest
//
// No number is used before it was compared with what it may be (heap/sanity.hpp). A record that
// does not fit its seal is tried with one byte changed back (base/mend.hpp), then with what its
// neighbours say. What is true by one word and false by another stays in use and is named
// (repair_report::uncertain); what can't be made whole is left as it is, and the audit afterwards
// names it. A death in the middle: repair again. docs/design/0014 has the reasons.
#include <algorithm>
#include <cstring>

#include "base/mend.hpp"
#include "heap/rebuilder.hpp"
#include "platform/os.hpp"

namespace annex::detail {

void rebuilder::run() {
  mend_header();
  mend_arena_top();
  find_regions();
  find_zones();
  rebuild_regions();
  empty_threads();
  link_slabs();
  rebuild_zones();
  rebuild_members();
  rebuild_arena();
}

bool rebuilder::is_taken(u64 begin, u64 end) const {
  const auto next = taken_.lower_bound(begin);
  return (next != taken_.end() && next->first < end) ||
         (next != taken_.begin() && std::prev(next)->second > begin);
}

bool rebuilder::take(chunk_ref ref, u64 bytes) {
  if (!lies_in_arena(s_, ref, bytes)) return false;
  const u64 begin = u64{ref} * chunk_unit_bytes, end = begin + chunk_bytes(bytes);
  if (is_taken(begin, end)) return false;
  taken_.emplace(begin, end);
  return true;
}

// A record that nobody ever used, before one that is free; never one of those kept for who mends.
u32 rebuilder::nobody() {
  if (nobody_ != 0) return nobody_;
  const u32 last = s_.member_limit() - kept_for_mending;
  for (u32 id = last; id > s_.members_used() && id != 0; --id)
    if (s_.member(id).state.value == member_free) nobody_ = id;
  for (u32 id = last; id != 0 && nobody_ == 0; --id)
    if (s_.member(id).state.value == member_free) nobody_ = id;
  if (nobody_ == 0) {  // everybody holds something: the last one of them takes it over
    for (u32 id = last; id != 0 && nobody_ == 0; --id)
      if (s_.member(id).state.value != member_free) nobody_ = id;
    doubt("no member's record is free for what belongs to nobody: it is listed under member {}",
          nobody_);
    return nobody_;
  }
  member_record& m = s_.member(nobody_);
  m.process_id = 0;
  m.start_time = 0;
  m.region_claims = 0;
  m.threads = 0;
  std::memset(m.program, 0, sizeof m.program);
  std::memcpy(m.program, "(uncertain)", sizeof "(uncertain)");
  m.state.value = member_dead;
  say("member {}, \"(uncertain)\", is made to hold what belongs to nobody that is known", nobody_);
  return nobody_;
}

// ---- the header ---------------------------------------------------------------------------------

bool mend_header(segment_header& h, u64 file_bytes) {
  if (h.state.value != segment_ready && h.state.value != segment_destroyed)
    h.state.value = segment_ready;
  const sealed_bytes first{&h, offsetof(segment_header, state)},
      second{&h.member_limit,
             offsetof(segment_header, lock) - offsetof(segment_header, member_limit)};
  const bool fits =
      mend_by_seal(h.seal, {first, second}, [&] { return seal_of_header(h); }) != mending::failed;
  // What the file's own length says better, as long as it was not cut.
  const bool is_whole = h.arena.top <= file_bytes && file_bytes <= h.reserve_bytes;
  if (is_whole && (h.arena.file_bytes > file_bytes || h.arena.file_bytes < h.arena.top))
    h.arena.file_bytes = file_bytes;
  h.member_records_used.value = std::min(h.member_records_used.value, h.member_limit);
  h.thread_slots_used.value = std::min(h.thread_slots_used.value, h.thread_limit);
  return fits;
}

void lengthen_behind_the_arena(const segment& s) {
  const u64 top = s.header().arena.top, there = s.file_bytes();
  if (top > there || top < s.geometry().arena_at || top + spare_file_bytes > s.mapped_bytes())
    return;
  const u64 end = align_up(top + spare_file_bytes, os::page_bytes());
  // A file that may not be longer (a full file size limit) stays as it is: chunks at its end are
  // refused then.
  if (end > there) (void)os::set_length(s.fd(), end);
}

void rebuilder::mend_header() {
  h_.lock.value = 0;
  h_.lock_sequence.value &= ~u64{1};
  const segment_header before = h_;
  if (detail::mend_header(h_, s_.file_bytes()) &&
      std::memcmp(static_cast<const void*>(&before), &h_, sizeof before) != 0)
    say("the header: a word of it is right again, by its seal or by the file's length");
}

// When something lies behind the arena's top, it is the top that is wrong, as far as the file goes.
void rebuilder::mend_arena_top() {
  const u64 there = std::max(std::min(h_.arena.file_bytes, s_.file_bytes()), spare_file_bytes);
  const u64 end = align_down(there - spare_file_bytes, chunk_unit_bytes);
  const bool is_too_low =
      std::any_of(report_.found.begin(), report_.found.end(),
                  [](const std::string& sentence) { return sentence.starts_with("A1"); });
  if (is_too_low && end > h_.arena.top) fix(h_.arena.top, end, "the end of the metadata");
  if (h_.arena.top % chunk_unit_bytes != 0)
    fix(h_.arena.top, align_up(h_.arena.top, chunk_unit_bytes), "the end of the metadata");
}

// ---- threads: all dead --------------------------------------------------------------------------

void rebuilder::empty_threads() {
  u32 used = 0;
  for (u32 i = 0; i < s_.thread_limit(); ++i) {
    thread_slot& slot = s_.slot(i);
    if (member_of_state(slot.state.value) > s_.member_limit()) {
      say("thread {} was said to be member {}'s, who is nobody", i,
          member_of_state(slot.state.value));
      slot.state.value = slot.state.value >> 16 << 16;
    }
    if (slot.inflight_region_1 != 0 &&
        (!slot.has_inflight() || slot.inflight_region_1 > s_.region_limit()))
      fix(slot.inflight_region_1, 0, "a large block on its way");
    if (slot.cache != 0 && !take(slot.cache, sizeof(thread_cache))) {
      doubt(
          "thread {} (member {}) had a cache that is not where it should be: what it kept stays in "
          "use",
          i, member_of_state(slot.state.value));
      slot.cache = 0;
    }
    if (slot.state.value != 0 || slot.cache != 0) used = i + 1;
    if (slot.cache == 0) continue;
    auto& c = *s_.chunk<thread_cache>(slot.cache);
    if (c.slot != i) continue;
    if (c.key != 0)
      fix(c.key, i | u32{granule_slab} << 16, fmt::format("thread {}: whose cache it is", i));
    for (u32 k = 1; k < class_count; ++k)
      empty_magazine(c, i, k);
    std::fill(std::begin(c.lanes), std::end(c.lanes), 0);
    std::fill(std::begin(c.used_lanes), std::end(c.used_lanes), 0);
    c.busy.value = c.frozen.value = 0;
  }
  fix(h_.thread_slots_used, used, "the thread slots that were ever used");
}

// Count and entries are written by the hits, which can't afford a witness: an entry may name a
// block that is in use.
void rebuilder::empty_magazine(thread_cache& c, u32 thread, u32 k) {
  magazine& m = c.magazines[k];
  const u32 n = m.count.value;
  const u32 member = member_of_state(s_.slot(thread).state.value);
  if (n > magazine_slots)
    say("thread {}: {} entries in the magazine of class {} can't be", thread, n, k);
  if (caches_are_believed_)
    give_back(c, std::min(n, magazine_slots), k);
  else if (n != 0 && member != 0)
    doubt(
        "thread {} (member {}) kept {} blocks of {} bytes, which nothing vouches for: those that "
        "are not free in their slabs stay with the slabs' members",
        thread, member, std::min(n, magazine_slots), class_bytes[k]);
  m.count.value = 0;
  m.capacity = std::min<u32>(m.capacity, magazine_slots);
  m.block_bytes = class_bytes[k];
  m.divisor = class_divisor[k];
  m.partial = m.empties = m.moving = 0;
}

// What the audit would have recovery do.
void rebuilder::give_back(const thread_cache& c, u32 count, u32 k) {
  for (u32 i = 0; i < count; ++i) {
    const auto is_slab = [&](chunk_ref ref) { return slabs_.contains(ref); };
    const auto [slab, index] = find_cached_block(s_, c.entries_of(k)[i], k, is_slab);
    if (slab == nullptr) continue;
    const u64 bit = u64{1} << (index % 64);
    if ((slab->free_words()[index / 64] & bit) == 0) mark_free(*slab, index / 64, bit);
  }
}

void rebuilder::link_slabs() {
  std::fill(std::begin(h_.orphans), std::end(h_.orphans), 0);
  for (const auto& [ref, where] : slabs_) {
    auto* slab = s_.chunk<slab_record>(ref);
    const region_record& r = region(where.slot);
    thread_cache* owner = nullptr;
    if (slab->owner < h_.thread_slots_used.value &&
        member_of_state(s_.slot(slab->owner).state.value) != 0 && s_.slot(slab->owner).cache != 0) {
      owner = s_.chunk<thread_cache>(s_.slot(slab->owner).cache);
      if (owner->slot != slab->owner || owner->key == 0) owner = nullptr;
    }
    if (owner == nullptr && slab->owner != no_owner)
      fix(slab->owner, no_owner,
          fmt::format("region {}: the slab at granule {}: its owner", r.id.value, where.granule));
    auto* g = s_.chunk<granule_entry>(r.granules) + where.granule;
    const bool is_held =
        slab->holdings != 0 || s_.chunk<extent_entry>(r.extents)[where.granule].generations != 0;
    const u8 kind = is_held && owner != nullptr ? granule_slab_held : granule_slab;
    for (u32 i = 0; i < where.length; ++i) {
      const granule_entry right = slab_granule(*slab, i, slab->owner, kind, r.granule_shift);
      if (std::bit_cast<u64>(g[i]) != std::bit_cast<u64>(right) &&
          (g[i].kind != granule_slab_held || kind != granule_slab))
        say("region {}: granule {} names its slab again", r.id.value, where.granule + i);
      g[i] = right;
    }
    count_free(slab, "");
    slab->in_partial = 0;
    if (owner != nullptr)
      mark_lane(*owner, slab->lane);
    else
      ++tallies_[slab->member].orphans;
    chunk_ref& head = owner != nullptr ? owner->lanes[slab->lane] : h_.orphans[slab->size_class];
    slab->lane_previous = 0;
    slab->lane_next = head;
    if (head != 0) s_.chunk<slab_record>(head)->lane_previous = ref;
    head = ref;
  }
}

// ---- members ------------------------------------------------------------------------------------

void rebuilder::rebuild_members() {
  u32 used = h_.member_records_used.value <= s_.member_limit() ? h_.member_records_used.value : 0;
  for (u32 id = used + 1; id <= s_.member_limit(); ++id)
    if (s_.member(id).state.value != member_free) used = id;
  for (const auto& [id, counted] : tallies_)
    if (id <= s_.member_limit()) used = std::max(used, id);
  fix(h_.member_records_used, used, "the member records that were ever used");
  for (u32 id = 1; id <= used; ++id) {
    member_record& m = s_.member(id);
    const tally& t = tallies_[id];
    const std::string name = fmt::format("member {}", id);
    const bool holds = t.extents + t.holdings + t.orphans + t.objects != 0;
    // Live is always right: the kernel says that it is gone, and the next attach recovers it.
    if (m.state.value > member_joining || (m.state.value == member_free && holds))
      fix(m.state, member_live, name + ": its state");
    if (m.holdings > t.holdings)
      doubt(
          "{} was said to hold blocks in {} slabs that others own, and {} are found: what it held "
          "in others is listed under the members of those slabs",
          name, m.holdings, t.holdings);
    fix(m.extents_held, t.extents, name + ": large blocks it holds");
    fix(m.holdings, t.holdings, name + ": slabs it holds blocks in");
    fix(m.slabs_orphaned, t.orphans, name + ": slabs it left behind");
    if (m.state.value == member_dead) m.pool_objects_held = t.objects;
    if (m.region_claims != 0 &&
        !take(m.region_claims, u64{s_.region_limit()} * sizeof(region_claim)))
      fix(m.region_claims, 0, name + ": its claims");
  }
}

// ---- the arena: what nobody has is free ---------------------------------------------------------

void rebuilder::rebuild_arena() {
  arena_lists& a = h_.arena;
  const audit_report before = inspect_arena();
  if (before.holds()) return;
  say("the lists of free metadata were built anew");
  std::fill(std::begin(a.small_free), std::end(a.small_free), 0);
  std::fill(std::begin(a.large_free), std::end(a.large_free), 0);
  a.small_top = a.small_end = 0;
  u64 at = s_.geometry().arena_at;
  for (const auto& [begin, end] : taken_) {
    if (begin > at) free_space(s_, at, begin);
    at = std::max(at, end);
  }
  if (at < a.top) free_space(s_, at, a.top);
}

// By the audit: only its findings about the arena count here.
audit_report rebuilder::inspect_arena() const {
  audit_report all, arena;
  inspect_segment(s_, {}, true, &all);
  for (const std::string& sentence : all.broken)
    if (sentence.starts_with("A")) arena.broken.push_back(sentence);
  if (arena.holds() && !all.holds()) arena.broken.emplace_back("A2 was not looked at");
  return arena;
}

repair_report rebuild_indexes(const segment& s) {
  repair_report report;
  audit_report before;
  inspect_segment(s, {}, true, &before, s.header().lock.value != 0);
  report.found = before.broken;
  rebuilder(s, &report, before.holds()).run();
  if (std::any_of(report.found.begin(), report.found.end(),
                  [](const std::string& sentence) { return sentence.starts_with("S4"); }))
    report.changed.emplace_back("the lists of slabs were built anew");
  inspect_segment(s, {}, true, &report.after);
  return report;
}

}  // namespace annex::detail
