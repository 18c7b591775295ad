// annex/version.hpp - the version of these headers and of the library that runs.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <annex/error.hpp>

#define ANNEX_VERSION_MAJOR 1
#define ANNEX_VERSION_MINOR 0
#define ANNEX_VERSION_PATCH 0

namespace annex {
struct version { int major, minor, patch; };
/// Of the library this program runs with.
ANNEX_PUBLIC version library_version() noexcept;
}  // namespace annex

#endif
