// heap/reserving.cpp - a zone on its way in: its name free, its memory found, its record and table
// written, linked.
//
//   the lock → bucket backed → name free → extent → record, table → linked → commit
//   no extent fits: the lock goes, room is made (a step further each time), and once more
//
// The transaction is the undo: a refusal before anything was taken lets it end, one after rolls it
// back. zones.cpp says what a death leaves.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "heap/placing.hpp"
#include "heap/zones.hpp"
#include "platform/memory.hpp"
#include "region/room.hpp"
#include "shared/names.hpp"

namespace annex::detail {
namespace {

using table_filler = std::function<void(transaction&, zone_record&, void*)>;

// The numbers of a placement, of a zone of any kind.
result<void> check_zone_placement(const placement& p, u64 unit_bytes) {
  if (!is_power_of_two(p.align_bytes) || p.align_bytes > limits::largest_align_bytes)
    return refuse(errc::invalid_argument, "alignment {} is no power of two up to {}", p.align_bytes,
                  limits::largest_align_bytes);
  if (p.iova_align_bytes != 0 &&
      (!is_power_of_two(p.iova_align_bytes) || p.iova_align_bytes > limits::largest_align_bytes))
    return refuse(errc::invalid_argument, "alignment {} of the IOVA is no power of two up to {}",
                  p.iova_align_bytes, limits::largest_align_bytes);
  const u64 kept_together = unit_bytes != 0 ? unit_bytes : p.size_bytes;
  if (p.boundary_bytes != 0 &&
      (!is_power_of_two(p.boundary_bytes) || p.boundary_bytes < kept_together))
    return refuse(errc::invalid_argument,
                  "boundary {} is no power of two that is at least the size {}", p.boundary_bytes,
                  kept_together);
  if (p.size_bytes > limits::largest_region_bytes)
    return refuse(errc::invalid_argument, "{} bytes are more than a region may have ({})",
                  p.size_bytes, limits::largest_region_bytes);
  return {};
}

placement in_general(const placement& p, const zones::zone_table& table) noexcept {
  placement whole = p;
  if (table.unit_bytes != 0) {
    whole.iova_contiguous = false;
    whole.boundary_bytes = 0;
  }
  return whole;
}

}  // namespace

class zones::reservation {
 public:
  reservation(zones& heap, std::string_view name, const placement& p, zone_table table,
              const table_filler& fill_table) noexcept
      : zones_(heap),
        name_(name),
        p_(p),
        table_(table),
        fill_table_(fill_table),
        in_general_(in_general(p, table)),
        has_memory_(table.type != zone_type::ring),
        is_largest_(has_memory_ && p.size_bytes == 0) {}

  void gather();
  /// Empty: no extent fits.
  result<std::optional<zone>> attempt();
  /// The largest is of what there is: gather() has done what can be done, and it never grows the
  /// heap.
  bool make_room(u32& stage) noexcept {
    return !is_largest_ && zones_.blocks_.make_room(stage, in_general_, p_.size_bytes);
  }
  std::unexpected<error> no_fit();

 private:
  result<void> back_bucket(tenure& t, u32& bucket);
  result<void> check_name_and_limit();
  void find_place(tenure& t) noexcept;
  result<void> take_record(tenure& t);
  void write_record(tenure& t, u32 bucket) noexcept;
  void name_extent(tenure& t) noexcept;
  void zero() noexcept;
  result<zone> link(tenure& t, u32& bucket);

