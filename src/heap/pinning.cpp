// heap/pinning.cpp - pages that stay where they are: the pin of a region, and whether its physical
// addresses are still true.
//
// Every member that has a pinned region attached pins it for itself (adding.cpp,
// attaching.cpp), so the pin lasts as long as one lives; the kernel ends a dead member's. Nothing
// is written to the segment here.
#include <fmt/format.h>

#include <cstring>

#include "heap/regions.hpp"
#include "platform/pinning.hpp"
#include "platform/resource_limits.hpp"

namespace annex::detail {

result<os::pinned*> pin_memory(void* base, u64 bytes, touch access, unsigned threads,
                               const std::function<void(u64, u64)>& progress) {
  if (access == touch::none)
    return refuse(
        errc::no_cpu_access,
        "memory the CPU may not touch can't be pinned here; its device keeps it where it is");
  const os::pin_result done = os::pin(base, bytes, threads, progress);
  if (done.held != nullptr) return done.held;
  const u64 limit = os::locked_memory_limit();
  if (done.error == ENOMEM && bytes > limit)
    return refuse_os(errc::out_of_memory, done.error,
                     "{} bytes can't be pinned: this process may lock {} bytes; raise the limit "
                     "(ulimit -l), grant CAP_IPC_LOCK, or pin less",
                     bytes, limit);
  if (done.error == ENOMEM)
    return refuse_os(
        errc::out_of_memory, done.error,
        "{} bytes can't be pinned: the machine is short of memory{}; free memory, or pin less",
        bytes,
        limit == ~u64{0} ? ""
                         : fmt::format(", or what is pinned already leaves too little of the limit "
                                       "of {} bytes (ulimit -l)",
                                       limit));
  if (done.error == EFAULT || done.error == EOPNOTSUPP)
    return refuse_os(errc::not_supported, done.error,
                     "{} bytes at {} can't be pinned: not mapped for writing, no memory behind "
                     "them, or a disk file mapped shared; pin anonymous, shared or hugetlb memory",
                     bytes, base);
  return refuse_os(errc::not_supported, done.error,
                   "pinning needs io_uring (Linux 5.19, kernel.io_uring_disabled = 0): {}",
                   std::strerror(done.error));
}

// Pinned here now: are its pages still where its IOVAs say? Between the death of one who pinned
// them and now they may have moved.
result<void> regions::check_physical(const local_region& view, void* base) noexcept {
  const region_record& r = *view.record;
  std::vector<os::physical_run> runs;
  const int why = os::physical_runs(base, r.length_bytes, r.page_bytes, &runs);
  if (why == 0) {
    for (const os::physical_run& run : runs)
      for (u64 at = 0; at < run.bytes; at += r.page_bytes)
        if (const auto bus = view.iovas.at(run.offset + at);
            !bus || bus->address != run.address + at)
          return refuse(errc::wrong_memory,
                        "pages of region {} moved while no living process had it pinned: its "
                        "physical addresses are no longer true; remove it and bring it again",
                        view.id);
    return {};
  }
  // Not shown to this process: true as long as the one who looked still holds its pin.
  const member_record& adder = segment_.member(r.adder);
  const region_claim* const claims = claims_of(segment_, adder);
  // sync(member), sync(claim): it lives, and has not let go of the region.
  if (adder.state.load(std::memory_order_acquire) == member_live && claims != nullptr &&
      claims[view.slot].region.load(std::memory_order_acquire) == view.id)
    return {};
  return refuse_os(errc::permission, why,
                   "whether region {} is still at its physical addresses can't be seen without "
                   "CAP_SYS_ADMIN, and process {}, which pinned it, has let go of it",
                   view.id, r.adder_process);
}

}  // namespace annex::detail
