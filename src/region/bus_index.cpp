// region/bus_index.cpp - see bus_index.hpp.
#include "region/bus_index.hpp"

#include <algorithm>
#include <bitset>
#include <iterator>
#include <new>

namespace annex::detail {

void bus_index::follow(const segment& s, region_views& views, u32 epoch) noexcept {
  if (epoch == epoch_) return;
  epoch_ = epoch;
  try {
    find_spans(s, views);
    follow_members(views);
    is_whole_ = true;
  } catch (const std::bad_alloc&) {
    // Tried again with the next change; until then as well as without a list.
    is_whole_ = false;
    members_.clear();
    runs_.clear();
  }
}

void bus_index::find_spans(const segment& s, region_views& views) {
  spans_.clear();
  for (const u32 slot : used_region_slots(s)) {
    const region_record& r = views.record(slot);
    // sync(published): what the record says is seen.
    if (r.state.load(std::memory_order_acquire) >= region_active && r.iova_run_count != 0)
      spans_.push_back(
          {r.lowest_iova, r.highest_iova, slot, r.id.load(std::memory_order_relaxed), true});
  }
  std::sort(spans_.begin(), spans_.end(),
            [](const span& a, const span& b) { return a.lowest < b.lowest; });
  u64 highest = 0;
  for (size_t i = 0; i < spans_.size(); ++i) {
    const bool meets_before = i != 0 && spans_[i].lowest <= highest;
    const bool meets_next = i + 1 < spans_.size() && spans_[i + 1].lowest <= spans_[i].highest;
    spans_[i].is_alone = !meets_before && !meets_next;
    highest = std::max(highest, spans_[i].highest);
  }
}

// The runs of those that left go, the runs of those that came are merged in.
void bus_index::follow_members(region_views& views) {
  std::pmr::vector<member> wanted(own_pages()), gone(own_pages()), added(own_pages());
  for (const span& s : spans_)
    if (!s.is_alone) wanted.push_back({s.slot, s.id});
  std::sort(wanted.begin(), wanted.end());
  std::set_difference(members_.begin(), members_.end(), wanted.begin(), wanted.end(),
                      std::back_inserter(gone));
  std::set_difference(wanted.begin(), wanted.end(), members_.begin(), members_.end(),
                      std::back_inserter(added));
  if (!gone.empty()) {
    std::bitset<limits::region_slots> leaves;
    for (const member& m : gone)
      leaves.set(m.slot);
    std::erase_if(runs_, [&](const run& r) { return leaves[r.slot]; });
  }
  if (!added.empty()) add_runs(views, added);
  members_ = std::move(wanted);
}

void bus_index::add_runs(region_views& views, const std::pmr::vector<member>& added) {
  std::pmr::vector<run> come(own_pages()), merged(own_pages());
  u64 count = 0;
  for (const member& m : added)
    if (const local_region& view = views.at(m.slot); view.id == m.id) count += view.iovas.run_count;
  come.reserve(count);
  for (const member& m : added) {
    const local_region& view = views.at(m.slot);
    if (view.id != m.id) continue;  // gone again: the epoch says so to the next look
    const iova_map& map = view.iovas;
    for (u32 position = 0; position < map.run_count; ++position) {
      const u32 number = std::min(map.order[position], map.run_count - 1);
      come.push_back({map.runs[number].address, m.slot, number});
    }
  }
  const auto is_lower = [](const run& a, const run& b) { return a.address < b.address; };
  if (!std::is_sorted(come.begin(), come.end(), is_lower))
    std::sort(come.begin(), come.end(), is_lower);
  if (runs_.empty()) {
    runs_ = std::move(come);
    return;
  }
  merged.reserve(runs_.size() + come.size());
  std::merge(runs_.begin(), runs_.end(), come.begin(), come.end(), std::back_inserter(merged),
             is_lower);
  runs_ = std::move(merged);
}

std::optional<bus_index::place> bus_index::find(region_views& views, u64 address) const noexcept {
  const auto next = std::upper_bound(spans_.begin(), spans_.end(), address,
                                     [](u64 a, const span& s) { return a < s.lowest; });
  if (next == spans_.begin()) return {};
  // Where it stands alone, nothing that begins before reaches behind it.
  if (const span& last = *(next - 1); last.is_alone) return place_in(views, last, address);
  if (is_whole_) return place_among(views, address);
  for (auto at = next; at != spans_.begin();)
    if (const auto found = place_in(views, *--at, address)) return found;
  return {};
}

std::optional<bus_index::place> bus_index::place_in(region_views& views, const span& in,
                                                    u64 address) noexcept {
  if (in.highest < address) return {};
  local_region& view = views.at(in.slot);
  if (view.id != in.id) return {};
  const auto offset = view.iovas.offset_of(address);
  return offset ? std::optional(place{&view, *offset}) : std::nullopt;
}

std::optional<bus_index::place> bus_index::place_among(region_views& views,
                                                       u64 address) const noexcept {
  const auto next = std::upper_bound(runs_.begin(), runs_.end(), address,
                                     [](u64 a, const run& r) { return a < r.address; });
  if (next == runs_.begin()) return {};
  const run& found = *(next - 1);
  local_region& view = views.at(found.slot);
  const bool is_member =
      std::binary_search(members_.begin(), members_.end(), member{found.slot, view.id});
  const iova_map& map = view.iovas;
  if (!is_member || found.number >= map.run_count) return {};
  const u64 begin = map.runs[found.number].offset, end = map.end_of(found.number);
  const u64 in_run = address - found.address;
  if (begin >= end || in_run >= end - begin) return {};
  return place{&view, begin + in_run};
}

}  // namespace annex::detail
