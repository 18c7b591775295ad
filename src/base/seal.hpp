// base/seal.hpp - one word that says whether others are still as they were written.
//
//   seal = seal_of({a, b, c})        written together with a, b and c, which change seldom
//
// Each step is a bijection of the words so far, so a change of any one word changes the seal for
// certain, and a change of several goes unseen once in 2^32 (or 2^64 where all of it is kept).
// Words that are all zero have a seal that is not: a page that lost its contents does not agree
// with itself. It is no secret: whoever wants to forge a record can forge its seal.
#pragma once
#include <cstring>
#include <initializer_list>

#include "base/units.hpp"

namespace annex {

inline constexpr u64 empty_seal = 0x9e3779b97f4a7c15;

constexpr u64 add_to_seal(u64 seal, u64 word) noexcept {
  seal = (seal ^ word) * 0xd6e8feb86659fd93;
  return seal ^ seal >> 32;
}

constexpr u64 seal_of(std::initializer_list<u64> words) noexcept {
  u64 seal = empty_seal;
  for (const u64 word : words)
    seal = add_to_seal(seal, word);
  return seal;
}

/// Of a run of bytes; what is missing to whole words counts as zeros.
inline u64 seal_of_bytes(const void* bytes, u64 count) noexcept {
  u64 seal = empty_seal;
  const char* at = static_cast<const char*>(bytes);
  for (u64 done = 0; done < count; done += 8) {
    u64 word = 0;
    std::memcpy(&word, at + done, count - done < 8 ? count - done : 8);
    seal = add_to_seal(seal, word);
  }
  return seal;
}

static_assert(static_cast<u32>(seal_of({0, 0, 0})) != 0 && seal_of({1, 2}) != seal_of({2, 1}));

}  // namespace annex
