// platform/output.hpp - where lines for people go, when nothing else may work any more.
//
// Nothing is allocated or locked; any thread may call, whatever it holds. What can't be written is
// left out: a line is worth no error.
#pragma once
#include <string_view>

namespace annex::os {

constexpr int error_output = 2;  // standard error
/// A file that lines are added to, made if need be; never waits for whoever reads a pipe. -1:
/// refused, as always in programs that have rights that whoever started them has not.
int open_output(const char* path) noexcept;
/// All of it, unless that would pass file_size_limit(): then the kernel would kill.
void write_output(int fd, std::string_view text) noexcept;

}  // namespace annex::os
