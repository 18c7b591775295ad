// views/waiting.hpp - the loop of whoever waits for a ring or pool, and the thread that feeds an
// event's descriptor.
//
// The protocol is in shared/waiting.hpp. Here is what ends a wait: something was found, the view is
// gone, its heap is damaged, the deadline passed, or every other process that had the view is dead
// or has closed the heap (others_gone).
#pragma once
#include <annex/ready_event.hpp>

#include <atomic>
#include <chrono>
#include <functional>

#include "heap/local_heap.hpp"
#include "shared/waiting.hpp"

namespace annex::detail {

/// Where something is waited for.
struct waiting_place {
  local_heap* heap = nullptr;
  const shared_word<u32>* signal = nullptr;
  const shared_word<u32>* changes = nullptr;  // openers::changes of the view
  u32 changes_at_open = 0;
  bool had_others = false;  // a living process had opened the view before
  /// W1, and W2 where the commit is no barrier. Refused: the view is gone.
  std::function<result<u32>()> begin;
  /// W3. True: that was it.
  std::function<bool()> look;
};

/// Until look() says so. stop: ends it with errc::canceled; may be null.
result<void> wait_at(const waiting_place& place, std::chrono::nanoseconds deadline,
                     const std::atomic<bool>* stop);

/// An event whose descriptor is readable when look() says so.
result<ready_event> watch_at(const waiting_place& place);

}  // namespace annex::detail