  zones& zones_;
  const std::string_view name_;
  const placement& p_;
  const zone_table table_;
  const table_filler& fill_table_;
  const placement in_general_;  // what is asked of the whole, not of its units
  const bool has_memory_, is_largest_;
  // Of this attempt.
  u64 size_bytes_ = 0;
  local_region* view_ = nullptr;
  std::optional<extent_place> place_;
  chunk_ref ref_ = 0, table_chunk_ = 0;
  zone_record* record_ = nullptr;
};

// The largest is one of all that is free, what caches keep and others added included.
void zones::reservation::gather() {
  zones_.memory_.synchronize();
  if (!is_largest_) return;
  (void)zones_.memory_.attach_more();
  (void)zones_.care_.recover();
  zones_.care_.trim_all(true);
}

result<void> zones::reservation::back_bucket(tenure& t, u32& bucket) {
  const segment& s = zones_.segment_;
  segment_header& h = s.header();
  const u64 pages = h.zone_pages.load(std::memory_order_relaxed);
  const u64 page = u64{1} << (zone_bucket_of(name_) / (limits::zone_buckets / 64));
  if ((pages & page) != 0) return {};
  if (!back_pages(s, s.offset_of(&bucket), sizeof bucket))
    return std::unexpected(no_metadata(s, zones_.name_, os::page_bytes(), "another zone"));
  t.put(h.zone_pages, pages | page);
  return {};
}

result<void> zones::reservation::check_name_and_limit() {
  for (const zone_type type : {zone_type::plain, zone_type::pool, zone_type::ring})
    if (zones_.find_record(name_, type))
      return refuse(errc::zone_exists, "\"{}\" has a {} \"{}\" already", zones_.name_,
                    kind_name(type), name_);
  const segment_header& h = zones_.segment_.header();
  if (h.zone_count < h.zone_limit) return {};
  return refuse(
      errc::limit_reached,
      "\"{}\" has its limit of {} zones; release some, or create it with a higher zone_limit",
      zones_.name_, h.zone_limit);
}

void zones::reservation::find_place(tenure& t) noexcept {
  view_ = nullptr;
  place_.reset();
  extent_request q = request_for(p_, p_.size_bytes, granule_zone, 0);
  q.unit_bytes = table_.unit_bytes;
  if (is_largest_) {
    for (const u32 slot : used_region_slots(zones_.segment_)) {
      const region_record& r = zones_.views_.record(slot);
      if (r.state.load(std::memory_order_relaxed) != region_active) continue;
      local_region& candidate = zones_.views_.at(slot);
      if (!is_usable_here(candidate) || (p_.zeroed && candidate.access == touch::none)) continue;
      q.size_bytes = std::max(q.size_bytes, extents(candidate).largest_block(q));
    }
  }
  if (has_memory_ && q.size_bytes != 0) place_ = zones_.blocks_.find_extent(t, p_, q, &view_);
  size_bytes_ = q.size_bytes;
}

result<void> zones::reservation::take_record(tenure& t) {
  ref_ = take_zone_record(t, table_.type);
  table_chunk_ = table_.bytes != 0 ? take_zone_table(t, table_.type, table_.bytes) : 0;
  if (ref_ == 0 || (table_.bytes != 0 && table_chunk_ == 0)) {
    t.roll_back();
    return std::unexpected(no_metadata(
        zones_.segment_, zones_.name_, table_.bytes,
        fmt::format("a {} with a table of {} bytes", kind_name(table_.type), table_.bytes)));
  }
  record_ = zones_.segment_.chunk<zone_record>(ref_);
  return {};
}

void zones::reservation::write_record(tenure& t, u32 bucket) noexcept {
  segment_header& h = zones_.segment_.header();
  zone_record& z = *record_;
  z.type = table_.type;
  z.region_slot = place_ ? view_->slot : no_region;
  z.granule = place_ ? place_->granule : 0;
  z.offset_bytes = place_ ? place_->offset_bytes : 0;
  z.size_bytes = size_bytes_;
  z.table = table_chunk_;
  z.table_bytes = table_.bytes;
  const member_record& me = zones_.segment_.member(zones_.self());
  z.state.store(table_.seen == visibility::on_commit ? zone_being_filled : zone_committed,
                std::memory_order_relaxed);
  z.maker = zones_.self();
  z.maker_process = me.process_id;
  z.maker_start_time = me.start_time;
  t.put(h.zone_generations, std::max(h.zone_generations, h.zone_generations_again) + 1);
  t.put(h.zone_generations_again, h.zone_generations);
  z.generation = h.zone_generations;
  name_.copy(z.name, sizeof z.name - 1);
  // Of a record that was used before.
  std::memset(z.name + name_.size(), 0, sizeof z.name - name_.size());
  t.put(z.next, bucket);
  if (table_.type == zone_type::pool) {
    t.put(h.incarnations, h.incarnations + 1);
    t.put(z.incarnation, h.incarnations);
  }
  z.seal = seal_of_zone(z);
}

// Whoever finds the zone has its handle.
void zones::reservation::name_extent(tenure& t) noexcept {
  if (!place_) return;
  extent_entry& e = view_->extents[place_->granule];
  t.put(e.record, ref_);
  t.put(e.name, e.name | word_is_named);
  extents(*view_).seal(t, place_->granule);
}

void zones::reservation::zero() noexcept {
  if (!place_ || !p_.zeroed) return;
  std::memset(view_->base + place_->offset_bytes, 0, std::min(place_->dirty_bytes(), size_bytes_));
}

// All but the largest is zeroed before it can be found.
result<zone> zones::reservation::link(tenure& t, u32& bucket) {
  const segment& s = zones_.segment_;
  if (fill_table_) fill_table_(t, *record_, s.base() + u64{table_chunk_} * chunk_unit_bytes);
  if (!is_largest_) zero();
  t.put(s.header().zone_count, s.header().zone_count + 1);
  t.put(bucket, ref_);
  t.commit();
  ANNEX_TRY(zones_.refuse_if_damaged());
  zone made = zone_of(s, zones_.views_, *record_);
  if (is_largest_) zero();
  if (table_.type == zone_type::plain && table_.seen == visibility::at_once) zones_.tell_of_zone();
  return made;
}

result<std::optional<zone>> zones::reservation::attempt() {
  locked t(zones_.heap_);
  u32& bucket = zones_.segment_.zone_buckets()[zone_bucket_of(name_)];
  ANNEX_TRY(back_bucket(*t, bucket));
  ANNEX_TRY(zones_.make_way_for(*t, name_));
  ANNEX_TRY(check_name_and_limit());
  find_place(*t);
  if (!place_ && has_memory_) return std::optional<zone>{};
  ANNEX_TRY(take_record(*t));
  write_record(*t, bucket);
  name_extent(*t);
  auto made = link(*t, bucket);
  if (!made) return std::unexpected(made.error());
  return std::optional<zone>(*made);
}

std::unexpected<error> zones::reservation::no_fit() {
  zones_.blocks_.explain(explanation::cause::no_fit, in_general_);
  return std::unexpected(
      make_error(errc::out_of_memory, 0, "{}", zones_.blocks_.last_failure().message()));
}

result<zone> zones::reserve_zone(
    std::string_view name, const placement& asked, zone_table table,
    const std::function<void(transaction&, zone_record&, void*)>& fill_table) {
  ANNEX_TRY(check_zone_name(name));
  if (is_read_only())
    return refuse(errc::read_only,
                  "\"{}\" is attached read-only; attach it writable to reserve zones", name_);
  if (!member_.ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(refuse_if_damaged());
  const placement p = completed(asked);
  ANNEX_TRY(check_zone_placement(p, table.unit_bytes));
  reservation reserved(*this, name, p, table, fill_table);
  reserved.gather();
  u32 stage = 0;
  do {
    auto made = reserved.attempt();
    if (!made) return std::unexpected(made.error());
    if (*made) return **made;
  } while (reserved.make_room(stage));
  return reserved.no_fit();
}

// What a dead process was filling under this name goes, in a transaction of its own.
result<void> zones::make_way_for(tenure& t, std::string_view name) {
  auto found = find_record(name, zone_type::plain);
  if (!found || (*found)->state.load(std::memory_order_relaxed) == zone_committed) return {};
  zone_record& z = **found;
  if (is_maker_alive(z))
    return refuse(errc::zone_exists,
                  "\"{}\" has a zone \"{}\" already: process {} (member {}) is filling it", name_,
                  name, z.maker_process, z.maker);
  give_back_zone(t, z);
  t.commit();
  return refuse_if_damaged();
}

}  // namespace annex::detail
