// bench/libraries.hpp - any malloc that comes as a shared library, as a peer.
//
// The library is opened in the cell's process only, by RTLD_LOCAL, so that the rest of that process
// goes on with glibc's, and RTLD_DEEPBIND, so that the library calls its own malloc, not glibc's.
// It is tried in a process of its own before: one that can't be opened, has no malloc and free of
// its own, or dies of a first block is missing, with the reason.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "peers.hpp"

namespace annex::bench {

/// A peer of this name; otherwise nothing, and why.
std::optional<peer> library_peer(const std::string& name, const std::string& path,
                                 std::string* why);
/// To be compared as well: NAME=PATH, or every *.so and *.so.N of a directory, named after its file
/// without "lib". Before the first call of all_peers(). Throws std::runtime_error for what is no
/// such word or no directory.
void bring_library(const std::string& name_and_path);
void bring_libraries_of(const std::string& directory);
/// The name and path of each that was brought.
const std::vector<std::pair<std::string, std::string>>& brought_libraries();

}  // namespace annex::bench
