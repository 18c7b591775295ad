// slab/slab_record.hpp - an extent cut into equal blocks, and who may hand them out.
//
//   record  │ header 64 B │ free[words] │ taken[words] │ remote[2 × words] │
//
//   a block is   in the free bitmap         free; changed by the owner alone, without atomics
//                or in a magazine           free; the owner's (cache/thread_cache.hpp)
//                or in the remote bitmap    freed by another thread or process, not yet collected
//                or nowhere                 live
//
// Invariants (audit):
//   S1  free_count = bits in free[]; bits beyond capacity are 0; summary bit w = (free[w] != 0)
//   S2  no block is in two of free, remote and magazines (after recovery; in between the union
//       counts). Whoever frees a block twice breaks it, which is said when the block comes back
//   S3  all granules of the slab name its owner, class, their distance to the first and where
//       blocks end
//   S4  the slab is in its owner's lane list, or, without owner, in the heap's orphan list of its
//       class
//   S5  a holding's bits are live blocks
//   S6  no block from first_clean on was ever in a magazine; the mark agrees with its complement
//   S7  taken[] is the complement of free[]: a block is free only if both say so
//   S8  a word of remote[] agrees with itself: its upper half is the complement of its lower,
//       where the blocks are
//   S9  the seal fits class, capacity, place and member
//   S10 a holding's seal fits its slab, its member and its words; gone[] is the complement of its
//       bits
//
// So each of these words has a witness, and a change from outside is noticed when it is compared
// (docs/design/0014). A block that becomes free is taken out of taken[] first, and one that is
// taken is put there last: whoever dies in between leaves a block that only one of both calls free,
// which counts as taken, as it did before the commit (the store to free[]). What is then left in
// taken[] is set right by recount(). Never, whoever dies when, is a block free by free[] and taken
// by taken[]. Holders the same: a block leaves a holding's bits first and is put among those gone
// last.
//
//   H2  a slab with generations is held (granule_slab_held), unless it is an orphan: no free goes
//       past forget_block()
//
// Holdings: a slab's live blocks are its member's. When the slab goes on to another member (its
// thread ended or died), the blocks that are live then are written down in a holding record first,
// so the holder of every block stays known.
#pragma once
#include "base/seal.hpp"
#include "base/size_class.hpp"
#include "extent/extents.hpp"
#include "shared/arena.hpp"

namespace annex {

struct slab_record {
  u16 owner;  // thread slot, or no_owner
  at_most<u8, class_count - 1> size_class;
  u8 in_partial;
  at_most<u16, limits::lanes - 1> lane;
  at_most<u16, limits::slab_blocks / 64> words;
  u32 granule;  // first of the extent
  u16 region;   // slot
  u16 member;   // whose the live blocks are, but for the holdings
  u32 free_count;
  at_most<u32, limits::slab_blocks> capacity;
  // Truth: which slabs a thread owns (or the orphans of a class).
  chunk_ref lane_next, lane_previous;
  chunk_ref partial_next, partial_previous;  // index: slabs with free blocks, of the owner alone
  chunk_ref holdings;
  u32 clean_mark;  // first_clean(), and its complement above
  u64 summary;
  u32 moving;  // 1 + the word that collect() moves just now; else 0
  u32 seal;

