// heap/populate.cpp - every page of a region there before it is needed, and on the node it shall be on.
//
// A machine or node that is short is found before its pages are touched: touching would get a process killed (ordinary pages) or a signal (hugepages bound to a node).
#include <cstring>

#include "base/in_parallel.hpp"
#include "heap/local_heap.hpp"
#include "platform/os.hpp"

namespace annex::detail {
namespace {

constexpr u64 piece_bytes = 16 * MiB;

}  // namespace

result<void> check_node(const void* base, u64 bytes, u64 stride, int node) {
  if (node == any_node) return {};
  const os::misplaced_page page = os::find_off_node(base, bytes, stride, node);
  if (page.node < 0) return {};
  return refuse(errc::wrong_node, "the page at offset {} lies on NUMA node {}, not {}; bind memory before it is touched (bring_memory does)", page.offset, page.node, node);
}

result<void> check_room(u64 bytes, u64 huge_page_bytes, int node) {
  if (node == any_node) {
    const u64 free = huge_page_bytes != 0 ? ~u64{0} : os::free_memory();  // the kernel refuses hugepages it has not, and nobody is killed
    if (bytes <= free) return {};
    return refuse(errc::out_of_memory, "this machine (or its control group) has {} bytes available, {} are wanted now; free memory, raise the group's limit, bring less, or don't prefault", free, bytes);
  }
  const u64 free = os::free_on_node(node, huge_page_bytes);
  if (bytes <= free) return {};
  if (huge_page_bytes != 0)
    return refuse(errc::out_of_memory, "node {} has {} bytes free in hugepages of {} bytes, {} are wanted; reserve more (/sys/devices/system/node/node{}/hugepages), or bring less", node, free, huge_page_bytes, bytes, node);
  return refuse(errc::out_of_memory, "node {} has {} bytes free, {} are wanted; free memory there, bring less, or choose another node", node, free, bytes);
}

result<void> populate_memory(char* base, u64 bytes, u64 page_bytes, unsigned threads, const std::function<void(u64, u64)>& progress) {
  const u64 piece = std::max(piece_bytes, page_bytes);
  if (const int why = in_parallel(bytes, piece, threads, [&](unsigned, u64 at, u64 n) { return os::populate(base + at, n); }, progress); why != 0)
    return refuse_os(errc::out_of_memory, why, "the machine has no memory for all of {} bytes ({} byte pages): {}; reserve hugepages (vm.nr_hugepages), free memory, or bring less", bytes, page_bytes, std::strerror(why));
  return {};
}

result<void> local_heap::prefault(region_id region, unsigned threads, const std::function<void(u64, u64)>& progress) {
  const u32 id = static_cast<u32>(region), slot = id % limits::region_slots;
  if (views_.find(id) == nullptr) return refuse(errc::no_such_region, "\"{}\" has no region {}", name_, id);
  auto attached = ensure_attached(slot);
  if (!attached) return refuse(errc::not_attached, "region {} is not attached here: {}", id, attached.error().message().substr(0, 150));
  local_region& view = **attached;
  if (view.access == touch::none) return refuse(errc::no_cpu_access, "region {} was added as memory the CPU may not touch", id);
  const region_record& r = *view.record;
  ANNEX_TRY(populate_memory(view.base, r.length_bytes, r.page_bytes, threads, progress));
  return check_node(view.base, r.length_bytes, r.page_bytes, r.numa_node);
}

}  // namespace annex::detail
