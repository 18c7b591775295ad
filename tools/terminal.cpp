// tools/terminal.cpp - see terminal.hpp.
#include "terminal.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "output.hpp"

namespace annex::tool {
namespace {

constexpr unsigned columns_otherwise = 80, columns_least = 40, columns_most = 1000;

unsigned columns_of(int fd) {
  unsigned columns = 0;
  if (const char* const said = std::getenv("COLUMNS"); said != nullptr)
    std::from_chars(said, said + std::strlen(said), columns);
  winsize size{};
  if (columns == 0 && ::ioctl(fd, TIOCGWINSZ, &size) == 0) columns = size.ws_col;
  return columns == 0 ? columns_otherwise : std::clamp(columns, columns_least, columns_most);
}

bool is_plain() {
  const char* const no_colour = std::getenv("NO_COLOR");
  const char* const kind = std::getenv("TERM");
  return (no_colour != nullptr && *no_colour != '\0') || kind == nullptr ||
         std::string_view(kind) == "dumb";
}

bool is_dumb() {
  const char* const kind = std::getenv("TERM");
  return kind == nullptr || std::string_view(kind) == "dumb";
}

}  // namespace

unsigned output_columns() {
  return columns_of(STDOUT_FILENO);
}

bool shows_colour() {
  return ::isatty(STDOUT_FILENO) != 0 && !is_plain();
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<std::uint64_t>(std::llround(std::clamp(seconds, 0.0, 1e9)));
  if (whole < 100) return fmt::format("{} s", whole);
  const std::uint64_t minutes = (whole + 30) / 60;
  return minutes < 100 ? fmt::format("{} min", minutes)
                       : fmt::format("{} h {} min", minutes / 60, minutes % 60);
}

progress_bar::progress_bar(std::string verb)
    : verb_(std::move(verb)),
      is_terminal_(::isatty(STDERR_FILENO) != 0 && !is_dumb()),
      began_(clock::now()),
      shown_(began_) {}

progress_bar::~progress_bar() {
  if (has_open_line_) fmt::print(stderr, "\n");
}

void progress_bar::show(std::uint64_t done_bytes, std::uint64_t total_bytes) {
  using namespace std::chrono_literals;
  const auto now = clock::now();
  const double seconds = std::chrono::duration<double>(now - began_).count();
  const bool is_over = done_bytes >= total_bytes;
  if (total_bytes == 0 || (seconds < 1 && !has_open_line_)) return;
  const double part = static_cast<double>(done_bytes) / static_cast<double>(total_bytes);
  const double rate = seconds > 0 ? static_cast<double>(done_bytes) / seconds : 0;
  const double left =
      rate > 0 ? static_cast<double>(total_bytes - std::min(done_bytes, total_bytes)) / rate : 0;
  const std::string figures =
      fmt::format("{} of {}, {}/s, {}", bytes_text(done_bytes), bytes_text(total_bytes),
                  bytes_text(static_cast<std::uint64_t>(rate)),
                  is_over ? "done in " + duration_text(seconds) : duration_text(left) + " left");
  if (!is_terminal_) {
    const auto tenths = static_cast<std::uint64_t>(part * 10);
    if (tenths > tenths_) fmt::print(stderr, "{} {}%: {}\n", verb_, tenths * 10, figures);
    tenths_ = std::max(tenths, tenths_);
    return;
  }
  if (!is_over && has_open_line_ && now - shown_ < 100ms) return;
  shown_ = now;
  const std::string head = fmt::format("{} {:>3.0f}% ", verb_, part * 100);
  const std::size_t columns = columns_of(STDERR_FILENO), spent = head.size() + figures.size() + 4;
  const std::size_t width = columns > spent + 5 ? std::min<std::size_t>(columns - spent, 40) : 0;
  const auto full = static_cast<std::size_t>(part * static_cast<double>(width));
  const std::string bar =
      width == 0 ? ""
                 : fmt::format("[{}{}] ", std::string(full, '#'), std::string(width - full, ' '));
  fmt::print(stderr, "\r\x1b[K{}{}{}", head, bar, figures);
  std::fflush(stderr);
  has_open_line_ = true;
  if (!is_over) return;
  fmt::print(stderr, "\n");
  has_open_line_ = false;
}

}  // namespace annex::tool
