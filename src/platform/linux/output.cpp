// platform/linux/output.cpp - lines for people, by plain writes.
#include "platform/output.hpp"

#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/units.hpp"
#include "platform/linux/call.hpp"

namespace ANNEX_OS {
namespace {

// Beyond the process's file size limit a write kills (SIGXFSZ): rather no line.
bool is_too_long(int fd, size_t more) noexcept {
  ::rlimit limit{};
  struct stat file {};
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
      ::fstat(fd, &file) != 0)
    return false;
  return S_ISREG(file.st_mode) && static_cast<u64>(file.st_size) + more > limit.rlim_cur;
}

}  // namespace

int open_output(const char* path) noexcept {
  if (::getauxval(AT_SECURE) != 0) return -1;
  constexpr int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  return repeat([&] { return ::open(path, flags, 0600); });
}

void write_output(int fd, std::string_view text) noexcept {
  if (is_too_long(fd, text.size())) return;
  while (!text.empty()) {
    const ssize_t n = repeat([&] { return ::write(fd, text.data(), text.size()); });
    if (n <= 0) return;
    text.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace ANNEX_OS
