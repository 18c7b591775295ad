// base/sentence.cpp - see sentence.hpp. Compiled into each library: it is nobody's interface.
#include "base/sentence.hpp"

#include <fmt/format.h>

namespace annex {

// NOLINTNEXTLINE(bugprone-exception-escape): the compiler has checked the format.
std::string_view write_formatted(std::span<char> into, fmt::string_view format,
                                 fmt::format_args args) noexcept {
  const auto end = fmt::vformat_to_n(into.data(), into.size() - 1, format, args);
  *end.out = '\0';
  return {into.data(), static_cast<size_t>(end.out - into.data())};
}

}  // namespace annex
