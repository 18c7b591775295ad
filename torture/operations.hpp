// torture/operations.hpp - everything a process can be killed in the middle of.
#pragma once
#include "survivor.hpp"

#include <functional>

namespace annex::torture {

struct operation {
  const char* name;
  std::function<void(heap&, books&)> prepare;  // in the victim, not stepped
  std::function<void(heap&, books&)> run;      // in the victim, killed after every instruction of it
  std::uint64_t held_in_hand = 1;              // blocks that can be in nobody's book when it dies
  std::function<void(survivor&)> before = {};     // in the survivor, before the victim starts
  std::function<void(survivor&)> meanwhile = {};  // in the survivor, when the victim has prepared
  std::function<void(survivor&)> after = {};      // in the survivor, after the checks: what is left of zones and regions goes
  bool threaded = false;                       // run is the end of a thread: what is killed is that thread's exit
};

const std::vector<operation>& every_operation();
/// For a checked heap, which has no magazines.
const std::vector<operation>& checked_operations();

}  // namespace annex::torture
