// region/generation.hpp - what a handle says, and how the names that one place had over the years
// are told apart.
//
//   handle  63     58 57    44 43     k k-1     0    of a region of up to 2^k bytes (k at least 12)
//           [ high  ][ slot   ][ low    ][ offset ]
//   number  [ high  ]          [ low    ][ offset ]   50 bits: generation << k | offset
//
// A slot counts numbers through all the regions it ever has: numbers_used of its record says below
// which they have all been given out, and a region begins above. So a handle of memory that was
// removed is below every region that comes after it, for ever: a slot whose numbers are used up has
// no region any more. The first region of a slot begins at 0, and a first name has generation 0:
// the slot and the offset are then all that a handle says.
//
// Within a region a generation belongs to a byte. It rises when a block that somebody asked a
// handle of becomes free:
//
//   slab      a table of a word per block, made with its first handle (extent_entry::generations)
//   large     the word in its extent's entry (extent_entry::name)
//   zone      the same; it is named as soon as it is reserved
//   pool      a table of a word per object (pool_table::generations); generations begin behind the
//             zone's own
//
// and stays where it got to when the place is cut anew: floors[] has, for each 64th of the region,
// the lowest generation that was not given out there. An extent begins at the highest floor it
// touches; what ends raises those it touched.
//
// Numbers do not suffice for ever: a place whose block was named as often as it has generations
// begins again (with the region's first). From then on "higher" is taken for "less than half a turn
// ahead", and the region's numbers count as used up. docs/design/0013 has the sums.
//
// Invariants (audit; H1 and H2 also stand where they belong):
//   H1  an extent in use has a name's word, of a generation that is not above the floors it
//       touches; a zone's says named
//   H2  every free of a block or object with a generation is noticed: its slab is held, its pool is
//       several members'
//   H3  a region's numbers agree with their complement and leave it generations; floors are below
//       these
//
// Threads and processes: a word is set to named by one compare and swap, by anybody who has the
// block; it is moved on by one store, by whoever frees the block, before the block is free.
// floors[] and numbers_used are changed in transactions.
#pragma once
#include "base/limits.hpp"
#include "region/region_record.hpp"
#include "shared/heap_lock.hpp"

namespace annex {

inline constexpr u32 handle_number_bits = 50;
inline constexpr u64 all_numbers = u64{1} << handle_number_bits;

constexpr handle handle_from(u32 slot, u64 number) noexcept {
  const u64 high = number >> limits::handle_slot_shift;
  const u64 low = number & low_bits(limits::handle_slot_shift);
  return handle{(high << limits::region_slot_bits | slot) << limits::handle_slot_shift | low};
}
constexpr u32 slot_of(handle h) noexcept {
  const u64 slot = static_cast<u64>(h) >> limits::handle_slot_shift;
  return static_cast<u32>(slot) & (limits::region_slots - 1);
}
constexpr u64 number_of(handle h) noexcept {
  const u64 word = static_cast<u64>(h);
  const u64 high = word >> (limits::handle_slot_shift + limits::region_slot_bits);
  return high << limits::handle_slot_shift | (word & low_bits(limits::handle_slot_shift));
}

// ---- a name's word: bit 0 named, bits 1 to 30 a generation or how often it has risen; bit 31
// tells it from a link of a list.
inline constexpr u32 word_is_named = 1, word_is_name = 1u << 31, most_generations = (1u << 30) - 2;
constexpr u32 count_in(u32 word) noexcept {
  return (word & ~word_is_name) >> 1;
}
constexpr u32 name_word(u32 generation) noexcept {
  return word_is_name | generation << 1;
}

/// The numbers a region may use: from first_number on, so many generations of 2^offset_bits.
struct generations_of_region {
  u64 first_number = 0;
  u32 offset_bits = 12, count = 1;

  u64 number(u64 offset, u32 generation) const noexcept {
    return first_number + (u64{generation} << offset_bits) + offset;
  }
  u32 next(u32 generation) const noexcept { return generation + 1 < count ? generation + 1 : 0; }
  u32 behind(u32 generation, u32 steps) const noexcept {
    return static_cast<u32>((u64{generation} + steps) % count);
  }
};

/// A region needs so many generations, or its slot is used up.
inline constexpr u32 fewest_generations = 4;

inline u32 offset_bits_of(u64 length_bytes) noexcept {
  return length_bytes <= limits::smallest_page_bytes ? 12 : log2_floor(length_bytes - 1) + 1;
}
/// How many generations a region of this length would have in the slot.
u64 generations_left(const region_record& record, u32 slot, u64 length_bytes) noexcept;
generations_of_region generations_in(const region_record& record, u32 slot) noexcept;

/// Where the region's numbers end: what its slot has used up when it goes.
u64 numbers_used_by(const region_record& record, u32 slot) noexcept;
void use_up_numbers(transaction& t, region_record& record, u32 slot) noexcept;

/// The lowest generation that no byte of [begin, end) had a name with.
u32 floor_of(const region_record& record, const generations_of_region& all, u64 begin,
             u64 end) noexcept;
/// Names of generations below this one have been given out in [begin, end). Inside a transaction.
void raise_floor(transaction& t, region_record& record, const generations_of_region& all, u64 begin,
                 u64 end, u32 generation) noexcept;
/// The higher of two, also after the generations began again.
u32 higher_of(const region_record& record, const generations_of_region& all, u32 a, u32 b) noexcept;

/// The lowest generation above all that a table's words were given, the first of them named
/// `first`.
template <class WordOf>
u32 generation_above(const region_record& record, const generations_of_region& all, u32 first,
                     u64 words, const WordOf& word_of) noexcept {
  u32 highest = first;
  for (u64 i = 0; i < words; ++i)
    if (const u32* const word = word_of(i)) {
      const u32 own = all.behind(first, count_in(*word) + (*word & word_is_named));
      highest = higher_of(record, all, own, highest);
    }
  return highest;
}

/// Whether this can be the word of an extent in use at [begin, end).
bool is_sane_name(const region_record& record, const generations_of_region& all, u64 begin, u64 end,
                  u32 word) noexcept;
/// Whether this can be a word of a table.
constexpr bool is_sane_word(const generations_of_region& all, u32 word) noexcept {
  return (word & word_is_name) == 0 && count_in(word) < all.count;
}
inline bool are_numbers_right(const region_record& record, u32 slot) noexcept {
  return record.numbers_used == ~record.numbers_used_inverted &&
         generations_left(record, slot, record.length_bytes) >= fewest_generations;
}

/// Names of this generation were given out in [begin, end), and what they named ends. Inside a
/// transaction.
void retire_generation(transaction& t, region_record& record, const generations_of_region& all,
                       u64 begin, u64 end, u32 generation) noexcept;

/// The block of this word of a table becomes free: what it was called is not its name any more. One
/// store.
inline void forget_name(region_record& record, const generations_of_region& all, u32 first,
                        u32& word) noexcept {
  const u32 seen = std::atomic_ref(word).load(
      std::memory_order_relaxed);  // relaxed: whoever frees a block knows of its handles
  if ((seen & word_is_named) == 0) return;
  const u32 risen = count_in(seen) + 1;
  if (u64{first} + risen >= all.count) {
    store_word(record.generations_turned, u8{1});
    compiler_fence();
  }
  // sync(name): the last use under the old name comes before the next one is given.
  std::atomic_ref(word).store(risen < all.count ? risen << 1 : 0, std::memory_order_release);
  compiler_fence();  // before the block can be somebody else's
}

}  // namespace annex