  u64* free_words() noexcept { return reinterpret_cast<u64*>(this + 1); }
  u64* taken_words() noexcept { return free_words() + words; }
  /// Two for each word of the others, since half of each is its witness.
  shared_word<u64>* remote_words() noexcept {
    return reinterpret_cast<shared_word<u64>*>(free_words() + 2 * u64{words});
  }
  /// The blocks of word w that both free[] and taken[] call free.
  u64 free_bits(u32 w) noexcept { return free_words()[w] & ~taken_words()[w]; }
  /// The blocks of word w that others freed. Words that do not agree with themselves say nothing.
  u64 remote_bits(u32 w) noexcept;
  /// Blocks from here on were never handed out and are zeros; of the owner alone. A mark that does
  /// not agree: none.
  u32 first_clean() const noexcept {
    return is_clean_mark_right() ? clean_mark & 0xffff : u32{capacity};
  }
  bool is_clean_mark_right() const noexcept {
    return (clean_mark & 0xffff) == (~clean_mark >> 16) && (clean_mark & 0xffff) <= capacity;
  }
  void set_first_clean(u32 block) noexcept { store_word(clean_mark, block | ~block << 16); }
  u32 right_seal() const noexcept {
    return static_cast<u32>(seal_of(
        {u64{region} << 32 | granule, u64{capacity} << 32 | u64{member} << 8 | size_class}));
  }
  /// The bits of word w that stand for blocks.
  u64 valid_bits(u32 w) const noexcept {
    const u32 blocks = capacity;
    return w * 64 >= blocks ? 0 : low_bits(blocks - w * 64 < 64 ? blocks - w * 64 : 64);
  }
};
static_assert(sizeof(slab_record) == 64);

//   record  │ header 16 B │ bits[words] │ gone[words] │
struct holding_record {
  chunk_ref next;
  u16 member;
  at_most<u16, limits::slab_blocks / 64> words;
  u32 padding;
  u32 seal;
  u64* bits() noexcept { return reinterpret_cast<u64*>(this + 1); }
  u64* gone_words() noexcept { return bits() + words; }
  /// The blocks of word w that the member holds: those that both bits and gone[] call its own.
  u64 held_bits(u32 w) noexcept { return bits()[w] & ~gone_words()[w]; }
  u32 right_seal(chunk_ref slab) const noexcept {
    return static_cast<u32>(seal_of({u64{slab} << 32 | u64{member} << 16 | words}));
  }
};
static_assert(sizeof(holding_record) == 16);

constexpr u64 slab_record_bytes(u32 words) noexcept {
  return sizeof(slab_record) + u64{words} * 32;
}
constexpr u64 holding_record_bytes(u32 words) noexcept {
  return sizeof(holding_record) + u64{words} * 16;
}

// ---- the words of a block and their witnesses
inline constexpr u64 no_remote = ~u64{0} << 32;  // nobody freed a block of this word
constexpr bool is_remote_word(u64 word) noexcept {
  return static_cast<u32>(word) == static_cast<u32>(~word >> 32);
}

inline u64 slab_record::remote_bits(u32 w) noexcept {
  u64 bits = 0;
  for (u32 half = 0; half < 2; ++half) {
    const u64 word = remote_words()[w * 2 + half].load(
        std::memory_order_acquire);  // sync(remote free): the freer's last use is over
    if (is_remote_word(word)) bits |= (word & 0xffffffff) << (half * 32);
  }
  return bits;
}

/// A block that another thread frees. The lower half of what was there before: its word's blocks,
/// with a bit for this one if it was free already, which changes nothing. One compare and swap of
/// both halves commits: there is no instant without a witness.
inline u32 free_remotely(slab_record& slab, u32 block) noexcept {
  shared_word<u64>& word = slab.remote_words()[block / 32];
  const u64 bit = u64{1} << (block % 32);
  u64 before = word.load(std::memory_order_relaxed);
  // sync(remote free): release: our use of the block is over before its owner takes it; acquire:
  // the owner's collect before us
  while ((before & bit) == 0 &&
         !word.compare_exchange(before, before ^ (bit | bit << 32), std::memory_order_acq_rel)) {}
  return static_cast<u32>(before);
}
/// Takes blocks that are there out of the remote word w.
inline void clear_remote(slab_record& slab, u32 w, u64 bits) noexcept {
  for (u32 half = 0; half < 2; ++half)
    if (const u64 mine = bits >> (half * 32) & 0xffffffff; mine != 0)
      // sync(remote free): release: what was collected comes before the next remote free.
      slab.remote_words()[w * 2 + half].fetch_xor(mine | mine << 32, std::memory_order_acq_rel);
}

/// Blocks become free: the store to free[] commits.
inline void mark_free(slab_record& slab, u32 w, u64 bits) noexcept {
  u64& taken = slab.taken_words()[w];
  store_word(taken, taken & ~bits);
  compiler_fence();
  u64& free = slab.free_words()[w];
  store_word(free, free | bits);
}
/// Of the free blocks of word w only these are left: the store to free[] commits. What has no
/// witness is left as it is found.
inline void leave_free(slab_record& slab, u32 w, u64 left) noexcept {
  u64& free = slab.free_words()[w];
  u64& taken = slab.taken_words()[w];
  store_word(free, left | (free & taken));
  compiler_fence();
  store_word(taken, taken | ~left);
}
/// So many blocks of word w are the holder's no more.
inline void drop_held(holding_record& holding, u32 w, u64 bits) noexcept {
  u64& held = holding.bits()[w];
  u64& gone = holding.gone_words()[w];
  store_word(held, held & ~bits);
  compiler_fence();
  store_word(gone, gone | bits);
}

/// Cuts a slab of about so many bytes out of the region for a thread. Null: no room.
slab_record* make_slab(transaction& t, const local_region& region, u32 size_class, u64 wanted_bytes,
                       u16 owner, u32 member) noexcept;
/// Gives a slab without live blocks back to its region. It must be in no list but its lane or
/// orphan list, whose head this is.
void release_slab(transaction& t, const local_region& region, slab_record* slab,
                  chunk_ref* list_head) noexcept;

void link_slab(transaction& t, chunk_ref* list_head, slab_record* slab) noexcept;
void unlink_slab(transaction& t, chunk_ref* list_head, slab_record* slab) noexcept;
/// The slab's extent; nobody's, if its record can't be believed.
inline extent_entry& extent_of(const local_region& region, const slab_record& slab) noexcept {
  return region.extents[slab.granule];
}
/// A block's word in the table of generations of the slab with this extent; null: nobody ever asked
/// for a handle of one.
u32* generation_word(const segment& s, const extent_entry& extent, const slab_record& slab,
                     u32 block) noexcept;
/// The generation that the blocks of the slab with this extent began with.
inline u32 first_generation(const extent_entry& extent) noexcept {
  return count_in(extent.name);
}
/// Makes the table; every free of a block takes the slow path from then on. False: no metadata
/// left. Commits.
bool make_generations(transaction& t, const local_region& region, slab_record* slab) noexcept;
/// Before the block becomes free: its handles are stale from now on.
inline void forget_block(const segment& s, const local_region& region, const slab_record& slab,
                         u32 block) noexcept {
  extent_entry& extent = extent_of(region, slab);
  if (extent.generations == 0) return;
  if (u32* const word = generation_word(s, extent, slab, block))
    forget_name(*region.record, region.generations, first_generation(extent), *word);
}

/// What the index-th granule of the slab says.
granule_entry slab_granule(const slab_record& slab, u32 index, u16 owner, u8 kind,
                           u32 granule_shift) noexcept;
/// Writes owner and kind into every granule of the slab. held: it has holdings; with generations it
/// is held anyway.
void set_owner(transaction& t, const local_region& region, slab_record* slab, u16 owner,
               bool held) noexcept;

/// Writes the slab's live blocks down as held by its present member. False: no metadata left.
bool add_holding(transaction& t, slab_record* slab) noexcept;
/// Drops holdings that are empty; true when none is left. Commits in between where there are many,
/// so nothing else may have been put before: each drop is a whole change, and the slab may go on as
/// held by others while it has no holding.
bool drop_empty_holdings(transaction& t, slab_record* slab) noexcept;
/// Forgets holders of blocks that are free now. Not logged: by the owner, before the blocks become
/// free.
void clear_holders(const segment& s, slab_record* slab, u32 word, u64 bits) noexcept;
/// The bits of live blocks in word w that are held through holdings.
u64 held_bits(const segment& s, slab_record* slab, u32 word) noexcept;

/// Moves blocks that others freed into the free bitmap. Only the owner, or whoever stands in for
/// it. Returns how many;
/// *doubles counts blocks that were free already: freed twice. Where somebody died collecting
/// (moving), one word's blocks are in both places by rule R2; these are no mistakes and not
/// counted.
u32 collect(const segment& s, slab_record* slab, u32* doubles) noexcept;
/// Free count and summary from the bitmap, and what a death left in taken[] and in the holdings.
void recount(const segment& s, slab_record* slab) noexcept;
/// The slab whose extent begins at this granule, if its record can be one; else null.
slab_record* slab_of(const segment& s, const local_region& region, u32 granule) noexcept;
u32 live_blocks(slab_record* slab) noexcept;  // including those in magazines

}  // namespace annex
