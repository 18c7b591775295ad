// slab/slab_rebuild.cpp - the slabs of a damaged segment (slab_rules.hpp).
//
// A record is what its seal fits; else what its place and its granules say, and then its blocks are
// nobody's that is known. A block is free only if both of its words say so. A death in the middle:
// repair again.
#include <algorithm>
#include <bit>

#include "base/mend.hpp"
#include "shared/member_rules.hpp"
#include "slab/slab_rules.hpp"

namespace annex::detail {
namespace {

// ---- records by what they say of themselves ---------------------------------------------------

// In what is not a region's table.
void search_records(rebuilding& rb, slabs_rebuilt& slabs) {
  const u64 end = rb.h.arena.top - sizeof(slab_record);
  for (u64 at = rb.s.geometry().arena_at; at <= end;) {
    if (const u64 behind = rb.end_of_taken(at); behind != 0) {
      at = align_up(behind, chunk_unit_bytes);
      continue;
    }
    const auto& slab = *rb.s.at<slab_record>(at);
    const bool is_one = slab.size_class != 0 && slab.size_class < class_count &&
                        slab.capacity != 0 && slab.capacity <= limits::slab_blocks &&
                        slab.seal == slab.right_seal();
    if (is_one)
      slabs.by_place[{slab.region, slab.granule}] = static_cast<chunk_ref>(at / chunk_unit_bytes);
    at += chunk_unit_bytes;
  }
}

// The record that says, by its seal, that it is of the slab there; 0: none.
chunk_ref find_record(rebuilding& rb, const known_region& region, u32 at) {
  const granule_entry& g = region.granules[at];
  if (!is_slab(g.kind) || g.distance != 0) return 0;
  auto& slabs = rb.notes<slabs_rebuilt>();
  if (!slabs.were_searched) {
    slabs.were_searched = true;
    search_records(rb, slabs);
  }
  const auto found = slabs.by_place.find({region.slot, at});
  return found != slabs.by_place.end() ? found->second : 0;
}

bool has_record(rebuilding& rb, const known_region& region, u32 at) {
  return find_record(rb, region, at) != 0;
}

bool write_entry(rebuilding& rb, const known_region& region, u32 at, u32 length) {
  const chunk_ref ref = find_record(rb, region, at);
  if (ref == 0 || rb.s.chunk<slab_record>(ref)->size_class != region.granules[at].size_class)
    return false;
  rb.say("region {}: the slab at granule {} was found by its record", region.id, at);
  set_in_use(region.extents[at], length, 0, 0, ref);
  return true;
}

// ---- one slab ---------------------------------------------------------------------------------

class slab_rebuild {
 public:
  slab_rebuild(rebuilding& rb, const known_region& region, slab_record* slab, u32 at, u32 length)
      : rb_(rb),
        t_(region),
        slab_(slab),
        at_(at),
        length_(length),
        keeps_all_(rb.notes<regions_known>().unsealed.contains(region.slot)),
        name_(fmt::format("region {}: the slab at granule {}", region.id, at)) {}

  // False: there is none that could be believed.
  bool run() {
    if (!mend_record()) return false;
    rb_.fix(slab_->words, divide_up(slab_->capacity, 64), name_ + ": its words");
    const chunk_ref ref = t_.extents[at_].record;
    if (!rb_.take(ref, slab_record_bytes(slab_->words))) return false;
    if (slab_->lane >= limits::lanes) rb_.fix(slab_->lane, 0, name_ + ": its lane");
    if (slab_->owner != no_owner && slab_->owner >= rb_.s.thread_limit())
      rb_.fix(slab_->owner, no_owner, name_ + ": its owner");
    rebuild_blocks();
    rebuild_clean_mark();
    count_free(rb_, slab_, name_ + ": its free blocks");
    rb_.notes<slabs_rebuilt>().records.emplace(ref, extent_run{t_.slot, at_, length_});
    rebuild_holdings();
    rebuild_generations();
    return true;
  }

 private:
  // ---- class, capacity, place and member: by the seal; else by where it lies and what its
  // granules say

  u64 most_blocks_of(u32 size_class) const {
    const u64 bytes = t_.end_of(at_, length_) - t_.offset_of(at_);
    return std::min<u64>(bytes / class_bytes[size_class], limits::slab_blocks);
  }
  bool fits() const {
    return slab_->seal == slab_->right_seal() && slab_->granule == at_ &&
           slab_->region == t_.slot && slab_->size_class < class_count && slab_->size_class != 0 &&
           slab_->capacity != 0 && slab_->capacity <= most_blocks_of(slab_->size_class) &&
           is_member(rb_.s, slab_->member);
  }

