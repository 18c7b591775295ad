// region/region_rules.hpp - the rules of regions: records that can be, tables in the arena.
//
// Invariants (audit):
//   R1  region records and tables are sane; the header counts and marks those that are there
//   R2  the seals fit what the record and its IOVA runs say
//   H3  a region's numbers agree with their complement and leave it generations; floors are below
//       these (region/generation.hpp)
//
// Truth: the record and the IOVA runs, each with a seal. Index: the header's marks and counts, the
// order and the index of the runs. What lies in a region is looked at by the structures above
// (extent/extent_rules.hpp), through known_region: the tables as they were compared.
#pragma once
#include <map>
#include <unordered_set>
#include "region/tenure.hpp"

#include "region/generation.hpp"
#include "region/region_record.hpp"
#include "shared/counting.hpp"
#include "shared/inspection.hpp"
#include "shared/rebuilding.hpp"

namespace annex::detail {

inline region_record& region_at(const segment& s, u32 slot) noexcept {
  return s.at<region_record>(s.geometry().regions_at)[slot];
}
/// Whether the record's own numbers can be; not its tables' contents.
bool is_sane_region(const segment& s, const region_record& r, u32 slot) noexcept;
/// Runs in order, inside the region, without wrapping around.
bool are_sane_runs(const region_record& r, const iova_run* runs) noexcept;

/// A region whose record and tables have been compared. Whoever follows these parts is led nowhere
/// else, whatever the record says meanwhile.
struct known_region {
  region_record* record = nullptr;
  granule_entry* granules = nullptr;
  extent_entry* extents = nullptr;
  u64 length_bytes = 0;
  u32 granule_count = 0, granule_shift = 0;
  u32 slot = 0, id = 0;
  generations_of_region generations;

  known_region() = default;
  /// What the record says has been compared by the caller.
  known_region(const segment& s, region_record& r, u32 region_slot) noexcept;
  u64 offset_of(u32 granule) const noexcept { return u64{granule} << granule_shift; }
  /// Where so many granules from this one on end, or the region does.
  u64 end_of(u32 granule, u32 length) const noexcept {
    const u64 end = u64{granule + length} << granule_shift;
    return end < length_bytes ? end : length_bytes;
  }
};

/// Notes: the regions that can be worked on, by slot.
struct regions_known {
  std::map<u32, known_region> usable;
  std::unordered_set<u32> unsealed;  ///< of a repair: those whose record nothing vouches for
  u64 there = 0;                     ///< of an audit: with the others
  const known_region* find(u32 slot) const {
    const auto found = usable.find(slot);
    return found != usable.end() ? &found->second : nullptr;
  }
};

/// R1, R2 and H3.
void check_regions(inspection& in);
/// R1: as many as the header counts.
void check_region_count(inspection& in);
/// H1, of a table of generations in the region: its words can be names.
void check_words(inspection& in, const known_region& region, const u32* words, u32 count,
                 const char* what);

/// Which regions there are, and whose their tables' bytes are.
void find_regions(rebuilding& rb);
/// Takes a table of generations. False: it can be none.
bool take_words(rebuilding& rb, const known_region& region, chunk_ref ref, u32 count);

/// Regions that a member that is gone was adding, draining or removing.
void recover_regions(tenure& t, u32 member) noexcept;

/// Regions that serve or are drained: visit(view).
void for_each_region_in_use(const segment& s, region_views& views, auto&& visit) {
  for (const u32 slot : used_region_slots(s))
    // sync(published): what the record says is seen.
    if (views.record(slot).state.load(std::memory_order_acquire) >= region_active)
      visit(views.at(slot));
}
void count_regions(counting& c);

}  // namespace annex::detail
