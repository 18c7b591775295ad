// bench/instructions.cpp - see instructions.hpp. The rows are those of blocks.cpp and bursts.cpp,
// with fewer blocks where more would change nothing but the time.
#include "instructions.hpp"

#include <fmt/format.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string_view>

#include "harness.hpp"

namespace annex::bench {
namespace {

constexpr unsigned blocks_of_a_run = 100, pairs = 200, live_blocks = 2000;

// course() once to be counted, after it has been gone so often that every cache is as it stays.
template <class Course>
void between_traps(int times_before, Course course) {
  for (int i = 0; i < times_before; ++i)
    course();
  ::raise(SIGTRAP);
  course();
  ::raise(SIGTRAP);
}

template <class Calls>
void go_pairs(Calls calls) {
  between_traps(50, [&] {
    for (unsigned i = 0; i < pairs; ++i) {
      void* const block = calls.allocate(64);
      keep(block);
      calls.free(block);
    }
  });
}

template <class Calls>
void go_run(Calls calls, bool last_first) {
  std::vector<void*> blocks(blocks_of_a_run);
  between_traps(50, [&] {
    for (unsigned half = 0; half < pairs / blocks_of_a_run; ++half) {
      for (void*& block : blocks)
        block = calls.allocate(64);
      for (std::size_t k = 0; k < blocks.size(); ++k)
        calls.free(blocks[last_first ? blocks.size() - 1 - k : k]);
    }
  });
}

template <class Calls>
void go_random(Calls calls) {
  std::vector<void*> slots(live_blocks);
  random_stream random(7);
  for (void*& slot : slots)
    slot = calls.allocate(64);
  between_traps(100, [&] {
    for (unsigned i = 0; i < pairs; ++i) {
      void*& slot = slots[random.below(live_blocks)];
      calls.free(slot);
      slot = calls.allocate(64);
    }
  });
}

template <class Calls>
void go(Calls calls, std::string_view row) {
  if (row == "pair/64")
    go_pairs(calls);
  else if (row == "random/64")
    go_random(calls);
  else
    go_run(calls, row == "run/100-lifo");
}

// Steps between the two traps; none when the child ends before.
std::optional<unsigned long> steps_of(const peer& p, std::string_view row) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
      with_calls(p, [row](auto calls) { go(calls, row); });
    } catch (const std::exception&) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  unsigned long steps = 0;
  bool counted = false;
  while (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP && !counted) {
    ::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr);
    ::waitpid(child, &status, 0);
    ++steps;
    siginfo_t why{};
    ::ptrace(PTRACE_GETSIGINFO, child, nullptr, &why);
    counted = why.si_code == SI_TKILL;  // the trap it sent itself
  }
  if (WIFSTOPPED(status)) {  // else it has been reaped
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
  }
  return counted ? std::optional(steps) : std::nullopt;
}

}  // namespace

std::string counted_instructions(const std::vector<peer>& peers) {
  std::string text;
  for (const char* row : instruction_rows) {
    const auto driver = steps_of(all_peers().front(), row);
    for (const peer& p : peers) {
      if (p.name == "driver" || p.name.starts_with("rte_")) continue;
      const auto steps = steps_of(p, row);
      if (driver && steps)
        text += fmt::format("{:<14}{:<18}{:>8.1f}\n", row, p.name,
                            (static_cast<double>(*steps) - static_cast<double>(*driver)) / pairs);
      else
        text += fmt::format("{:<14}{:<18}{:>8}\n", row, p.name, "-");
    }
  }
  return text;
}

}  // namespace annex::bench
