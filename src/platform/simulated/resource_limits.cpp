// platform/simulated/resource_limits.cpp - limits, told late.
#include "platform/resource_limits.hpp"

#include "platform/simulated/ask.hpp"
#include "platform/simulated/beneath.hpp"

namespace annex::os {

u64 locked_memory_limit() {
  return simulated::pass(__func__, beneath::locked_memory_limit);
}

u64 file_size_limit() {
  return simulated::pass(__func__, beneath::file_size_limit);
}

u64 descriptor_limit() {
  return simulated::pass(__func__, beneath::descriptor_limit);
}

u64 address_space_limit() {
  return simulated::pass(__func__, beneath::address_space_limit);
}

}  // namespace annex::os
