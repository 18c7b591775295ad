// platform/libraries.hpp - functions of the libraries that this process has loaded, by name.
//
// For what stands in front of another library. Any thread may call. Null: there is none.
#pragma once

namespace annex::os {

/// Of the whole program: what a call by this name reaches.
void* first_symbol(const char* name) noexcept;
/// The next one behind the library that this is linked into, in the order in which the program's
/// libraries are searched.
void* next_symbol(const char* name) noexcept;
/// A library that is loaded already, found by a part of its file's name; it stays loaded.
void* loaded_library(const char* part_of_name) noexcept;
/// In such a library and those that it depends on.
void* symbol_of(void* library, const char* name) noexcept;

}  // namespace annex::os
