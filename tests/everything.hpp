// tests/everything.hpp - something of everything that a heap can do, for tests of what goes wrong
// beneath it; and what is left afterwards.
#pragma once
#include <chrono>
#include <string>

#include "support.hpp"

namespace annex {

/// Returns how much of it was refused; each refusal has to say why.
int use_everything(const mapped_memory& plain,
                   std::chrono::milliseconds patience = std::chrono::seconds(1));
/// What a heap that could not be ended is ended with, when nothing fails.
void end_everything();

int open_descriptors();
/// Mappings of files whose path has this in it; empty: all mappings.
int mappings_of(const std::string& directory);

}  // namespace annex
