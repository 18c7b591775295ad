// platform/report.hpp - words for people: the log, and the report before a program is stopped.
// Never allocates.
//
//   ANNEX_LOG=level:debug;output:/path
//       levels: off error warn info debug; output: stderr or a file
#pragma once
#include <string_view>

#include "base/printable.hpp"
#include "base/sentence.hpp"
#include "base/units.hpp"

namespace annex {

enum class log_level : u8 { off, error, warn, info, debug };

bool is_logged(log_level level) noexcept;
void log_line(log_level level, std::string_view line) noexcept;

/// A line the user asked for (ANNEX_STATS=1), whatever the level.
void report_line(std::string_view line) noexcept;

template <class... Args>
void log(log_level level, fmt::format_string<Args...> format, Args&&... args) noexcept {
  if (!is_logged(level)) return;
  char raw[512], line[512];
  log_line(level, write_printable(line, write_sentence(raw, format, std::forward<Args>(args)...)));
}

/// Writes the report to stderr and aborts. For mistakes of the program, and of annex itself.
[[noreturn, gnu::cold]] void stop_program(std::string_view report) noexcept;

}  // namespace annex

/// An invariant of annex's own code; checked in every build. Says which, where, and stops.
#define ANNEX_ENSURE(condition)                                                              \
  do {                                                                                       \
    if (!(condition)) [[unlikely]]                                                           \
      ::annex::stop_program("annex: internal error: " #condition " does not hold (" __FILE__ \
                            ")\n");                                                          \
  } while (false)
