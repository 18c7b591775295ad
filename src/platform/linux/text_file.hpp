// platform/linux/text_file.hpp - what the kernel says in files of text, /proc and /sys, line by
// line. A file that can't be opened has no lines.
#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "platform/linux/call.hpp"

namespace annex::os {

struct close_text {
  void operator()(FILE* file) const { std::fclose(file); }
};
using text_file = std::unique_ptr<FILE, close_text>;

inline text_file open_text(const char* path) {
  const int fd = repeat([&] { return ::open(path, O_RDONLY | O_CLOEXEC); });
  FILE* const file = fd >= 0 ? ::fdopen(fd, "r") : nullptr;
  if (file == nullptr && fd >= 0) ::close(fd);
  return text_file(file);
}

/// Calls visit(line) for each line, or the first so many bytes of one, until it returns false.
template <std::size_t LongestLine, class Visit>
void each_line(const char* path, const Visit& visit) {
  const text_file file = open_text(path);
  char line[LongestLine];
  while (file && std::fgets(line, sizeof line, file.get()) != nullptr)
    if (!visit(line)) return;
}

}  // namespace annex::os
