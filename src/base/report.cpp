// base/report.cpp - see report.hpp. ANNEX_LOG is read once, at the first line.
#include "base/report.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

namespace annex {
namespace {

struct log_settings {
  log_level level = log_level::warn;
  int fd = STDERR_FILENO;
};

log_settings read_settings() noexcept {
  log_settings settings;
  const char* text = std::getenv("ANNEX_LOG");
  std::string_view rest = text != nullptr ? text : "";
  while (!rest.empty()) {
    const std::string_view item = rest.substr(0, rest.find(';'));
    rest.remove_prefix(item.size() < rest.size() ? item.size() + 1 : item.size());
    const auto colon = item.find(':');
    if (colon == item.npos) continue;
    const std::string_view key = item.substr(0, colon), value = item.substr(colon + 1);
    if (key == "level") {
      constexpr std::string_view names[] = {"off", "error", "warn", "info", "debug"};
      for (u8 i = 0; i < std::size(names); ++i)
        if (value == names[i]) settings.level = static_cast<log_level>(i);
    } else if (key == "output" && value != "stderr" && value.size() < 4096) {
      char path[4096] = {};
      value.copy(path, value.size());
      // Not for a program with rights that who started it has not; never waits for who reads a
      // pipe.
      const bool is_trusted = ::secure_getenv("ANNEX_LOG") != nullptr;
      const int fd =
          is_trusted
              ? ::open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
                       0600)
              : -1;
      if (fd >= 0) settings.fd = fd;
    }
  }
  return settings;
}

const log_settings& settings() noexcept {
  static const log_settings once = read_settings();
  return once;
}

// Beyond the process's file size limit a write kills (SIGXFSZ): rather no line.
bool is_too_long(int fd, size_t more) noexcept {
  ::rlimit limit{};
  struct stat file {};
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
      ::fstat(fd, &file) != 0)
    return false;
  return S_ISREG(file.st_mode) && static_cast<u64>(file.st_size) + more > limit.rlim_cur;
}

void write_all(int fd, std::string_view text) noexcept {
  if (is_too_long(fd, text.size())) return;
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n <= 0) return;
    text.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace

bool is_logged(log_level level) noexcept {
  return level <= settings().level;
}

void log_line(log_level level, std::string_view line) noexcept {
  constexpr std::string_view names[] = {"", "error", "warning", "info", "debug"};
  char text[600];
  write_all(settings().fd,
            write_sentence(text, "annex: {}: {}\n", names[static_cast<u8>(level)], line));
}

void report_line(std::string_view line) noexcept {
  write_all(settings().fd, "annex: ");
  write_all(settings().fd, line);
  write_all(settings().fd, "\n");
}

void stop_program(std::string_view report) noexcept {
  write_all(STDERR_FILENO, report);
  std::abort();
}

}  // namespace annex
