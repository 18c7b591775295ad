// torture/stepper.hpp - a process that is stopped after exactly k machine instructions, and killed
// there.
//
//   body:  prepare … raise(SIGSTOP) … the operation … raise(SIGSTOP)
//                         └── instruction 0 … n ──┘
//
// Going to instruction k one step at a time costs k stops. A first run records where every
// instruction lies; later runs put a breakpoint at the instruction before k from which the rest of
// the way is cheapest, and step from there.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace annex::torture {

/// The address of every instruction of an operation, in order; instruction i is executed by step i.
struct path {
  std::vector<std::uint64_t> addresses;
  std::vector<std::uint32_t> times_met;  // how often this address had been met, itself included
  std::vector<bool> visible;             // it changes what outlives the process (visible.hpp)
  std::size_t length() const { return addresses.size(); }
};

class stepper {
 public:
  /// Runs body in a child up to its first SIGSTOP. threaded: body stops in a thread of its own,
  /// which becomes the traced one by calling become_traced().
  explicit stepper(const std::function<void()>& body, bool threaded = false);
  ~stepper();
  stepper(const stepper&) = delete;
  stepper& operator=(const stepper&) = delete;

  /// Runs the operation to its end, a step at a time; looks after each.
  path record(const std::function<void(std::size_t step)>& look = {});
  /// Stops after k instructions. False: the operation ended before.
  bool go_to(const path& known, std::size_t k);
  /// Lets it run to its end.
  void finish();
  /// Lets it run, without waiting for anything.
  void let_go();
  /// Whether the operation has ended since; without waiting.
  bool has_ended();
  /// What go_to() calls once, when the way there takes longer than this: somebody may have to be
  /// let go first.
  void when_it_takes_long(std::function<void()> what) { when_long_ = std::move(what); }
  void kill_now();
  /// When it has been let go: its exit status.
  void await_exit(int* status);
  pid_t process() const { return process_; }
  /// Breakpoints that were never met, because the run differed from the recorded one; the operation
  /// had ended then.
  static std::uint64_t detours();

  /// To be called by the thread that is to be stepped; stops it.
  static void become_traced();
  static void stop_here();

 private:
  bool step();
  bool run_to(std::uint64_t address, std::uint32_t times);
  bool set_breakpoint(std::uint64_t address);
  bool wait_for_stop(int* signal);
  void look_until_long();
  pid_t process_ = 0, traced_ = 0;
  bool ended_ = false, runs_ = false;
  std::function<void()> when_long_;
};

}  // namespace annex::torture
