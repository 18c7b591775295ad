// platform/linux/resource_limits.cpp - what this process may have.
#include "platform/resource_limits.hpp"

#include <sys/resource.h>

#include "platform/linux/call.hpp"

namespace ANNEX_OS {
namespace {

u64 limit_of(decltype(RLIMIT_AS) resource) {
  ::rlimit limit{};
  return ::getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY ? limit.rlim_cur
                                                                               : ~u64{0};
}

}  // namespace

u64 locked_memory_limit() {
  return limit_of(RLIMIT_MEMLOCK);
}
u64 file_size_limit() {
  return limit_of(RLIMIT_FSIZE);
}
u64 descriptor_limit() {
  return limit_of(RLIMIT_NOFILE);
}
u64 address_space_limit() {
  return limit_of(RLIMIT_AS);
}

}  // namespace ANNEX_OS
