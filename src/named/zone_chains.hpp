// named/zone_chains.hpp - zone records by name, and where they come from and go to.
//
//   reserve   record (fresh, or a released pool's) + table (fresh, or a released ring's) → chain
//   release   out of the chain → extent free → record and table free, or kept for the next of a
//             kind
//
// Changes are part of the caller's transaction, under the heap lock. docs/design/0011 says why
// records of pools and tables of rings are kept for later ones of their kind.
#pragma once
#include <string_view>

#include <annex/types.hpp>

#include "named/zone_record.hpp"
#include "region/tenure.hpp"

namespace annex {

/// "zone", "pool", "ring", for sentences.
std::string_view kind_name(zone_type type) noexcept;
/// The record of this name. Errors: wrong_kind, no_such_zone; heap: its name, for the sentence.
result<zone_record*> find_zone_record(const segment& s, std::string_view heap,
                                      std::string_view name, zone_type type) noexcept;
/// Whether the process that reserved it lives, and is the same one still. self: our own member.
bool is_maker_alive(const segment& s, const zone_record& z, u32 self) noexcept;
/// What its record says of a zone, as this process sees it. A record that can't be leads to a zone
/// without memory, and the segment is marked as damaged.
zone zone_of(const segment& s, region_views& views, const zone_record& z) noexcept;
/// A record to fill in; 0: no metadata left.
chunk_ref take_zone_record(transaction& t, zone_type type) noexcept;
/// A table of so many bytes, whose contents are the maker's business; 0: no metadata left.
chunk_ref take_zone_table(transaction& t, zone_type type, u64 bytes) noexcept;
/// Out of its chain, with its memory, record and table.
void give_back_zone(tenure& t, zone_record& z) noexcept;

}  // namespace annex
