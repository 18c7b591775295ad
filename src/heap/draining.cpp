// heap/draining.cpp - a region on its way out.
//
//   draining (no extent is cut from it any more) → caches recalled, its slabs made orphans (no
//   thread hands out their blocks) → wait until nothing is live → observers begin, finish →
//   partial: it is gone → file removed → unmapped → record freed
//
// A death while draining: recovery makes it active again; once it is partial: recovery finishes.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

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
    // sync(member): what the record says is seen.
    if (member.state.load(std::memory_order_acquire) != member_live || member.region_claims == 0)
      continue;
    const region_claim* const claims = claims_of(segment_, member);
    if (claims == nullptr) continue;
    const region_claim& claim = claims[slot];
    // sync(claim): what it says is seen; whoever has let go uses the region no more.
    if (claim.region.load(std::memory_order_acquire) != id || is_member_gone(segment_, m, self()))
      continue;
    // sync(lease): what it was taken for is over.
    if (const u32 leases = claim.leases.load(std::memory_order_acquire); leases != 0)
      return refuse(errc::leased, "region {} is held by {} leases of process {}; end them first",
                    id, leases, member.process_id);
    // sync(observed): observers that are gone are done with the region.
    if (m != self() && (claim.attached.load(std::memory_order_acquire) & claim_observed) != 0)
      return refuse(errc::observed_elsewhere,
                    "observers of process {} have not let go of region {}; they do so when that "
                    "process runs, drain with a longer deadline",
                    member.process_id, id);
  }
  return {};
}

// One region on its way out. Until it is gone the destructor makes it serve again when a step
// refuses: observers agree anew, then blocks are cut from it.
class regions::removal {
 public:
  removal(regions& memory, region_id region, clock::time_point deadline, bool waits) noexcept
      : memory_(memory), id_(static_cast<u32>(region)), deadline_(deadline), waits_(waits) {}
  ~removal();
  removal(const removal&) = delete;
  removal& operator=(const removal&) = delete;

  result<void> begin();
  result<void> empty();
  result<void> let_go();
  result<void> commit();
  void finish();

 private:
  bool is_ours() const noexcept { return memory_.views_.find(id_) == record_; }
  void set_draining_here(u32 is_here) noexcept {
    memory_.views_.at(slot_).draining_here.store(is_here, std::memory_order_relaxed);
  }
  std::unexpected<error> gone_meanwhile();
  result<void> recall();
  result<void> still_held() const;
  void agree_again() noexcept;

  regions& memory_;
  const u32 id_;
  const clock::time_point deadline_;
  const bool waits_;
  region_record* record_ = nullptr;
  u32 slot_ = no_region;
  u32 cancels_ = 0;
  local_region* view_ = nullptr;  // since its observers let go
  bool is_live_ = false;          // when it was last looked at
  u32 not_still_ = 0;             // threads that could not be held still then
  region_record gone_;
  std::optional<heap_files::places> places_;
  bool is_draining_ = false, is_let_go_ = false;
};

regions::removal::~removal() {
  if (is_let_go_) agree_again();
  if (!is_draining_) return;
  locked t(memory_.heap_);
  if (!is_ours()) return;
  set_draining_here(0);
  set_region_state(*t, slot_, region_active);
}

void regions::removal::agree_again() noexcept {
  if (view_->base != nullptr) (void)memory_.observers_.agree(view_for_observers(*view_));
}

// Nothing is left to take back.
std::unexpected<error> regions::removal::gone_meanwhile() {
  is_draining_ = is_let_go_ = false;
  return refuse(errc::no_such_region, "region {} was removed by another process meanwhile", id_);
}

// From here on no extent is cut from it.
result<void> regions::removal::begin() {
  record_ = memory_.views_.find(id_);
  if (record_ == nullptr)
    return refuse(errc::no_such_region, "\"{}\" has no region {}", memory_.name_, id_);
  slot_ = memory_.views_.slot_of(id_);
  {
    locked t(memory_.heap_);
    if (!is_ours())
      return refuse(errc::no_such_region, "\"{}\" has no region {}", memory_.name_, id_);
    set_draining_here(1);
    cancels_ = record_->cancel_drain.load(std::memory_order_relaxed);
    t->put(record_->worker, memory_.self());
    set_region_state(*t, slot_, region_draining);
    is_draining_ = true;
  }
  os::wake_all(&memory_.segment_.header().region_epoch.value);
  return {};
}

// What caches keep of it goes back; then it is seen whether anything is live.
result<void> regions::removal::recall() {
  locked t(memory_.heap_);
  if (!is_ours()) return gone_meanwhile();
  frozen_caches frozen = recover_and_freeze(*t);
  if (!is_ours()) {  // recovery lets others in
    frozen.thaw();
    return gone_meanwhile();
  }
  not_still_ = frozen.not_still;
  take_region_out_of_caches(*t, slot_, frozen);
  is_live_ = record_->live_extents != 0;
  frozen.thaw();
  return {};
}

