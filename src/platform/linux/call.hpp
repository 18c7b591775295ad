// platform/linux/call.hpp - repeats a system call that a signal interrupted.
#pragma once
#include <cerrno>

namespace annex::os {

template <class Call>
auto repeat(Call call) {
  auto value = call();
  while (value < 0 && errno == EINTR)
    value = call();
  return value;
}

}  // namespace annex::os
