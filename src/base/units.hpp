// base/units.hpp - arithmetic on bytes and powers of two, and the fixed-width names used
// everywhere.
//
// Sums, products and roundings here wrap. Numbers from outside are compared with their limits where
// they come in (the limits are so low that nothing wraps afterwards), or go through the three
// functions that tell.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

namespace annex {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i32 = std::int32_t;
using i64 = std::int64_t;

inline constexpr u64 KiB = 1024, MiB = 1024 * KiB, GiB = 1024 * MiB, TiB = 1024 * GiB;

constexpr bool is_power_of_two(u64 value) noexcept {
  return std::has_single_bit(value);
}
constexpr u64 align_down(u64 value, u64 alignment) noexcept {
  return value & ~(alignment - 1);
}
constexpr u64 align_up(u64 value, u64 alignment) noexcept {
  return (value + alignment - 1) & ~(alignment - 1);
}
constexpr u64 divide_up(u64 value, u64 divisor) noexcept {
  return value / divisor + (value % divisor != 0 ? 1 : 0);
}
constexpr u32 log2_floor(u64 value) noexcept {
  return 63u - static_cast<u32>(std::countl_zero(value));
}

/// True when a multiple of boundary (a power of two) lies inside [begin, begin + bytes), not at its
/// start.
constexpr bool crosses(u64 begin, u64 bytes, u64 boundary) noexcept {
  return ((begin ^ (begin + bytes - 1)) & ~(boundary - 1)) != 0;
}

/// True when a + b does not fit; otherwise *sum is set.
constexpr bool add_overflows(u64 a, u64 b, u64* sum) noexcept {
  return __builtin_add_overflow(a, b, sum);
}
constexpr bool multiply_overflows(u64 a, u64 b, u64* product) noexcept {
  return __builtin_mul_overflow(a, b, product);
}
/// True when the multiple of alignment (a power of two) from value on does not fit; otherwise
/// *aligned is set.
constexpr bool align_up_overflows(u64 value, u64 alignment, u64* aligned) noexcept {
  if (add_overflows(value, alignment - 1, aligned)) return true;
  *aligned = align_down(*aligned, alignment);
  return false;
}
/// True when bytes from begin on pass the limit; nothing wraps.
constexpr bool passes(u64 begin, u64 bytes, u64 limit) noexcept {
  return begin > limit || bytes > limit - begin;
}

/// The lowest `count` bits set; count up to 64.
constexpr u64 low_bits(u32 count) noexcept {
  return count >= 64 ? ~u64{0} : (u64{1} << count) - 1;
}

}  // namespace annex
