// heap/populate.cpp - makes every page of a region present before it is needed, on the node that
// was asked for.
//
// A machine or node that is short is found before its pages are touched: touching would get a
// process killed (ordinary pages) or a signal (hugepages bound to a node).
#include <algorithm>
#include <cstring>

#include "base/in_parallel.hpp"
#include "heap/memory_range.hpp"
#include "heap/regions.hpp"
#include "platform/files.hpp"
#include "platform/memory.hpp"
#include "platform/numa.hpp"
#include "region/room.hpp"

namespace annex::detail {
result<void> regions::prefault(region_id region, unsigned threads,
                               const std::function<void(u64, u64)>& progress) {
  const u32 id = static_cast<u32>(region), slot = views_.slot_of(id);
  if (views_.find(id) == nullptr)
    return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
  auto attached = ensure_attached(slot);
  if (!attached)
    return refuse(errc::not_attached, "region {} is not attached here: {}", id,
                  attached.error().message().substr(0, 150));
  local_region& view = **attached;
  if (view.access == touch::none)
    return refuse(errc::no_cpu_access, "region {} was added as memory the CPU may not touch", id);
  const region_record& r = *view.record;
  // Another may change it meanwhile.
  const u64 page_bytes =
      std::clamp<u64>(r.page_bytes, limits::smallest_page_bytes, limits::largest_page_bytes);
  ANNEX_TRY(check_length(view));
  const int fd = fd_of(view);
  // Of memory that is nobody's file only touching tells.
  if (const os::file_system place = fd >= 0 ? os::file_system_of(fd) : os::file_system{};
      place.in_memory)
    ANNEX_TRY(check_room(view.length_bytes - std::min(view.length_bytes, os::allocated_bytes(fd)),
                         place.huge_page_bytes, r.numa_node));
  ANNEX_TRY(populate_memory(view.base, view.length_bytes, page_bytes, fd, threads, progress,
                            huge_of(copy_of(r))));
  return check_node(view.base, view.length_bytes, page_bytes, r.numa_node);
}

}  // namespace annex::detail
