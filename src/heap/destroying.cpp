// heap/destroying.cpp - see destroying.hpp.
#include "heap/destroying.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "care/recovery.hpp"
#include "heap/closing.hpp"
#include "heap/local_heap.hpp"
#include "heap/opening.hpp"
#include "heap/remains.hpp"
#include "platform/byte_locks.hpp"
#include "platform/directories.hpp"
#include "platform/files.hpp"
#include "platform/kept_file.hpp"
#include "platform/memory.hpp"
#include "platform/open_result.hpp"
#include "shared/names.hpp"

namespace annex::detail {
namespace {

// Living processes but this one that have the heap attached; one may be several members. Whoever is
// joining waits for the lock, and then sees that the heap has ended.
std::vector<u32> other_processes(const attachment& here) {
  std::vector<u32> others;
  for (u32 m = 1; m <= here.seg.members_used(); ++m) {
    const member_record& member = here.seg.member(m);
    // sync(member): what the record says is seen.
    if (m == here.self.member || member.state.load(std::memory_order_acquire) != member_live ||
        !is_member_alive(here.seg, m))
      continue;
    const u32 process = member.process_id;
    if (std::find(others.begin(), others.end(), process) == others.end()) others.push_back(process);
  }
  return others;
}

u64 regions_with_live_blocks(tenure& t) {
  u64 live = 0;
  frozen_caches frozen = freeze_all(t);
  for (const u32 slot : used_region_slots(t.seg())) {
    const region_record& r = t.views().record(slot);
    if (r.state.load(std::memory_order_relaxed) == region_free) continue;
    take_region_out_of_caches(t, slot, frozen);
    if (r.live_extents != 0) ++live;
  }
  frozen.thaw();
  return live;
}

// Refused, or done: under the heap lock.
result<void> end_it(attachment& here, const open_directory& where) {
  locked t(here);
  recover_dead(*t);
  segment_header& h = here.seg.header();
  const std::vector<u32> others = other_processes(here);
  const u64 live = regions_with_live_blocks(*t);
  if (!others.empty()) {
    const std::string more =
        others.size() == 1 ? "" : fmt::format(" and {} more", others.size() - 1);
    return refuse(errc::heap_in_use, "\"{}\" is attached in process {}{}; close it there first",
                  here.name, others.front(), more);
  }
  if ((live != 0 || h.zone_count != 0) && !here.has_option(option_ephemeral))
    return refuse(errc::blocks_live,
                  "\"{}\" still has live blocks in {} regions and {} zones; free them, or `annex "
                  "reap` dead members first",
                  here.name, live, h.zone_count);
  // sync(destroyed): the records of regions stay as they are.
  h.state.store(segment_destroyed, std::memory_order_release);  // commit
  remove_own_files(here.files, where, here.seg);
  remove_names(where, here.name, here.files.segment_file(), life_name(here.name, h.heap_id),
               here.life.get());
  return {};
}

}  // namespace

result<void> destroy_heap(std::string_view name, bool only_ephemeral) {
  auto opened = attach_heap(
      name, {.read_only = false, .regions = attach_policy::manual, .verify = false}, true);
  if (!opened) return std::unexpected(opened.error());
  local_heap* const heap = *opened;
  attachment& here = heap->here;
  if (only_ephemeral && !here.has_option(option_ephemeral)) {
    close_heap(heap);
    return refuse(errc::name_taken, "\"{}\" is a heap that outlives its members", name);
  }
  const auto where = here.files.open();  // now: once the heap has ended its names must go
  if (!where) {
    close_heap(heap);
    return std::unexpected(where.error());
  }
  const std::string own = life_name(name, here.seg.header().heap_id);
  const result<void> done = end_it(here, *where);
  close_heap(heap);
  if (done) remove_stray_lives(*where, name, own);
  return done;
}

}  // namespace annex::detail
