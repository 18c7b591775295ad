# cmake/hardening.cmake - what makes a mistake in annex harder to use against who runs it: added to annex_flags, where the compiler
# and the linker have it. tests/hardening_test reads it from what was built.
#
#   stack          protector in every function that has arrays there or gives addresses away; pages are not jumped over
#   copies         of known sizes are checked (FORTIFY), where the compiler optimizes: without, the C library warns
#   control flow   jumps and returns go where they may (CET); the machine instructions of a hit are as many as without, see
#                  is_zero() in base/shared_word.hpp and tests/instruction_budget.txt
#   tables         read-only once the program is loaded; nothing is writable and executable; programs lie at any address
#
# Of the hits, api/heap.cpp only forwards and has no arrays: it goes without the protector, which would cost locate() 13 instructions.
include(CheckCXXCompilerFlag)
include(CheckLinkerFlag)
include(CheckPIESupported)
check_pie_supported()

foreach(flag IN ITEMS -fstack-protector-strong -fstack-clash-protection -fcf-protection=full)
  string(MAKE_C_IDENTIFIER "annex_has${flag}" known)
  check_cxx_compiler_flag(${flag} ${known})
  if(${known})
    target_compile_options(annex_flags INTERFACE ${flag})
  endif()
endforeach()
set_source_files_properties(${CMAKE_CURRENT_SOURCE_DIR}/src/api/heap.cpp PROPERTIES COMPILE_OPTIONS -fno-stack-protector
  SKIP_PRECOMPILE_HEADERS ON)  # those are parsed with it
if(NOT ANNEX_SANITIZE)  # sanitizers check copies by themselves, and don't see checked ones
  set(optimized $<CONFIG:Release,RelWithDebInfo,MinSizeRel>)
  target_compile_options(annex_flags INTERFACE $<${optimized}:-U_FORTIFY_SOURCE> $<${optimized}:-D_FORTIFY_SOURCE=3>)
endif()
foreach(flag IN ITEMS -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack)
  string(MAKE_C_IDENTIFIER "annex_has${flag}" known)
  check_linker_flag(CXX ${flag} ${known})
  if(${known})
    target_link_options(annex_flags INTERFACE ${flag})
  endif()
endforeach()
