// bench/instructions.hpp - machine instructions of a pair, by single steps.
//
// What a busy machine can't disturb. A traced child does a row's operations between two SIGTRAPs;
// the parent counts the steps between them. The driver is counted the same way and subtracted:
// loop, calls through the same pointers, the traps.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "peers.hpp"

namespace annex::bench {

inline constexpr const char* instruction_rows[] = {"pair/64", "run/100-lifo", "run/100-fifo",
                                                   "random/64"};

/// Net instructions of one allocate and one free, every peer that is a malloc and annex. One line
/// each: row, peer, count; a peer that fails has "-".
std::string counted_instructions(const std::vector<peer>& peers);

}  // namespace annex::bench
