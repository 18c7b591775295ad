// heap/observing.cpp - who watches a heap's regions in this process: observers, the thread that
// wakes for them, leases.
//
// Observers are called with memory_mutex held and no other lock. A lease is a count in the
// member's claim on the region, which ends with the member.
#include <atomic>
#include <thread>
#include <utility>

#include "heap/observing.hpp"
#include "platform/report.hpp"
#include "platform/waiting.hpp"

namespace annex {

struct observation::state {
  detail::observing* heap;
  observer* who;
};

observation::observation(observation&& other) noexcept
    : state_(std::exchange(other.state_, nullptr)) {}
observation& observation::operator=(observation&& other) noexcept {
  if (this != &other) {
    end();
    state_ = std::exchange(other.state_, nullptr);
  }
  return *this;
}

observation::~observation() {
  end();
}

void observation::end() noexcept {
  if (state_ == nullptr) return;
  state_->heap->end_observation(state_->who);
  delete std::exchange(state_, nullptr);
}

lease::lease(lease&& other) noexcept
    : heap_(std::exchange(other.heap_, nullptr)), region_slot_(other.region_slot_) {}
lease& lease::operator=(lease&& other) noexcept {
  if (this != &other) {
    give_back();
    heap_ = std::exchange(other.heap_, nullptr);
    region_slot_ = other.region_slot_;
  }
  return *this;
}

lease::~lease() {
  give_back();
}

void lease::give_back() noexcept {
  if (heap_ != nullptr)
    static_cast<detail::observing*>(std::exchange(heap_, nullptr))->give_back_lease(region_slot_);
}

namespace detail {
namespace {

using clock = std::chrono::steady_clock;

}  // namespace

// Observers must be told even if this process never calls annex again: a thread waits for changes
// of the region table.
void observing::start_watcher() {
  if (watcher_.joinable()) return;
  watcher_stop_ = false;
  watcher_ = std::thread([this] {
    const shared_word<u32>& epoch = segment_.header().region_epoch;
    while (!watcher_stop_.load()) {
      // sync(epoch): before the region table is looked at.
      const u32 seen = epoch.load(std::memory_order_acquire);
      memory_.synchronize();
      // While a region drains, its last block may go without a change of the epoch: look often.
      bool draining = false;
      for (const u32 slot : used_region_slots(segment_))
        draining |= views_.record(slot).state.load(std::memory_order_relaxed) == region_draining;
      os::wait_on(&epoch.value, seen, draining ? 2'000'000 : 100'000'000);
    }
  });
}

void observing::stop_watcher() noexcept {
  if (!watcher_.joinable()) return;
  watcher_stop_ = true;
  os::wake_all(&segment_.header().region_epoch.value);
  watcher_.join();
}

void observing::note_observers() noexcept {
  // Not in a forked child that is no member yet: it has claims of its own when it is one.
  if (is_read_only() || self() == 0) return;
  region_claim* const mine = member_.claims();
  if (mine == nullptr) return;
  const u16 bits = memory_.attached_bits();
  for (u32 slot = 0; slot < views_.local_slots(); ++slot)
    if (const local_region* view = views_.existing(slot);
        view != nullptr && view->base != nullptr &&
        mine[slot].region.load(std::memory_order_relaxed) == view->id)
      // sync(observed): observers that have ended are done with the region.
      mine[slot].attached.store(bits, std::memory_order_release);
}

result<observation> observing::observe(observer& who) {
  ANNEX_TRY(refuse_in_callback(heap_, "observing"));
  if (!is_read_only() && !member_.ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(refuse_if_damaged());
  if (memory_.policy() == attach_policy::automatic) memory_.attach_more();
  {
    std::lock_guard guard(heap_.memory_mutex);
    std::vector<region_view> told;
    for (u32 slot = 0; slot < views_.local_slots(); ++slot) {
      const local_region* view = views_.existing(slot);
      if (view == nullptr || view->base == nullptr) continue;
      region_view region = view_for_observers(*view);
      if (auto agreed = observer_list::ask(who, region); !agreed) {
        while (!told.empty()) {
          (void)observer_list::dismiss(who, told.back(), clock::now() + detach_time);
          told.pop_back();
        }
        return std::unexpected(agreed.error());
      }
      told.push_back(std::move(region));
    }
    memory_.observers().append(&who);
    note_observers();
  }
  if (!has_option(option_private) && !is_read_only()) start_watcher();
  return observation(new observation::state{this, &who});
}

void observing::end_observation(observer* who) noexcept {
  if (is_inside_callback_of(heap_.id()))
    stop_program(
        "annex: an observation was ended inside a callback of an observer of the same heap, which "
        "would wait for itself; end it when the callback has returned\n");
  std::lock_guard guard(heap_.memory_mutex);
  memory_.observers().erase(who);
  for (u32 slot = views_.local_slots(); slot-- > 0;) {
    const local_region* view = views_.existing(slot);
    if (view != nullptr && view->base != nullptr && !heap_.forked)
      (void)observer_list::dismiss(*who, view_for_observers(*view), clock::now() + detach_time);
  }
  note_observers();
}

result<lease> observing::hold(region_id region) {
  if (is_read_only())
    return refuse(errc::read_only, "\"{}\" is attached read-only; a lease needs a member", name_);
  if (!member_.ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(refuse_if_damaged());
  const u32 id = static_cast<u32>(region), slot = views_.slot_of(id);
  if (views_.find(id) == nullptr)
    return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
  ANNEX_TRY(memory_.ensure_attached(slot));
  region_claim* const mine = member_.claims();
  locked t(heap_);
  if (views_.find(id) == nullptr || mine == nullptr ||
      mine[slot].region.load(std::memory_order_relaxed) != id)
    return refuse(errc::no_such_region, "region {} was removed meanwhile", id);
  if (!is_usable_here(views_.at(slot)))
    return refuse(errc::not_attached, "region {} is just being detached here", id);
  // Relaxed: taking one publishes nothing; giving it back does.
  mine[slot].leases.fetch_add(1, std::memory_order_relaxed);
  lease held;
  held.heap_ = this;
  held.region_slot_ = slot;
  return held;
}

void observing::give_back_lease(u32 slot) noexcept {
  if (heap_.forked || self() == 0) return;
  if (region_claim* const mine = claims_of(segment_, segment_.member(self())); mine != nullptr)
    // sync(lease): its use is over.
    mine[slot].leases.fetch_add(static_cast<u16>(-1), std::memory_order_acq_rel);
}

void observing::become_child() noexcept {
  watcher_stop_ = true;
  new (&watcher_) std::thread;
}

}  // namespace detail
}  // namespace annex
