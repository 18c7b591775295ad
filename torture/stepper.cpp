// torture/stepper.cpp - see stepper.hpp. x86-64 only: the debug registers.
#include "stepper.hpp"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <unordered_map>

#include "visible.hpp"

namespace annex::torture {
namespace {

constexpr std::chrono::milliseconds long_time{10};
constexpr std::size_t stops_per_meeting = 4;  // to reach a breakpoint and get off it again
std::uint64_t detour_count = 0;

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::abort();
}

std::uint64_t instruction_pointer(pid_t traced) {
  return static_cast<std::uint64_t>(::ptrace(
      PTRACE_PEEKUSER, traced, offsetof(user, regs) + offsetof(user_regs_struct, rip), nullptr));
}

}  // namespace

std::uint64_t stepper::detours() {
  return detour_count;
}
void stepper::stop_here() {
  ::syscall(SYS_tgkill, ::getpid(), ::gettid(), SIGSTOP);
}
void stepper::become_traced() {
  if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) give_up("PTRACE_TRACEME");
  stop_here();
}

stepper::stepper(const std::function<void()>& body, bool threaded) {
  process_ = traced_ = ::fork();
  if (process_ < 0) give_up("fork");
  if (process_ == 0) {
    if (!threaded && ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) give_up("PTRACE_TRACEME");
    body();
    ::_exit(0);
  }
  for (;;) {
    int status = 0;
    const pid_t who = ::waitpid(threaded ? -1 : process_, &status, __WALL);
    if (who < 0) give_up("waitpid");
    if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP) {
      traced_ = who;
      return;
    }
    if (who == process_ && (WIFEXITED(status) || WIFSIGNALED(status))) {
      std::fprintf(stderr, "a victim ended with status %#x before it came to its operation\n",
                   static_cast<unsigned>(status));
      std::abort();
    }
    if (WIFSTOPPED(status)) ::ptrace(PTRACE_CONT, who, nullptr, WSTOPSIG(status));
  }
}

stepper::~stepper() {
  kill_now();
}

void stepper::await_exit(int* status) {
  while (::waitpid(process_, status, __WALL) == process_ && WIFSTOPPED(*status))
    ::ptrace(PTRACE_CONT, process_, nullptr, WSTOPSIG(*status));
  process_ = 0;
}

void stepper::kill_now() {
  if (process_ == 0) return;
  ::kill(process_, SIGKILL);
  int status = 0;
  if (traced_ != process_)
    while (::waitpid(traced_, &status, __WALL) == traced_ && !WIFEXITED(status) &&
           !WIFSIGNALED(status)) {}
  while (::waitpid(process_, &status, __WALL) == process_ && !WIFEXITED(status) &&
         !WIFSIGNALED(status)) {}
  process_ = 0;
}

// False: the operation is over (it stopped itself again, its thread or process ended). *signal
// otherwise.
bool stepper::wait_for_stop(int* signal) {
  int status = 0;
  if (when_long_) look_until_long();
  if (::waitpid(traced_, &status, __WALL) != traced_ || WIFEXITED(status) || WIFSIGNALED(status)) {
    if (WIFSIGNALED(status))
      std::fprintf(stderr, "the victim died of signal %d by itself\n", WTERMSIG(status)),
          std::abort();
    ended_ = true;
    return false;
  }
  *signal = WSTOPSIG(status);
  if (*signal == SIGSTOP) ended_ = true;
  return *signal != SIGSTOP;
}

// Returns when it has stopped, or when it takes long and that has been said.
void stepper::look_until_long() {
  const auto until = std::chrono::steady_clock::now() + long_time;
  for (int looks = 0;; ++looks) {
    siginfo_t found{};
    if (::waitid(P_PID, static_cast<id_t>(traced_), &found,
                 WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) != 0 ||
        found.si_pid != 0)
      return;
    if (looks < 50) continue;
    if (std::chrono::steady_clock::now() > until) break;
    ::usleep(100);
  }
  std::exchange(when_long_, {})();
}

