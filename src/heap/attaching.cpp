// heap/attaching.cpp - regions in this process: mapped or checked by hand, kept in step, let go of.
//
//   attach   map by fd or path, or checked by hand → observers → base set: from here on blocks come
//            from it
//   detach   observers begin, finish → no thread of this process serves from it → unmapped
#include "heap/memory_range.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "care/recovery.hpp"
#include "heap/regions.hpp"
#include "platform/files.hpp"
#include "platform/memory.hpp"
#include "platform/pinning.hpp"
#include "region/address_index.hpp"
#include "region/region_rules.hpp"
#include "region/room.hpp"

namespace annex::detail {

namespace {

using clock = std::chrono::steady_clock;

bool attaches_by_itself(const region_record& r) noexcept {
  return r.backing != backing_none || r.same_address != 0;
}

}  // namespace

u16 regions::attached_bits() const noexcept {
  return static_cast<u16>(claim_attached | (observers_.empty() ? 0 : claim_observed));
}

// Maps a region here, or takes the base the caller mapped it at. Under heap_.memory_mutex.
result<local_region*> regions::attach_slot(u32 slot, void* by_hand) {
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
  region_claim* const mine = is_read_only() ? nullptr : member_.claim_on(slot);
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
  if (mine != nullptr) begin_claim(*mine, id, fd, attached_bits());
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

// A descriptor for the region's memory: by its path, or by whoever has it open.
result<int> regions::open_memory(const region_record& r, u32 slot) noexcept {
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

// A file with a name can't be kept from being cut short: whoever touches what is missing is killed.
// So slow paths ask first.
result<void> regions::check_length(const local_region& view) const noexcept {
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

result<void> regions::attach_memory(region_id region, void* base) {
  ANNEX_TRY(refuse_in_callback(heap_, "attaching memory"));
  if (!is_read_only() && !member_.ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(refuse_if_damaged());
  std::lock_guard guard(heap_.memory_mutex);
  const u32 id = static_cast<u32>(region);
  if (views_.find(id) == nullptr)
    return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
  auto attached = attach_slot(views_.slot_of(id), base);
  return attached ? result<void>{} : std::unexpected(attached.error());
}

result<local_region*> regions::ensure_attached(u32 slot) {
  if (local_region& view = views_.at(slot); is_usable_here(view)) return &view;
  if (policy_ == attach_policy::manual)
    return refuse(errc::not_attached,
                  "region {} is not attached here, and this heap attaches by hand only",
                  views_.record(slot).id.value);
  if (is_inside_callback())
    return refuse(errc::not_attached,
                  "region {} is not attached yet, and an observer's callback can't attach it",
                  views_.record(slot).id.value);
  std::lock_guard guard(heap_.memory_mutex);
  if (local_region& view = views_.at(slot); is_usable_here(view)) return &view;
  return attach_slot(slot, nullptr);
}

bool regions::attach_more() noexcept {
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

bool regions::is_attached_elsewhere(region_id region) noexcept {
  const u32 id = static_cast<u32>(region);
  const u32 slot = views_.slot_of(id);
  if (slot >= views_.slots()) return false;
  for (u32 m = 1; m <= segment_.members_used(); ++m) {
    const member_record& member = segment_.member(m);
    if (m == self() || member.state.load(std::memory_order_acquire) != member_live ||
        member.region_claims == 0)
      continue;
    const region_claim* const claims = claims_of(segment_, member);
    if (claims == nullptr) continue;
    const region_claim& claim = claims[slot];
    if (claim.region.load(std::memory_order_acquire) == id && !is_member_gone(segment_, m, self()))
      return true;
  }
  return false;
}

// From now on no thread of this process gets a block of the region, from its cache or a slab.
// False, and nothing has changed: one of them could not be held still.
bool regions::stop_serving_here(local_region& view) noexcept {
  locked t(heap_);
  view.usable.store(0, std::memory_order_release);
  frozen_caches frozen = freeze_all(*t, self());
  // Else none can be.
  const bool has_barrier = segment_.header().no_barrier.load(std::memory_order_relaxed) == 0;
  const bool all_still = frozen.not_still == 0 || !has_barrier;
  if (all_still)
    take_region_out_of_caches(*t, view.slot, frozen);
  else
    make_usable(view);
  thaw(frozen);
  return all_still;
}

result<void> regions::detach_memory(region_id region) {
  ANNEX_TRY(refuse_in_callback(heap_, "detaching memory"));
  if (!is_read_only() && !member_.ensure_member())
    return refuse(errc::forked_away, "this forked child is no member of the heap");
  std::lock_guard guard(heap_.memory_mutex);
  const u32 id = static_cast<u32>(region), slot = views_.slot_of(id);
  if (views_.find(id) == nullptr)
    return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
  local_region& view = views_.at(slot);
  if (view.base == nullptr)
    return refuse(errc::not_attached, "region {} is not attached in this process", id);
  if (const region_claim* const mine = member_.claim_here(view);
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

// Unmaps a region here and forgets it. Under heap_.memory_mutex.
void regions::detach_view(local_region& view) noexcept {
  char* const base = view.base;
  const u64 length = view.length_bytes;
  if (base == nullptr) return;
  if (!view.observed_removal && !observers_.empty())
    (void)observers_.let_go(view_for_observers(view), clock::now() + detach_time);
  address_index::leave(base);
  if (region_claim* const mine = member_.claim_here(view); mine != nullptr) end_claim(*mine);
  views_.set_base(view, nullptr, 0);
  os::unpin(std::exchange(view.pins, nullptr));
  if (view.mapped_by_annex) os::unmap(base, length);
  close_fd(view);
}

// Whether another process drains the region, and nothing of it is in use here.
bool regions::may_leave_to_drainer(const local_region& view) noexcept {
  const region_record& r = *view.record;
  if (r.state.load(std::memory_order_acquire) != region_draining ||
      r.id.load(std::memory_order_relaxed) != view.id)
    return false;
  if (std::atomic_ref(const_cast<u32&>(r.live_extents)).load(std::memory_order_relaxed) != 0)
    return false;
  if (view.draining_here.load(std::memory_order_relaxed) != 0) return false;
  const region_claim* const mine = member_.claim_here(view);
  return mine == nullptr || mine->leases.load(std::memory_order_relaxed) == 0;
}

// Allocation and leases ask for the heap lock too: from now on there are none here. False: there is
// something.
bool regions::leave_to_drainer(local_region& view) noexcept {
  std::optional<locked> t;
  if (!is_read_only()) t.emplace(heap_);
  if (!may_leave_to_drainer(view)) return false;
  view.usable.store(0, std::memory_order_release);
  return true;
}

void regions::synchronize() noexcept {
  const u32 epoch = segment_.header().region_epoch.load(std::memory_order_acquire);
  if (is_inside_callback()) return;
  std::unique_lock guard(heap_.memory_mutex, std::try_to_lock);
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
void regions::discard_retired() noexcept {
  for (local_region* old : views_.take_retired()) {
    detach_view(*old);
    address_index::discard_region(old);
  }
}

void regions::close_regions() noexcept {
  discard_retired();
  for (u32 slot = 0; slot < views_.local_slots(); ++slot) {
    local_region* view = views_.existing(slot);
    if (view == nullptr) continue;
    detach_view(*view);
    if (this_thread.last_region == view) this_thread.last_region = &no_place;
    views_.drop(*view);
  }
}

region_id regions::only_region() noexcept {
  u32 only = 0;
  for (const u32 slot : used_region_slots(segment_)) {
    const region_record& r = views_.record(slot);
    if (only != 0 || r.state.load(std::memory_order_acquire) != region_active) return region_id{0};
    only = r.id.load(std::memory_order_relaxed);
  }
  return region_id{only};
}

}  // namespace annex::detail
