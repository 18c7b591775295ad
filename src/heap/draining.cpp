// heap/draining.cpp - a region on its way out.
//
//   draining (no extent is cut from it any more) → caches recalled, its slabs made orphans (no
//   thread hands out their blocks) → wait until nothing is live → observers begin, finish →
//   partial: it is gone → file removed → unmapped → record freed
//
// A death while draining: recovery makes it active again; once it is partial: recovery finishes.
#include <fmt/format.h>

#include <algorithm>

#include "care/recovery.hpp"
#include "heap/caretaker.hpp"
#include "heap/memory_range.hpp"
#include "heap/regions.hpp"
#include "platform/waiting.hpp"
#include "region/region_state.hpp"

namespace annex::detail {

namespace {

using clock = std::chrono::steady_clock;

}  // namespace

std::string regions::who_holds(u32 slot) {
  std::string who;
  u64 blocks = 0, bytes = 0;
  std::vector<std::pair<u32, u64>> holders;
  (void)care_.for_each_block([&](const block_summary& b) {
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

// Leases anywhere, and observers of other processes.
result<void> regions::check_removable(u32 slot) {
  const u32 id = views_.record(slot).id.load(std::memory_order_relaxed);
  for (u32 m = 1; m <= segment_.members_used(); ++m) {
    const member_record& member = segment_.member(m);
    if (member.state.load(std::memory_order_acquire) != member_live || member.region_claims == 0)
      continue;
    const region_claim* const claims = claims_of(segment_, member);
    if (claims == nullptr) continue;
    const region_claim& claim = claims[slot];
    if (claim.region.load(std::memory_order_acquire) != id || is_member_gone(segment_, m, self()))
      continue;
    if (const u32 leases = claim.leases.load(std::memory_order_acquire); leases != 0)
      return refuse(errc::leased, "region {} is held by {} leases of process {}; end them first",
                    id, leases, member.process_id);
    if (m != self() && (claim.attached.load(std::memory_order_acquire) & claim_observed) != 0)
      return refuse(errc::observed_elsewhere,
                    "observers of process {} have not let go of region {}; they do so when that "
                    "process runs, drain with a longer deadline",
                    member.process_id, id);
  }
  return {};
}

result<void> regions::remove_memory(region_id region, std::chrono::nanoseconds patience,
                                    bool wait) {
  ANNEX_TRY(refuse_in_callback(heap_, "removing memory"));
  if (is_read_only())
    return refuse(errc::read_only,
                  "\"{}\" is attached read-only; attach it writable to remove memory", name_);
  if (!member_.ensure_member())
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
    locked t(heap_);
    if (views_.find(id) == record)
      views_.at(slot).draining_here.store(1, std::memory_order_relaxed);
    if (views_.find(id) != record)
      return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
    cancels = record->cancel_drain.load(std::memory_order_relaxed);
    t->put(record->worker, self());
    set_region_state(*t, slot, region_draining);
  }
  os::wake_all(&h.region_epoch.value);
  auto refuse_and_serve = [&](std::unexpected<error> e) -> result<void> {
    locked t(heap_);
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
      locked t(heap_);
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
      take_region_out_of_caches(*t, slot, frozen);
      live = record->live_extents != 0;
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

  std::lock_guard guard(heap_.memory_mutex);
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
    locked t(heap_);
    if (views_.find(id) != record)
      return refuse(errc::no_such_region, "region {} was removed by another process meanwhile", id);
    is_used_again = record->live_extents != 0;
    if (is_used_again) {
      view.draining_here.store(0, std::memory_order_relaxed);
    } else {
      t->put(record->worker, self());
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
    locked t(heap_);
    free_region(*t, slot);
  }
  views_.drop(view);
  return {};
}

result<void> regions::cancel_drain(region_id region) {
  if (is_read_only()) return refuse(errc::read_only, "\"{}\" is attached read-only", name_);
  if (!member_.ensure_member())
    return refuse(errc::forked_away, "this forked child is no member of the heap");
  region_record* record = views_.find(static_cast<u32>(region));
  if (record == nullptr)
    return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, static_cast<u32>(region));
  record->cancel_drain.fetch_add(1, std::memory_order_release);
  // A drainer that died left the region draining: then this is what makes it serve again.
  locked t(heap_);
  if (record->state.load(std::memory_order_relaxed) == region_draining)
    set_region_state(*t, views_.slot_of(static_cast<u32>(region)), region_active);
  return {};
}

}  // namespace annex::detail