void stepper::let_go() {
  set_breakpoint(0);  // one that was not met
  if (::ptrace(PTRACE_CONT, traced_, nullptr, nullptr) != 0) give_up("PTRACE_CONT");
  runs_ = true;
}

bool stepper::has_ended() {
  if (ended_) return true;
  siginfo_t found{};
  if (!runs_ ||
      ::waitid(P_PID, static_cast<id_t>(traced_), &found,
               WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) != 0 ||
      found.si_pid == 0)
    return false;
  runs_ = false;
  int signal = 0;
  if (wait_for_stop(&signal)) {
    std::fprintf(stderr, "the one who was let go met signal %d\n", signal);
    std::abort();
  }
  return true;
}

bool stepper::step() {
  if (ended_) return false;
  if (::ptrace(PTRACE_SINGLESTEP, traced_, nullptr, nullptr) != 0) give_up("PTRACE_SINGLESTEP");
  int signal = 0;
  if (!wait_for_stop(&signal)) return false;
  if (signal == SIGTRAP) return true;
  std::fprintf(stderr, "the victim met signal %d\n", signal);
  std::abort();
}

void stepper::finish() {
  int signal = 0;
  while (!ended_) {
    if (::ptrace(PTRACE_CONT, traced_, nullptr, nullptr) != 0) give_up("PTRACE_CONT");
    wait_for_stop(&signal);
  }
}

path stepper::record(const std::function<void(std::size_t)>& look) {
  path found;
  visibility sight(process_);
  std::unordered_map<std::uint64_t, std::uint32_t> met;
  do {
    user_regs_struct registers;
    if (::ptrace(PTRACE_GETREGS, traced_, nullptr, &registers) != 0) give_up("PTRACE_GETREGS");
    const std::uint64_t at = registers.rip;
    found.addresses.push_back(at);
    found.times_met.push_back(++met[at]);
    found.visible.push_back(sight.is_visible(registers));
    if (look) look(found.length() - 1);
  } while (step());
  return found;
}

// The debug registers belong to the traced thread alone: another thread of the process does not
// meet the breakpoint, as it would a byte in the text.
bool stepper::set_breakpoint(std::uint64_t address) {
  auto write = [&](std::size_t which, std::uint64_t value) {
    return ::ptrace(PTRACE_POKEUSER, traced_, offsetof(user, u_debugreg) + which * sizeof(long),
                    value) == 0;
  };
  return address != 0 ? write(0, address) && write(7, 1) : write(7, 0);
}

bool stepper::run_to(std::uint64_t address, std::uint32_t times) {
  if (instruction_pointer(traced_) == address && --times == 0) return true;
  bool first = instruction_pointer(traced_) == address;
  for (;;) {
    if (first && !step()) return false;  // off the breakpoint's own instruction
    if (instruction_pointer(traced_) != address) {
      if (!set_breakpoint(address)) return false;
      if (::ptrace(PTRACE_CONT, traced_, nullptr, nullptr) != 0) give_up("PTRACE_CONT");
      int signal = 0;
      if (!wait_for_stop(&signal)) return false;
      if (signal != SIGTRAP)
        std::fprintf(stderr, "the victim met signal %d\n", signal), std::abort();
      if (instruction_pointer(traced_) != address) return false;
      set_breakpoint(0);
    }
    if (--times == 0) return true;
    first = true;
  }
}

bool stepper::go_to(const path& known, std::size_t k) {
  if (k >= known.length()) return false;
  // A breakpoint met n times costs about stops_per_meeting × n stops, the steps from there one
  // each.
  std::size_t from = 0, cheapest = k;
  for (std::size_t at = k; at > 0 && k - at < cheapest; --at)
    if (const std::size_t stops = stops_per_meeting * known.times_met[at] + (k - at);
        stops < cheapest) {
      cheapest = stops;
      from = at;
    }
  if (from > 0) {
    if (!run_to(known.addresses[from], known.times_met[from])) {
      ++detour_count;
      return false;
    }
  }
  for (std::size_t i = from; i < k; ++i)
    if (!step()) return false;
  return true;
}

}  // namespace annex::torture
