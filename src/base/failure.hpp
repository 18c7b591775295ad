// base/failure.hpp - making an annex::error: code, errno and one formatted sentence, without
// allocating.
#pragma once
#include <annex/error.hpp>

#include "base/printable.hpp"
#include "base/sentence.hpp"
#include "base/units.hpp"

namespace annex {

template <class... Args>
error make_error(errc code, int os_errno, fmt::format_string<Args...> format,
                 Args&&... args) noexcept {
  error e{code, os_errno, {}};
  char raw[2 * sizeof e.text];  // names in it may be anything
  write_printable(e.text, write_sentence(raw, format, std::forward<Args>(args)...));
  return e;
}

template <class... Args>
std::unexpected<error> refuse(errc code, fmt::format_string<Args...> format,
                              Args&&... args) noexcept {
  return std::unexpected(make_error(code, 0, format, std::forward<Args>(args)...));
}

template <class... Args>
std::unexpected<error> refuse_os(errc code, int os_errno, fmt::format_string<Args...> format,
                                 Args&&... args) noexcept {
  return std::unexpected(make_error(code, os_errno, format, std::forward<Args>(args)...));
}

}  // namespace annex

/// Returns the error of a result<> to the caller, or goes on.
#define ANNEX_TRY(expression)                                    \
  do {                                                           \
    if (auto annex_try_result = (expression); !annex_try_result) \
      return std::unexpected(annex_try_result.error());          \
  } while (false)
