// platform/linux/waiting.cpp - the clock, sleeping on a word, and descriptors that become readable.
#include "platform/waiting.hpp"

#include <linux/futex.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include "platform/linux/call.hpp"

namespace ANNEX_OS {

u64 now_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<u64>(t.tv_sec) * 1'000'000'000 + static_cast<u64>(t.tv_nsec);
}

void yield() {
  ::sched_yield();
}

void sleep_ns(u64 ns) {
  const timespec t{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  ::nanosleep(&t, nullptr);
}

void wait_on(const u32* word, u32 expected, u64 ns) {
  const timespec t{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  if (::syscall(SYS_futex, word, FUTEX_WAIT, expected, &t, nullptr, 0) == 0 || errno == EAGAIN ||
      errno == EINTR || errno == ETIMEDOUT)
    return;
  // Refused altogether (a seccomp filter): callers look again in a loop, which must not take the
  // CPU from others.
  const timespec a_moment{0, 1'000'000};
  ::nanosleep(&a_moment, nullptr);
}

void wake_all(const u32* word) {
  ::syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void wake_one(const u32* word) {
  ::syscall(SYS_futex, word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

open_result open_event() {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return {fd, fd < 0 ? errno : 0};
}

void signal_event(int fd) {
  const u64 one = 1;
  (void)!::write(fd, &one, sizeof one);  // EAGAIN: it is readable
}

void clear_event(int fd) {
  u64 count = 0;
  (void)!::read(fd, &count, sizeof count);  // EAGAIN: it is not readable
}

}  // namespace ANNEX_OS
