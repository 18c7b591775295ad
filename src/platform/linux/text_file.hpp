// platform/linux/text_file.hpp - what the kernel says in files of text, /proc and /sys, line by
// line. A file that can't be opened has no lines. Nothing is allocated.
#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "platform/linux/call.hpp"

namespace annex::os {

/// The file's first bytes, as many as there is room for, with a NUL behind them.
template <std::size_t room>
void read_start(const char* path, char (&text)[room]) {
  std::size_t filled = 0;
  const int fd = repeat([&] { return ::open(path, O_RDONLY | O_CLOEXEC); });
  while (fd >= 0 && filled < room - 1) {
    const ssize_t more = repeat([&] { return ::read(fd, text + filled, room - 1 - filled); });
    if (more <= 0) break;
    filled += static_cast<std::size_t>(more);
  }
  text[filled] = '\0';
  if (fd >= 0) ::close(fd);
}

/// Calls visit(line) for each line, without what ends it, until it returns false. A longer line
/// than this comes in pieces.
template <std::size_t longest_line, class Visit>
void each_line(const char* path, const Visit& visit) {
  const int fd = repeat([&] { return ::open(path, O_RDONLY | O_CLOEXEC); });
  if (fd < 0) return;
  char text[longest_line];
  std::size_t filled = 0;
  for (bool goes_on = true, is_at_end = false; goes_on && !(is_at_end && filled == 0);) {
    const ssize_t more =
        is_at_end ? 0 : repeat([&] { return ::read(fd, text + filled, sizeof text - 1 - filled); });
    is_at_end = more <= 0;
    filled += is_at_end ? 0 : static_cast<std::size_t>(more);
    char* const end = static_cast<char*>(std::memchr(text, '\n', filled));
    if (end == nullptr && !is_at_end && filled < sizeof text - 1) continue;
    const std::size_t length = end != nullptr ? static_cast<std::size_t>(end - text) : filled;
    if (length == 0 && filled == 0) break;
    text[length] = '\0';
    goes_on = visit(text);
    filled -= std::min(filled, length + (end != nullptr ? 1 : 0));
    std::memmove(text, text + length + 1, filled);
  }
  ::close(fd);
}

}  // namespace annex::os
