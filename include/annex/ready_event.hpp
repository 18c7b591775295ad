// annex/ready_event.hpp - a descriptor for event loops (poll, epoll, io_uring) that becomes
// readable when a ring or pool has something.
//
//   auto event = ring.watch_handles().value();      // or watch_room(), raw_pool::watch_objects()
//   … epoll_wait() says that event.fd() is readable …
//   while (annex::handle h = ring.take(); h != annex::null_handle) …
//   event.rearm();      // after the last look: what came meanwhile makes it readable again
//
// It is this process's: a thread of annex's sleeps where a waiter would, and makes the descriptor
// readable once, until rearm(). It is readable too when waiting would be refused (the ring was
// released, no other process is left): wait for 0 ns to be told. A waiter that was told of
// something may find that another one was faster.
//
// Threads: rearm() from one at a time. Destroy it before its heap is closed. In a forked child it
// is dead: watch again there.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <annex/error.hpp>

namespace annex {

namespace detail {
struct watching;
}

/// A descriptor that is readable when there is something; see the top of this file. One thread uses
/// it at a time.
class ANNEX_PUBLIC ready_event {
 public:
  /// None: `false`. To be assigned to.
  ready_event() = default;
  /// other is none afterwards.
  ready_event(ready_event&& other) noexcept;
  /// Ends the one that was here.
  ready_event& operator=(ready_event&& other) noexcept;
  /// Ends the thread, which may take a tenth of a second, and closes the descriptor.
  ~ready_event();
  /// Whether there is one.
  explicit operator bool() const noexcept { return watching_ != nullptr; }
  /// For poll and its like alone: don't read, write or close it. -1: there is none.
  int fd() const noexcept;
  /// Not readable from now on, until there is something.
  void rearm() noexcept;

  /// For annex's own use.
  explicit ready_event(detail::watching* watching) noexcept : watching_(watching) {}

 private:
  detail::watching* watching_ = nullptr;
};

}  // namespace annex

#endif
