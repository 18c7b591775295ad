// heap/adding.cpp - memory the caller has becomes a region.
//
//   check → reserve the address range here → record (partial) → file named → observers → zero →
//   publish (active). A death up to publishing: recovery removes the file and the record; nothing
//   was ever handed out.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/in_parallel.hpp"
#include "extent/extents.hpp"
#include "heap/huge_pages.hpp"
#include "heap/memory_range.hpp"
#include "heap/regions.hpp"
#include "platform/files.hpp"
#include "platform/memory.hpp"
#include "platform/pinning.hpp"
#include "platform/processes.hpp"
#include "platform/waiting.hpp"
#include "region/region_state.hpp"
#include "region/room.hpp"
#include "shared/arena.hpp"

namespace annex::detail {

namespace {

// Of memory added by hand, evenly spread, whose node is looked at: adding costs O(IOVA runs).
constexpr u64 sampled_pages = 4096;
// Of the metadata limit, that a region's tables may have so that its granules are small.
constexpr u64 share_of_metadata = 16;
// What other processes align their mapping to, at most.
constexpr u64 widest_common_alignment = 1 * GiB;

u8 alignment_shift_of(const void* base) noexcept {
  const u64 lowest = reinterpret_cast<u64>(base) & -reinterpret_cast<u64>(base);
  return static_cast<u8>(log2_floor(std::min(lowest, widest_common_alignment)));
}

void zero_range(char* base, u64 bytes) {
  in_parallel(bytes, 16 * MiB, 0, [&](unsigned, u64 at, u64 n) {
    std::memset(base + at, 0, n);
    return 0;
  });
}

}  // namespace

// For another region: of a slot that is free and has handles left, if there are such with half of
// theirs. Ids only rise, so none is ever given out again. 0: there is none.
u32 regions::find_region_id(u64 length_bytes) noexcept {
  const u32 slots = std::bit_ceil(segment_.region_limit());
  for (const bool with_half : {true, false}) {
    u32 candidate = segment_.header().next_region_id;
    for (u32 tries = 0; tries < slots && candidate != ~u32{0}; ++tries, ++candidate) {
      const u32 slot = views_.slot_of(candidate);
      if (candidate == 0 || slot >= segment_.region_limit()) continue;
      const region_record& r = views_.record(slot);
      if (r.state.load(std::memory_order_relaxed) != region_free ||
          (with_half && r.numbers_used > all_numbers / 2))
        continue;
      if (generations_left(r, slot, length_bytes) >= fewest_generations) return candidate;
    }
  }
  return 0;
}

// One region on its way in. Each step refuses with nothing changed but what the destructor takes
// back, in reverse; after the last one it is the heap's.
class regions::addition {
 public:
  addition(regions& memory, const memory_range& range, const provenance& from) noexcept
      : memory_(memory), m_(range), from_(from), pins_(from.pins) {}
  ~addition();
  addition(const addition&) = delete;
  addition& operator=(const addition&) = delete;

  result<void> check();
  result<void> pin();
  result<void> reserve();
  result<void> record();
  result<void> agree();
  result<region_id> publish();

 private:
  std::optional<error> find_conflict();
  error no_id() const;
  struct table_refs {
    chunk_ref granules, extents, iova_runs, iova_order, iova_index;
  };
  std::optional<table_refs> take_tables(tenure& t) const;
  void write_record(region_record& r, const table_refs& at);
  void link_record(tenure& t, region_record& r);
  void write_runs(const region_record& r);
  u64 granules() const noexcept { return divide_up(m_.length_bytes, u64{1} << shift_); }

