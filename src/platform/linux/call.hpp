// platform/linux/call.hpp - repeats a system call that a signal interrupted; what its answer means.
#pragma once
#include <cerrno>

#include "platform/open_result.hpp"

// Where linux/ defines the functions of platform/: in annex::os, or beneath another platform that
// calls them (simulated/beneath.hpp).
#ifndef ANNEX_OS
#define ANNEX_OS annex::os
#endif

namespace annex::os {

template <class Call>
auto repeat(Call call) {
  auto value = call();
  while (value < 0 && errno == EINTR)
    value = call();
  return value;
}

/// 0, or why not.
template <class Call>
int done(Call call) {
  return repeat(call) == 0 ? 0 : errno;
}

inline open_result opened(int fd) {
  return fd >= 0 ? open_result{fd, 0} : open_result{-1, errno};
}

}  // namespace annex::os
