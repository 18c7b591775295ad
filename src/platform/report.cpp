// platform/report.cpp - see report.hpp. ANNEX_LOG is read once, at the first line.
#include "platform/report.hpp"

#include <cstdlib>
#include <iterator>

#include "platform/output.hpp"

namespace annex {
namespace {

struct log_settings {
  log_level level = log_level::warn;
  int fd = os::error_output;
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
      for (size_t i = 0; i < std::size(names); ++i)
        if (value == names[i]) settings.level = static_cast<log_level>(i);
    } else if (key == "output" && value != "stderr" && value.size() < 4096) {
      char path[4096] = {};
      value.copy(path, value.size());
      if (const int fd = os::open_output(path); fd >= 0) settings.fd = fd;
    }
  }
  return settings;
}

const log_settings& settings() noexcept {
  static const log_settings once = read_settings();
  return once;
}

}  // namespace

bool is_logged(log_level level) noexcept {
  return level <= settings().level;
}

void log_line(log_level level, std::string_view line) noexcept {
  constexpr std::string_view names[] = {"", "error", "warning", "info", "debug"};
  char text[600];
  os::write_output(settings().fd,
                   write_sentence(text, "annex: {}: {}\n", names[static_cast<u8>(level)], line));
}

void report_line(std::string_view line) noexcept {
  os::write_output(settings().fd, "annex: ");
  os::write_output(settings().fd, line);
  os::write_output(settings().fd, "\n");
}

void stop_program(std::string_view report) noexcept {
  os::write_output(os::error_output, report);
  std::abort();
}

}  // namespace annex
