// heap/membership.cpp - see membership.hpp.
#include "heap/membership.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "attached/misuse.hpp"
#include "care/audit.hpp"
#include "care/recovery.hpp"
#include "platform/byte_locks.hpp"
#include "platform/memory.hpp"
#include "platform/processes.hpp"
#include "platform/report.hpp"
#include "platform/waiting.hpp"
#include "region/room.hpp"
#include "shared/header.hpp"

namespace annex::detail {

namespace {

constexpr u64 door_patience_ns = 10'000'000'000, door_look_again_ns = 1'000'000;
constexpr int claim_tries = 100;  // records that others are just giving up

}  // namespace

std::unexpected<error> refuse_lock(int why, std::string_view name) {
  if (why != EINVAL && why != ENOSYS && why != ENOLCK && why != EPERM && why != EACCES &&
      why != EOPNOTSUPP)
    return refuse_os(errc::os_failure, why,
                     "can't join \"{}\", whose members show by a lock that they live: {}{}", name,
                     std::strerror(why), remedy_for(why));
  return refuse_os(errc::os_failure, why,
                   "can't join \"{}\": its members show that they live by open file description "
                   "locks (F_OFD_SETLK), which were refused here: {}; annex needs Linux 3.15 or "
                   "later, a file system with locks, and a sandbox that lets fcntl through",
                   name, std::strerror(why));
}

bool membership::join_as_child() noexcept {
  if (has_option(option_private) || is_read_only()) return false;
  std::lock_guard guard(heap_.memory_mutex);
  if (!heap_.forked) return true;
  drop_what_a_child_lacks();
  if (!join(arrival::child)) return false;
  heap_.forked = false;
  for (u32 slot = 0; slot < views_.local_slots(); ++slot)
    if (local_region* view = views_.existing(slot); view != nullptr && view->base != nullptr)
      if (region_claim* const claim = claim_on(slot)) {
        claim->attached.store(claim_attached, std::memory_order_relaxed);
        // sync(claim): what it says of the region comes before.
        claim->region.store(view->id, std::memory_order_release);
      }
  return true;
}

// No record, or no slot, for this process.
std::unexpected<error> membership::refuse_claim(const member_claim& claim) const {
  if (claim.error == ENOSPC)
    return refuse_os(errc::limit_reached, ENOSPC, "no room for another member of \"{}\": {}{}",
                     name_, std::strerror(ENOSPC), remedy_for(ENOSPC));
  if (claim.error != 0) return refuse_lock(claim.error, name_);
  return refuse(errc::limit_reached,
                "\"{}\" has room for {} members and {} threads and all are taken; close some, "
                "reap dead ones, or create it with higher limits",
                name_, segment_.member_limit() - kept_for_mending,
                segment_.thread_limit() - kept_for_mending);
}

// Becomes a member. It is visible as one before it looks whether anybody else is (joining), and it
// looks while it holds the heap lock: so of two who come at once the first inspects and the second
// sees it alive, and nobody changes anything meanwhile. A death in here leaves a record whose byte
// is free: recovery takes it back.
result<void> membership::join(arrival how) {
  if (!os::prepare_process_barrier())
    segment_.header().no_barrier.store(1, std::memory_order_relaxed);
  for (;;) {
    void* door = nullptr;
    // A forked child as well: repair goes by locked bytes.
    if (how != arrival::creator && segment_.has_life_file()) ANNEX_TRY(pass_the_door(&door));
    member_claim claim;
    for (int tries = 0; claim.member == 0 && tries < claim_tries; ++tries) {
      if (tries != 0) os::sleep_ns(door_look_again_ns);
      claim = claim_membership(segment_, is_attaching(how));
      if (claim.error != 0 || how == arrival::child) break;
    }
    if (claim.member == 0) {
      os::let_go_of_byte(door);
      return refuse_claim(claim);
    }
    heap_.self = claim;
    const auto fit = vouch_for_oneself(how);
    os::let_go_of_byte(door);
    if (fit.is_ours && fit.done) return {};
    heap_.self = {};
    give_up_membership(segment_, claim);
    if (fit.is_ours) return fit.done;
  }
}

// Under the heap lock. Not ours: whoever freed the record died before that was sure, and it was
// undone just now.
membership::verdict membership::vouch_for_oneself(arrival how) {
  verdict found;
  double_frees doubles;
  {
    tenure t(segment_, {heap_.self.slot, self()}, views_, files_);
    const member_record& mine = segment_.member(self());
    // Relaxed: it is taken from its process under the lock only.
    found.is_ours = mine.state.load(std::memory_order_relaxed) == member_joining;
    if (found.is_ours) found.done = come_alive(t, how);
    doubles = t.found();
  }
  say_doubles(heap_, doubles);
  return found;
}

// Under the heap lock; what a dead holder left open has been undone.
result<void> membership::come_alive(tenure& t, arrival how) {
  segment_header& h = segment_.header();
  // Relaxed: it is changed under the lock only.
  if (h.state.load(std::memory_order_relaxed) != segment_ready)
    return refuse(errc::no_such_heap, "the heap \"{}\" has been destroyed", name_);
  const bool is_vouched = how == arrival::creator || is_vouched_for(segment_, self());
  // The first of those who open it at once ends it, the others see that it has ended; then one of
  // them creates it anew.
  if (how == arrival::opener && !is_vouched && has_option(option_ephemeral)) {
    // sync(destroyed): the records of regions stay as they are.
    h.state.store(segment_destroyed, std::memory_order_release);  // commit
    return refuse(errc::no_such_heap, "the heap \"{}\" was ephemeral, and all its members are gone",
                  name_);
  }
  if (is_attaching(how) &&
      (!is_vouched || segment_.is_damaged() || h.damaged.load(std::memory_order_relaxed) != 0)) {
    segment_header now;
    std::memcpy(static_cast<void*>(&now), &h, sizeof now);
    ANNEX_TRY(check_header(now, segment_.file_bytes()));
    if (segment_geometry(now) != segment_.geometry())
      return refuse(errc::corrupt, "the header of \"{}\" has changed while it was opened", name_);
    audit_report report;
    inspect_segment(segment_, {}, !is_vouched, &report, t.stole());
    if (!report.holds())
      return refuse(errc::corrupt, "the segment of \"{}\" is damaged: {}", name_,
                    report.broken.front().substr(0, 120));
    if (!is_vouched) {
      h.damaged.store(0, std::memory_order_relaxed);
      heap_.damage.store(0, std::memory_order_relaxed);
    }
  }
  if (t.stole() || !is_vouched) repair_frozen(t);
  // sync(member): whoever takes its word sees what was repaired.
  segment_.member(self()).state.store(member_live, std::memory_order_release);  // commit
  return {};
}

// Under the heap lock, so that what freed the record has happened for good. False: it had not; the
// claim is given up.
bool membership::vouch_for(const member_claim& claim) noexcept {
  member_record& m = segment_.member(claim.member);
  // Relaxed: as in vouch_for_oneself().
  if (m.state.load(std::memory_order_relaxed) != member_joining) {
    give_up_membership(segment_, claim);
    return false;
  }
  // sync(member): as in come_alive().
  m.state.store(member_live, std::memory_order_release);  // commit
  return true;
}

// Every attach counts as a member, also one that shares what this process has attached: it holds a
// record of its own, which says that this process lives and nothing else.
result<void> membership::count_share() {
  if (is_read_only()) return {};
  std::lock_guard guard(shares_mutex_);
  const member_claim claim = claim_record(segment_);
  if (claim.member == 0 && claim.error == 0)
    return refuse(errc::limit_reached,
                  "\"{}\" has room for {} members and all are taken; close some, reap dead ones, "
                  "or create it with higher limits",
                  name_, segment_.member_limit() - kept_for_mending);
  if (claim.member == 0) return refuse_lock(claim.error, name_);
  locked t(heap_);
  if (!vouch_for(claim)) return refuse_lock(EAGAIN, name_);
  shares_.push_back(claim);
  return {};
}

void membership::end_share() noexcept {
  std::lock_guard guard(shares_mutex_);
  if (shares_.empty()) return;
  give_up_membership(segment_, shares_.back());
  shares_.pop_back();
}

// From the record that is kept for the one who mends to one that recovery has freed, if any.
void membership::move_to_a_record_of_its_own() noexcept {
  if (!is_mender()) return;
  const member_claim claim = claim_membership(segment_, false);
  if (claim.member == 0) return;
  const member_claim kept = heap_.self;
  double_frees doubles;
  bool is_ours = false;
  {
    tenure t(segment_, {kept.slot, kept.member}, views_, files_);
    if (t.stole() && !segment_.is_damaged()) repair_frozen(t);
    is_ours = vouch_for(claim);
    doubles = t.found();
  }
  say_doubles(heap_, doubles);
  if (!is_ours) return;
  heap_.self = claim;
  give_up_membership(segment_, kept);
}

// Ends the membership: caches back to their slabs, then lock, slot and record, in this order.
void membership::leave() noexcept {
  {
    locked t(heap_);
    for (u32 i = 0; i < segment_.slots_used(); ++i)
      if (member_of_state(segment_.slot(i).state.load(std::memory_order_relaxed)) == self() &&
          i != heap_.self.slot)
        recover_thread(*t, i, false);
    recover_member(*t, self(), false);
  }
  if (has_option(option_private)) return;
  // Only now: while the lock was ours, the slot and the record had to say so. Dying before either
  // store leaves a slot or a record of a dead member, which recover_dead() frees. Others may have
  // done so already: hence compare and swap.
  thread_slot& service = segment_.slot(heap_.self.slot);
  u64 mine = service.state.load(std::memory_order_relaxed);
  if (member_of_state(mine) == self())
    // sync(slot): we are done with it.
    service.state.compare_exchange(mine, mine >> 16 << 16, std::memory_order_release);
  note_free_slot(segment_, heap_.self.slot);
  member_record& m = segment_.member(self());
  u32 dead = member_dead;
  if (m.extents_held == 0 && m.holdings == 0 && m.slabs_orphaned == 0 && m.pool_objects_held == 0)
    // sync(member): we are done with the record.
    m.state.compare_exchange(dead, member_free, std::memory_order_release);
}

// Keeps repair out for as long as the claim is new. Several come in at once; they meet again at the
// heap lock.
result<void> membership::pass_the_door(void** door) {
  for (const u64 until = os::now_ns() + door_patience_ns;;) {
    const os::life_lock held = os::hold_byte(heap_.life.get(), door_position, true);
    *door = held.pin;
    if (held.pin != nullptr) return {};
    if (held.error != EAGAIN) return refuse_lock(held.error, name_);
    if (os::now_ns() > until)
      return refuse(errc::heap_in_use,
                    "\"{}\" is being repaired by another process; try again when it is done",
                    name_);
    os::sleep_ns(door_look_again_ns);
  }
}

// Regions that this process does not have although its parent did: mappings that are not inherited
// (MADV_DONTFORK, as RDMA libraries set it), that became a copy (MAP_PRIVATE), or that another
// thread was just attaching or detaching. Under memory_mutex.
void membership::drop_what_a_child_lacks() noexcept {
  for (u32 slot = 0; slot < views_.local_slots(); ++slot) {
    local_region* const view = views_.existing(slot);
    if (view == nullptr || view->base == nullptr) continue;
    const bool half_done = !is_usable_here(*view) || address_index::find(view->base) != view;
    const os::mapping_check there = os::check_mapping(view->base, view->length_bytes);
    const bool lost = view->access == touch::read_write && (!there.mapped || !there.shared);
    if (!half_done && !lost) continue;
    if (lost)
      log(log_level::warn,
          "region {} of heap {} is left unattached in this forked child: its memory is {}",
          view->id, name_,
          there.mapped ? "private, so that the child has a copy of it"
                       : "not mapped here (MADV_DONTFORK?)");
    address_index::leave(view->base);
    views_.set_base(*view, nullptr, 0);
    view->pins = nullptr;
    close_fd(*view);
    views_.drop(*view);
  }
}

void membership::leave_thread(thread_cache* c) noexcept {
  if (heap_.forked || is_read_only() || segment_.is_damaged()) return;
  locked t(heap_);
  recover_thread(*t, c->slot, false);
}

bool membership::has_living_others() noexcept {
  if (has_option(option_private)) return false;
  std::vector<u32> own{self()};  // and the records of further attaches here
  {
    std::lock_guard guard(shares_mutex_);
    for (const member_claim& share : shares_)
      own.push_back(share.member);
  }
  for (u32 id = 1; id <= segment_.members_used(); ++id)
    if (std::find(own.begin(), own.end(), id) == own.end() && !is_member_gone(segment_, id, 0))
      return true;
  return false;
}

void membership::become_child() noexcept {
  heap_.self = {};                  // the byte is the parent's: its mapping is not inherited
  new (&shares_mutex_) std::mutex;  // a thread that is not here may have held it
  shares_.clear();
}

}  // namespace annex::detail
