// heap/memory.cpp - regions come and go: added, attached by other processes, drained, removed.
//
//   add      check → reserve the address range here → record (partial) → file named → observers → zero → publish (active)
//            a death up to publishing: recovery removes the file and the record; nothing was ever handed out
//   attach   map by fd or path, or checked by hand → observers → base set: from here on blocks come from it
//   drain    draining (no extent is cut from it any more) → caches recalled, its slabs made orphans (no thread hands
//            out their blocks) → wait until nothing is live → observers begin, finish → partial: it is gone → file removed
//            → unmapped → record freed
//            a death while draining: recovery makes it active again; once it is partial: recovery finishes
// Observers are called with memory_mutex_ held and no other lock.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/in_parallel.hpp"
#include "heap/local_heap.hpp"
#include "platform/os.hpp"

namespace annex::detail {
namespace {

using clock = std::chrono::steady_clock;

constexpr u64 sampled_pages = 4096;  // of memory added by hand, evenly spread, whose node is looked at: adding costs O(IOVA runs)
constexpr u64 widest_common_alignment = 1 * GiB;  // what other processes align their mapping to, at most

u8 alignment_shift_of(const void* base) noexcept {
  const u64 lowest = reinterpret_cast<u64>(base) & -reinterpret_cast<u64>(base);
  return static_cast<u8>(log2_floor(std::min(lowest, widest_common_alignment)));
}

result<void> check_range(const memory_range& m) {
  if (m.base == nullptr) return refuse(errc::invalid_argument, "the base is null; give the address the memory has in this process");
  if (!is_power_of_two(m.page_bytes) || m.page_bytes < limits::smallest_page_bytes || m.page_bytes > limits::largest_page_bytes)
    return refuse(errc::bad_page_size, "{} bytes are no page size: use a power of two from {} to {}", m.page_bytes, limits::smallest_page_bytes, limits::largest_page_bytes);
  if (m.length_bytes == 0 || m.length_bytes % m.page_bytes != 0 || m.length_bytes > limits::largest_region_bytes)
    return refuse(errc::bad_length, "{} bytes are no region: use 1 or more whole pages of {} bytes, up to {} bytes", m.length_bytes, m.page_bytes, limits::largest_region_bytes);
  if (reinterpret_cast<u64>(m.base) % m.page_bytes != 0)
    return refuse(errc::bad_alignment, "base {} is no multiple of the page size {}", m.base, m.page_bytes);
  if (!m.page_iovas.empty() && m.page_iovas.size() != m.length_bytes / m.page_bytes)
    return refuse(errc::bad_iova, "{} IOVAs for {} pages; give one per page of {} bytes, or none", m.page_iovas.size(), m.length_bytes / m.page_bytes, m.page_bytes);
  if (m.access == touch::none && m.contents != fill::keep)
    return refuse(errc::no_cpu_access, "memory the CPU may not touch can't be zeroed, or be known to be zero; zero it by its device, and add it with fill::keep");
  return {};
}

result<void> check_mapped(const void* base, u64 bytes, touch access) {
  if (access == touch::none) return {};
  const os::mapping_check check = os::check_mapping(base, bytes);
  if (!check.mapped) return refuse(errc::not_mapped, "[{}, +{}) is not all mapped in this process; map it first, or declare touch::none", base, bytes);
  if (!check.readable || !check.writable) return refuse(errc::not_writable, "[{}, +{}) is not all readable and writable; change its protection, or declare touch::none", base, bytes);
  return {};
}

bool attaches_by_itself(const region_record& r) noexcept { return r.backing != backing_none || r.same_address != 0; }

void zero_range(char* base, u64 bytes) {
  in_parallel(bytes, 16 * MiB, 0, [&](unsigned, u64 at, u64 n) { std::memset(base + at, 0, n); return 0; });
}

}  // namespace

// What this member does with each region; made on first use. Null: no metadata left.
region_claim* local_heap::claims() noexcept {
  member_record& m = segment_.member(member_);
  if (m.region_claims == 0) {
    locked t(*this);
    if (m.region_claims == 0) {
      const chunk_ref ref = allocate_chunk(*t, u64{segment_.header().region_limit} * sizeof(region_claim), backing::sparse);
      if (ref == 0 || !back_pages(segment_, u64{ref} * chunk_unit_bytes, sizeof(region_claim))) {
        t->roll_back();
        return nullptr;
      }
      t->put(m.region_claims, ref);
    }
  }
  return segment_.chunk<region_claim>(m.region_claims);
}

// This member's claim on the region. Null: no metadata left for it.
region_claim* local_heap::claim_on(u32 slot) noexcept {
  region_claim* const mine = claims();
  return mine != nullptr && back_pages(segment_, segment_.offset_of(mine + slot), sizeof(region_claim)) ? mine + slot : nullptr;
}

result<region_id> local_heap::add_memory(const memory_range& m, bool mapped_by_annex, const std::string& owned_path, os::pinned* pins, bool physical) {
  if (is_read_only()) return refuse(errc::read_only, "\"{}\" is attached read-only; attach it writable to add memory", name_);
  if (!ensure_member()) return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(check_range(m));
  ANNEX_TRY(check_mapped(m.base, m.length_bytes, m.access));
  if (m.access == touch::read_write && !mapped_by_annex)
    ANNEX_TRY(check_node(m.base, m.length_bytes, std::max<u64>(m.page_bytes, align_up(m.length_bytes / sampled_pages, m.page_bytes)), m.numa_node));
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
  const u8 shift = m.length_bytes < limits::small_region_bytes ? limits::small_granule_shift : limits::granule_shift;
  const u64 granules = divide_up(m.length_bytes, u64{1} << shift);
  const int fd = m.fd >= 0 ? os::duplicate(m.fd) : -1;
  os::file_identity file;
  if (m.fd >= 0 && (fd < 0 || os::identify(fd, &file) != 0)) {
    os::close_file(fd);
    return undo(refuse_os(errc::invalid_argument, errno, "descriptor {} can't be used: {}", m.fd, std::strerror(errno)));
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
    u32 candidate = h.next_region_id;
    for (u32 tries = 0; tries < h.region_limit + 2 * limits::region_slots; ++tries, ++candidate) {  // 2: slot 0 has an id that can't be
      if (handle_bits_of(candidate) == 0 || candidate % limits::region_slots >= h.region_limit) continue;
      if (views_.record(candidate % limits::region_slots).state.load(std::memory_order_relaxed) == region_free) { id = candidate; break; }
    }
    for (const u32 other : used_region_slots(segment_)) {  // the same file, the same IOVAs?
      if (id == 0 || refused) break;
      const region_record& o = views_.record(other);
      if (o.state.load(std::memory_order_relaxed) == region_free) continue;
      const bool same_file = fd >= 0 && o.backing != backing_none && o.device == file.device && o.inode == file.inode &&
                             m.fd_offset < o.fd_offset + o.length_bytes && o.fd_offset < m.fd_offset + m.length_bytes;
      if (same_file) refused = make_error(errc::region_overlap, 0, "bytes {} to {} of this file are region {} of the heap already", o.fd_offset, o.fd_offset + o.length_bytes, o.id.value);
      if (o.iova_run_count == 0 || tables->runs.empty() || tables->lowest > o.highest_iova || o.lowest_iova > tables->highest) continue;
      local_region& view = views_.at(other);
      for (size_t i = 0; i < tables->runs.size() && !refused; ++i) {
        const u64 begin = tables->runs[i].address, bytes = (i + 1 < tables->runs.size() ? tables->runs[i + 1].offset : m.length_bytes) - tables->runs[i].offset;
        const bool clash = view.iovas.offset_of(begin) || view.iovas.offset_of(begin + bytes - 1) ||
                           std::any_of(view.iovas.runs, view.iovas.runs + view.iovas.run_count, [&](const iova_run& r) { return r.address - begin < bytes; });
        if (clash) refused = make_error(errc::iova_overlap, 0, "IOVAs {:#x} to {:#x} are used by region {}; every byte of a heap needs its own", begin, begin + bytes, o.id.value);
      }
    }
    if (id == 0) refused = make_error(errc::limit_reached, 0, "\"{}\" has its limit of {} regions; remove one, add larger ones, or create it with a higher region_limit", name_, h.region_limit);
    if (id != 0 && !refused && !back_pages(segment_, segment_.offset_of(&views_.record(id % limits::region_slots)), sizeof(region_record))) refused = make_error(errc::limit_reached, 0, "\"{}\" has no metadata left (metadata_limit_bytes {}, or the annex directory is full)", name_, h.reserve_bytes);
    if (!refused) {
      slot = id % limits::region_slots;
      region_record& r = views_.record(slot);
      const u32 runs = static_cast<u32>(tables->runs.size());
      auto chunk = [&](u64 bytes, backing pages = backing::whole) { return bytes != 0 ? allocate_chunk(*t, bytes, pages) : chunk_ref{0}; };
      auto table = [&](u64 bytes) { return chunk(bytes, backing_of_table(bytes)); };
      const chunk_ref granule_table = table(granules * sizeof(granule_entry)), extent_table = table(granules * sizeof(extent_entry));
      const chunk_ref run_table = chunk(runs * sizeof(iova_run)), order = chunk(runs * sizeof(u32)), index = chunk(tables->index.size() * sizeof(u32));
      if (granule_table == 0 || extent_table == 0 || (runs != 0 && (run_table == 0 || order == 0 || index == 0))) {
        t->roll_back();
        refused = make_error(errc::limit_reached, 0, "\"{}\" has no metadata left for {} granules and {} IOVA runs (metadata_limit_bytes {}, or the annex directory is full)",
                             name_, granules, runs, h.reserve_bytes);
      } else {
        r.length_bytes = m.length_bytes;  // the record is free: nobody reads it before its state says otherwise
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
        r.first_clean = m.contents == fill::keep ? r.granule_count : 0;
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
  std::copy(tables->runs.begin(), tables->runs.end(), segment_.chunk<iova_run>(r.iova_runs));
  std::copy(tables->order.begin(), tables->order.end(), segment_.chunk<u32>(r.iova_order));
  std::copy(tables->index.begin(), tables->index.end(), segment_.chunk<u32>(r.iova_index));

  local_region& view = views_.at(slot);
  view.fd = fd;
  view.mapped_by_annex = mapped_by_annex;
  view.pins = pins;
  view.joining = true;
  views_.set_base(view, m.base);
  address_index::enter(&view);

  // 2 the file gets its name, everybody agrees, the first pages of the tables are there
  region_claim* const claim = claim_on(slot);
  auto agreed = [&]() -> result<void> {
    if (!owned_path.empty())
      if (const int why = os::publish_file(fd, owned_path.c_str()); why != 0 && why != EEXIST)
        return refuse_os(errc::os_failure, why, "can't name the region's file {}: {}", owned_path, std::strerror(why));
    if (claim == nullptr || !extents(view).back_ends())
      return refuse(errc::limit_reached, "the annex directory is full: no metadata for region {}", id);
    return observers_.agree(view_for_observers(view));
  }();
  if (!agreed) {
    {
      locked t(*this);
      remove_owned_file(r);
      free_region(*t, slot);
    }
    address_index::leave(m.base);
    view.pins = nullptr;
    os::unpin(pinned_here);
    views_.drop(slot);
    os::close_file(fd);
    return std::unexpected(agreed.error());
  }
  if (m.contents == fill::zero) zero_range(static_cast<char*>(m.base), m.length_bytes);

  // 3 published
  {
    locked t(*this);
    t->put(r.state, region_active);
    extents(view).make_free(*t);
    claim->region.store(id, std::memory_order_relaxed);
    claim->fd_plus_1.store(static_cast<u32>(fd + 1), std::memory_order_relaxed);
    claim->leases.store(0, std::memory_order_relaxed);
    claim->attached.store(static_cast<u16>(claim_attached | (observers_.empty() ? 0 : claim_observed)), std::memory_order_release);
    view.joining = false;
    t->put(h.region_epoch, h.region_epoch.load(std::memory_order_relaxed) + 1);
    t->commit();  // the region exists
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
  if (r.iova_index != 0) free_chunk(t, r.iova_index, ((r.length_bytes >> r.iova_index_shift) + 2) * sizeof(u32));
  const u64 bit = u64{1} << (slot % 64);
  if ((h.free_regions[slot / 64] & bit) != 0) t.put(h.free_regions[slot / 64], h.free_regions[slot / 64] & ~bit);
  t.put(h.used_regions[slot / 64], h.used_regions[slot / 64] & ~bit);
  t.put(h.region_count, h.region_count - 1);
  t.put(h.region_epoch, h.region_epoch.load(std::memory_order_relaxed) + 1);
  t.put(r.state, region_free);
  t.commit();
}

// Recalls what caches keep of the region and takes its slabs from their threads; true when anything in it is live.
bool local_heap::has_live_blocks(transaction& t, u32 slot, frozen_caches* frozen) noexcept {
  u32 doubles = 0;
  for (thread_cache* c : frozen->caches) {
    flush_region(segment_, views_, *c, slot, &doubles);
    make_orphans(t, *c, slot);
  }
  release_empty_orphans(t);
  return views_.record(slot).live_extents != 0;
}

std::string local_heap::who_holds(u32 slot) {
  std::string who;
  u64 blocks = 0, bytes = 0;
  std::vector<std::pair<u32, u64>> holders;
  const u32 id = views_.record(slot).id.load(std::memory_order_relaxed);
  (void)for_each_block([&](const block_summary& b) {
    if (static_cast<u64>(b.where) >> limits::handle_offset_bits != handle_bits_of(id)) return;
    ++blocks;
    bytes += b.size_bytes;
    const u32 member = static_cast<u32>(b.holder);
    auto found = std::find_if(holders.begin(), holders.end(), [&](const auto& h) { return h.first == member; });
    if (found == holders.end()) holders.emplace_back(member, b.size_bytes);
    else found->second += b.size_bytes;
  });
  who = fmt::format("{} blocks, {} bytes", blocks, bytes);
  for (size_t i = 0; i < holders.size() && i < 3; ++i)
    who += holders[i].first == 0 ? fmt::format("; {} bytes in zones", holders[i].second)
                                 : fmt::format("; {} bytes held by member {} (process {})", holders[i].second, holders[i].first, segment_.member(holders[i].first).process_id);
  return who;
}

bool local_heap::is_attached_elsewhere(region_id region) noexcept {
  const u32 id = static_cast<u32>(region);
  for (u32 m = 1; m <= segment_.header().member_records_used.load(std::memory_order_relaxed); ++m) {
    const member_record& member = segment_.member(m);
    if (m == member_ || member.state.load(std::memory_order_acquire) != member_live || member.region_claims == 0) continue;
    const region_claim& claim = segment_.chunk<region_claim>(member.region_claims)[id % limits::region_slots];
    if (claim.region.load(std::memory_order_acquire) == id && !is_member_gone(segment_, m, member_)) return true;
  }
  return false;
}

// Leases anywhere, and observers of other processes.
result<void> local_heap::check_removable(u32 slot) {
  const segment_header& h = segment_.header();
  const u32 id = views_.record(slot).id.load(std::memory_order_relaxed);
  for (u32 m = 1; m <= h.member_records_used.load(std::memory_order_relaxed); ++m) {
    const member_record& member = segment_.member(m);
    if (member.state.load(std::memory_order_acquire) != member_live || member.region_claims == 0) continue;
    const region_claim& claim = segment_.chunk<region_claim>(member.region_claims)[slot];
    if (claim.region.load(std::memory_order_acquire) != id || is_member_gone(segment_, m, member_)) continue;
    if (const u32 leases = claim.leases.load(std::memory_order_acquire); leases != 0)
      return refuse(errc::leased, "region {} is held by {} leases of process {}; end them first", id, leases, member.process_id);
    if (m != member_ && (claim.attached.load(std::memory_order_acquire) & claim_observed) != 0)
      return refuse(errc::observed_elsewhere, "observers of process {} have not let go of region {}; they do so when that process runs, drain with a longer deadline", member.process_id, id);
  }
  return {};
}

result<void> local_heap::remove_memory(region_id region, std::chrono::nanoseconds patience, bool wait) {
  if (is_read_only()) return refuse(errc::read_only, "\"{}\" is attached read-only; attach it writable to remove memory", name_);
  if (!ensure_member()) return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  const u32 id = static_cast<u32>(region);
  const auto deadline = clock::now() + patience;
  region_record* record = views_.find(id);
  if (record == nullptr) return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
  const u32 slot = id % limits::region_slots;
  segment_header& h = segment_.header();
  u32 cancels = 0;
  {
    locked t(*this);
    if (views_.find(id) == record) views_.at(slot).draining_here.store(1, std::memory_order_relaxed);
    if (views_.find(id) != record) return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
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
      if (views_.find(id) != record) return refuse(errc::no_such_region, "region {} was removed by another process meanwhile", id);
      frozen_caches frozen = recover_and_freeze(*t);
      if (views_.find(id) != record) {  // recovery lets others in
        thaw(frozen);
        return refuse(errc::no_such_region, "region {} was removed by another process meanwhile", id);
      }
      not_still = frozen.not_still;
      live = has_live_blocks(*t, slot, &frozen);
      thaw(frozen);
    }
    result<void> removable = live ? result<void>{} : check_removable(slot);
    if (!live && removable) break;
    if (record->cancel_drain.load(std::memory_order_acquire) != cancels)
      return refuse_and_serve(refuse(errc::canceled, "draining region {} was canceled; it serves again", id));
    if (!wait || clock::now() >= deadline) {
      if (!live && !wait) return refuse_and_serve(std::unexpected(removable.error()));
      if (!live) return refuse_and_serve(std::unexpected(removable.error()));
      const std::string who = who_holds(slot);
      if (!wait) return refuse_and_serve(refuse(errc::blocks_live, "region {} has {}{}; free them, or drain the region", id, who, not_still != 0 ? " (a stopped thread keeps some)" : ""));
      return refuse_and_serve(refuse(errc::deadline_passed, "region {} still has {}{}; it serves again", id, who, not_still != 0 ? " (a stopped thread keeps some)" : ""));
    }
    os::sleep_ns(std::min<u64>(pause_ns, static_cast<u64>(std::max<i64>(1, std::chrono::nanoseconds(deadline - clock::now()).count()))));
  }

  std::lock_guard guard(memory_mutex_);
  local_region& view = views_.at(slot);
  if (view.base != nullptr)
    if (auto done = observers_.let_go(view_for_observers(view), wait ? deadline : clock::now() + detach_time); !done) {
      (void)observers_.agree(view_for_observers(view));
      return refuse_and_serve(std::unexpected(done.error()));
    }
  {
    locked t(*this);
    if (views_.find(id) != record) return refuse(errc::no_such_region, "region {} was removed by another process meanwhile", id);
    if (record->live_extents != 0) return refuse(errc::blocks_live, "region {} is in use again", id);
    t->put(record->worker, member_);
    set_region_state(*t, slot, region_partial);  // commit: the region is gone
  }
  os::wake_all(&h.region_epoch.value);
  remove_owned_file(*record);
  if (view.base != nullptr) {
    view.observed_removal = true;
    detach_view(view);
  }
  {
    locked t(*this);
    free_region(*t, slot);
  }
  views_.drop(slot);
  return {};
}

result<void> local_heap::cancel_drain(region_id region) {
  if (is_read_only()) return refuse(errc::read_only, "\"{}\" is attached read-only", name_);
  region_record* record = views_.find(static_cast<u32>(region));
  if (record == nullptr) return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, static_cast<u32>(region));
  record->cancel_drain.fetch_add(1, std::memory_order_release);
  // A drainer that died left the region draining: then this is what makes it serve again.
  locked t(*this);
  if (record->state.load(std::memory_order_relaxed) == region_draining) set_region_state(*t, static_cast<u32>(region) % limits::region_slots, region_active);
  return {};
}

// Unmaps a region here and forgets it. Under memory_mutex_.
void local_heap::detach_view(local_region& view) noexcept {
  char* const base = view.base;
  const u64 length = view.length_bytes;
  if (base == nullptr) return;
  if (!view.observed_removal && !observers_.empty()) (void)observers_.let_go(view_for_observers(view), clock::now() + detach_time);
  address_index::leave(base);
  if (member_ != 0 && !is_read_only() && segment_.member(member_).region_claims != 0) {
    region_claim& claim = segment_.chunk<region_claim>(segment_.member(member_).region_claims)[view.slot];
    if (claim.region.load(std::memory_order_relaxed) == view.id) {
      claim.attached.store(0, std::memory_order_release);
      claim.fd_plus_1.store(0, std::memory_order_relaxed);
      claim.region.store(0, std::memory_order_release);
    }
  }
  views_.set_base(view, nullptr);
  os::unpin(std::exchange(view.pins, nullptr));
  if (view.mapped_by_annex) os::unmap(base, length);
  os::close_file(std::exchange(view.fd, -1));
}

// Maps a region here, or takes the base the caller mapped it at. Under memory_mutex_.
result<local_region*> local_heap::attach_slot(u32 slot, void* by_hand) {
  local_region& view = views_.at(slot);
  const region_record& r = *view.record;
  const u32 id = view.id;
  if (view.base != nullptr) return refuse(errc::already_attached, "region {} is attached at {} already", id, static_cast<void*>(view.base));
  region_claim* const mine = is_read_only() ? nullptr : claim_on(slot);
  if (mine == nullptr && !is_read_only())
    return refuse(errc::limit_reached, "\"{}\" has no metadata left for this process's claim on region {} (metadata_limit_bytes, or the annex directory is full)", name_, id);
  if (by_hand == nullptr && r.same_address != 0) by_hand = reinterpret_cast<void*>(r.adder_base);
  void* base = by_hand;
  int fd = -1;
  if (by_hand != nullptr) {
    if (reinterpret_cast<u64>(by_hand) % r.page_bytes != 0 || reinterpret_cast<u64>(by_hand) % limits::smallest_page_bytes != 0)
      return refuse(errc::bad_alignment, "base {} is no multiple of the region's page size {}", by_hand, r.page_bytes);
    ANNEX_TRY(check_mapped(by_hand, r.length_bytes, static_cast<touch>(r.access)));
  } else {
    if (r.backing == backing_none)
      return refuse(errc::cannot_attach, "region {} was added as plain memory of process {}, without a descriptor; map it here and call attach_memory(region, base)", id, r.adder_process);
    auto try_file = [&](os::open_result file) {
      os::file_identity identity;
      if (file.fd >= 0 && fd < 0 && os::identify(file.fd, &identity) == 0 && identity.device == r.device && identity.inode == r.inode) fd = file.fd;
      else os::close_file(file.fd);
    };
    char path[limits::path_bytes];
    std::memcpy(path, r.path, sizeof path);
    path[sizeof path - 1] = '\0';
    if (path[0] == '/') try_file(os::open_file(path, !is_read_only()));
    if (fd < 0 && r.adder_fd_plus_1 != 0) try_file(os::open_of_process(static_cast<int>(r.adder_process), static_cast<int>(r.adder_fd_plus_1) - 1));
    for (u32 m = 1; m <= segment_.header().member_records_used.load(std::memory_order_relaxed) && fd < 0; ++m) {  // whoever else has it open
      const member_record& member = segment_.member(m);
      if (member.state.load(std::memory_order_acquire) != member_live || member.region_claims == 0) continue;
      const region_claim& claim = segment_.chunk<region_claim>(member.region_claims)[slot];
      if (claim.region.load(std::memory_order_acquire) == id && claim.fd_plus_1.load(std::memory_order_relaxed) != 0)
        try_file(os::open_of_process(static_cast<int>(member.process_id), static_cast<int>(claim.fd_plus_1.load(std::memory_order_relaxed)) - 1));
    }
    if (fd < 0)
      return refuse(errc::cannot_attach, "no way to region {}'s memory: {} can't be opened and no member that has it is within reach; map it here and call attach_memory(region, base)",
                    id, path[0] == '/' ? path : "its descriptor");
    os::file_identity identity;
    if (os::identify(fd, &identity) == 0 && identity.length_bytes != 0 && identity.length_bytes < r.fd_offset + r.length_bytes) {
      os::close_file(fd);
      return refuse(errc::wrong_memory, "the file of region {} has {} bytes, but the region reaches to {}; it was cut short", id, identity.length_bytes, r.fd_offset + r.length_bytes);
    }
    const auto mapped = os::map_file(fd, r.fd_offset, r.length_bytes, !is_read_only(), std::max(u64{1} << std::min<u8>(r.align_shift, 30), r.page_bytes));
    if (mapped.address == nullptr) {
      os::close_file(fd);
      return refuse_os(errc::cannot_attach, mapped.error, "region {} ({} bytes) can't be mapped: {}", id, r.length_bytes, std::strerror(mapped.error));
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
    if (!pinned) return undo(refuse_os(errc::cannot_attach, pinned.error().os_errno, "region {}: {}", id, pinned.error().message()));
    pins = *pinned;
    if (r.pinned == pinned_physical)
      if (auto there = check_physical(view, base); !there) return undo(std::unexpected(there.error()));
  }
  if (auto reserved = address_index::reserve(base, r.length_bytes); !reserved) return undo(std::unexpected(reserved.error()));
  view.fd = fd;
  view.pins = pins;
  view.mapped_by_annex = by_hand == nullptr;
  view.joining = true;
  views_.set_base(view, base);
  address_index::enter(&view);
  if (auto agreed = observers_.agree(view_for_observers(view)); !agreed) {
    address_index::leave(base);
    views_.set_base(view, nullptr);
    view.fd = -1;
    view.pins = nullptr;
    view.joining = false;
    return undo(std::unexpected(agreed.error()));
  }
  if (!is_read_only()) {
    mine->leases.store(0, std::memory_order_relaxed);
    mine->fd_plus_1.store(static_cast<u32>(fd + 1), std::memory_order_relaxed);
    mine->attached.store(static_cast<u16>(claim_attached | (observers_.empty() ? 0 : claim_observed)), std::memory_order_relaxed);
    mine->region.store(id, std::memory_order_release);
  }
  view.joining = false;
  return &view;
}

result<void> local_heap::attach_memory(region_id region, void* base) {
  if (!is_read_only() && !ensure_member()) return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  std::lock_guard guard(memory_mutex_);
  const u32 id = static_cast<u32>(region);
  if (views_.find(id) == nullptr) return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
  auto attached = attach_slot(id % limits::region_slots, base);
  return attached ? result<void>{} : std::unexpected(attached.error());
}

result<void> local_heap::detach_memory(region_id region) {
  std::lock_guard guard(memory_mutex_);
  const u32 id = static_cast<u32>(region), slot = id % limits::region_slots;
  if (views_.find(id) == nullptr) return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
  local_region& view = views_.at(slot);
  if (view.base == nullptr) return refuse(errc::not_attached, "region {} is not attached in this process", id);
  if (!is_read_only())
    if (const region_claim* mine = claims(); mine != nullptr && mine[slot].region.load(std::memory_order_relaxed) == id && mine[slot].leases.load(std::memory_order_relaxed) != 0)
      return refuse(errc::leased, "region {} is held by a lease of this process; end it first", id);
  if (auto done = observers_.let_go(view_for_observers(view), clock::now() + detach_time); !done) return done;
  view.observed_removal = true;
  if (!is_read_only()) {  // no thread of this process hands out its blocks any more
    locked t(*this);
    frozen_caches frozen = freeze_all(*t);
    std::erase_if(frozen.caches, [&](thread_cache* c) {
      if (c->member == member_) return false;
      c->frozen.store(frozen_no, std::memory_order_release);
      return true;
    });
    has_live_blocks(*t, slot, &frozen);
    thaw(frozen);
  }
  detach_view(view);
  views_.drop(slot);
  return {};
}

result<local_region*> local_heap::ensure_attached(u32 slot) {
  if (local_region& view = views_.at(slot); view.base != nullptr && !view.joining) return &view;
  if (policy_ == attach_policy::manual) return refuse(errc::not_attached, "region {} is not attached here, and this heap attaches by hand only", views_.record(slot).id.value);
  if (is_inside_callback()) return refuse(errc::not_attached, "region {} is not attached yet, and an observer's callback can't attach it", views_.record(slot).id.value);
  std::lock_guard guard(memory_mutex_);
  if (local_region& view = views_.at(slot); view.base != nullptr && !view.joining) return &view;
  return attach_slot(slot, nullptr);
}

bool local_heap::attach_more() noexcept {
  if (policy_ == attach_policy::manual || is_inside_callback()) return false;
  bool any = false;
  for (const u32 slot : used_region_slots(segment_)) {
    const region_record& r = views_.record(slot);
    if (r.state.load(std::memory_order_acquire) != region_active || !attaches_by_itself(r)) continue;
    if (views_.at(slot).base == nullptr) any |= ensure_attached(slot).has_value();
  }
  return any;
}

void local_heap::synchronize() noexcept {
  const u32 epoch = segment_.header().region_epoch.load(std::memory_order_acquire);
  if (is_inside_callback()) return;
  std::unique_lock guard(memory_mutex_, std::try_to_lock);
  if (!guard) return;  // somebody is at it
  const bool watched = !observers_.empty();
  u32 slots = views_.local_slots();
  for (const u32 slot : used_region_slots(segment_)) slots = std::max(slots, slot + 1);
  for (u32 slot = 0; slot < slots; ++slot) {
    local_region* view = views_.existing(slot);
    const region_record& r = views_.record(slot);
    const u32 state = r.state.load(std::memory_order_acquire);
    if (view != nullptr && view->base != nullptr && !view->joining) {
      const bool gone = state == region_free || state == region_partial || r.id.load(std::memory_order_relaxed) != view->id;
      // A drainer in another process waits for our observers; it has made sure, or will, that nothing is live.
      const bool leave = state == region_draining && watched && std::atomic_ref(const_cast<u32&>(r.live_extents)).load(std::memory_order_relaxed) == 0 &&
                         view->draining_here.load(std::memory_order_relaxed) == 0;
      if (leave && !gone) {
        if (!observers_.let_go(view_for_observers(*view), clock::now() + detach_time)) {
          (void)observers_.agree(view_for_observers(*view));  // in use again; the next look asks again
          continue;
        }
        view->observed_removal = true;
      }
      if (gone || leave) {
        detach_view(*view);
        views_.drop(slot);
      }
    } else if (watched && state == region_active && policy_ == attach_policy::automatic && attaches_by_itself(r)) {
      (void)attach_slot(slot, nullptr);  // so that devices know it before it is used here
    }
  }
  for (local_region* old : views_.take_retired()) {
    detach_view(*old);
    address_index::discard_region(old);
  }
  seen_epoch_.store(epoch, std::memory_order_relaxed);
}

void local_heap::close_regions() noexcept {
  for (u32 slot = 0; slot < views_.local_slots(); ++slot) {
    local_region* view = views_.existing(slot);
    if (view == nullptr) continue;
    detach_view(*view);
    if (this_thread.last_region == view) this_thread.last_region = &no_place;
    views_.drop(slot);
  }
}

}  // namespace annex::detail
