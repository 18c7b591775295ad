// heap/memory.cpp - regions come and go: added, attached by other processes, drained, removed.
//
//   add      check → reserve the address range here → record (partial) → file named → observers →
//            zero → publish (active) a death up to publishing: recovery removes the file and the
//            record; nothing was ever handed out
//   attach   map by fd or path, or checked by hand → observers → base set: from here on blocks come
//            from it
//   drain    draining (no extent is cut from it any more) → caches recalled, its slabs made orphans
//            (no thread hands out their blocks) → wait until nothing is live → observers begin,
//            finish → partial: it is gone → file removed → unmapped → record freed a death while
//            draining: recovery makes it active again; once it is partial: recovery finishes
// Observers are called with memory_mutex_ held and no other lock.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/in_parallel.hpp"
#include "heap/local_heap.hpp"
#include "heap/room.hpp"
#include "heap/sanity.hpp"
#include "platform/os.hpp"

namespace annex::detail {
namespace {

using clock = std::chrono::steady_clock;

// Of memory added by hand, evenly spread, whose node is looked at: adding costs O(IOVA runs).
constexpr u64 sampled_pages = 4096;
// What other processes align their mapping to, at most.
constexpr u64 widest_common_alignment = 1 * GiB;

u8 alignment_shift_of(const void* base) noexcept {
  const u64 lowest = reinterpret_cast<u64>(base) & -reinterpret_cast<u64>(base);
  return static_cast<u8>(log2_floor(std::min(lowest, widest_common_alignment)));
}

result<void> check_range(const memory_range& m) {
  if (m.base == nullptr)
    return refuse(errc::invalid_argument,
                  "the base is null; give the address the memory has in this process");
  if (!is_power_of_two(m.page_bytes) || m.page_bytes < limits::smallest_page_bytes ||
      m.page_bytes > limits::largest_page_bytes)
    return refuse(errc::bad_page_size,
                  "{} bytes are no page size: use a power of two from {} to {}", m.page_bytes,
                  limits::smallest_page_bytes, limits::largest_page_bytes);
  if (m.length_bytes == 0 || m.length_bytes % m.page_bytes != 0 ||
      m.length_bytes > limits::largest_region_bytes)
    return refuse(errc::bad_length,
                  "{} bytes are no region: use 1 or more whole pages of {} bytes, up to {} bytes",
                  m.length_bytes, m.page_bytes, limits::largest_region_bytes);
  if (reinterpret_cast<u64>(m.base) % m.page_bytes != 0)
    return refuse(errc::bad_alignment, "base {} is no multiple of the page size {}", m.base,
                  m.page_bytes);
  if (passes(reinterpret_cast<u64>(m.base), m.length_bytes, ~u64{0}))
    return refuse(errc::bad_length, "{} bytes from {} pass the end of the address space",
                  m.length_bytes, m.base);
  ANNEX_TRY(check_numa_node(m.numa_node));
  if (m.fd >= 0 && m.fd_offset % limits::smallest_page_bytes != 0)
    return refuse(errc::bad_alignment,
                  "offset {} of descriptor {} is no multiple of {}: nobody could map it",
                  m.fd_offset, m.fd, limits::smallest_page_bytes);
  if (m.fd >= 0 && passes(m.fd_offset, m.length_bytes, limits::largest_file_bytes))
    return refuse(errc::bad_length, "{} bytes from offset {} pass what a file can have ({} bytes)",
                  m.length_bytes, m.fd_offset, limits::largest_file_bytes);
  if (!m.page_iovas.empty() && m.page_iovas.size() != m.length_bytes / m.page_bytes)
    return refuse(errc::bad_iova, "{} IOVAs for {} pages; give one per page of {} bytes, or none",
                  m.page_iovas.size(), m.length_bytes / m.page_bytes, m.page_bytes);
  if (m.access == touch::none && m.contents != fill::keep)
    return refuse(errc::no_cpu_access,
                  "memory the CPU may not touch can't be zeroed, or be known to be zero; zero it "
                  "by its device, and add it with fill::keep");
  return {};
}

result<void> check_mapped(const void* base, u64 bytes, touch access) {
  if (access == touch::none) return {};
  if (passes(reinterpret_cast<u64>(base), bytes, ~u64{0}))
    return refuse(errc::bad_length, "{} bytes from {} pass the end of the address space", bytes,
                  base);
  const os::mapping_check check = os::check_mapping(base, bytes);
  if (check.error != 0)
    return refuse_os(errc::os_failure, check.error,
                     "whether [{}, +{}) is mapped can't be seen (/proc/self/maps): {}{}", base,
                     bytes, std::strerror(check.error), remedy_for(check.error));
  if (!check.mapped)
    return refuse(
        errc::not_mapped,
        "[{}, +{}) is not all mapped in this process; map it first, or declare touch::none", base,
        bytes);
  if (!check.readable || !check.writable)
    return refuse(
        errc::not_writable,
        "[{}, +{}) is not all readable and writable; change its protection, or declare touch::none",
        base, bytes);
  return {};
}

bool attaches_by_itself(const region_record& r) noexcept {
  return r.backing != backing_none || r.same_address != 0;
}

// The record as it is now. What is checked in it is what is used, whoever changes it meanwhile.
region_record copy_of(const region_record& r) noexcept {
  region_record copy;
  std::memcpy(static_cast<void*>(&copy), &r, sizeof copy);
  return copy;
}

void zero_range(char* base, u64 bytes) {
  in_parallel(bytes, 16 * MiB, 0, [&](unsigned, u64 at, u64 n) {
    std::memset(base + at, 0, n);
    return 0;
  });
}

}  // namespace

// What this member does with each region; made on first use. Null: no metadata left.
// What this member has said of the view's region; null: nothing. Takes no lock: also for who has
// it, and for readers.
region_claim* local_heap::claim_here(const local_region& view) noexcept {
  if (member_ == 0 || is_read_only()) return nullptr;
  region_claim* const mine = claims_of(segment_, segment_.member(member_));
  return mine != nullptr && mine[view.slot].region.load(std::memory_order_relaxed) == view.id
             ? mine + view.slot
             : nullptr;
}

region_claim* local_heap::claims() noexcept {
  member_record& m = segment_.member(member_);
  if (m.region_claims == 0) {
    locked t(*this);
    if (m.region_claims == 0) {
      const chunk_ref ref =
          allocate_chunk(*t, u64{segment_.region_limit()} * sizeof(region_claim), backing::sparse);
      if (ref == 0 || !back_pages(segment_, u64{ref} * chunk_unit_bytes, sizeof(region_claim))) {
        t->roll_back();
        return nullptr;
      }
      t->put(m.region_claims, ref);
    }
  }
  return claims_of(segment_, m);
}

// This member's claim on the region. Null: no metadata left for it.
region_claim* local_heap::claim_on(u32 slot) noexcept {
  region_claim* const mine = claims();
  return mine != nullptr &&
                 back_pages(segment_, segment_.offset_of(mine + slot), sizeof(region_claim))
             ? mine + slot
             : nullptr;
}

// For another region: of a slot that is free and has handles left, if there are such with half of
// theirs. Ids only rise, so none is ever given out again. 0: there is none.
u32 local_heap::find_region_id(u64 length_bytes) noexcept {
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

u16 local_heap::attached_bits() const noexcept {
  return static_cast<u16>(claim_attached | (observers_.empty() ? 0 : claim_observed));
}

// The region's id commits: a claim that is half written, or half taken away, is about nothing, and
// recovery drops the dead's.
void local_heap::begin_claim(region_claim& claim, u32 id, int fd) const noexcept {
  claim.leases.store(0, std::memory_order_relaxed);
  claim.fd_plus_1.store(static_cast<u32>(fd + 1), std::memory_order_relaxed);
  claim.attached.store(attached_bits(), std::memory_order_relaxed);
  claim.region.store(id, std::memory_order_release);
}

void local_heap::end_claim(region_claim& claim) noexcept {
  claim.attached.store(0, std::memory_order_release);
  claim.fd_plus_1.store(0, std::memory_order_relaxed);
  claim.region.store(0, std::memory_order_release);
}

result<region_id> local_heap::add_memory(const memory_range& m, bool mapped_by_annex,
                                         const std::string& owned_path, os::pinned* pins,
                                         bool physical, u64 sure_bytes) {
  if (is_read_only())
    return refuse(errc::read_only, "\"{}\" is attached read-only; attach it writable to add memory",
                  name_);
  if (!ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(refuse_if_damaged());
  ANNEX_TRY(check_range(m));
  ANNEX_TRY(check_mapped(m.base, m.length_bytes, m.access));
  if (m.access == touch::read_write && !mapped_by_annex)
    ANNEX_TRY(check_node(
        m.base, m.length_bytes,
        std::max<u64>(m.page_bytes, align_up(m.length_bytes / sampled_pages, m.page_bytes)),
        m.numa_node));
  auto tables = make_iova_tables(m.page_iovas, m.page_bytes);
  if (!tables) return std::unexpected(tables.error());
  os::pinned* pinned_here = nullptr;  // not the caller's
  if (m.pin && pins == nullptr) {
    const auto pinned = pin_memory(m.base, m.length_bytes, m.access, m.threads, m.progress);
    if (!pinned) return std::unexpected(pinned.error());
    pins = pinned_here = *pinned;
  }

  std::lock_guard guard(memory_mutex_);
  if (auto reserved = address_index::reserve(m.base, m.length_bytes); !reserved) {
    os::unpin(pinned_here);
    return std::unexpected(reserved.error());
  }
  auto undo = [&](std::unexpected<error> e) -> result<region_id> {
    os::unpin(pinned_here);
    address_index::leave(m.base);
    return e;
  };
  segment_header& h = segment_.header();
  const u8 shift = granule_shift_of(m.length_bytes);
  const u64 granules = divide_up(m.length_bytes, u64{1} << shift);
  const int fd = m.fd >= 0 ? os::duplicate(m.fd) : -1;
  os::file_identity file;
  if (m.fd >= 0 && (fd < 0 || os::identify(fd, &file) != 0)) {
    const int why = errno;
    os::close_file(fd);
    return undo(refuse_os(errc::invalid_argument, why, "descriptor {} can't be used: {}{}", m.fd,
                          std::strerror(why), remedy_for(why)));
  }
  auto drop_fd = [&](std::unexpected<error> e) {
    os::close_file(fd);
    return undo(e);
  };

  // 1 the record, its tables, and what they say; state adding
  u32 slot = no_region, id = 0;
  std::optional<error> refused;
  {
    locked t(*this);
    id = find_region_id(m.length_bytes);
    for (const u32 other : used_region_slots(segment_)) {  // the same file, the same IOVAs?
      if (id == 0 || refused) break;
      const region_record& o = views_.record(other);
      if (o.state.load(std::memory_order_relaxed) == region_free) continue;
      const bool same_file = fd >= 0 && o.backing != backing_none && o.device == file.device &&
                             o.inode == file.inode && m.fd_offset < o.fd_offset + o.length_bytes &&
                             o.fd_offset < m.fd_offset + m.length_bytes;
      if (same_file)
        refused = make_error(errc::region_overlap, 0,
                             "bytes {} to {} of this file are region {} of the heap already",
                             o.fd_offset, o.fd_offset + o.length_bytes, o.id.value);
      if (o.iova_run_count == 0 || tables->runs.empty() || tables->lowest > o.highest_iova ||
          o.lowest_iova > tables->highest)
        continue;
      local_region& view = views_.at(other);
      for (size_t i = 0; i < tables->runs.size() && !refused; ++i) {
        const u64 begin = tables->runs[i].address,
                  bytes =
                      (i + 1 < tables->runs.size() ? tables->runs[i + 1].offset : m.length_bytes) -
                      tables->runs[i].offset;
        if (view.iovas.overlaps(begin, bytes))
          refused = make_error(
              errc::iova_overlap, 0,
              "IOVAs {:#x} to {:#x} are used by region {}; every byte of a heap needs its own",
              begin, begin + bytes, o.id.value);
      }
    }
    if (id == 0 && h.region_count < segment_.region_limit())
      refused =
          make_error(errc::limit_reached, 0,
                     "\"{}\" has had so much memory added and removed that no handles are left for "
                     "another region of {} bytes (of 2^32 regions, and 2^50 bytes in each of {} "
                     "slots); bring memory in smaller regions, or make a new heap",
                     name_, m.length_bytes, segment_.region_limit());
    else if (id == 0)
      refused = make_error(errc::limit_reached, 0,
                           "\"{}\" has its limit of {} regions; remove one, add larger ones, or "
                           "create it with a higher region_limit",
                           name_, segment_.region_limit());
    if (id != 0 && !refused &&
        !back_pages(segment_, segment_.offset_of(&views_.record(views_.slot_of(id))),
                    sizeof(region_record)))
      refused = no_metadata(segment_, name_, sizeof(region_record), "a region's record");
    if (!refused) {
      slot = views_.slot_of(id);
      region_record& r = views_.record(slot);
      const u32 runs = static_cast<u32>(tables->runs.size());
      auto chunk = [&](u64 bytes, backing pages = backing::whole) {
        return bytes != 0 ? allocate_chunk(*t, bytes, pages) : chunk_ref{0};
      };
      // Memory that is there is of use only where its tables are, too.
      auto table = [&](u64 bytes) {
        return chunk(bytes, sure_bytes != ~u64{0} ? backing::whole : backing_of_table(bytes));
      };
      const chunk_ref granule_table = table(granules * sizeof(granule_entry)),
                      extent_table = table(granules * sizeof(extent_entry));
      const chunk_ref run_table = chunk(runs * sizeof(iova_run)), order = chunk(runs * sizeof(u32)),
                      index = chunk(tables->index.size() * sizeof(u32));
      if (granule_table == 0 || extent_table == 0 ||
          (runs != 0 && (run_table == 0 || order == 0 || index == 0))) {
        t->roll_back();
        const u64 table_bytes = granules * (sizeof(granule_entry) + sizeof(extent_entry)) +
                                u64{runs} * (sizeof(iova_run) + 2 * sizeof(u32));
        refused = no_metadata(segment_, name_, table_bytes,
                              fmt::format("{} granules and {} IOVA runs", granules, runs));
      } else {
        // The record is free: nobody reads it before its state says otherwise.
        r.length_bytes = m.length_bytes;
        r.page_bytes = m.page_bytes;
        r.adder_base = reinterpret_cast<u64>(m.base);
        r.device = file.device;
        r.inode = file.inode;
        r.fd_offset = m.fd_offset;
        r.adder = member_;
        r.adder_process = os::process_id();
        r.worker = member_;
        r.adder_fd_plus_1 = static_cast<u32>(fd + 1);
        r.numa_node = m.numa_node;
        r.align_shift = alignment_shift_of(m.base);
        r.granule_shift = shift;
        r.access = static_cast<u8>(m.access);
        r.backing = fd < 0 ? backing_none : owned_path.empty() ? backing_foreign : backing_owned;
        r.granule_count = static_cast<u32>(granules);
        r.free_granules = 0;
        r.granules = granule_table;
        r.extents = extent_table;
        r.iova_runs = run_table;
        r.iova_order = order;
        r.iova_index = index;
        r.iova_run_count = runs;
        r.iova_index_shift = tables->index_shift;
        r.lowest_iova = tables->lowest;
        r.highest_iova = tables->highest;
        r.longest_run_bytes = tables->longest_run_bytes;
        r.cancel_drain.store(0, std::memory_order_relaxed);
        r.live_extents = 0;
        r.same_address = m.same_address ? 1 : 0;
        r.pinned = !m.pin ? not_pinned : physical ? pinned_physical : pinned_pages;
        r.generations_turned = 0;
        r.numbers_used_inverted = ~r.numbers_used;  // of regions that had this slot before
        std::fill(std::begin(r.floors), std::end(r.floors), 0);
        r.first_clean = m.contents == fill::keep ? r.granule_count : 0;
        r.first_clean_check = ~r.first_clean;
        r.first_unsure = sure_bytes < m.length_bytes ? static_cast<u32>(sure_bytes >> shift) : 0;
        std::memset(r.path, 0, sizeof r.path);
        const std::string path = !owned_path.empty() ? owned_path : fd >= 0 ? os::path_of(fd) : "";
        if (path.size() < sizeof r.path) path.copy(r.path, sizeof r.path - 1);
        t->put(h.next_region_id, id + 1);
        if (slot >= h.region_slots_used) t->put(h.region_slots_used, slot + 1);
        t->put(h.used_regions[slot / 64], h.used_regions[slot / 64] | u64{1} << (slot % 64));
        t->put(r.id, id);
        t->put(r.state, region_partial);
        t->put(h.region_count, h.region_count + 1);
      }
    }
  }
  if (refused) return drop_fd(std::unexpected(*refused));
  region_record& r = views_.record(slot);
  if (!tables->runs.empty()) {
    std::copy(tables->runs.begin(), tables->runs.end(), segment_.chunk<iova_run>(r.iova_runs));
    std::copy(tables->order.begin(), tables->order.end(), segment_.chunk<u32>(r.iova_order));
    std::copy(tables->index.begin(), tables->index.end(), segment_.chunk<u32>(r.iova_index));
  }

  local_region& view = views_.at(slot);
  keep_fd(view, fd);
  view.mapped_by_annex = mapped_by_annex;
  view.pins = pins;
  views_.set_base(view, m.base, m.length_bytes);
  address_index::enter(&view);

  // 2 the file gets its name, everybody agrees, the first pages of the tables are there
  region_claim* const claim = claim_on(slot);
  const auto places = files_.places_of(copy_of(r));
  auto agreed = [&]() -> result<void> {
    if (!places) return std::unexpected(places.error());  // the file has no name yet
    if (!owned_path.empty())
      if (const int why = files_.publish(fd, owned_path); why != 0)
        return refuse_os(errc::os_failure, why, "can't name the region's file {}: {}{}", owned_path,
                         std::strerror(why), remedy_for(why));
    if (claim == nullptr || !extents(view).back_ends())
      return std::unexpected(no_metadata(segment_, name_, os::page_bytes(),
                                         fmt::format("the tables of region {}", id)));
    return observers_.agree(view_for_observers(view));
  }();
  if (!agreed) {
    {
      locked t(*this);
      if (places) files_.remove_memory(*places, segment_, copy_of(r));
      free_region(*t, slot);
    }
    address_index::leave(m.base);
    view.pins = nullptr;
    os::unpin(pinned_here);
    views_.drop(view);
    os::close_file(fd);
    return std::unexpected(agreed.error());
  }
  if (m.contents == fill::zero) zero_range(static_cast<char*>(m.base), m.length_bytes);

  // 3 published
  {
    locked t(*this);
    t->put(r.seal, seal_of_region(r));
    t->put(r.iova_seal, r.iova_run_count == 0 ? 0
                                              : seal_of_runs(segment_.chunk<iova_run>(r.iova_runs),
                                                             r.iova_run_count));
    t->put(r.state, region_active);
    extents(view).make_free(*t);
    begin_claim(*claim, id, fd);
    make_usable(view);
    t->put(h.region_epoch, h.region_epoch.load(std::memory_order_relaxed) + 1);
    t->commit();  // the region exists
    ANNEX_TRY(refuse_if_damaged());
  }
  os::wake_all(&h.region_epoch.value);
  return region_id{id};
}

// Active, draining or partial, and what follows from it. One transaction.
void local_heap::set_region_state(transaction& t, u32 slot, region_state state) noexcept {
  segment_header& h = segment_.header();
  region_record& r = views_.record(slot);
  t.put(r.state, state);
  u64& word = h.free_regions[slot / 64];
  const u64 bit = u64{1} << (slot % 64);
  const bool usable = state == region_active && r.free_granules != 0;
  if (((word & bit) != 0) != usable) t.put(word, word ^ bit);
  t.put(h.region_epoch, h.region_epoch.load(std::memory_order_relaxed) + 1);
  t.commit();
}

// Under the heap lock: the record and its tables go. One transaction.
void local_heap::free_region(transaction& t, u32 slot) noexcept {
  segment_header& h = segment_.header();
  region_record& r = views_.record(slot);
  const u64 granules = r.granule_count;
  free_chunk(t, r.granules, granules * sizeof(granule_entry));
  free_chunk(t, r.extents, granules * sizeof(extent_entry));
  free_chunk(t, r.iova_runs, u64{r.iova_run_count} * sizeof(iova_run));
  free_chunk(t, r.iova_order, u64{r.iova_run_count} * sizeof(u32));
  if (r.iova_index != 0)
    free_chunk(t, r.iova_index, ((r.length_bytes >> r.iova_index_shift) + 2) * sizeof(u32));
  const u64 bit = u64{1} << (slot % 64);
  if ((h.free_regions[slot / 64] & bit) != 0)
    t.put(h.free_regions[slot / 64], h.free_regions[slot / 64] & ~bit);
  t.put(h.used_regions[slot / 64], h.used_regions[slot / 64] & ~bit);
  use_up_numbers(t, r, slot);
  t.put(h.region_count, h.region_count - 1);
  t.put(h.region_epoch, h.region_epoch.load(std::memory_order_relaxed) + 1);
  t.put(r.state, region_free);
  t.commit();
}

// Recalls what caches keep of the region and takes its slabs from their threads; true when anything
// in it is live.
bool local_heap::has_live_blocks(transaction& t, u32 slot, frozen_caches* frozen) noexcept {
  for (thread_cache* c : frozen->caches) {
    flush_region(segment_, views_, *c, slot, doubles_of(*c));
    make_orphans(t, *c, slot);
  }
  release_empty_orphans(t);
  return views_.record(slot).live_extents != 0;
}

std::string local_heap::who_holds(u32 slot) {
  std::string who;
  u64 blocks = 0, bytes = 0;
  std::vector<std::pair<u32, u64>> holders;
  (void)for_each_block([&](const block_summary& b) {
    if (slot_of(b.where) != slot) return;
    ++blocks;
    bytes += b.size_bytes;
    const u32 member = static_cast<u32>(b.holder);
    auto found = std::find_if(holders.begin(), holders.end(),
                              [&](const auto& h) { return h.first == member; });
    if (found == holders.end())
      holders.emplace_back(member, b.size_bytes);
    else
      found->second += b.size_bytes;
  });
  who = fmt::format("{} blocks, {} bytes", blocks, bytes);
  for (size_t i = 0; i < holders.size() && i < 3; ++i)
    who += holders[i].first == 0
               ? fmt::format("; {} bytes in zones", holders[i].second)
               : fmt::format("; {} bytes held by member {} (process {})", holders[i].second,
                             holders[i].first, segment_.member(holders[i].first).process_id);
  return who;
}

bool local_heap::is_attached_elsewhere(region_id region) noexcept {
  const u32 id = static_cast<u32>(region);
  const u32 slot = views_.slot_of(id);
  if (slot >= views_.slots()) return false;
  for (u32 m = 1; m <= segment_.members_used(); ++m) {
    const member_record& member = segment_.member(m);
    if (m == member_ || member.state.load(std::memory_order_acquire) != member_live ||
        member.region_claims == 0)
      continue;
    const region_claim* const claims = claims_of(segment_, member);
    if (claims == nullptr) continue;
    const region_claim& claim = claims[slot];
    if (claim.region.load(std::memory_order_acquire) == id && !is_member_gone(segment_, m, member_))
      return true;
  }
  return false;
}

// Leases anywhere, and observers of other processes.
result<void> local_heap::check_removable(u32 slot) {
  const u32 id = views_.record(slot).id.load(std::memory_order_relaxed);
  for (u32 m = 1; m <= segment_.members_used(); ++m) {
    const member_record& member = segment_.member(m);
    if (member.state.load(std::memory_order_acquire) != member_live || member.region_claims == 0)
      continue;
    const region_claim* const claims = claims_of(segment_, member);
    if (claims == nullptr) continue;
    const region_claim& claim = claims[slot];
    if (claim.region.load(std::memory_order_acquire) != id || is_member_gone(segment_, m, member_))
      continue;
    if (const u32 leases = claim.leases.load(std::memory_order_acquire); leases != 0)
      return refuse(errc::leased, "region {} is held by {} leases of process {}; end them first",
                    id, leases, member.process_id);
    if (m != member_ && (claim.attached.load(std::memory_order_acquire) & claim_observed) != 0)
      return refuse(errc::observed_elsewhere,
                    "observers of process {} have not let go of region {}; they do so when that "
                    "process runs, drain with a longer deadline",
                    member.process_id, id);
  }
  return {};
}

result<void> local_heap::remove_memory(region_id region, std::chrono::nanoseconds patience,
                                       bool wait) {
  if (is_read_only())
    return refuse(errc::read_only,
                  "\"{}\" is attached read-only; attach it writable to remove memory", name_);
  if (!ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(refuse_if_damaged());
  const u32 id = static_cast<u32>(region);
  const auto deadline =
      clock::now() + std::clamp(patience, std::chrono::nanoseconds(0),
                                std::chrono::nanoseconds(limits::longest_wait_ns));
  region_record* record = views_.find(id);
  if (record == nullptr) return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
  const u32 slot = views_.slot_of(id);
  segment_header& h = segment_.header();
  u32 cancels = 0;
  {
    locked t(*this);
    if (views_.find(id) == record)
      views_.at(slot).draining_here.store(1, std::memory_order_relaxed);
    if (views_.find(id) != record)
      return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
    cancels = record->cancel_drain.load(std::memory_order_relaxed);
    t->put(record->worker, member_);
    set_region_state(*t, slot, region_draining);
  }
  os::wake_all(&h.region_epoch.value);
  auto refuse_and_serve = [&](std::unexpected<error> e) -> result<void> {
    locked t(*this);
    if (views_.find(id) == record) {
      views_.at(slot).draining_here.store(0, std::memory_order_relaxed);
      set_region_state(*t, slot, region_active);
    }
    return e;
  };
  for (u64 pause_ns = 100'000;; pause_ns = std::min<u64>(pause_ns * 2, 20'000'000)) {
    bool live = false;
    u32 not_still = 0;
    {
      locked t(*this);
      if (views_.find(id) != record)
        return refuse(errc::no_such_region, "region {} was removed by another process meanwhile",
                      id);
      frozen_caches frozen = recover_and_freeze(*t);
      if (views_.find(id) != record) {  // recovery lets others in
        thaw(frozen);
        return refuse(errc::no_such_region, "region {} was removed by another process meanwhile",
                      id);
      }
      not_still = frozen.not_still;
      live = has_live_blocks(*t, slot, &frozen);
      thaw(frozen);
    }
    result<void> removable = live ? result<void>{} : check_removable(slot);
    if (!live && removable) break;
    if (record->cancel_drain.load(std::memory_order_acquire) != cancels)
      return refuse_and_serve(
          refuse(errc::canceled, "draining region {} was canceled; it serves again", id));
    if (!wait || clock::now() >= deadline) {
      if (!live && !wait) return refuse_and_serve(std::unexpected(removable.error()));
      if (!live) return refuse_and_serve(std::unexpected(removable.error()));
      const std::string who = who_holds(slot);
      if (!wait)
        return refuse_and_serve(
            refuse(errc::blocks_live, "region {} has {}{}; free them, or drain the region", id, who,
                   not_still != 0 ? " (a stopped thread keeps some)" : ""));
      return refuse_and_serve(refuse(errc::deadline_passed,
                                     "region {} still has {}{}; it serves again", id, who,
                                     not_still != 0 ? " (a stopped thread keeps some)" : ""));
    }
    os::sleep_ns(std::min<u64>(pause_ns,
                               static_cast<u64>(std::max<i64>(
                                   1, std::chrono::nanoseconds(deadline - clock::now()).count()))));
  }

  std::lock_guard guard(memory_mutex_);
  local_region& view = views_.at(slot);
  if (view.base != nullptr)
    if (auto done = observers_.let_go(view_for_observers(view),
                                      wait ? deadline : clock::now() + detach_time);
        !done) {
      (void)observers_.agree(view_for_observers(view));
      return refuse_and_serve(std::unexpected(done.error()));
    }
  const region_record gone = copy_of(*record);
  const auto places = files_.places_of(gone);  // now: once the region is gone its file must go
  if (!places) {
    if (view.base != nullptr) (void)observers_.agree(view_for_observers(view));
    return refuse_and_serve(std::unexpected(places.error()));
  }
  bool is_used_again = false;
  {
    locked t(*this);
    if (views_.find(id) != record)
      return refuse(errc::no_such_region, "region {} was removed by another process meanwhile", id);
    is_used_again = record->live_extents != 0;
    if (is_used_again) {
      view.draining_here.store(0, std::memory_order_relaxed);
    } else {
      t->put(record->worker, member_);
      set_region_state(*t, slot, region_partial);  // commit: the region is gone
    }
  }
  if (is_used_again) {  // somebody made it serve meanwhile
    if (view.base != nullptr) (void)observers_.agree(view_for_observers(view));
    return refuse(errc::blocks_live, "region {} is in use again", id);
  }
  os::wake_all(&h.region_epoch.value);
  files_.remove_memory(*places, segment_, gone);
  if (view.base != nullptr) {
    view.observed_removal = true;
    detach_view(view);
  }
  {
    locked t(*this);
    free_region(*t, slot);
  }
  views_.drop(view);
  return {};
}

result<void> local_heap::cancel_drain(region_id region) {
  if (is_read_only()) return refuse(errc::read_only, "\"{}\" is attached read-only", name_);
  if (!ensure_member())
    return refuse(errc::forked_away, "this forked child is no member of the heap");
  region_record* record = views_.find(static_cast<u32>(region));
  if (record == nullptr)
    return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, static_cast<u32>(region));
  record->cancel_drain.fetch_add(1, std::memory_order_release);
  // A drainer that died left the region draining: then this is what makes it serve again.
  locked t(*this);
  if (record->state.load(std::memory_order_relaxed) == region_draining)
    set_region_state(*t, views_.slot_of(static_cast<u32>(region)), region_active);
  return {};
}

// Unmaps a region here and forgets it. Under memory_mutex_.
void local_heap::detach_view(local_region& view) noexcept {
  char* const base = view.base;
  const u64 length = view.length_bytes;
  if (base == nullptr) return;
  if (!view.observed_removal && !observers_.empty())
    (void)observers_.let_go(view_for_observers(view), clock::now() + detach_time);
  address_index::leave(base);
  if (region_claim* const mine = claim_here(view); mine != nullptr) end_claim(*mine);
  views_.set_base(view, nullptr, 0);
  os::unpin(std::exchange(view.pins, nullptr));
  if (view.mapped_by_annex) os::unmap(base, length);
  close_fd(view);
}

// A file with a name can't be kept from being cut short: whoever touches what is missing is killed.
// So slow paths ask first.
result<void> local_heap::check_length(const local_region& view) const noexcept {
  os::file_identity file;
  const int fd = fd_of(view);
  if (fd < 0 || os::identify(fd, &file) != 0 || file.kind != os::file_kind::regular) return {};
  if (const u64 end = view.record->fd_offset + view.length_bytes; file.length_bytes < end)
    return refuse(
        errc::wrong_memory,
        "the file of region {} has {} bytes, but the region reaches to {}; it was cut short",
        view.id, file.length_bytes, end);
  return {};
}

// A descriptor for the region's memory: by its path, or by whoever has it open.
result<int> local_heap::open_memory(const region_record& r, u32 slot) noexcept {
  const u32 id = r.id.value;
  std::string_view against;
  int fd = -1, shortage = 0;
  auto found = [&](const heap_files::opened& file) {
    fd = file.fd;
    if (shortage == 0) shortage = file.error;
    if (against.empty()) against = file.against;
    return fd >= 0;
  };
  const bool writable = !is_read_only();
  bool any = found(files_.open_memory(segment_, r, writable));
  if (!any && r.adder_fd_plus_1 != 0)
    any =
        found(files_.open_memory_of(segment_, r, r.adder_process, r.adder_fd_plus_1 - 1, writable));
  for (u32 m = 1; m <= segment_.members_used() && !any; ++m) {  // whoever else has it open
    const member_record& member = segment_.member(m);
    if (member.state.load(std::memory_order_acquire) != member_live || member.region_claims == 0)
      continue;
    const region_claim* const claims = claims_of(segment_, member);
    if (claims == nullptr) continue;
    const u32 open_as = claims[slot].fd_plus_1.load(std::memory_order_relaxed);
    if (claims[slot].region.load(std::memory_order_acquire) == id && open_as != 0)
      any = found(files_.open_memory_of(segment_, r, member.process_id, open_as - 1, writable));
  }
  if (!any && shortage != 0)
    return refuse_os(errc::cannot_attach, shortage, "region {}'s memory can't be opened: {}{}", id,
                     std::strerror(shortage), remedy_for(shortage));
  if (!any && !against.empty())
    return refuse(errc::cannot_attach,
                  "region {}'s memory is not opened: {}; map it yourself (attach_memory with a "
                  "base), or attach with foreign_memory if you trust them (docs/security.md){}{}",
                  id, against, r.path[0] == '/' ? ": " : "", r.path);
  if (!any)
    return refuse(errc::cannot_attach,
                  "no way to region {}'s memory: {} can't be opened and no member that has it is "
                  "within reach; map it here and call attach_memory(region, base)",
                  id, r.path[0] == '/' ? r.path : "its descriptor");
  os::file_identity file;
  if (os::identify(fd, &file) == 0 && file.kind == os::file_kind::regular &&
      file.length_bytes < r.fd_offset + r.length_bytes) {
    os::close_file(fd);
    return refuse(
        errc::wrong_memory,
        "the file of region {} has {} bytes, but the region reaches to {}; it was cut short", id,
        file.length_bytes, r.fd_offset + r.length_bytes);
  }
  return fd;
}

// Maps a region here, or takes the base the caller mapped it at. Under memory_mutex_.
result<local_region*> local_heap::attach_slot(u32 slot, void* by_hand) {
  local_region& view = views_.at(slot);
  const region_record r = copy_of(*view.record);
  const u32 id = view.id;
  if (view.base != nullptr)
    return refuse(errc::already_attached, "region {} is attached at {} already", id,
                  static_cast<void*>(view.base));
  if (r.id.value != id || !is_sane_region(segment_, r, slot) ||
      r.fd_offset > ~u64{0} - r.length_bytes)
    return refuse(errc::corrupt,
                  "the record of region {} says what can't be; close the heap everywhere, then "
                  "`annex check --repair`",
                  id);
  if (r.length_bytes != view.region_bytes || r.granule_shift != view.granule_shift) {
    segment_.mark_damaged("the record of a region has changed");
    return std::unexpected(refuse_if_damaged().error());
  }
  region_claim* const mine = is_read_only() ? nullptr : claim_on(slot);
  if (mine == nullptr && !is_read_only())
    return std::unexpected(no_metadata(segment_, name_,
                                       u64{segment_.region_limit()} * sizeof(region_claim),
                                       fmt::format("this process's claim on region {}", id)));
  if (by_hand == nullptr && r.same_address != 0) {
    if (!files_.believes_record(segment_))
      return refuse(errc::cannot_attach,
                    "region {} lies at {:#x} in every process, says its record, which others may "
                    "have written; call attach_memory with a base, or attach with foreign_memory "
                    "if you trust them",
                    id, r.adder_base);
    by_hand = reinterpret_cast<void*>(r.adder_base);
  }
  void* base = by_hand;
  int fd = -1;
  if (by_hand != nullptr) {
    if (reinterpret_cast<u64>(by_hand) % r.page_bytes != 0 ||
        reinterpret_cast<u64>(by_hand) % limits::smallest_page_bytes != 0)
      return refuse(errc::bad_alignment, "base {} is no multiple of the region's page size {}",
                    by_hand, r.page_bytes);
    ANNEX_TRY(check_mapped(by_hand, r.length_bytes, static_cast<touch>(r.access)));
  } else {
    if (r.backing == backing_none)
      return refuse(errc::cannot_attach,
                    "region {} was added as plain memory of process {}, without a descriptor; map "
                    "it here and call attach_memory(region, base)",
                    id, r.adder_process);
    const auto opened = open_memory(r, slot);
    if (!opened) return std::unexpected(opened.error());
    fd = *opened;
    const auto mapped =
        os::map_file(fd, r.fd_offset, r.length_bytes, !is_read_only(),
                     std::max(u64{1} << std::min<u8>(r.align_shift, 30), r.page_bytes));
    if (mapped.address == nullptr) {
      os::close_file(fd);
      return refuse_os(errc::cannot_attach, mapped.error,
                       "region {} ({} bytes) can't be mapped: {}{}", id, r.length_bytes,
                       std::strerror(mapped.error), remedy_for(mapped.error));
    }
    base = mapped.address;
  }
  os::pinned* pins = nullptr;
  auto undo = [&](std::unexpected<error> e) -> result<local_region*> {
    os::unpin(pins);
    if (by_hand == nullptr) os::unmap(base, r.length_bytes);
    os::close_file(fd);
    return e;
  };
  if (r.pinned != not_pinned && !is_read_only()) {  // whoever pinned it first may die
    const auto pinned = pin_memory(base, r.length_bytes, static_cast<touch>(r.access), 0, {});
    if (!pinned)
      return undo(refuse_os(errc::cannot_attach, pinned.error().os_errno, "region {}: {}", id,
                            pinned.error().message()));
    pins = *pinned;
    if (r.pinned == pinned_physical)
      if (auto there = check_physical(view, base); !there)
        return undo(std::unexpected(there.error()));
  }
  if (auto reserved = address_index::reserve(base, r.length_bytes); !reserved)
    return undo(std::unexpected(reserved.error()));
  keep_fd(view, fd);
  view.pins = pins;
  view.mapped_by_annex = by_hand == nullptr;
  views_.set_base(view, base, r.length_bytes);
  address_index::enter(&view);
  // Before the observers are asked: who drains the region from now on waits for them.
  if (mine != nullptr) begin_claim(*mine, id, fd);
  if (auto agreed = observers_.agree(view_for_observers(view)); !agreed) {
    if (mine != nullptr) end_claim(*mine);
    address_index::leave(base);
    views_.set_base(view, nullptr, 0);
    view.fd = -1;
    view.pins = nullptr;
    return undo(std::unexpected(agreed.error()));
  }
  make_usable(view);
  return &view;
}

result<void> local_heap::attach_memory(region_id region, void* base) {
  if (!is_read_only() && !ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(refuse_if_damaged());
  std::lock_guard guard(memory_mutex_);
  const u32 id = static_cast<u32>(region);
  if (views_.find(id) == nullptr)
    return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
  auto attached = attach_slot(views_.slot_of(id), base);
  return attached ? result<void>{} : std::unexpected(attached.error());
}

// From now on no thread of this process gets a block of the region, from its cache or a slab.
// False, and nothing has changed: one of them could not be held still.
bool local_heap::stop_serving_here(local_region& view) noexcept {
  locked t(*this);
  view.usable.store(0, std::memory_order_release);
  frozen_caches frozen = freeze_all(*t, member_);
  // Else none can be.
  const bool has_barrier = segment_.header().no_barrier.load(std::memory_order_relaxed) == 0;
  const bool all_still = frozen.not_still == 0 || !has_barrier;
  if (all_still)
    has_live_blocks(*t, view.slot, &frozen);
  else
    make_usable(view);
  thaw(frozen);
  return all_still;
}

result<void> local_heap::detach_memory(region_id region) {
  if (!is_read_only() && !ensure_member())
    return refuse(errc::forked_away, "this forked child is no member of the heap");
  std::lock_guard guard(memory_mutex_);
  const u32 id = static_cast<u32>(region), slot = views_.slot_of(id);
  if (views_.find(id) == nullptr)
    return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
  local_region& view = views_.at(slot);
  if (view.base == nullptr)
    return refuse(errc::not_attached, "region {} is not attached in this process", id);
  if (const region_claim* const mine = claim_here(view);
      mine != nullptr && mine->leases.load(std::memory_order_relaxed) != 0)
    return refuse(errc::leased, "region {} is held by a lease of this process; end it first", id);
  if (auto done = observers_.let_go(view_for_observers(view), clock::now() + detach_time); !done)
    return done;
  if (!is_read_only() && !stop_serving_here(view)) {
    (void)observers_.agree(view_for_observers(view));
    return refuse(errc::heap_in_use,
                  "a thread of this process is stopped in the middle of an allocation and may keep "
                  "blocks of region {}; continue it, then detach again",
                  id);
  }
  view.observed_removal = true;
  detach_view(view);
  views_.drop(view);
  return {};
}

result<local_region*> local_heap::ensure_attached(u32 slot) {
  if (local_region& view = views_.at(slot); is_usable_here(view)) return &view;
  if (policy_ == attach_policy::manual)
    return refuse(errc::not_attached,
                  "region {} is not attached here, and this heap attaches by hand only",
                  views_.record(slot).id.value);
  if (is_inside_callback())
    return refuse(errc::not_attached,
                  "region {} is not attached yet, and an observer's callback can't attach it",
                  views_.record(slot).id.value);
  std::lock_guard guard(memory_mutex_);
  if (local_region& view = views_.at(slot); is_usable_here(view)) return &view;
  return attach_slot(slot, nullptr);
}

bool local_heap::attach_more() noexcept {
  if (policy_ == attach_policy::manual || is_inside_callback()) return false;
  bool any = false;
  for (const u32 slot : used_region_slots(segment_)) {
    const region_record& r = views_.record(slot);
    if (r.state.load(std::memory_order_acquire) != region_active || !attaches_by_itself(r))
      continue;
    if (!is_usable_here(views_.at(slot))) any |= ensure_attached(slot).has_value();
  }
  return any;
}

// Whether another process drains the region, and nothing of it is in use here.
bool local_heap::may_leave_to_drainer(const local_region& view) noexcept {
  const region_record& r = *view.record;
  if (r.state.load(std::memory_order_acquire) != region_draining ||
      r.id.load(std::memory_order_relaxed) != view.id)
    return false;
  if (std::atomic_ref(const_cast<u32&>(r.live_extents)).load(std::memory_order_relaxed) != 0)
    return false;
  if (view.draining_here.load(std::memory_order_relaxed) != 0) return false;
  const region_claim* const mine = claim_here(view);
  return mine == nullptr || mine->leases.load(std::memory_order_relaxed) == 0;
}

// Allocation and leases ask for the heap lock too: from now on there are none here. False: there is
// something.
bool local_heap::leave_to_drainer(local_region& view) noexcept {
  std::optional<locked> t;
  if (!is_read_only()) t.emplace(*this);
  if (!may_leave_to_drainer(view)) return false;
  view.usable.store(0, std::memory_order_release);
  return true;
}

void local_heap::synchronize() noexcept {
  const u32 epoch = segment_.header().region_epoch.load(std::memory_order_acquire);
  if (is_inside_callback()) return;
  std::unique_lock guard(memory_mutex_, std::try_to_lock);
  if (!guard) return;  // somebody is at it
  const bool watched = !observers_.empty();
  u32 slots = views_.local_slots();
  for (const u32 slot : used_region_slots(segment_))
    slots = std::max(slots, slot + 1);
  for (u32 slot = 0; slot < slots; ++slot) {
    local_region* view = views_.existing(slot);
    const region_record& r = views_.record(slot);
    const u32 state = r.state.load(std::memory_order_acquire);
    if (view != nullptr && is_usable_here(*view)) {
      const bool gone = state == region_free || state == region_partial ||
                        r.id.load(std::memory_order_relaxed) != view->id;
      // A drainer in another process waits for our observers; it has made sure, or will, that
      // nothing is live.
      const bool leave = watched && may_leave_to_drainer(*view);
      if (leave && !gone) {
        // The callbacks take their time: the region may serve again when they are done.
        if (!observers_.let_go(view_for_observers(*view), clock::now() + detach_time) ||
            !leave_to_drainer(*view)) {
          // In use again; the next look asks again.
          (void)observers_.agree(view_for_observers(*view));
          continue;
        }
        view->observed_removal = true;
      }
      if (gone || leave) {
        detach_view(*view);
        views_.drop(*view);
      }
    } else if (watched && state == region_active && policy_ == attach_policy::automatic &&
               attaches_by_itself(r)) {
      (void)attach_slot(slot, nullptr);  // so that devices know it before it is used here
    }
  }
  discard_retired();
  seen_epoch_.store(epoch, std::memory_order_relaxed);
}

// Views of regions whose slots have others by now.
void local_heap::discard_retired() noexcept {
  for (local_region* old : views_.take_retired()) {
    detach_view(*old);
    address_index::discard_region(old);
  }
}

void local_heap::close_regions() noexcept {
  discard_retired();
  for (u32 slot = 0; slot < views_.local_slots(); ++slot) {
    local_region* view = views_.existing(slot);
    if (view == nullptr) continue;
    detach_view(*view);
    if (this_thread.last_region == view) this_thread.last_region = &no_place;
    views_.drop(*view);
  }
}

}  // namespace annex::detail
