// tools/terminal.hpp - who reads what the command prints: a person at a terminal of some width, or
// a file.
//
//   a terminal     as wide as it is, colours unless NO_COLOR or TERM=dumb say no, bars that are
//   written over anything else  80 columns (COLUMNS says otherwise), no colour, one line for each
//   tenth of long work
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace annex::tool {

/// Columns that standard output has: $COLUMNS, the terminal's, or 80; from 40 to 1000.
unsigned output_columns();
/// Whether standard output is shown in colour: a terminal, no NO_COLOR, not TERM=dumb.
bool shows_colour();

/// A bar on standard error for work that takes longer than a second:
/// "touched  42% [########            ] 430 MiB of 1 GiB, 512 MiB/s, 1 s left". Not for several
/// threads at once.
class progress_bar {
 public:
  explicit progress_bar(std::string verb);
  /// Ends the line, so that what is printed next has one of its own.
  ~progress_bar();
  progress_bar(const progress_bar&) = delete;
  progress_bar& operator=(const progress_bar&) = delete;
  void show(std::uint64_t done_bytes, std::uint64_t total_bytes);

 private:
  using clock = std::chrono::steady_clock;
  std::string verb_;
  bool is_terminal_, has_open_line_ = false;
  clock::time_point began_, shown_;
  std::uint64_t tenths_ = 0;
};

/// How long something will take still: "3 s", "2 min", "1 h 20 min".
std::string duration_text(double seconds);

}  // namespace annex::tool
