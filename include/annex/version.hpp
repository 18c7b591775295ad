// annex/version.hpp - the version of these headers and of the library that runs.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <annex/error.hpp>

#define ANNEX_VERSION_MAJOR 1  ///< of these headers; likewise the next two
#define ANNEX_VERSION_MINOR 0
#define ANNEX_VERSION_PATCH 0

namespace annex {
/// As semantic versioning has it.
struct version {
  int major;  ///< changes with what breaks programs
  int minor;  ///< with what is added
  int patch;  ///< with what is mended
};
/// Of the library this program runs with.
ANNEX_PUBLIC version library_version() noexcept;
}  // namespace annex

#endif
