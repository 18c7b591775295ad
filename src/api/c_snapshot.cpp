// api/c_snapshot.cpp - the C face: a heap in one look, kept until it is freed.
#include "api/c_summaries.hpp"

using namespace annex::c_face;

namespace annex::c_face {
namespace {

template <class C, class Item>
std::vector<C> all_as_c(const std::vector<Item>& items) {
  std::vector<C> all;
  all.reserve(items.size());
  for (const Item& item : items)
    all.push_back(as_c(item));
  return all;
}

template <class C>
const C* at(const std::vector<C>& all, std::uint64_t index) noexcept {
  return index < all.size() ? &all[index] : nullptr;
}

}  // namespace
}  // namespace annex::c_face

// The C structs point into the strings of what they were made of.
struct annex_snapshot {
  explicit annex_snapshot(annex::heap_snapshot taken)
      : of(std::move(taken)),
        regions(all_as_c<annex_region_summary>(of.regions)),
        zones(all_as_c<annex_zone_summary>(of.zones)),
        members(all_as_c<annex_member_summary>(of.members)),
        map_pieces(all_as_c<annex_map_piece>(of.map_pieces)) {}
  annex_snapshot(const annex_snapshot&) = delete;
  annex_snapshot& operator=(const annex_snapshot&) = delete;

  const annex::heap_snapshot of;
  const std::vector<annex_region_summary> regions;
  const std::vector<annex_zone_summary> zones;
  const std::vector<annex_member_summary> members;
  const std::vector<annex_map_piece> map_pieces;
};

int annex_snapshot_take(annex_heap* heap, const annex_snapshot_options* options,
                        annex_snapshot** out) {
  annex_snapshot_options o;
  if (heap == nullptr || out == nullptr) return refuse_argument("heap or out is null");
  if (const int why = take(options, &o); why != 0) return why;
  if (const int why = check_flags(o.flags, ANNEX_SNAPSHOT_NO_MAP, "annex_snapshot_options");
      why != 0)
    return why;
  annex::snapshot_options full;
  full.map_pieces = (o.flags & ANNEX_SNAPSHOT_NO_MAP) == 0;
  if (o.most_extents != 0) full.most_extents = o.most_extents;
  if (o.tries != 0) full.tries = o.tries;
  *out = new annex_snapshot(heap->heap.snapshot(full));
  return 0;
}
void annex_snapshot_free(annex_snapshot* snapshot) {
  delete snapshot;
}

int annex_snapshot_facts_of(const annex_snapshot* snapshot, annex_snapshot_facts* out) {
  if (snapshot == nullptr) return refuse_argument("snapshot is null");
  const annex::heap_snapshot& s = snapshot->of;
  annex_snapshot_facts facts{};
  facts.region_count = s.regions.size();
  facts.zone_count = s.zones.size();
  facts.member_count = s.members.size();
  facts.map_piece_count = s.map_pieces.size();
  facts.changed = as_number(s.changed);
  facts.complete = as_number(s.complete);
  facts.sequence = s.sequence;
  facts.taken_ns = s.taken_ns;
  facts.lock_holder = static_cast<uint32_t>(s.lock_holder);
  facts.tries = s.tries;
  facts.problem = s.problem.c_str();
  return give(facts, out);
}
int annex_snapshot_stats(const annex_snapshot* snapshot, annex_stats* out) {
  return snapshot != nullptr ? give(as_c(snapshot->of.stats), out)
                             : refuse_argument("snapshot is null");
}
const annex_region_summary* annex_snapshot_region(const annex_snapshot* snapshot, uint64_t index) {
  return snapshot != nullptr ? at(snapshot->regions, index) : nullptr;
}
const annex_zone_summary* annex_snapshot_zone(const annex_snapshot* snapshot, uint64_t index) {
  return snapshot != nullptr ? at(snapshot->zones, index) : nullptr;
}
const annex_member_summary* annex_snapshot_member(const annex_snapshot* snapshot, uint64_t index) {
  return snapshot != nullptr ? at(snapshot->members, index) : nullptr;
}
const annex_map_piece* annex_snapshot_map_piece(const annex_snapshot* snapshot, uint64_t index) {
  return snapshot != nullptr ? at(snapshot->map_pieces, index) : nullptr;
}
