// torture/operations.hpp - everything a process can be killed in the middle of.
#pragma once
#include "survivor.hpp"

#include <functional>

namespace annex::torture {

struct operation {
  const char* name;
  std::function<void(heap&, books&)> prepare;  // in the victim, not stepped
  // In the victim, killed after every instruction of it.
  std::function<void(heap&, books&)> run;
  std::uint64_t held_in_hand = 1;              // blocks that can be in nobody's book when it dies
  std::function<void(survivor&)> before = {};  // in the survivor, before the victim starts
  std::function<void(survivor&)> meanwhile = {};  // in the survivor, when the victim has prepared
  // In the survivor, after the checks: what is left of zones and regions goes.
  std::function<void(survivor&)> after = {};
  // Run is the end of a thread: what is killed is that thread's exit.
  bool threaded = false;
};

const std::vector<operation>& every_operation();
/// For a checked heap, which has no magazines.
const std::vector<operation>& checked_operations();

}  // namespace annex::torture
