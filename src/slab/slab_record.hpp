// slab/slab_record.hpp - an extent cut into equal blocks, and who may hand them out.
//
//   record  │ header 64 B │ free[words] │ remote[words] │
//
//   a block is   in the free bitmap         free; changed by the owner alone, without atomics
//                or in a magazine           free; the owner's (cache/thread_cache.hpp)
//                or in the remote bitmap    freed by another thread or process, not yet collected
//                or nowhere                 live
//
// Invariants (audit):
//   S1  free_count = bits in free[]; bits beyond capacity are 0; summary bit w = (free[w] != 0)
//   S2  no block is in two of free, remote and magazines       (after recovery; in between the union counts)
//   S3  all granules of the slab name its owner, class, their distance to the first and where blocks end
//   S4  the slab is in its owner's lane list, or, without owner, in the heap's orphan list of its class
//   S5  a holding's bits are live blocks
//   S6  no block from first_clean on was ever in a magazine
//
// Holdings: a slab's live blocks are its member's. When the slab goes on to another member (its thread ended or died), the
// blocks that are live then are written down in a holding record first, so the holder of every block stays known.
#pragma once
#include "base/size_class.hpp"
#include "extent/extents.hpp"
#include "shared/arena.hpp"

namespace annex {

struct slab_record {
  u16 owner;               // thread slot, or no_owner
  u8 size_class, in_partial;
  u16 lane, words;
  u32 granule;             // first of the extent
  u16 region;              // slot
  u16 member;              // whose the live blocks are, but for the holdings
  u32 free_count, capacity;
  chunk_ref lane_next, lane_previous;        // truth: which slabs a thread owns (or the orphans of a class)
  chunk_ref partial_next, partial_previous;  // index: slabs with free blocks, of the owner alone
  chunk_ref holdings;
  u32 first_clean;         // blocks from here on were never handed out and are zeros; of the owner alone
  u64 summary;
  u32 padding1[2];

  u64* free_words() noexcept { return reinterpret_cast<u64*>(this + 1); }
  shared_word<u64>* remote_words() noexcept { return reinterpret_cast<shared_word<u64>*>(this + 1) + words; }
  /// The bits of word w that stand for blocks.
  u64 valid_bits(u32 w) const noexcept { return low_bits(capacity - w * 64 < 64 ? capacity - w * 64 : 64); }
};
static_assert(sizeof(slab_record) == 64);

struct holding_record {
  chunk_ref next;
  u16 member, words;
  u64* bits() noexcept { return reinterpret_cast<u64*>(this + 1); }
};
static_assert(sizeof(holding_record) == 8);

constexpr u64 slab_record_bytes(u32 words) noexcept { return sizeof(slab_record) + u64{words} * 16; }
constexpr u64 holding_record_bytes(u32 words) noexcept { return sizeof(holding_record) + u64{words} * 8; }

/// Cuts a slab of about so many bytes out of the region for a thread. Null: no room.
slab_record* make_slab(transaction& t, const local_region& region, u32 size_class, u64 wanted_bytes, u16 owner, u32 member) noexcept;
/// Gives a slab without live blocks back to its region. It must be in no list but its lane or orphan list, whose head this is.
void release_slab(transaction& t, const local_region& region, slab_record* slab, chunk_ref* list_head) noexcept;

void link_slab(transaction& t, chunk_ref* list_head, slab_record* slab) noexcept;
void unlink_slab(transaction& t, chunk_ref* list_head, slab_record* slab) noexcept;
/// What the index-th granule of the slab says.
granule_entry slab_granule(const slab_record& slab, u32 index, u16 owner, u8 kind, u32 granule_shift) noexcept;
/// Writes owner and kind into every granule of the slab.
void set_owner(transaction& t, const local_region& region, slab_record* slab, u16 owner, bool held) noexcept;

/// Writes the slab's live blocks down as held by its present member. False: no metadata left.
bool add_holding(transaction& t, slab_record* slab) noexcept;
/// Drops holdings that are empty; true when none is left.
bool drop_empty_holdings(transaction& t, slab_record* slab) noexcept;
/// Forgets holders of blocks that are free now. Not logged: by the owner, before the blocks become free.
void clear_holders(const segment& s, slab_record* slab, u32 word, u64 bits) noexcept;
/// The bits of live blocks in word w that are held through holdings.
u64 held_bits(const segment& s, slab_record* slab, u32 word) noexcept;

/// Moves blocks that others freed into the free bitmap. Only the owner, or who stands in for it. Returns how many;
/// *doubles counts blocks that were free already.
u32 collect(const segment& s, slab_record* slab, u32* doubles) noexcept;
/// Free count and summary from the bitmap.
void recount(slab_record* slab) noexcept;
u32 live_blocks(slab_record* slab) noexcept;  // including those in magazines

}  // namespace annex
