// heap/attaching.cpp - regions come into this process: mapped, or checked by hand.
//
//   map by fd or path, or checked by hand → pinned, if it is anywhere → the address range, the base
//   set → claim → observers → usable: from here on blocks come from it
//
// A death on the way leaves a claim at most, which ends with its member.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "heap/huge_pages.hpp"
#include "heap/memory_range.hpp"
#include "heap/regions.hpp"
#include "platform/files.hpp"
#include "platform/memory.hpp"
#include "platform/pinning.hpp"
#include "region/address_index.hpp"
#include "region/region_rules.hpp"
#include "region/room.hpp"

namespace annex::detail {

u16 regions::attached_bits() const noexcept {
  return static_cast<u16>(claim_attached | (observers_.empty() ? 0 : claim_observed));
}

// One region on its way into this process. What was opened, mapped, pinned and entered is taken
// back in reverse when a step refuses; after the last one blocks come from it.
class regions::arrival {
 public:
  arrival(regions& memory, u32 slot, void* by_hand) noexcept
      : memory_(memory),
        slot_(slot),
        by_hand_(by_hand),
        view_(memory.views_.at(slot)),
        r_(copy_of(*view_.record)),
        id_(view_.id) {}
  ~arrival();
  arrival(const arrival&) = delete;
  arrival& operator=(const arrival&) = delete;

  result<void> check();
  result<void> find_place();
  result<void> map();
  result<void> pin();
  result<void> enter();
  result<void> agree();
  local_region* finish() noexcept;

 private:
  result<void> check_by_hand() const;

