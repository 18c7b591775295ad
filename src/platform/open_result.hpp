// platform/open_result.hpp - a descriptor, or why there is none.
#pragma once

namespace annex::os {

/// fd -1: refused, and error is an errno value.
struct open_result {
  int fd = -1;
  int error = 0;
};

}  // namespace annex::os
