// region/generation.cpp - see generation.hpp.
#include "region/generation.hpp"

#include <algorithm>

namespace annex {
namespace {

// Handle 0 is null: slot 0 begins with the second generation.
u64 numbers_behind(const region_record& r, u32 slot, u32 offset_bits) noexcept {
  const u64 used = std::max(r.numbers_used, u64{slot == 0});
  return used < all_numbers ? align_up(used, u64{1} << offset_bits) : all_numbers;
}

// Which 64ths of the region the bytes lie in.
struct parts {
  u32 first, last;
};
parts parts_of(const generations_of_region& all, u64 begin, u64 end) noexcept {
  constexpr u32 part_bits = 6;
  static_assert(region_parts == 1u << part_bits);
  const u32 shift = all.offset_bits - part_bits;
  const u64 last = end > begin ? end - 1 : begin;
  return {static_cast<u32>(std::min<u64>(begin >> shift, region_parts - 1)),
          static_cast<u32>(std::min<u64>(last >> shift, region_parts - 1))};
}

}  // namespace

u64 generations_left(const region_record& r, u32 slot, u64 length_bytes) noexcept {
  const u32 bits = offset_bits_of(length_bytes);
  return (all_numbers - numbers_behind(r, slot, bits)) >> bits;
}

generations_of_region generations_in(const region_record& r, u32 slot) noexcept {
  generations_of_region all;
  all.offset_bits = std::min(offset_bits_of(r.length_bytes), limits::handle_slot_shift);
  all.first_number = numbers_behind(r, slot, all.offset_bits);
  all.count = static_cast<u32>(
      std::clamp<u64>((all_numbers - all.first_number) >> all.offset_bits, 1, most_generations));
  return all;
}

u64 numbers_used_by(const region_record& r, u32 slot) noexcept {
  const generations_of_region all = generations_in(r, slot);
  u64 used = all.count;
  if (r.generations_turned == 0)
    used =
        std::min<u64>(used, u64{*std::max_element(std::begin(r.floors), std::end(r.floors))} + 1);
  return std::min(all.first_number + (used << all.offset_bits), all_numbers);
}

void use_up_numbers(transaction& t, region_record& r, u32 slot) noexcept {
  const u64 used = numbers_used_by(r, slot);
  t.put(r.numbers_used, used);
  t.put(r.numbers_used_inverted, ~used);
}

u32 higher_of(const region_record& r, const generations_of_region& all, u32 a, u32 b) noexcept {
  if (r.generations_turned == 0) return std::max(a, b);
  const u32 ahead = a >= b ? a - b : a + (all.count - b);
  return ahead <= all.count / 2 ? a : b;
}

u32 floor_of(const region_record& r, const generations_of_region& all, u64 begin,
             u64 end) noexcept {
  const parts p = parts_of(all, begin, end);
  u32 highest = std::min(r.floors[p.first], all.count - 1);
  for (u32 part = p.first + 1; part <= p.last; ++part)
    highest = higher_of(r, all, std::min(r.floors[part], all.count - 1), highest);
  return highest;
}

void raise_floor(transaction& t, region_record& r, const generations_of_region& all, u64 begin,
                 u64 end, u32 generation) noexcept {
  const parts p = parts_of(all, begin, end);
  for (u32 part = p.first; part <= p.last; ++part) {
    const u32 floor = std::min(r.floors[part], all.count - 1),
              higher = higher_of(r, all, generation, floor);
    if (higher != floor) t.put(r.floors[part], higher);
  }
}

bool is_sane_name(const region_record& r, const generations_of_region& all, u64 begin, u64 end,
                  u32 word) noexcept {
  const u32 generation = count_in(word), floor = floor_of(r, all, begin, end);
  return (word & word_is_name) != 0 && generation < all.count &&
         (r.generations_turned != 0 || generation <= floor);
}

void retire_generation(transaction& t, region_record& r, const generations_of_region& all,
                       u64 begin, u64 end, u32 generation) noexcept {
  if (generation + 1 >= all.count && r.generations_turned == 0) t.put(r.generations_turned, 1);
  raise_floor(t, r, all, begin, end, all.next(generation));
}

}  // namespace annex
