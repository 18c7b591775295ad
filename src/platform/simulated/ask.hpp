// platform/simulated/ask.hpp - a call that may be late or refused, and else is what it really is.
#pragma once
#include <cstddef>
#include <initializer_list>
#include <type_traits>

namespace annex::os::simulated {

/// Tells whoever listens, and passes this call's time, if the plan says so.
void begin_call(const char* name) noexcept;

inline constexpr std::size_t none = ~std::size_t{0};
/// Which of so many refusals this call of the function gets, or none.
std::size_t refusal_of(const char* name, std::size_t choices) noexcept;

/// refusals: what this function returns when the system refuses, or does not tell; the likeliest
/// first. Errors are those the manual has for the system calls that it makes.
template <class Result, class... Parameters>
Result ask(const char* name, std::initializer_list<std::type_identity_t<Result>> refusals,
           Result (*real)(Parameters...), std::type_identity_t<Parameters>... arguments) {
  begin_call(name);
  if (const std::size_t which = refusal_of(name, refusals.size()); which != none)
    return refusals.begin()[which];
  return real(arguments...);
}

/// What can't be refused.
template <class Result, class... Parameters>
Result pass(const char* name, Result (*real)(Parameters...),
            std::type_identity_t<Parameters>... arguments) {
  begin_call(name);
  return real(arguments...);
}

}  // namespace annex::os::simulated
