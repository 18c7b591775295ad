// named/zone_rules.hpp - the rules of zones: what has a name, where it lies, which table it has.
//
// Invariants (audit):
//   Z1  zones are linked, counted and backed by an extent; tables of pools and rings can be
//   Z4  zones, pools and rings: the seals fit
//   Z6  every generation was given out; the count of them is there twice (docs/design/0016)
// (Z2 is in pool_rules.hpp, Z5 in ring_rules.hpp, Z3 in both.)
//
// Truth: the record, by its seal; else the extent that names it, and then its name, size or table
// are doubted. Chains, counts and pages are an index. What has a table (a pool, a ring) joins by
// view_kind, which it adds when a repair looks for it; an audit notes its record for it.
#pragma once
#include <map>
#include <string>
#include <unordered_set>
#include <vector>

#include "extent/extent_rules.hpp"
#include "named/zone_record.hpp"

namespace annex::detail {

/// Whether the record's own words can be; not where it says that it lies.
bool is_sane_zone(const zone_record& z) noexcept;
/// The name, whatever lies there.
std::string name_of(const zone_record& z);

/// Notes of an audit: the records of pools and rings as they were compared.
struct zones_seen {
  std::vector<zone_record> views;
};
void check_zones(inspection& in);
/// Z1: takes the table of a pool or ring. False, and said: it can't be one.
bool take_table(inspection& in, const zone_record& z, u64 smallest_bytes);

/// What a repair asks of those who have a table beside the record.
struct view_kind {
  zone_type type;
  u64 smallest_table_bytes;
  /// The table, which has been taken. False: it can't be believed.
  bool (*rebuild)(rebuilding& rb, zone_record& z);
  /// Then: what is left of it. False: nothing.
  bool (*keep_without_table)(rebuilding& rb, zone_record& z);
  /// The number of its own (docs/design/0011), and what carries it besides.
  shared_word<u64>* (*number_of)(const segment& s, zone_record& z);
  void (*renumber)(const segment& s, zone_record& z);
  /// What those that were released left for the next ones.
  void (*rebuild_spares)(rebuilding& rb);
  /// Those that are in no chain, where records are missing; null: their extents name them.
  void (*find_lost)(rebuilding& rb);
};

/// Notes of a repair.
struct zones_rebuilt {
  std::vector<view_kind> kinds;
  std::vector<chunk_ref> restored;
  std::unordered_set<chunk_ref> are_restored;
  /// Extents that name a record.
  std::map<chunk_ref, extent_run> extents;
  /// By region slot and granule: what records say of themselves.
  std::map<std::pair<u32, u32>, chunk_ref> by_place;
  const view_kind* kind_of(zone_type type) const {
    for (const view_kind& kind : kinds)
      if (kind.type == type) return &kind;
    return nullptr;
  }
};
/// What zones say of themselves, before the extents are looked at. Nothing is linked or taken yet.
void find_zones(rebuilding& rb);
void rebuild_zones(rebuilding& rb);
/// False: it is none, or it has been restored already. What an extent says of it is believed before
/// what it says itself.
bool restore_zone(rebuilding& rb, chunk_ref ref);
/// For views that have memory: it is all that is left of one without a table. True.
bool keep_as_plain(rebuilding& rb, zone_record& z);

void count_zones(counting& c);

}  // namespace annex::detail
