// platform/simulated/libraries.cpp - look-ups of functions, late at times.
#include "platform/libraries.hpp"

#include "platform/simulated/ask.hpp"
#include "platform/simulated/beneath.hpp"

namespace annex::os {

void* first_symbol(const char* name) noexcept {
  return simulated::pass(__func__, beneath::first_symbol, name);
}

void* next_symbol(const char* name) noexcept {
  return simulated::pass(__func__, beneath::next_symbol, name);
}

void* loaded_library(const char* part_of_name) noexcept {
  return simulated::pass(__func__, beneath::loaded_library, part_of_name);
}

void* symbol_of(void* library, const char* name) noexcept {
  return simulated::pass(__func__, beneath::symbol_of, library, name);
}

}  // namespace annex::os