result<void> regions::removal::still_held() const {
  const std::string who = memory_.who_holds(slot_);
  const char* const stopped = not_still_ != 0 ? " (a stopped thread keeps some)" : "";
  if (!waits_)
    return refuse(errc::blocks_live, "region {} has {}{}; free them, or drain the region", id_, who,
                  stopped);
  return refuse(errc::deadline_passed, "region {} still has {}{}; it serves again", id_, who,
                stopped);
}

// Until nothing is live and nobody holds it.
result<void> regions::removal::empty() {
  for (u64 pause_ns = 100'000;; pause_ns = std::min<u64>(pause_ns * 2, 20'000'000)) {
    ANNEX_TRY(recall());
    const result<void> removable = is_live_ ? result<void>{} : memory_.check_removable(slot_);
    if (!is_live_ && removable) return {};
    // Relaxed: a count, by which nothing is published; the region is changed under the lock.
    if (record_->cancel_drain.load(std::memory_order_relaxed) != cancels_)
      return refuse(errc::canceled, "draining region {} was canceled; it serves again", id_);
    if (!waits_ || clock::now() >= deadline_) return is_live_ ? still_held() : removable;
    const i64 left_ns = std::chrono::nanoseconds(deadline_ - clock::now()).count();
    os::sleep_ns(std::min<u64>(pause_ns, static_cast<u64>(std::max<i64>(1, left_ns))));
  }
}

// Observers of this process let go, and the way to its file is found now: once the region is gone
// its file must go. From here on under memory_mutex.
result<void> regions::removal::let_go() {
  view_ = &memory_.views_.at(slot_);
  is_let_go_ = true;
  if (view_->base != nullptr)
    ANNEX_TRY(memory_.observers_.let_go(view_for_observers(*view_),
                                        waits_ ? deadline_ : clock::now() + detach_time));
  gone_ = copy_of(*record_);
  auto places = memory_.files_.places_of(gone_);
  if (!places) return std::unexpected(places.error());
  places_.emplace(std::move(*places));
  return {};
}

// The region is gone, unless somebody made it serve meanwhile.
result<void> regions::removal::commit() {
  {
    locked t(memory_.heap_);
    if (!is_ours()) return gone_meanwhile();
    is_draining_ = false;
    if (record_->live_extents != 0) {
      view_->draining_here.store(0, std::memory_order_relaxed);
    } else {
      t->put(record_->worker, memory_.self());
      set_region_state(*t, slot_, region_partial);  // commit: the region is gone
      is_let_go_ = false;
    }
  }
  if (is_let_go_) return refuse(errc::blocks_live, "region {} is in use again", id_);
  os::wake_all(&memory_.segment_.header().region_epoch.value);
  return {};
}

void regions::removal::finish() {
  memory_.files_.remove_memory(*places_, memory_.segment_, gone_);
  if (view_->base != nullptr) {
    view_->observed_removal = true;
    memory_.detach_view(*view_);
  }
  {
    locked t(memory_.heap_);
    free_region(*t, slot_);
  }
  memory_.views_.drop(*view_);
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
  const auto deadline =
      clock::now() + std::clamp(patience, std::chrono::nanoseconds(0),
                                std::chrono::nanoseconds(limits::longest_wait_ns));
  std::unique_lock guard(heap_.memory_mutex, std::defer_lock);  // held while a refusal is undone
  removal leaving(*this, region, deadline, wait);
  ANNEX_TRY(leaving.begin());
  ANNEX_TRY(leaving.empty());
  guard.lock();
  ANNEX_TRY(leaving.let_go());
  ANNEX_TRY(leaving.commit());
  leaving.finish();
  return {};
}

result<void> regions::cancel_drain(region_id region) {
  if (is_read_only()) return refuse(errc::read_only, "\"{}\" is attached read-only", name_);
  if (!member_.ensure_member())
    return refuse(errc::forked_away, "this forked child is no member of the heap");
  region_record* record = views_.find(static_cast<u32>(region));
  if (record == nullptr)
    return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, static_cast<u32>(region));
  record->cancel_drain.fetch_add(1, std::memory_order_relaxed);  // as in removal::empty()
  // A drainer that died left the region draining: then this is what makes it serve again.
  locked t(heap_);
  if (record->state.load(std::memory_order_relaxed) == region_draining)
    set_region_state(*t, views_.slot_of(static_cast<u32>(region)), region_active);
  return {};
}

}  // namespace annex::detail
