// tests/system_calls.hpp - system calls that fail when a test says so.
//
// The linker sends annex's calls of these functions through wrappers (tests/CMakeLists.txt,
// --wrap), which count them and let the n-th fail with an error the call really has: a full file
// system, no descriptor or memory left, or an interruption.
#pragma once

namespace annex::faults {

enum class kind { refused, interrupted };

/// From now on the n-th call of this process fails; every further one too when `lasting`. n = 0:
/// none.
void fail_call(unsigned n, kind how, bool lasting);
/// Calls counted since.
unsigned calls();
/// The function that failed last, or null.
const char* failed();

}  // namespace annex::faults
