// platform/waiting.hpp - time, sleeping, and waking whoever sleeps.
//
// Any thread of any process that has the word may wait and wake. Waits may end early, and who
// waited looks again: nothing here tells why.
#pragma once
#include "base/units.hpp"
#include "platform/open_result.hpp"

namespace annex::os {

u64 now_ns();  // monotonic
void yield();
void sleep_ns(u64 ns);  // a signal ends it

/// Sleeps while *word == expected, until it is woken, at most ns. May return sooner: callers look
/// at the word again.
void wait_on(const u32* word, u32 expected, u64 ns);
void wake_all(const u32* word);
void wake_one(const u32* word);

/// A descriptor that is readable (poll, epoll) from signal_event() until clear_event().
open_result open_event();
void signal_event(int fd);
void clear_event(int fd);

}  // namespace annex::os
