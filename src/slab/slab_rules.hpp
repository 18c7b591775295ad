// slab/slab_rules.hpp - the rules of slabs: S1 to S10 and H2 of slab/slab_record.hpp.
//
// Truth is what a record says of its class, capacity, place and member, by its seal, and each bit
// that two words agree about. Counts, lanes, orphan lists and what granules say are an index.
//
// Who keeps slabs' blocks (threads' caches) is a structure above this one. It says which owners may
// have died in the middle of a change: to an audit by inspection::is_settled, to a repair in
// slabs_rebuilt::busy_owners.
#pragma once
#include <map>
#include <unordered_set>

#include "extent/extent_rules.hpp"
#include "slab/slab_record.hpp"

namespace annex::detail {

/// Whether this can be the record of the slab that is said to begin at this granule and to have so
/// many.
bool is_sane_slab(const segment& s, const slab_record& slab, const known_region& region,
                  u32 granule, u32 length) noexcept;

/// Notes of an audit.
struct slabs_seen {
  std::unordered_set<chunk_ref> records;  ///< that can be believed
  std::unordered_set<chunk_ref> linked;   ///< in a lane or orphan list
  u64 found = 0;
};
/// S1 and S3 to S10, H1 and H2, of each slab's record; S4 of the orphan lists.
void check_slabs(inspection& in);
/// S4: every slab is in a list.
void check_slabs_are_linked(inspection& in);
/// S4: a list of slabs linked through lane_next; every one must belong here.
void check_slab_list(inspection& in, chunk_ref head, u16 owner, u32 lane_or_class,
                     bool are_orphans);

/// Notes of a repair.
struct slabs_rebuilt {
  std::map<chunk_ref, extent_run> records;
  /// By thread slot: who died in the middle of a slow path.
  std::vector<bool> busy_owners;
  /// By region slot and granule: what records say of themselves by their seals. Looked for once,
  /// when one is asked for.
  std::map<std::pair<u32, u32>, chunk_ref> by_place;
  bool were_searched = false;
};
/// Tells the extents whom to ask about slabs.
void find_slabs(rebuilding& rb);
/// Free count and summary by the free words. what empty: the numbers have been said already.
void count_free(rebuilding& rb, slab_record* slab, const std::string& what);

void count_slabs(counting& c);

}  // namespace annex::detail
