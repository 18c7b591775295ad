// heap/closing.cpp - see closing.hpp.
#include "heap/closing.hpp"

#include "heap/local_heap.hpp"
#include "heap/registry.hpp"
#include "platform/byte_locks.hpp"
#include "platform/memory.hpp"
#include "platform/processes.hpp"

namespace annex::detail {

void close_heap(local_heap* heap) noexcept {
  if (!registry::unshare(heap)) return heap->membership.end_share();
  tear_down(heap);
}

void tear_down(local_heap* heap) noexcept {
  attachment& here = heap->here;
  const bool joined = here.self.member != 0 && !here.forked && !here.is_read_only();
  if (joined && os::environment("ANNEX_STATS") == "1") heap->care.report_statistics();
  if (registry::is_program_ending()) {
    // Threads may be at work still, and destructors may free blocks later: nothing is taken from
    // under them.
    if (joined) heap->care.trim_own();
    return;
  }
  heap->observing.stop_watcher();
  if (joined) heap->memory.synchronize();
  heap->memory.close_regions();
  registry::forget_heap(here.index);
  registry::wait_for_leaving_threads(heap);
  if (joined && !here.seg.is_damaged()) heap->membership.leave();
  registry::leave(here.index);
  os::unmap(here.seg.base(), here.seg.mapped_bytes());
  if (!here.forked) os::let_go_of_byte(here.self.life);
  delete heap;
}

}  // namespace annex::detail
