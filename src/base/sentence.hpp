// base/sentence.hpp - a formatted sentence in the caller's bytes: ends with a NUL, cut off when too
// long, never allocates.
//
// The format is checked where it is written; the formatting is compiled once, in sentence.cpp (in
// every place it would take seconds each).
#pragma once
#include <fmt/core.h>

#include <span>
#include <string_view>

namespace annex {

/// What was written, without the NUL.
std::string_view write_formatted(std::span<char> into, fmt::string_view format,
                                 fmt::format_args args) noexcept;

template <class... Args>
std::string_view write_sentence(std::span<char> into, fmt::format_string<Args...> format,
                                Args&&... args) noexcept {
  return write_formatted(into, format, fmt::make_format_args(args...));
}

}  // namespace annex
