// annex/error.hpp - what was refused, why, and what to do about it, without allocating.
//
// Every function that the world can refuse returns result<T>. An error carries a code (stable
// across versions, the same number as in annex.h), the errno of the system call behind it when
// there was one, and one sentence that names the value, the limit and the remedy.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <expected>
#include <string>
#include <string_view>
#include <system_error>

/// What the shared library shows.
#ifndef ANNEX_PUBLIC
#ifdef __GNUC__
#define ANNEX_PUBLIC __attribute__((visibility("default")))
#else
#define ANNEX_PUBLIC
#endif
#endif

namespace annex {

/// Why something was refused. 0 is never an error.
enum class errc : int {
#define ANNEX_ERROR(number, name, text) name = number,
#include <annex/errors.def>
#undef ANNEX_ERROR
};

/// The category of errc; name() is "annex".
ANNEX_PUBLIC const std::error_category& error_category() noexcept;
/// The code for the standard's error handling; its category is error_category().
inline std::error_code make_error_code(errc code) noexcept {
  return {static_cast<int>(code), error_category()};
}

/// A refusal. Plain data: copying it allocates nothing.
struct error {
  errc code{};       ///< why
  int os_errno = 0;  ///< errno behind it, or 0
  /// One sentence: value, limit, remedy; never empty; may be shown as it is (see printable()).
  char text[248] = {};

  /// The text without its length in mind. Valid as long as the error.
  std::string_view message() const noexcept { return text; }
};

/// A value, or the error instead of it.
template <class T>
using result = std::expected<T, error>;

/// The general sentence for a code, also for numbers that are no code.
ANNEX_PUBLIC std::string_view describe(errc code) noexcept;
/// The identifier of a code as written in this header, for example "region_overlap".
ANNEX_PUBLIC std::string_view name_of(errc code) noexcept;

/// Throws std::bad_alloc, which the interfaces of containers have for "no"; ends a program that is
/// compiled without exceptions.
[[noreturn]] ANNEX_PUBLIC void throw_bad_alloc();

/// Bytes that somebody else chose (names of zones and programs, paths) as text that may be shown
/// anywhere: valid UTF-8, in which what would move a terminal's cursor, end a line or turn the
/// direction of writing, and bytes that are no text, are `\xNN`.
ANNEX_PUBLIC std::string printable(std::string_view bytes);

}  // namespace annex

/// errc converts to std::error_code.
template <>
struct std::is_error_code_enum<annex::errc> : std::true_type {};

#endif
