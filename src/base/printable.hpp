// base/printable.hpp - bytes from elsewhere (names, paths, programs) as text that may be shown: on
// a terminal, in a log, as JSON.
//
// What is shown is valid UTF-8 and moves no cursor: a byte of a control character (C0, DEL, C1), of
// a line or paragraph separator, of one that turns the direction of writing, or of no character at
// all is shown as \xNN. All else stays.
#pragma once
#include <span>
#include <string_view>

namespace annex {

/// Into the caller's bytes: ends with a NUL, cut off between characters when too long. What was
/// written, without the NUL.
std::string_view write_printable(std::span<char> into, std::string_view bytes) noexcept;

}  // namespace annex