  regions& memory_;
  const u32 slot_;
  void* by_hand_;  // where it is already; null: it is mapped
  local_region& view_;
  const region_record r_;
  const u32 id_;
  region_claim* claim_ = nullptr;  // null: read-only
  int fd_ = -1;
  void* base_ = nullptr;
  os::pinned* pins_ = nullptr;
  bool is_entered_ = false, is_done_ = false;
};

regions::arrival::~arrival() {
  if (is_done_) return;
  if (is_entered_) {
    if (claim_ != nullptr) end_claim(*claim_);
    address_index::leave(base_);
    memory_.views_.set_base(view_, nullptr, 0);
    view_.fd = -1;
    view_.pins = nullptr;
  }
  os::unpin(pins_);
  if (by_hand_ == nullptr && base_ != nullptr) os::unmap(base_, r_.length_bytes);
  os::close_file(fd_);
}

// The record says what can be, and this process has a claim to write.
result<void> regions::arrival::check() {
  const segment& s = memory_.segment_;
  if (view_.base != nullptr)
    return refuse(errc::already_attached, "region {} is attached at {} already", id_,
                  static_cast<void*>(view_.base));
  if (r_.id.value != id_ || !is_sane_region(s, r_, slot_) ||
      r_.fd_offset > ~u64{0} - r_.length_bytes)
    return refuse(errc::corrupt,
                  "the record of region {} says what can't be; close the heap everywhere, then "
                  "`annex check --repair`",
                  id_);
  if (r_.length_bytes != view_.region_bytes || r_.granule_shift != view_.granule_shift) {
    s.mark_damaged("the record of a region has changed");
    return std::unexpected(memory_.refuse_if_damaged().error());
  }
  if (memory_.is_read_only()) return {};
  claim_ = memory_.member_.claim_on(slot_);
  if (claim_ != nullptr) return {};
  return std::unexpected(no_metadata(s, memory_.name_, u64{s.region_limit()} * sizeof(region_claim),
                                     fmt::format("this process's claim on region {}", id_)));
}

// Where the caller mapped it, or where it lies in every process.
result<void> regions::arrival::find_place() {
  if (by_hand_ == nullptr && r_.same_address != 0) {
    if (!memory_.files_.believes_record(memory_.segment_))
      return refuse(errc::cannot_attach,
                    "region {} lies at {:#x} in every process, says its record, which others may "
                    "have written; call attach_memory with a base, or attach with foreign_memory "
                    "if you trust them",
                    id_, r_.adder_base);
    by_hand_ = reinterpret_cast<void*>(r_.adder_base);
  }
  return by_hand_ != nullptr ? check_by_hand() : result<void>{};
}

result<void> regions::arrival::check_by_hand() const {
  const u64 address = reinterpret_cast<u64>(by_hand_);
  if (address % r_.page_bytes != 0 || address % limits::smallest_page_bytes != 0)
    return refuse(errc::bad_alignment, "base {} is no multiple of the region's page size {}",
                  by_hand_, r_.page_bytes);
  return check_mapped(by_hand_, r_.length_bytes, static_cast<touch>(r_.access));
}

result<void> regions::arrival::map() {
  base_ = by_hand_;
  if (by_hand_ != nullptr) return {};
  if (r_.backing == backing_none)
    return refuse(errc::cannot_attach,
                  "region {} was added as plain memory of process {}, without a descriptor; map "
                  "it here and call attach_memory(region, base)",
                  id_, r_.adder_process);
  const auto opened = memory_.open_memory(r_, slot_);
  if (!opened) return std::unexpected(opened.error());
  fd_ = *opened;
  const u64 alignment = std::max(u64{1} << std::min<u8>(r_.align_shift, 30), r_.page_bytes);
  const auto mapped =
      os::map_file(fd_, r_.fd_offset, r_.length_bytes, !memory_.is_read_only(), alignment);
  base_ = mapped.address;
  if (base_ != nullptr) return {};
  return refuse_os(errc::cannot_attach, mapped.error, "region {} ({} bytes) can't be mapped: {}{}",
                   id_, r_.length_bytes, std::strerror(mapped.error), remedy_for(mapped.error));
}

// Here too: whoever pinned it first may die, and what is asked of the kernel is each process's own.
result<void> regions::arrival::pin() {
  ask_for_huge(base_, r_.length_bytes, huge_of(r_));
  if (r_.pinned == not_pinned || memory_.is_read_only()) return {};
  const auto pinned = pin_memory(base_, r_.length_bytes, static_cast<touch>(r_.access), 0, {});
  if (!pinned)
    return refuse_os(errc::cannot_attach, pinned.error().os_errno, "region {}: {}", id_,
                     pinned.error().message());
  pins_ = *pinned;
  if (r_.pinned != pinned_physical) return {};
  return memory_.check_physical(view_, base_);
}

result<void> regions::arrival::enter() {
  ANNEX_TRY(address_index::reserve(base_, r_.length_bytes));
  is_entered_ = true;
  keep_fd(view_, fd_);
  view_.pins = pins_;
  view_.mapped_by_annex = by_hand_ == nullptr;
  memory_.views_.set_base(view_, base_, r_.length_bytes);
  address_index::enter(&view_);
  return {};
}

// The claim comes first: whoever drains the region from now on waits for the observers.
result<void> regions::arrival::agree() {
  if (claim_ != nullptr) begin_claim(*claim_, id_, fd_, memory_.attached_bits());
  return memory_.observers_.agree(view_for_observers(view_));
}

local_region* regions::arrival::finish() noexcept {
  is_done_ = true;
  make_usable(view_);
  return &view_;
}

// Maps a region here, or takes the base the caller mapped it at. Under memory_mutex.
result<local_region*> regions::attach_slot(u32 slot, void* by_hand) {
  arrival arriving(*this, slot, by_hand);
  ANNEX_TRY(arriving.check());
  ANNEX_TRY(arriving.find_place());
  ANNEX_TRY(arriving.map());
  ANNEX_TRY(arriving.pin());
  ANNEX_TRY(arriving.enter());
  ANNEX_TRY(arriving.agree());
  return arriving.finish();
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
    // sync(member): what the record says is seen.
    if (member.state.load(std::memory_order_acquire) != member_live || member.region_claims == 0)
      continue;
    const region_claim* const claims = claims_of(segment_, member);
    if (claims == nullptr) continue;
    // sync(claim): the descriptor that it says is the region's.
    if (claims[slot].region.load(std::memory_order_acquire) != id) continue;
    if (const u32 open_as = claims[slot].fd_plus_1.load(std::memory_order_relaxed); open_as != 0)
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
result<void> regions::check_length(const local_region& view) noexcept {
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
  if (!is_read_only() && !member_.ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  std::lock_guard guard(heap_.memory_mutex);
  if (local_region& view = views_.at(slot); is_usable_here(view)) return &view;
  return attach_slot(slot, nullptr);
}

bool regions::is_attached_elsewhere(region_id region) noexcept {
  const u32 id = static_cast<u32>(region);
  const u32 slot = views_.slot_of(id);
  if (slot >= views_.slots()) return false;
  for (u32 m = 1; m <= segment_.members_used(); ++m) {
    const member_record& member = segment_.member(m);
    // sync(member): what the record says is seen.
    if (m == self() || member.state.load(std::memory_order_acquire) != member_live ||
        member.region_claims == 0)
      continue;
    const region_claim* const claims = claims_of(segment_, member);
    if (claims == nullptr) continue;
    const region_claim& claim = claims[slot];
    // sync(claim): whoever has let go uses the region no more.
    if (claim.region.load(std::memory_order_acquire) == id && !is_member_gone(segment_, m, self()))
      return true;
  }
  return false;
}

region_id regions::only_region() noexcept {
  u32 only = 0;
  for (const u32 slot : used_region_slots(segment_)) {
    const region_record& r = views_.record(slot);
    // sync(published): the region's number is seen with its state.
    if (only != 0 || r.state.load(std::memory_order_acquire) != region_active) return region_id{0};
    only = r.id.load(std::memory_order_relaxed);
  }
  return region_id{only};
}

}  // namespace annex::detail
