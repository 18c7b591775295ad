// heap/huge_bytes.cpp - how much of a region is in transparent huge pages now, as the kernel says
// it of a process that has the region.
//
//   here, where it is attached → by its file in a member that has it → by its address in its adder
//
// Nothing of the heap is changed and no lock held. Another member is read only where the kernel
// lets this process look into it; who it is is compared by the time of its start.
#include <algorithm>

#include "heap/caretaker.hpp"
#include "heap/memory_range.hpp"
#include "platform/memory.hpp"
#include "platform/processes.hpp"
#include "region/region_record.hpp"
#include "shared/liveness.hpp"

namespace annex::detail {
namespace {

// What lies in [begin, end) of the mappings that are asked for.
struct huge_sum {
  u64 mapped = 0, huge = 0;
  bool is_known = true;

  // A mapping may reach beyond the region: which part of it is huge is not said.
  void add(const os::mapping_pages& m, u64 inside) noexcept {
    const u64 all = m.end - m.begin;
    mapped += inside;
    huge += m.huge_bytes == 0 ? 0 : std::min(m.huge_bytes, inside);
    is_known = is_known && (m.huge_bytes == 0 || m.huge_bytes == all || inside == all);
  }
};

u64 overlap(u64 begin, u64 end, u64 from, u64 to) noexcept {
  const u64 first = std::max(begin, from), last = std::min(end, to);
  return first < last ? last - first : 0;
}

huge_sum seen_at(u32 process_id, u64 base, u64 bytes) {
  huge_sum sum;
  (void)os::for_each_mapping_pages(process_id, [&](const os::mapping_pages& m) {
    if (const u64 inside = overlap(m.begin, m.end, base, base + bytes); inside != 0)
      sum.add(m, inside);
    return m.end < base + bytes;
  });
  return sum;
}

huge_sum seen_of_file(u32 process_id, const region_record& r) {
  huge_sum sum;
  (void)os::for_each_mapping_pages(process_id, [&](const os::mapping_pages& m) {
    if (m.inode != r.inode || m.device != r.device || m.inode == 0) return true;
    const u64 inside = overlap(m.file_offset, m.file_offset + (m.end - m.begin), r.fd_offset,
                               r.fd_offset + r.length_bytes);
    if (inside != 0) sum.add(m, inside);
    return true;
  });
  return sum;
}

}  // namespace

result<u64> caretaker::huge_bytes(region_id region) {
  const u32 id = static_cast<u32>(region), slot = views_.slot_of(id);
  if (views_.find(id) == nullptr)
    return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
  const local_region& view = views_.at(slot);
  if (view.base != nullptr) {
    const huge_sum here = seen_at(0, reinterpret_cast<u64>(view.base), view.region_bytes);
    if (here.mapped != 0 && here.is_known) return here.huge;
  }
  const region_record r = copy_of(*view.record);
  for (u32 m = 1; m <= segment_.members_used(); ++m) {
    const member_record& member = segment_.member(m);
    // sync(member): what the record says is seen.
    if (m == self() || member.state.load(std::memory_order_acquire) != member_live) continue;
    const region_claim* const claims = claims_of(segment_, member);
    // sync(claim): it has the region.
    if (claims == nullptr || claims[slot].region.load(std::memory_order_acquire) != id) continue;
    const u32 process = member.process_id;
    if (process == 0 || os::start_time(process) != member.start_time) continue;
    const huge_sum there = r.backing != backing_none ? seen_of_file(process, r)
                           : m == r.adder ? seen_at(process, r.adder_base, r.length_bytes)
                                          : huge_sum{};
    if (there.mapped != 0 && there.is_known) return there.huge;
  }
  return refuse(errc::not_supported,
                "how much of region {} is in huge pages is not known: it is not attached here, and "
                "no process that has it lets this one read its /proc/PID/smaps; attach it, or ask "
                "as the same user",
                id);
}

}  // namespace annex::detail