  bool mend_record() {
    if (fits()) return true;
    const slab_record before = *slab_;
    (void)mend_by_seal(slab_->seal,
                       {{&slab_->granule, sizeof slab_->granule},
                        {&slab_->region, sizeof slab_->region},
                        {&slab_->member, sizeof slab_->member},
                        {&slab_->size_class, 1},
                        {&slab_->capacity, sizeof slab_->capacity}},
                       [&] { return slab_->right_seal(); });
    if (!fits()) {
      *slab_ = before;
      if (!guess_record()) return false;
    }
    if (fits()) {
      rb_.say("region {}: the record of the slab at granule {} is right again, by its seal", t_.id,
              at_);
      return true;
    }
    slab_->member = static_cast<u16>(nobody_known(rb_));
    slab_->seal = slab_->right_seal();
    rb_.doubt(
        "region {}: the slab at granule {} has blocks of {} bytes by its granules, but nothing "
        "vouches for its record; who holds its blocks is not known: member {} does",
        t_.id, at_, class_bytes[slab_->size_class], nobody_known(rb_));
    return true;
  }

  // Its class as most of its granules have it; every member is tried against the seal. False: no
  // granule tells.
  bool guess_record() {
    std::map<u32, u32> votes;
    for (u32 i = 0; i < length_; ++i)
      if (const granule_entry& g = t_.granules[at_ + i];
          is_slab(g.kind) && g.distance == i && g.size_class != 0 && g.size_class < class_count)
        ++votes[g.size_class];
    const auto most =
        std::max_element(votes.begin(), votes.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    if (most == votes.end() || most_blocks_of(most->first) == 0) return false;
    slab_->granule = at_;
    slab_->region = static_cast<u16>(t_.slot);
    slab_->size_class = static_cast<u8>(most->first);
    slab_->capacity = static_cast<u32>(most_blocks_of(most->first));
    for (u32 id = rb_.s.member_limit(); id != 0 && !fits(); --id)
      slab_->member = static_cast<u16>(id);
    return true;
  }

  // ---- blocks: free only if both words say so

  void rebuild_blocks() {
    // Its owner died in the middle of a slow path: what only one word says is what that left.
    const auto& busy = rb_.notes<slabs_rebuilt>().busy_owners;
    const bool was_busy = slab_->owner < busy.size() && busy[slab_->owner];
    std::vector<u32> doubtful;
    for (u32 w = 0; w < slab_->words; ++w) {
      u64 doubts = rebuild_word(w, was_busy);
      for (; doubts != 0; doubts &= doubts - 1)
        doubtful.push_back(w * 64 + static_cast<u32>(std::countr_zero(doubts)));
    }
    slab_->moving = 0;
    if (dropped_ != 0)
      rb_.say("region {}: the slab at granule {} had {} free blocks beyond its capacity", t_.id,
              at_, dropped_);
    if (!doubtful.empty()) name_doubtful(doubtful);
  }

  // Returns the blocks of the word that only one witness calls free.
  u64 rebuild_word(u32 w, bool was_busy) {
    u64& free = slab_->free_words()[w];
    u64& taken = slab_->taken_words()[w];
    const u64 valid = slab_->valid_bits(w), agreed = keeps_all_ ? 0 : free & ~taken & valid;
    u64 doubts = keeps_all_ ? 0 : (free ^ ~taken) & valid;
    if (was_busy) doubts &= free;
    dropped_ += static_cast<u64>(std::popcount(free & ~valid));
    if (free != agreed) store_word(free, agreed);
    compiler_fence();
    taken = ~agreed;
    for (u32 half = 0; half < 2; ++half)
      doubts |= rebuild_remote(w, half, valid, agreed);
    return doubts;
  }

  // What others freed, of half a word. Returns the blocks that a word without a witness is about.
  u64 rebuild_remote(u32 w, u32 half, u64 valid, u64 agreed) {
    u64& word = slab_->remote_words()[2 * w + half].value;
    const u64 here = valid >> (half * 32) & 0xffffffff;
    u64 doubts = 0;
    if (!is_remote_word(word)) {
      doubts = here << (half * 32) & ~agreed;
      word = no_remote;
    } else if (keeps_all_) {
      word = no_remote;
    } else if ((word & 0xffffffff & ~here) != 0) {
      dropped_ += static_cast<u64>(std::popcount(word & 0xffffffff & ~here));
      word = (word & here) | (~(word & here) & 0xffffffff) << 32;
    }
    // Whoever moved this word died: what has arrived in the bitmap has not been taken away yet.
    if (slab_->moving == w + 1)
      if (const u64 arrived = word & agreed >> (half * 32) & 0xffffffff; arrived != 0)
        word ^= arrived | arrived << 32;
    return doubts;
  }

  void name_doubtful(const std::vector<u32>& doubtful) {
    std::string which;
    const u32 bytes = class_bytes[slab_->size_class];
    for (size_t i = 0; i < doubtful.size();) {  // neighbours together
      size_t last = i;
      while (last + 1 < doubtful.size() && doubtful[last + 1] == doubtful[last] + 1)
        ++last;
      const u64 first_offset = t_.offset_of(at_) + u64{doubtful[i]} * bytes;
      which += fmt::format("{}{:#x}", which.empty() ? "" : ", ", first_offset);
      if (last != i)
        which += fmt::format(" to {:#x}", first_offset + u64{doubtful[last] - doubtful[i]} * bytes);
      i = last + 1;
    }
    rb_.doubt(
        "region {}: nothing vouches for whether these {} blocks of {} bytes are free or live, so "
        "they stay in use, with member {}: those at offset {}",
        t_.id, doubtful.size(), bytes, slab_->member, which);
  }

  void rebuild_clean_mark() {
    if (!slab_->is_clean_mark_right()) {
      rb_.say("{}: all of its blocks may have been handed out before", name_);
      slab_->set_first_clean(slab_->capacity);
    }
    for (u32 block = slab_->first_clean(); block < slab_->capacity; ++block)
      if ((slab_->free_words()[block / 64] >> (block % 64) & 1) == 0)
        slab_->set_first_clean(slab_->capacity);
  }

  // ---- who holds its older blocks

  void rebuild_holdings() {
    u32 steps = 0;
    for (chunk_ref* link = &slab_->holdings; *link != 0;) {
      holding_record* const holding = mend_holding(*link);
      if (holding == nullptr || ++steps > rb_.s.member_limit() ||
          !rb_.take(*link, holding_record_bytes(slab_->words))) {
        rb_.doubt(
            "region {}: the slab at granule {} had a record of who holds its older blocks, which "
            "is damaged: they are listed under member {}",
            t_.id, at_, slab_->member);
        *link = 0;
        break;
      }
      rebuild_held_blocks(*holding);
      ++held_by(rb_, holding->member).holdings;
      link = &holding->next;
    }
  }

  // Null: it can't be believed.
  holding_record* mend_holding(chunk_ref link) {
    if (!lies_in_arena(rb_.s, link, holding_record_bytes(slab_->words))) return nullptr;
    auto* const holding = rb_.s.chunk<holding_record>(link);
    const chunk_ref ref = rb_.s.ref_of(slab_);
    if (holding->words != slab_->words)
      rb_.fix(holding->words, slab_->words, "the words of a record of who holds blocks");
    (void)mend_by_seal(holding->seal, {{&holding->member, sizeof holding->member}},
                       [&] { return holding->right_seal(ref); });
    const bool is_right =
        holding->seal == holding->right_seal(ref) && is_member(rb_.s, holding->member);
    return is_right ? holding : nullptr;
  }

  void rebuild_held_blocks(holding_record& holding) {
    u64 doubtful = 0;
    for (u32 w = 0; w < slab_->words; ++w) {
      const u64 in_use = slab_->valid_bits(w) & ~slab_->free_words()[w];
      doubtful += static_cast<u64>(std::popcount((holding.bits()[w] ^ ~holding.gone_words()[w]) &
                                                 in_use & ~slab_->remote_bits(w)));
      rb_.fix(holding.bits()[w], holding.held_bits(w) & in_use, "free blocks with a holder");
      holding.gone_words()[w] = ~holding.bits()[w];
    }
    if (doubtful != 0)
      rb_.doubt(
          "region {}: the slab at granule {}: whether {} blocks of {} bytes are member {}'s or "
          "member {}'s is not known: they are listed under {}",
          t_.id, at_, doubtful, class_bytes[slab_->size_class], holding.member, slab_->member,
          slab_->member);
  }

  void rebuild_generations() {
    extent_entry& e = t_.extents[at_];
    if (e.generations == 0 || take_words(rb_, t_, e.generations, slab_->capacity)) return;
    rb_.doubt("{} has impossible generations: handles of its blocks are stale", name_);
    e.generations = 0;
    forget_generations(t_, at_);
  }

  rebuilding& rb_;
  const known_region& t_;
  slab_record* const slab_;
  const u32 at_, length_;
  const bool keeps_all_;
  const std::string name_;
  u64 dropped_ = 0;
};

bool restore(rebuilding& rb, const known_region& region, u32 at, u32 length) {
  const chunk_ref ref = region.extents[at].record;
  if (!lies_in_arena(rb.s, ref, sizeof(slab_record)) ||
      rb.is_chunk_taken(ref, sizeof(slab_record)) || length > limits::slab_granules)
    return false;
  return slab_rebuild(rb, region, rb.s.chunk<slab_record>(ref), at, length).run();
}

}  // namespace

void find_slabs(rebuilding& rb) {
  rb.notes<extent_users>().all.push_back({granule_slab, has_record, write_entry, restore});
}

void count_free(rebuilding& rb, slab_record* slab, const std::string& what) {
  u32 count = 0;
  u64 summary = 0;
  for (u32 w = 0; w < slab->words; ++w) {
    count += static_cast<u32>(std::popcount(slab->free_words()[w]));
    if (slab->free_words()[w] != 0) summary |= u64{1} << w;
  }
  if (!what.empty()) {
    rb.fix(slab->free_count, count, what);
    rb.fix(slab->summary, summary, what + " (which words have some)");
  }
  slab->free_count = count;
  slab->summary = summary;
}

}  // namespace annex::detail
