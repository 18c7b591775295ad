// annex/standard.hpp - what annex's C++ headers are compiled with; said in one sentence where it is
// something else.
//
// Every public header is empty where ANNEX_HAS_STANDARD is not defined, so that this sentence is
// the only one.
#pragma once
#if defined(__has_include) && __cplusplus > 202002L
#if __has_include(<expected>)
#include <expected>
#endif
#endif

#if __cplusplus <= 202002L
#error "annex needs C++23: -std=c++23, g++ 12 or clang 19 or newer; C and older C++: <annex.h>"
#elif !defined(__cpp_lib_expected)
#error "annex needs std::expected: g++ 12 or newer, clang 19 or newer; C, older C++: <annex.h>"
#else
#define ANNEX_HAS_STANDARD 1
#endif
