// heap/caretaker.cpp - see caretaker.hpp.
//
// reap: list (heap lock, everybody still) → the application looks, without any lock → what it chose
// and the dead member still holds is freed (heap lock). In between a block may be freed by whoever
// has its handle, and be somebody else's by then: what is freed is looked up again under the lock.
#include "heap/caretaker.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "care/audit.hpp"
#include "care/reclaim.hpp"
#include "care/recovery.hpp"
#include "named/naming.hpp"
#include "named/pool_caches.hpp"
#include "platform/report.hpp"

namespace annex::detail {

void caretaker::trim_all(bool recall_everything) noexcept {
  if (is_read_only() || !member_.ensure_member() || segment_.is_damaged()) return;
  locked t(heap_);
  if (!recall_everything) recover_dead(*t);
  frozen_caches frozen = recall_everything ? recover_and_freeze(*t) : frozen_caches{};
  for (thread_cache* c : frozen)
    empty_cache(*t, *c);
  frozen.thaw();
  release_empty_orphans(*t);
}

void caretaker::trim_own() noexcept {
  if (is_read_only() || !member_.ensure_member() || segment_.is_damaged()) return;
  locked t(heap_);
  frozen_caches frozen = freeze_all(*t);
  for (thread_cache* c : frozen)
    if (c->member == self()) empty_cache(*t, *c);
  frozen.thaw();
  release_empty_orphans(*t);
}

size_t caretaker::recover() noexcept {
  if (is_read_only() || !member_.ensure_member() || segment_.is_damaged()) return 0;
  size_t dead = 0;
  for (u32 id = 1; id <= segment_.members_used(); ++id)
    if (is_claim_of_the_dead(segment_, id, self())) ++dead;
  if (dead == 0) return 0;
  locked t(heap_);
  recover_dead(*t);
  return dead;
}

void caretaker::recall_pool(const zone_record& z, u64 incarnation) noexcept {
  locked t(heap_);
  frozen_caches frozen = recover_and_freeze(*t);
  if (z.incarnation.load(std::memory_order_relaxed) == incarnation)
    if (const known_pool pool = find_pool_table(segment_, z.table, z.table_bytes))
      flush_pool_caches(*t, pool, frozen);
  frozen.thaw();
}

result<size_t> caretaker::reap(u32 id,
                               const std::function<reap_choice(const block_summary&)>& look) {
  if (is_read_only())
    return refuse(errc::read_only, "\"{}\" is attached read-only; attach it writable to reap",
                  name_);
  if (!member_.ensure_member())
    return refuse(errc::forked_away, "this forked child is no member of the heap");
  ANNEX_TRY(refuse_if_damaged());
  // sync(member): what the record says is seen.
  if (id == 0 || id > segment_.members_used() ||
      segment_.member(id).state.load(std::memory_order_acquire) == member_free)
    return refuse(errc::invalid_argument, "\"{}\" has no member {}; `annex who` lists them", name_,
                  id);
  const member_record& m = segment_.member(id);
  if (!is_member_gone(segment_, id, self()))
    return refuse(errc::invalid_argument,
                  "member {} (process {}) of \"{}\" is alive; only the dead are reaped", id,
                  m.process_id, name_);
  const u64 born = m.start_time;
  const u32 process = m.process_id;
  std::vector<handle> chosen;
  if (look) {
    for (const block_summary& b : held_by(id))
      if (look(b) == reap_choice::free) chosen.push_back(b.where);
    std::sort(chosen.begin(), chosen.end());
  }
  locked t(heap_);
  recover_dead(*t);
  // Its record may have gone to another process meanwhile, because nothing of its was left.
  // sync(member): what the record says is seen.
  if (m.state.load(std::memory_order_acquire) != member_dead || m.process_id != process ||
      m.start_time != born)
    return 0;
  u32 skipped = 0;
  const size_t freed = free_held_by(*t, id, look ? &chosen : nullptr, &skipped);
  if (skipped != 0)
    log(log_level::warn,
        "{} slabs were not searched, because their threads are in the middle of an operation; reap "
        "again",
        skipped);
  return freed;
}

// What a dead member holds, objects of pools included.
std::vector<block_summary> caretaker::held_by(u32 id) {
  std::vector<block_summary> found;
  (void)for_each_block([&](const block_summary& b) {
    if (static_cast<u32>(b.holder) == id) found.push_back(b);
  });
  locked t(heap_);
  for_each_pool(segment_, [&](const zone_record& z, const known_pool& pool) {
    const u16* const holders = pool.holders(segment_.thread_limit());
    if (z.region_slot == no_region) return;
    const local_region& region = views_.at(z.region_slot);
    for (u32 object = 0; object < pool.object_count; ++object) {
      if (holders[object] != id) continue;
      char* const address = region.base != nullptr
                                ? region.base + z.offset_bytes + object * pool.object_bytes
                                : nullptr;
      found.push_back({block_kind::pool_object, where_is(segment_, region, z, pool, object),
                       address, pool.object_bytes, member_id{id}});
    }
  });
  return found;
}

void caretaker::report_statistics() noexcept {
  const heap_stats s = stats();
  report_line(fmt::format(
      "statistics of heap {}: {} bytes in {} regions, {} used in {} blocks, {} cached, {} free "
      "(largest {}), metadata {}",
      name_.empty() ? "(private)" : name_, s.total_bytes, s.region_count, s.used_bytes,
      s.live_blocks, s.cached_bytes, s.free_bytes, s.largest_free_bytes, s.metadata_bytes));
}

result<audit_report> caretaker::audit() {
  audit_report report;
  if (is_read_only() || !member_.ensure_member()) {
    // Looked at while it moves: a finding counts only if nobody changed the heap meanwhile.
    for (int tries = 0; tries < 20; ++tries) {
      // sync(sequence): what was changed before is seen.
      const u64 before = segment_.header().lock_sequence.load(std::memory_order_acquire);
      report = {};
      inspect_segment(segment_, {}, false, &report, false);
      // sync(sequence): if a change was seen, so is its odd number.
      std::atomic_thread_fence(std::memory_order_acquire);
      const u64 after = segment_.header().lock_sequence.load(std::memory_order_relaxed);
      if (report.holds() || (before == after && before % 2 == 0)) return report;
    }
    report.broken.clear();
    return report;
  }
  locked t(heap_);
  frozen_caches frozen = recover_and_freeze(*t);
  std::vector<bool> still(segment_.slots_used(), false);
  for (const thread_cache* c : frozen)
    still[c->slot] = true;
  report.exact = frozen.not_still == 0;
  inspect_segment(segment_, still, true, &report, false);
  frozen.thaw();
  return report;
}

}  // namespace annex::detail
