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
  u32 low = index[slice], high = index[slice + 1];  // the run is in [low, high]
  while (low < high) {
    const u32 middle = low + (high - low + 1) / 2;
    if (runs[middle].offset <= offset) low = middle;
    else high = middle - 1;
  }
  return low;
}

std::optional<u64> iova_map::offset_of(u64 address) const noexcept {
  if (run_count == 0) return {};
  auto address_at = [&](u32 position) { return runs[order[position]].address; };
  u32 low = 0, high = run_count - 1;
  u64 at_low = address_at(low), at_high = address_at(high);
  if (address < at_low) return {};
  if (address >= at_high) low = high;
  // The run's position is in [low, high). Scattered pages lie evenly enough for a guess to land beside it; where they don't,
  // halving takes over.
  for (u32 steps = 0; high - low > 1; ++steps) {
    u32 middle = low + (high - low) / 2;
    if (steps < guesses) {
      const double part = static_cast<double>(address - at_low) / static_cast<double>(at_high - at_low);
      middle = std::clamp(low + static_cast<u32>(part * (high - low)), low + 1, high - 1);
    }
    if (const u64 found = address_at(middle); found <= address) {
      low = middle;
      at_low = found;
    } else {
      high = middle;
      at_high = found;
    }
  }
  const u32 run = order[low];
  const u64 offset = runs[run].offset + (address - runs[run].address);
  return offset < end_of(run) ? std::optional(offset) : std::nullopt;
}

result<iova_tables> make_iova_tables(std::span<const iova> page_iovas, u64 page_bytes) {
  iova_tables t;
  const u64 length = page_iovas.size() * page_bytes;
  for (size_t page = 0; page < page_iovas.size(); ++page) {
    const u64 address = static_cast<u64>(page_iovas[page]);
    u64 end = 0;
    if (add_overflows(address, page_bytes - 1, &end) || end == ~u64{0})
      return refuse(errc::bad_iova, "page {} has IOVA {:#x}, which with {} bytes passes the end of the address space; give every page a real IOVA, or leave the table empty",
                    page, address, page_bytes);
    if (address % 64 != 0) return refuse(errc::bad_iova, "page {} has IOVA {:#x}, which is no multiple of 64", page, address);
    if (!t.runs.empty()) {
      const iova_run& last = t.runs.back();
      if (last.address + (page * page_bytes - last.offset) == address) continue;
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
  std::sort(t.order.begin(), t.order.end(), [&](u32 a, u32 b) { return t.runs[a].address < t.runs[b].address; });
  for (u32 i = 0; i < count; ++i) {
    const u32 run = t.order[i];
    const u64 bytes = end_of(run) - t.runs[run].offset;
    t.longest_run_bytes = std::max(t.longest_run_bytes, bytes);
    if (i + 1 < count && t.runs[t.order[i + 1]].address < t.runs[run].address + bytes)
      return refuse(errc::iova_overlap, "IOVA {:#x} is given to the pages at offsets {:#x} and {:#x}; every page needs its own",
                    t.runs[t.order[i + 1]].address, t.runs[run].offset, t.runs[t.order[i + 1]].offset);
  }
  if (count == 0) return t;
  const u32 last = t.order.back();
  t.lowest = t.runs[t.order.front()].address;
  t.highest = t.runs[last].address + (end_of(last) - t.runs[last].offset) - 1;
  t.index_shift = log2_floor(page_bytes);
  while ((length >> t.index_shift) > u64{count} * 2) ++t.index_shift;
  const u64 slices = (length >> t.index_shift) + 2;
  t.index.resize(slices);
  u32 run = 0;
  for (u64 slice = 0; slice < slices; ++slice) {
    while (run + 1 < count && t.runs[run + 1].offset <= slice << t.index_shift) ++run;
    t.index[slice] = run;
  }
  return t;
}

}  // namespace annex
