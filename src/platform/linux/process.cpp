// platform/linux/process.cpp - who we are, time, barriers across processes, sleeping on a word.
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "platform/os.hpp"

namespace annex::os {

namespace {

u64 forks = 0;
void count_fork() {
  ++forks;
}
const bool forks_are_counted = (::pthread_atfork(nullptr, nullptr, count_fork), true);

}  // namespace

u64 fork_count() {
  (void)forks_are_counted;
  return forks;
}

u32 process_id() {
  return static_cast<u32>(::getpid());
}
u32 thread_id() {
  return static_cast<u32>(::gettid());
}

bool thread_exists(u32 thread) {
  return ::syscall(SYS_tgkill, ::getpid(), thread, 0) == 0 || errno != ESRCH;
}

void at_end_of_this_thread(void (*handler)()) {
  static const pthread_key_t key = [] {
    pthread_key_t made{};
    ::pthread_key_create(&made, [](void* value) { reinterpret_cast<void (*)()>(value)(); });
    return made;
  }();
  ::pthread_setspecific(key, reinterpret_cast<void*>(handler));
}

u64 start_time(u32 process) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%u/stat", process);
  FILE* file = std::fopen(path, "re");
  if (file == nullptr) return 0;
  char text[1024] = {};
  const size_t n = std::fread(text, 1, sizeof text - 1, file);
  std::fclose(file);
  // The program's name may hold anything but this.
  const char* after_name = n > 0 ? std::strrchr(text, ')') : nullptr;
  if (after_name == nullptr) return 0;
  const char* field = after_name + 1;  // the blank before the third field; the start is the 22nd
  for (int i = 3; i < 22 && field != nullptr; ++i)
    field = std::strchr(field + 1, ' ');
  return field != nullptr ? std::strtoull(field, nullptr, 10) : 0;
}

std::string program_name() {
  return program_invocation_short_name;
}

u64 random_number() {
  u64 number = 0;
  if (::getrandom(&number, sizeof number, 0) != sizeof number)
    number = now_ns() ^ (u64{process_id()} << 32);
  return number;
}

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

void at_fork(void (*before)(), void (*after)(), void (*in_child)()) {
  ::pthread_atfork(before, after, in_child);
}

bool prepare_process_barrier() {
  return ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}
bool process_barrier() {
  return ::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0;
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

void keep_signals_away() {
  sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

}  // namespace annex::os
