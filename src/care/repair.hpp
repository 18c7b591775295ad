// care/repair.hpp - every index of a damaged segment, built anew from the truth. For one who is
// alone with it.
//
//   truth (kept), and its witness                    index (rebuilt)
//   header: limits, places; a seal                   counts
//   regions: records, IOVA runs; a seal for each     slots used, with memory; indexes of runs
//   extents in use: their entries; a seal for each   kinds, free and live counts
//   free extents: kinds, length, foot, list          lists
//   slabs: class, place, member; a seal              capacity, counts, granules, lanes, orphans
//   blocks: free and taken bits; remote, by halves   first and last words with free ones
//   magazines: none                                  (believed where the audit finds nothing; else
//                                                    their blocks stay with the slab's member)
//   zones: records, chains; a seal for each          where their extents lie, counts, pages
//   pools: bits and holders                          counts; caches (as magazines)
//   rings: slots, which have to be of one round      counters
//   generations of extents: a seal                   (impossible ones begin anew, above:
//   generations of blocks and objects: none          docs/design/0013)
//   members, threads: who they were                  what they hold, in numbers
//   arena: what all of these occupy                  free lists: the rest
//
// What is true by one word and false by another stays in use and is named
// (repair_report::uncertain); what can't be made whole is left as it is, and the audit afterwards
// names it. Each structure's …_rules.hpp says what it does; shared/rebuilding.hpp has what they
// share. A death in the middle: repair again. docs/design/0014 has the reasons.
#pragma once
#include <annex/types.hpp>

#include "shared/arena_rules.hpp"
#include "shared/header_rules.hpp"

namespace annex::detail {

/// Every index anew, from the truth. For one who is alone with the segment and keeps others out.
repair_report rebuild_indexes(const segment& s);

}  // namespace annex::detail