  regions& memory_;
  const memory_range& m_;
  const provenance& from_;
  os::pinned* pins_;
  os::pinned* pinned_here_ = nullptr;  // not the caller's
  iova_tables tables_;
  std::vector<iova_span> spans_;  // of the runs, by address
  u8 shift_ = 0;
  int fd_ = -1;
  os::file_identity file_;
  bool is_reserved_ = false, is_recorded_ = false, is_done_ = false;
  u32 slot_ = no_region, id_ = 0;
  local_region* view_ = nullptr;
  region_claim* claim_ = nullptr;
  std::optional<heap_files::places> places_;
};

regions::addition::~addition() {
  if (is_done_) return;
  if (is_recorded_) {
    {
      locked t(memory_.heap_);
      if (places_)
        memory_.files_.remove_memory(*places_, memory_.segment_, copy_of(*view_->record));
      free_region(*t, slot_);
    }
    view_->pins = nullptr;
  }
  if (is_reserved_) address_index::leave(m_.base);
  if (is_recorded_) memory_.views_.drop(*view_);
  os::unpin(pinned_here_);
  os::close_file(fd_);
}

// Nothing is touched yet.
result<void> regions::addition::check() {
  ANNEX_TRY(check_range(m_));
  ANNEX_TRY(check_mapped(m_.base, m_.length_bytes, m_.access));
  if (m_.access == touch::read_write && !from_.mapped_by_annex) {
    const u64 sampled = align_up(m_.length_bytes / sampled_pages, m_.page_bytes);
    ANNEX_TRY(
        check_node(m_.base, m_.length_bytes, std::max<u64>(m_.page_bytes, sampled), m_.numa_node));
  }
  auto tables = make_iova_tables(m_.page_iovas, m_.page_bytes);
  if (!tables) return std::unexpected(tables.error());
  tables_ = std::move(*tables);
  spans_ = sorted_spans(tables_, m_.length_bytes);
  shift_ = granule_shift_of(m_.length_bytes, reinterpret_cast<u64>(m_.base),
                            memory_.segment_.mapped_bytes() / share_of_metadata);
  return {};
}

result<void> regions::addition::pin() {
  if (!from_.mapped_by_annex) ANNEX_TRY(make_huge_as_asked(m_));
  if (!m_.pin || pins_ != nullptr) return {};
  const auto pinned = pin_memory(m_.base, m_.length_bytes, m_.access, m_.threads, m_.progress);
  if (!pinned) return std::unexpected(pinned.error());
  pins_ = pinned_here_ = *pinned;
  return {};
}

// The address range of this process, and a descriptor of our own. From here on under memory_mutex.
result<void> regions::addition::reserve() {
  ANNEX_TRY(address_index::reserve(m_.base, m_.length_bytes));
  is_reserved_ = true;
  if (m_.fd < 0) return {};
  fd_ = os::duplicate(m_.fd);
  const int why = fd_ < 0 ? errno : os::identify(fd_, &file_);
  if (why == 0) return {};
  return refuse_os(errc::invalid_argument, why, "descriptor {} can't be used: {}{}", m_.fd,
                   std::strerror(why), remedy_for(why));
}

// The same bytes of a file, or the same IOVAs, as a region that is there. Under the heap lock: so
// what is sorted was sorted before, and a region costs a walk over its runs and ours at most.
std::optional<error> regions::addition::find_conflict() {
  for (const u32 other : used_region_slots(memory_.segment_)) {
    const region_record& o = memory_.views_.record(other);
    if (o.state.load(std::memory_order_relaxed) == region_free) continue;
    const bool same_file = fd_ >= 0 && o.backing != backing_none && o.device == file_.device &&
                           o.inode == file_.inode && m_.fd_offset < o.fd_offset + o.length_bytes &&
                           o.fd_offset < m_.fd_offset + m_.length_bytes;
    if (same_file)
      return make_error(errc::region_overlap, 0,
                        "bytes {} to {} of this file are region {} of the heap already",
                        o.fd_offset, o.fd_offset + o.length_bytes, o.id.value);
    if (o.iova_run_count == 0 || tables_.runs.empty() || tables_.lowest > o.highest_iova ||
        o.lowest_iova > tables_.highest)
      continue;
    const local_region& view = memory_.views_.at(other);
    if (const auto shared = view.iovas.shared_with(spans_))
      return make_error(
          errc::iova_overlap, 0,
          "IOVAs {:#x} to {:#x} are used by region {}; every byte of a heap needs its own",
          shared->address, shared->address + (shared->bytes - 1), o.id.value);
  }
  return {};
}

error regions::addition::no_id() const {
  const u32 limit = memory_.segment_.region_limit();
  if (memory_.segment_.header().region_count < limit)
    return make_error(
        errc::limit_reached, 0,
        "\"{}\" has had so much memory added and removed that no handles are left for another "
        "region of {} bytes (of 2^32 regions, and 2^50 bytes in each of {} "
        "slots); bring memory in smaller regions, or make a new heap",
        memory_.name_, m_.length_bytes, limit);
  return make_error(errc::limit_reached, 0,
                    "\"{}\" has its limit of {} regions; remove one, add larger ones, or create "
                    "it with a higher region_limit",
                    memory_.name_, limit);
}

// Where the tables lie. Nothing: no metadata left; what was taken is rolled back by the caller.
std::optional<regions::addition::table_refs> regions::addition::take_tables(tenure& t) const {
  const u64 runs = tables_.runs.size();
  auto chunk = [&](u64 bytes, backing pages = backing::whole) {
    return bytes != 0 ? allocate_chunk(t, bytes, pages) : chunk_ref{0};
  };
  // Memory that is there is of use only where its tables are, too.
  auto table = [&](u64 bytes) {
    return chunk(bytes, from_.sure_bytes != ~u64{0} ? backing::whole : backing_of_table(bytes));
  };
  const table_refs at{table(granules() * sizeof(granule_entry)),
                      table(granules() * sizeof(extent_entry)), chunk(runs * sizeof(iova_run)),
                      chunk(runs * sizeof(u32)), chunk(tables_.index.size() * sizeof(u32))};
  const bool has_runs = at.iova_runs != 0 && at.iova_order != 0 && at.iova_index != 0;
  if (at.granules == 0 || at.extents == 0 || (runs != 0 && !has_runs)) return {};
  return at;
}

// The record is free: nobody reads it before its state says otherwise.
void regions::addition::write_record(region_record& r, const table_refs& at) {
  const std::string& owned = from_.owned_path;
  r.length_bytes = m_.length_bytes;
  r.page_bytes = m_.page_bytes;
  r.adder_base = reinterpret_cast<u64>(m_.base);
  r.device = file_.device;
  r.inode = file_.inode;
  r.fd_offset = m_.fd_offset;
  r.adder = memory_.self();
  r.adder_process = os::process_id();
  r.worker = memory_.self();
  r.adder_fd_plus_1 = static_cast<u32>(fd_ + 1);
  r.numa_node = m_.numa_node;
  r.align_shift = alignment_shift_of(m_.base);
  r.granule_shift = shift_;
  r.access = static_cast<u8>(m_.access);
  r.backing = fd_ < 0 ? backing_none : owned.empty() ? backing_foreign : backing_owned;
  r.granule_count = static_cast<u32>(granules());
  r.free_granules = 0;
  r.granules = at.granules;
  r.extents = at.extents;
  r.iova_runs = at.iova_runs;
  r.iova_order = at.iova_order;
  r.iova_index = at.iova_index;
  r.iova_run_count = static_cast<u32>(tables_.runs.size());
  r.iova_index_shift = tables_.index_shift;
  r.lowest_iova = tables_.lowest;
  r.highest_iova = tables_.highest;
  r.longest_run_bytes = tables_.longest_run_bytes;
  r.cancel_drain.store(0, std::memory_order_relaxed);
  r.live_extents = 0;
  r.same_address = m_.same_address ? 1 : 0;
  r.pinned = !m_.pin ? not_pinned : from_.physical ? pinned_physical : pinned_pages;
  r.huge = static_cast<u8>(m_.huge);
  r.huge_check = huge_check_of(id_, r.huge);
  r.generations_turned = 0;
  r.numbers_used_inverted = ~r.numbers_used;  // of regions that had this slot before
  std::fill(std::begin(r.floors), std::end(r.floors), 0);
  r.first_clean = m_.contents == fill::keep ? r.granule_count : 0;
  r.first_clean_check = ~r.first_clean;
  r.first_unsure =
      from_.sure_bytes < m_.length_bytes ? static_cast<u32>(from_.sure_bytes >> shift_) : 0;
  std::memset(r.path, 0, sizeof r.path);
  const std::string path = !owned.empty() ? owned : fd_ >= 0 ? os::path_of(fd_) : "";
  if (path.size() < sizeof r.path) path.copy(r.path, sizeof r.path - 1);
}

void regions::addition::link_record(tenure& t, region_record& r) {
  segment_header& h = memory_.segment_.header();
  t.put(h.next_region_id, id_ + 1);
  if (slot_ >= h.region_slots_used) t.put(h.region_slots_used, slot_ + 1);
  t.put(h.used_regions[slot_ / 64], h.used_regions[slot_ / 64] | u64{1} << (slot_ % 64));
  t.put(r.id, id_);
  t.put(r.state, region_partial);
  t.put(h.region_count, h.region_count + 1);
}

void regions::addition::write_runs(const region_record& r) {
  if (tables_.runs.empty()) return;
  const segment& s = memory_.segment_;
  std::copy(tables_.runs.begin(), tables_.runs.end(), s.chunk<iova_run>(r.iova_runs));
  std::copy(tables_.order.begin(), tables_.order.end(), s.chunk<u32>(r.iova_order));
  std::copy(tables_.index.begin(), tables_.index.end(), s.chunk<u32>(r.iova_index));
}

// The record, its tables, and what they say; state: partial. One transaction.
result<void> regions::addition::record() {
  const segment& s = memory_.segment_;
  region_views& views = memory_.views_;
  {
    locked t(memory_.heap_);
    id_ = memory_.find_region_id(m_.length_bytes);
    if (id_ == 0) return std::unexpected(no_id());
    if (auto conflict = find_conflict()) return std::unexpected(*conflict);
    slot_ = views.slot_of(id_);
    region_record& r = views.record(slot_);
    if (!back_pages(s, s.offset_of(&r), sizeof(region_record)))
      return std::unexpected(
          no_metadata(s, memory_.name_, sizeof(region_record), "a region's record"));
    const auto tables = take_tables(*t);
    if (!tables) {
      t->roll_back();
      const u64 runs = tables_.runs.size();
      const u64 table_bytes = granules() * (sizeof(granule_entry) + sizeof(extent_entry)) +
                              runs * (sizeof(iova_run) + 2 * sizeof(u32));
      return std::unexpected(
          no_metadata(s, memory_.name_, table_bytes,
                      fmt::format("{} granules and {} IOVA runs", granules(), runs)));
    }
    write_record(r, *tables);
    write_runs(r);  // whoever adds next compares with them
    link_record(*t, r);
  }
  view_ = &views.at(slot_);
  is_recorded_ = true;
  keep_fd(*view_, fd_);
  view_->mapped_by_annex = from_.mapped_by_annex;
  view_->pins = pins_;
  views.set_base(*view_, m_.base, m_.length_bytes);
  address_index::enter(view_);
  return {};
}

// The file gets its name, the first pages of the tables are there, everybody agrees.
result<void> regions::addition::agree() {
  claim_ = memory_.member_.claim_on(slot_);
  auto places = memory_.files_.places_of(copy_of(*view_->record));
  if (!places) return std::unexpected(places.error());  // the file has no name yet
  places_.emplace(std::move(*places));
  if (!from_.owned_path.empty())
    if (const int why = memory_.files_.publish(fd_, from_.owned_path); why != 0)
      return refuse_os(errc::os_failure, why, "can't name the region's file {}: {}{}",
                       from_.owned_path, std::strerror(why), remedy_for(why));
  if (claim_ == nullptr || !extents(*view_).back_ends())
    return std::unexpected(no_metadata(memory_.segment_, memory_.name_, os::page_bytes(),
                                       fmt::format("the tables of region {}", id_)));
  return memory_.observers_.agree(view_for_observers(*view_));
}

result<region_id> regions::addition::publish() {
  if (m_.contents == fill::zero) zero_range(static_cast<char*>(m_.base), m_.length_bytes);
  is_done_ = true;
  segment_header& h = memory_.segment_.header();
  region_record& r = *view_->record;
  // Of what was written, not of what lies there by now.
  const u64 iova_seal = seal_of_runs(tables_.runs.data(), static_cast<u32>(tables_.runs.size()));
  {
    locked t(memory_.heap_);
    t->put(r.seal, seal_of_region(r));
    t->put(r.iova_seal, iova_seal);
    t->put(r.state, region_active);
    extents(*view_).make_free(*t);
    begin_claim(*claim_, id_, fd_, memory_.attached_bits());
    make_usable(*view_);
    // sync(epoch): after what has changed.
    t->put(h.region_epoch, h.region_epoch.load(std::memory_order_relaxed) + 1);
    t->commit();  // the region exists
    ANNEX_TRY(memory_.refuse_if_damaged());
  }
  os::wake_all(&h.region_epoch.value);
  return region_id{id_};
}

result<region_id> regions::add_memory(const memory_range& m) {
  return add_memory(m, provenance{});
}

result<region_id> regions::add_memory(const memory_range& m, const provenance& from) {
  ANNEX_TRY(refuse_in_callback(heap_, "adding memory"));
  if (is_read_only())
    return refuse(errc::read_only, "\"{}\" is attached read-only; attach it writable to add memory",
                  name_);
  if (!member_.ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(refuse_if_damaged());
  std::unique_lock guard(heap_.memory_mutex, std::defer_lock);  // held while a refusal is undone
  addition added(*this, m, from);
  ANNEX_TRY(added.check());
  ANNEX_TRY(added.pin());
  guard.lock();
  ANNEX_TRY(added.reserve());
  ANNEX_TRY(added.record());
  ANNEX_TRY(added.agree());
  return added.publish();
}

}  // namespace annex::detail
