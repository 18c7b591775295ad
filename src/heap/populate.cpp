// heap/populate.cpp - every page of a region there before it is needed, and on the node it shall be
// on.
//
// A machine or node that is short is found before its pages are touched: touching would get a
// process killed (ordinary pages) or a signal (hugepages bound to a node).
#include <algorithm>
#include <cstring>

#include "base/in_parallel.hpp"
#include "heap/local_heap.hpp"
#include "heap/room.hpp"
#include "platform/os.hpp"

namespace annex::detail {
namespace {

constexpr u64 piece_bytes = 16 * MiB;

}  // namespace

result<void> check_numa_node(int node) {
  if (node >= any_node && node <= limits::largest_numa_node) return {};
  return refuse(errc::invalid_argument, "{} is no NUMA node: use 0 to {}, or any_node (-1)", node,
                limits::largest_numa_node);
}

result<void> check_node(const void* base, u64 bytes, u64 stride, int node) {
  if (node == any_node) return {};
  const os::misplaced_page page = os::find_off_node(base, bytes, stride, node);
  if (page.node < 0) return {};
  return refuse(errc::wrong_node,
                "the page at offset {} lies on NUMA node {}, not {}; bind memory before it is "
                "touched (bring_memory does)",
                page.offset, page.node, node);
}

result<void> populate_memory(char* base, u64 bytes, u64 page_bytes, int fd, unsigned threads,
                             const std::function<void(u64, u64)>& progress) {
  const u64 piece = std::max(piece_bytes, page_bytes);
  const int why = in_parallel(
      bytes, piece, threads, [&](unsigned, u64 at, u64 n) { return os::populate(base + at, n); },
      progress);
  return why == 0 ? result<void>{} : refuse_pages(why, fd, bytes, page_bytes);
}

result<void> local_heap::prefault(region_id region, unsigned threads,
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
  ANNEX_TRY(populate_memory(view.base, view.length_bytes, page_bytes, fd, threads, progress));
  return check_node(view.base, view.length_bytes, page_bytes, r.numa_node);
}

}  // namespace annex::detail
