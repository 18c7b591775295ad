// annex/standard.hpp - what annex's C++ headers are compiled with; said in one sentence where it is something else.
//
// Every public header is empty where ANNEX_HAS_STANDARD is not defined, so that this sentence is the only one.
#pragma once
#if defined(__has_include) && __cplusplus > 202002L
#if __has_include(<expected>)
#include <expected>
#endif
#endif

#if __cplusplus <= 202002L
#error "annex needs C++23: compile with -std=c++23 (g++ 12 or newer, clang 19 or newer); for C and older C++ there is <annex.h>"
#elif !defined(__cpp_lib_expected)
#error "annex needs std::expected of C++23, which this compiler does not have with this standard library: use g++ 12 or newer, or clang 19 or newer; for C and older C++ there is <annex.h>"
#else
#define ANNEX_HAS_STANDARD 1
#endif
