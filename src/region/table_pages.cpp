// region/table_pages.cpp - see table_pages.hpp.
#include "region/table_pages.hpp"

#include "platform/report.hpp"

namespace annex {
namespace {

constexpr u64 page = 4 * KiB;

}  // namespace

void table_pages::open(const segment& s, const region_record& r) {
  segment_ = &s;
  auto watch = [&](table& t, chunk_ref ref, u64 entry_bytes) {
    const u64 bytes = r.granule_count * entry_bytes;
    if (backing_of_table(bytes) == backing::whole) return;
    t.begin = u64{ref} * chunk_unit_bytes;
    t.entry_bytes = entry_bytes;
    const u64 bits = divide_up(bytes, page) + 1;
    const u64 bit_bytes = align_up(divide_up(bits, 8), os::page_bytes());
    t.known = {static_cast<std::atomic<u64>*>(os::map_own_pages(bit_bytes)), {bit_bytes}};
  };
  watch(granules_, r.granules, sizeof(granule_entry));
  watch(extents_, r.extents, sizeof(extent_entry));
}

bool table_pages::table::back(const segment& s, u32 first, u32 last) const noexcept {
  if (entry_bytes == 0) return true;
  const u64 base = align_down(begin, page);
  const u64 from = begin + first * entry_bytes, to = begin + (u64{last} + 1) * entry_bytes;
  for (u64 at = align_down(from, page); at < to; at += page) {
    const u64 index = (at - base) / page, bit = u64{1} << (index % 64);
    if (known && (known[index / 64].load(std::memory_order_relaxed) & bit) != 0) continue;
    if (!back_pages(s, at, page)) {
      log(log_level::warn,
          "the annex directory is full: no page for the tables of a region; free some room there");
      return false;
    }
    if (known) known[index / 64].fetch_or(bit, std::memory_order_relaxed);
  }
  return true;
}

bool table_pages::back(u32 first, u32 last) const noexcept {
  return granules_.back(*segment_, first, last) && extents_.back(*segment_, first, last);
}

}  // namespace annex
