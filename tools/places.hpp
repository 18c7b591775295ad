// tools/places.hpp - where heaps may lie: every place that a process of this machine has by itself,
// and those in use.
#pragma once
#include <string>
#include <vector>

namespace annex::tool {

/// The directory that is used here first; then those of other users and sessions: annex in every
/// run-time directory of a user, annex-UID in /dev/shm, /run/annex, and wherever a process that may
/// be looked at has a heap's segment mapped. Only those that are there; nobody says yet that they
/// may be read.
std::vector<std::string> known_places();

/// What lies in a place and is no file of annex's: neither a segment, nor memory of a region, nor a
/// file of lives.
std::vector<std::string> other_files(const std::string& place);

}  // namespace annex::tool
