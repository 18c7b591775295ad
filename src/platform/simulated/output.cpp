// platform/simulated/output.cpp - lines for people, late or lost.
#include "platform/output.hpp"

#include <string>

#include "platform/simulated/ask.hpp"
#include "platform/simulated/beneath.hpp"

namespace annex::os {

int open_output(const char* path) noexcept {
  return simulated::ask(__func__, {-1}, beneath::open_output, path);
}

void write_output(int fd, std::string_view text) noexcept {
  simulated::pass(__func__, beneath::write_output, fd, text);
}

}  // namespace annex::os
