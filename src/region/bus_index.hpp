// region/bus_index.hpp - IOVA → region and offset in this process, in O(log runs) whatever the
// number of regions and however their IOVAs lie among each other.
//
//   spans   | A alone      |   | B ─────────┐
//           lowest…highest     |   C ──────────── |     sorted by lowest IOVA
//   runs                       |b|c|b|b|c|c|b|c|…       of regions whose spans overlap, sorted
//
// A region whose span no other overlaps is asked itself (region/iova_map.hpp). Those that lie among
// others have their runs in one sorted list here, 16 bytes each: it is merged, not sorted anew,
// when a region comes, on the first look after that.
//
// Threads: the caller has a mutex for it. Processes: nothing here is shared. What comes from the
// segment is copied and sorted here; what a run leads to is compared again, so a table that is
// damaged or changes meanwhile leads to no address, or to a wrong one of the same region.
#pragma once
#include <memory_resource>
#include <optional>
#include <vector>

#include "platform/own_memory.hpp"
#include "region/region_views.hpp"

namespace annex::detail {

class bus_index {
 public:
  struct place {
    local_region* region;  // attached or not
    u64 offset_bytes;
  };
  /// Looks at the regions again if they are others than at this epoch of the region table.
  void follow(const segment& s, region_views& views, u32 epoch) noexcept;
  /// After follow(). Nothing: no region has that byte.
  std::optional<place> find(region_views& views, u64 address) const noexcept;

 private:
  struct span {
    u64 lowest, highest;
    u32 slot, id;
    bool is_alone;
  };
  struct run {
    u64 address;
    u32 slot, number;
  };
  struct member {  // whose runs are in runs_
    u32 slot, id;
    bool operator==(const member&) const = default;
    auto operator<=>(const member&) const = default;
  };
  void find_spans(const segment& s, region_views& views);
  void follow_members(region_views& views);
  void add_runs(region_views& views, const std::pmr::vector<member>& added);
  static std::optional<place> place_in(region_views& views, const span& in, u64 address) noexcept;
  std::optional<place> place_among(region_views& views, u64 address) const noexcept;

  std::pmr::vector<span> spans_{own_pages()};
  std::pmr::vector<member> members_{own_pages()};  // sorted
  std::pmr::vector<run> runs_{own_pages()};
  u32 epoch_ = ~u32{0};
  bool is_whole_ = true;  // false: there was no memory for runs_, regions are asked one by one
};

}  // namespace annex::detail
