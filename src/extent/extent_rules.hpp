// extent/extent_rules.hpp - the rules of extents: E1 to E7 and H1 of extent/extents.hpp.
//
// Truth is the entry of an extent in use, by its seal, and of a free one by its kinds, length, foot
// and list. Lists, counts and what granules inside an extent say are an index.
//
// Who lies in extents (slabs, zones) is a structure above this one. An audit notes their extents
// for them; a repair asks them by extent_user, which they add when it looks for them.
#pragma once
#include <unordered_set>
#include <vector>

#include "extent/extents.hpp"
#include "region/region_rules.hpp"

namespace annex::detail {

struct extent_run {
  u32 slot, granule, length;
};

/// Notes of an audit: extents that somebody else's record has to speak for.
struct extents_seen {
  std::vector<extent_run> slabs;
  struct kept_run {
    u32 slot, granule;
    u16 owner;
  };
  std::vector<kept_run> kept;  ///< large blocks that threads keep
  std::unordered_set<u64> zones;  ///< zone_place; the zone takes its own out
  static u64 zone_place(u32 slot, u32 granule) noexcept { return u64{slot} << 32 | granule; }
};

/// What a repair asks of those who lie in extents of a kind.
struct extent_user {
  u8 kind;
  /// Whether a record of theirs says, by its own seal, that it is of the extent there.
  bool (*has_one)(rebuilding& rb, const known_region& region, u32 granule);
  /// If there is such a record: writes the entry of the extent, of so many granules, by it.
  bool (*write_entry)(rebuilding& rb, const known_region& region, u32 granule, u32 length);
  /// The record that the entry leads to. False: there is none that could be believed.
  bool (*restore)(rebuilding& rb, const known_region& region, u32 granule, u32 length);
};
/// Notes of a repair: large blocks that threads keep, by their granules and by the threads' lists;
/// they are free then.
struct extents_kept {
  std::unordered_set<u64> places;  ///< extents_seen::zone_place
};
/// Notes of a repair.
struct extent_users {
  std::vector<extent_user> all;
};

/// E1 to E7, and H1 of extents.
void check_extents(inspection& in);

/// Every extent of every region, those who lie in them, and the lists of the free ones.
void rebuild_extents(rebuilding& rb);

/// An entry in use: all but its generation, which stays if it can be one.
inline void set_in_use(extent_entry& e, u32 length, u16 holder, u16 lead,
                       chunk_ref record) noexcept {
  e.length = length;
  e.holder = holder;
  e.lead = lead;
  e.record = record;
}
/// The table of generations of what lies in this extent is lost: nobody knows what its blocks were
/// called, and they begin half a turn further. Whoever calls this seals the entry.
void forget_generations(const known_region& region, u32 granule) noexcept;

/// Free extents, large blocks and zones.
void count_extents(counting& c);

}  // namespace annex::detail
