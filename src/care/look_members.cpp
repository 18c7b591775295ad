// care/look_members.cpp - members in one look, and what they made and hold: zones, objects of
// pools. See look.hpp.
#include <algorithm>
#include <cstring>

#include "care/look.hpp"
#include "named/naming.hpp"
#include "named/pool_table.hpp"
#include "platform/files.hpp"
#include "shared/members.hpp"

namespace annex {
namespace {

constexpr u32 nowhere = ~u32{0};

}  // namespace

void look::find_members() {
  index_.assign(u64{segment_.member_limit()} + 1, nowhere);
  held_blocks_.assign(index_.size(), 0);
  held_bytes_.assign(index_.size(), 0);
  for (u32 id = 1; id <= segment_.members_used(); ++id) {
    const member_record& m = segment_.member(id);
    // sync(member): what the record says is seen.
    const u32 state = m.state.load(std::memory_order_acquire);
    out_.stats.member_count += state == member_live;
    if (state == member_free) continue;
    index_[id] = static_cast<u32>(out_.members.size());
    member_summary& s = out_.members.emplace_back();
    s.id = member_id{id};
    s.process_id = static_cast<int>(seen(m.process_id));
    char program[sizeof m.program];
    std::memcpy(program, m.program, sizeof program);
    s.program.assign(program, ::strnlen(program, sizeof program));
    s.alive = !is_member_gone(segment_, id, self_);
    s.self = id == self_;
  }
}

void look::find_zones() {
  for_each_zone_bucket(segment_, [&](chunk_ref chain) {
    for (chunk_ref ref = chain; ref != 0 && may_go_on();) {
      const auto* const z = segment_.find_chunk<zone_record>(ref);
      if (z == nullptr) {
        is_torn_ = true;
        return;
      }
      add_zone(*z);
      ref = seen(z->next);
    }
  });
  std::sort(out_.zones.begin(), out_.zones.end(),
            [](const zone_summary& a, const zone_summary& b) { return a.name < b.name; });
}

void look::add_zone(const zone_record& z) {
  zone_summary& s = out_.zones.emplace_back();
  char name[sizeof z.name];
  std::memcpy(name, z.name, sizeof name);
  s.name.assign(name, ::strnlen(name, sizeof name));
  s.size_bytes = seen(z.size_bytes);
  const zone_type type = seen(z.type);
  s.kind = type == zone_type::pool ? "pool" : type == zone_type::ring ? "ring" : "zone";
  if (type == zone_type::pool) count_pool(z);
  // Relaxed: it is said, and nothing is read because of it.
  s.committed = z.state.load(std::memory_order_relaxed) == zone_committed;
  s.generation = seen(z.generation);
  const u32 maker = seen(z.maker);
  s.maker = member_id{maker};
  s.maker_process_id = static_cast<int>(seen(z.maker_process));
  // A record that has another process by now is not the maker's.
  const member_summary* const member = of(maker);
  s.maker_alive = member != nullptr && member->alive && member->process_id == s.maker_process_id &&
                  seen(segment_.member(maker).start_time) == seen(z.maker_start_time);
  const u32 slot = seen(z.region_slot);
  if (slot == no_region) return;
  const local_region* const region = slot < by_slot_.size() ? by_slot_[slot] : nullptr;
  const u64 offset = seen(z.offset_bytes);
  const u32 granule = seen(z.granule);
  if (region == nullptr || granule >= region->granule_count ||
      s.size_bytes > region->region_bytes || offset > region->region_bytes - s.size_bytes) {
    is_torn_ = true;
    return;
  }
  s.where = handle_at(*region, offset, annex::count_in(seen(region->extents[granule].name)));
}

// What members have of a pool's objects: not what their caches keep. Its bytes are the pool's
// zone.
void look::count_pool(const zone_record& z) {
  const known_pool pool = look_for_pool_table(segment_, seen(z.table), seen(z.table_bytes));
  if (!pool) {
    is_torn_ = true;
    return;
  }
  const u64 steps = u64{pool.object_count} + segment_.slots_used();
  if (steps > pool_steps_left_) {
    out_.complete = false;
    return;
  }
  pool_steps_left_ -= steps;
  std::vector<u64> out(u64{segment_.members_used()} + 1);
  const u16* const holders = pool.holders(segment_.thread_limit());
  for (u32 i = 0; i < pool.object_count; ++i)
    if (const u32 member = seen(holders[i]); member != 0 && member < out.size()) ++out[member];
  for (u32 i = 0; i < segment_.slots_used(); ++i) {
    const chunk_ref ref = seen(pool.caches()[i]);
    const auto* const kept = ref != 0 ? segment_.find_chunk<pool_cache>(ref) : nullptr;
    // sync(slot): what a cache kept for whoever had the slot before has gone back.
    const u32 member = member_of_state(segment_.slot(i).state.load(std::memory_order_acquire));
    if (kept != nullptr && member < out.size())
      out[member] -= std::min<u64>(out[member], entries_in(*kept));
  }
  for (u32 member = 1; member < std::min(out.size(), held_blocks_.size()); ++member)
    held_blocks_[member] += out[member];
}

void look::give_members() {
  for (member_summary& m : out_.members) {
    m.held_blocks = held_blocks_[static_cast<u32>(m.id)];
    m.held_bytes = held_bytes_[static_cast<u32>(m.id)];
  }
}

void look::sum_up_heap() {
  const segment_header& h = segment_.header();
  out_.stats.zone_count = out_.zones.size();
  out_.stats.metadata_bytes = os::allocated_bytes(segment_.fd());
  out_.stats.misuse_count = h.misuse_count.load(std::memory_order_relaxed);
  out_.stats.lock_steals = h.lock_steals.load(std::memory_order_relaxed);
  out_.stats.recovered_threads = h.recovered_threads.load(std::memory_order_relaxed);
}

}  // namespace annex
