// base/size_class.hpp - which block size serves a request; computed, never typed.
//
//   class 0            unused
//   class 1 … 8        16 32 … 128           steps of 16
//   class 9 …          four per doubling     160 192 224 256 320 … 65536
//
// Internal waste: below 16 bytes up to 128, at most 20 % of the block above. A block of class c
// lies at a multiple of its size inside its slab, so a power-of-two class is aligned to its size
// (up to a page).
#pragma once
#include <array>

#include "base/limits.hpp"

namespace annex {

constexpr u32 class_of_above_128(u64 bytes) noexcept {  // 128 < bytes <= largest_slab_block_bytes
  const u32 exponent = log2_floor(bytes - 1);
  return 9 + (exponent - 7) * 4 + (static_cast<u32>((bytes - 1) >> (exponent - 2)) & 3);
}

inline constexpr u32 class_count = class_of_above_128(limits::largest_slab_block_bytes) + 1;

inline constexpr auto class_bytes = [] {
  std::array<u32, class_count> bytes{};
  for (u32 c = 1; c <= 8; ++c)
    bytes[c] = c * 16;
  for (u32 c = 9; c < class_count; ++c) {
    const u32 doubling = (c - 9) / 4, quarter = (c - 9) % 4 + 1;
    bytes[c] = (128u << doubling) + (32u << doubling) * quarter;
  }
  return bytes;
}();

// One load on the fast path: by ceil(bytes / 16) up to 1024 bytes, by ceil(bytes / 256) above.
inline constexpr u64 fine_table_bytes = 1024, fine_step = 16, coarse_step = 256;
inline constexpr u64 fine_entries = fine_table_bytes / fine_step + 1;
inline constexpr auto class_table = [] {
  std::array<u8, fine_entries + limits::largest_slab_block_bytes / coarse_step + 1> table{};
  u32 c = 1;
  for (u64 i = 0; i < table.size(); ++i) {
    const u64 bytes = i < fine_entries ? i * fine_step : (i - fine_entries) * coarse_step;
    if (i == fine_entries) c = 1;
    while (class_bytes[c] < bytes)
      ++c;
    table[i] = static_cast<u8>(c);
  }
  return table;
}();

constexpr u64 class_table_index(u64 bytes) noexcept {
  if (bytes <= fine_table_bytes) return (bytes + fine_step - 1) / fine_step;
  return fine_entries + (bytes + coarse_step - 1) / coarse_step;
}
/// bytes up to largest_slab_block_bytes; 0 counts as 1.
constexpr u32 class_of(u64 bytes) noexcept {
  return class_table[class_table_index(bytes)];
}

/// The smallest class that holds bytes with every block at a multiple of alignment (a power of two
/// up to a page).
constexpr u32 class_of_aligned(u64 bytes, u64 alignment) noexcept {
  u32 c = class_of(bytes > alignment ? bytes : alignment);
  while (class_bytes[c] % alignment != 0)
    ++c;
  return c;
}

// Division by the class size as a multiplication: exact for offsets below 4 MiB.
inline constexpr u32 division_shift = 40;
inline constexpr auto class_reciprocal = [] {
  std::array<u64, class_count> reciprocals{};
  for (u32 c = 1; c < class_count; ++c)
    reciprocals[c] = ((u64{1} << division_shift) + class_bytes[c] - 1) / class_bytes[c];
  return reciprocals;
}();
constexpr u32 block_index_of(u64 offset_in_slab, u64 reciprocal) noexcept {
  return static_cast<u32>((offset_in_slab * reciprocal) >> division_shift);
}

// Whether an offset is a multiple of the class size, by one multiplication: with divisor = 2^64 /
// size rounded up, exactly the multiples (below 2^32) have a product, modulo 2^64, below the
// divisor. Source: Lemire, Kaser and Kurz (2019).
inline constexpr auto class_divisor = [] {
  std::array<u64, class_count> divisors{};
  for (u32 c = 1; c < class_count; ++c)
    divisors[c] = ~u64{0} / class_bytes[c] + 1;
  return divisors;
}();
constexpr bool is_block_start(u64 offset_in_slab, u64 divisor) noexcept {
  return offset_in_slab * divisor < divisor;
}

/// How many bytes a thread's next slab of this class should have, when it has cut `made` of them:
/// one granule and at least 16 blocks. In a region with small granules 8 blocks at first, then
/// more, up to a 64th of the region or 64 KiB, at most 256 KiB.
constexpr u64 slab_bytes_of(u32 size_class, u64 granule_bytes, u64 region_bytes,
                            u32 made) noexcept {
  const u64 bytes = class_bytes[size_class];
  const bool has_small_granules = granule_bytes < 64 * KiB;
  u64 wanted = granule_bytes;
  while (wanted < (has_small_granules ? 8 : 16) * bytes)
    wanted *= 2;
  const u64 share = region_bytes / 64, largest = !has_small_granules ? 0
                                                 : share < 64 * KiB  ? 64 * KiB
                                                 : share < 256 * KiB ? share
                                                                     : 256 * KiB;
  for (u32 step = 2;
       step <= made && wanted * 2 <= largest && wanted * 2 <= bytes * limits::slab_blocks;
       step *= 2)
    wanted *= 2;
  const u64 most = granule_bytes * limits::slab_granules;
  return wanted < most ? wanted : most;
}

static_assert(class_bytes[class_count - 1] == limits::largest_slab_block_bytes);
static_assert(
    [] {
      for (u64 bytes = 1; bytes <= limits::largest_slab_block_bytes;
           bytes += bytes < 5000 ? 1 : 7) {
        const u32 c = class_of(bytes);
        if (class_bytes[c] < bytes || (c > 1 && class_bytes[c - 1] >= bytes)) return false;
      }
      return true;
    }(),
    "every request gets the smallest class that holds it");
static_assert(
    [] {
      for (u32 c = 1; c < class_count; ++c)
        for (u64 block = 0; block * class_bytes[c] < 4 * MiB && block < limits::slab_blocks;
             block += 97)
          if (block_index_of(block * class_bytes[c], class_reciprocal[c]) != block) return false;
      return true;
    }(),
    "the multiplication divides exactly");
static_assert(
    [] {
      for (u32 c = 1; c < class_count; ++c)
        for (u64 block = 0; (block + 1) * class_bytes[c] <= 4 * MiB; block += 1 + block / 7) {
          const u64 start = block * class_bytes[c];
          if (!is_block_start(start, class_divisor[c])) return false;
          for (const u64 inside :
               {u64{1}, u64{8}, u64{class_bytes[c]} / 2, u64{class_bytes[c]} - 1})
            if (is_block_start(start + inside, class_divisor[c])) return false;
        }
      return true;
    }(),
    "exactly the multiples are block starts");

}  // namespace annex
