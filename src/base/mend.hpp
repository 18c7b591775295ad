// base/mend.hpp - what a record was, by its seal (base/seal.hpp): one byte of it changed back, or
// the seal itself.
//
// Tried are all records that differ from this one in a byte: a few thousand, each compared by 32 or
// 64 bits of seal, so that a wrong one is taken once in a million damaged records with seals of 32
// bits. A damaged bit is a damaged byte. For repair.
#pragma once
#include <initializer_list>

#include "base/units.hpp"

namespace annex::detail {

/// Bytes that a seal covers.
struct sealed_bytes {
  void* at;
  u64 count;
};

enum class mending { fits, byte, seal, failed };  // byte, seal: what was changed back

constexpr bool is_one_byte(u64 difference) noexcept {
  for (u32 byte = 0; byte < 8; ++byte)
    if ((difference & ~(u64{0xff} << (byte * 8))) == 0) return difference != 0;
  return false;
}

/// right_seal() says what the seal of the record, as it is, would be. Failed: nothing was changed.
template <class Seal, class RightSeal>
mending mend_by_seal(Seal& seal, std::initializer_list<sealed_bytes> record, RightSeal right_seal) {
  const Seal right = right_seal();
  if (seal == right) return mending::fits;
  if (is_one_byte(seal ^ right)) {
    seal = right;
    return mending::seal;
  }
  for (const sealed_bytes& part : record)
    for (u64 i = 0; i < part.count; ++i) {
      u8& byte = static_cast<u8*>(part.at)[i];
      const u8 was = byte;
      for (u32 value = 0; value < 256; ++value) {
        byte = static_cast<u8>(value);
        if (right_seal() == seal) return mending::byte;
      }
      byte = was;
    }
  return mending::failed;
}

}  // namespace annex::detail
