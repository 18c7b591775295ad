// platform/linux/processes.cpp - processes, threads, forks, and barriers across processes.
#include "platform/processes.hpp"

#include <linux/membarrier.h>
#include <pthread.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "platform/linux/call.hpp"
#include "platform/linux/text_file.hpp"
#include "platform/waiting.hpp"

namespace ANNEX_OS {
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

u32 user_id() {
  return ::geteuid();
}

std::string program_name() {
  return program_invocation_short_name;
}

// A program that runs with another's rights (set-user-id, set-group-id) does not take places from
// whoever started it.
std::string environment(const char* name) {
  if (::getuid() != ::geteuid() || ::getgid() != ::getegid()) return "";
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

u64 random_number() {
  u64 number = 0;
  if (::getrandom(&number, sizeof number, 0) != sizeof number)
    number = now_ns() ^ (u64{process_id()} << 32);
  return number;
}

u64 start_time(u32 process) {
  char path[32], text[1024];
  std::snprintf(path, sizeof path, "/proc/%u/stat", process);
  read_start(path, text);
  // The program's name may hold anything but this.
  const char* after_name = std::strrchr(text, ')');
  if (after_name == nullptr) return 0;
  const char* field = after_name + 1;  // the blank before the third field; the start is the 22nd
  for (int i = 3; i < 22 && field != nullptr; ++i)
    field = std::strchr(field + 1, ' ');
  return field != nullptr ? std::strtoull(field, nullptr, 10) : 0;
}

u32 owner_of_process(u32 process) {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%u", process);
  struct stat s {};
  return ::stat(path, &s) == 0 ? s.st_uid : nobody_known;
}

void at_fork(void (*before)(), void (*after)(), void (*in_child)()) {
  ::pthread_atfork(before, after, in_child);
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

void keep_signals_away() {
  sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

bool prepare_process_barrier() {
  return ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

bool process_barrier() {
  return ::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0;
}

}  // namespace ANNEX_OS
