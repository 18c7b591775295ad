// region/iova_map.cpp - see iova_map.hpp.
#include "region/iova_map.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace annex {
namespace {

constexpr u32 guesses = 8;

}  // namespace

u32 iova_map::run_at(u64 offset) const noexcept {
  if (run_count <= 1) return 0;
  const u64 slice = offset >> index_shift;
  const u32 last = run_count - 1;
  // The run is in [low, high].
  u32 low = std::min(index[slice], last), high = std::min(index[slice + 1], last);
  while (low < high) {
    const u32 middle = low + (high - low + 1) / 2;
    if (runs[middle].offset <= offset)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

std::optional<u64> iova_map::offset_of(u64 address) const noexcept {
  if (run_count == 0) return {};
  auto run_of = [&](u32 position) { return std::min(order[position], run_count - 1); };
  auto address_at = [&](u32 position) { return runs[run_of(position)].address; };
  u32 low = 0, high = run_count - 1;
  u64 at_low = address_at(low), at_high = address_at(high);
  if (address < at_low) return {};
  if (address >= at_high) low = high;
  // The run's position is in [low, high). Scattered pages lie evenly enough for a guess to land
  // beside it; where they don't, halving takes over.
  for (u32 steps = 0; high - low > 1; ++steps) {
    u32 middle = low + (high - low) / 2;
    if (steps < guesses) {
      // A damaged order may make it anything: hence the bounds, also of what is no number.
      const double part = at_high > at_low ? static_cast<double>(address - at_low) /
                                                 static_cast<double>(at_high - at_low)
                                           : 0;
      middle = std::clamp(low + static_cast<u32>(std::clamp(part, 0.0, 1.0) * (high - low)),
                          low + 1, high - 1);
    }
    if (const u64 found = address_at(middle); found <= address) {
      low = middle;
      at_low = found;
    } else {
      high = middle;
      at_high = found;
    }
  }
  const u32 run = run_of(low);
  const u64 offset = runs[run].offset + (address - runs[run].address);
  return offset < end_of(run) ? std::optional(offset) : std::nullopt;
}

bool iova_map::overlaps(u64 address, u64 bytes) const noexcept {
  if (offset_of(address)) return true;
  // Else the next run above, if any, begins behind the bytes.
  const auto address_of = [&](u32 run) { return runs[std::min(run, run_count - 1)].address; };
  const u32* const end = order + run_count;
  const u32* const next =
      std::partition_point(order, end, [&](u32 run) { return address_of(run) < address; });
  return next != end && address_of(*next) - address < bytes;
}

std::optional<iova_span> iova_map::shared_with(std::span<const iova_span> spans) const noexcept {
  const u64 mine = run_count, theirs = spans.size();
  if (mine == 0 || theirs == 0) return {};
  const u64 by_search = std::min(mine, theirs) * 2 * (log2_floor(std::max(mine, theirs)) + 1);
  const auto last_of = [](const iova_span& s) { return s.address + (s.bytes - 1); };
  if (by_search < mine + theirs && theirs <= mine) {
    for (const iova_span& s : spans)
      if (overlaps(s.address, s.bytes)) return s;
    return {};
  }
  const auto meets_none_before = [&](const iova_span& s, u64 address) {
    return last_of(s) < address;
  };
  auto next = spans.begin();
  for (u32 position = 0; position < run_count && next != spans.end(); ++position) {
    const iova_span own = span_of(std::min(order[position], run_count - 1));
    if (own.bytes == 0) continue;
    if (by_search < mine + theirs)
      next = std::lower_bound(spans.begin(), spans.end(), own.address, meets_none_before);
    else
      while (next != spans.end() && meets_none_before(*next, own.address))
        ++next;
    if (next != spans.end() && next->address <= last_of(own)) return *next;
  }
  return {};
}

std::vector<iova_span> sorted_spans(const iova_tables& t, u64 length) {
  std::vector<iova_span> spans;
  spans.reserve(t.order.size());
  for (const u32 run : t.order) {
    const u64 end = run + 1 < t.runs.size() ? t.runs[run + 1].offset : length;
    spans.push_back({t.runs[run].address, end - t.runs[run].offset});
  }
  return spans;
}

result<iova_tables> make_iova_tables(std::span<const iova> page_iovas, u64 page_bytes) {
  iova_tables t;
  const u64 length = page_iovas.size() * page_bytes;
  for (size_t page = 0; page < page_iovas.size(); ++page) {
    const u64 address = static_cast<u64>(page_iovas[page]);
    // The page whose last byte is the last there is will do.
    if (u64 last = 0; add_overflows(address, page_bytes - 1, &last))
      return refuse(errc::bad_iova,
                    "page {} has IOVA {:#x}, which with {} bytes passes the end of the address "
                    "space; give every page a real IOVA, or leave the table empty",
                    page, address, page_bytes);
    if (address % 64 != 0)
      return refuse(errc::bad_iova, "page {} has IOVA {:#x}, which is no multiple of 64", page,
                    address);
    if (!t.runs.empty()) {
      const iova_run& last = t.runs.back();
      // 0: a run ends with the address space.
      if (address != 0 && last.address + (page * page_bytes - last.offset) == address) continue;
    }
    t.runs.push_back({page * page_bytes, address});
  }
  return index_runs(std::move(t.runs), length, page_bytes);
}

result<iova_tables> index_runs(std::vector<iova_run> runs, u64 length, u64 page_bytes) {
  iova_tables t;
  t.runs = std::move(runs);
  const u32 count = static_cast<u32>(t.runs.size());
  auto end_of = [&](u32 run) { return run + 1 < count ? t.runs[run + 1].offset : length; };
  t.order.resize(count);
  std::iota(t.order.begin(), t.order.end(), 0u);
  std::sort(t.order.begin(), t.order.end(),
            [&](u32 a, u32 b) { return t.runs[a].address < t.runs[b].address; });
  for (u32 i = 0; i < count; ++i) {
    const u32 run = t.order[i];
    const u64 bytes = end_of(run) - t.runs[run].offset;
    t.longest_run_bytes = std::max(t.longest_run_bytes, bytes);
    if (i + 1 < count && t.runs[t.order[i + 1]].address - t.runs[run].address < bytes)
      return refuse(
          errc::iova_overlap,
          "IOVA {:#x} is given to the pages at offsets {:#x} and {:#x}; every page needs its own",
          t.runs[t.order[i + 1]].address, t.runs[run].offset, t.runs[t.order[i + 1]].offset);
  }
  if (count == 0) return t;
  const u32 last = t.order.back();
  t.lowest = t.runs[t.order.front()].address;
  t.highest = t.runs[last].address + (end_of(last) - t.runs[last].offset) - 1;
  t.index_shift = log2_floor(page_bytes);
  while ((length >> t.index_shift) > u64{count} * 2)
    ++t.index_shift;
  const u64 slices = (length >> t.index_shift) + 2;
  t.index.resize(slices);
  u32 run = 0;
  for (u64 slice = 0; slice < slices; ++slice) {
    while (run + 1 < count && t.runs[run + 1].offset <= slice << t.index_shift)
      ++run;
    t.index[slice] = run;
  }
  return t;
}

}  // namespace annex
