// base/bounded.cpp - see bounded.hpp.
#include "base/bounded.hpp"

#include <cstring>

namespace annex {
namespace {

constinit thread_local bool has_been_there = false;

}  // namespace

bool has_been_at_nobodys() noexcept {
  const bool before = has_been_there;
  has_been_there = false;
  return before;
}

void* entry_of_nobody(u64 bytes) noexcept {
  // One for each thread: what one writes there another never reads.
  alignas(64) static thread_local char nobody[256];
  has_been_there = true;
  std::memset(nobody, 0, bytes < sizeof nobody ? bytes : sizeof nobody);
  return nobody;
}

}  // namespace annex
