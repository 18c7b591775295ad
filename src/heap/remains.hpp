// heap/remains.hpp - what a heap that has ended leaves in the annex directory, when its last
// process died before it could remove it.
//
// Everything here may be called by several processes at once, and again after a death in it.
#pragma once
#include <string>
#include <string_view>

#include "region/files.hpp"

namespace annex::detail {

/// The files annex made for the regions of a heap that is destroyed.
void remove_own_files(const heap_files& files, const open_directory& where,
                      const segment& s) noexcept;
/// The name, then the file of lives.
void remove_names(const open_directory& where, std::string_view name,
                  const os::file_identity& identity, const std::string& life, int life_fd);
/// Removes what a destroyer that died has left: the files of the regions, then the names. Does
/// nothing to a heap in use.
void finish_destruction(const open_directory& where, std::string_view name);
/// Files of lives that lead to no heap: their destroyers died before the last step, or their
/// creators before the name. own: the one that stays.
void remove_stray_lives(const open_directory& where, std::string_view name, const std::string& own);

}  // namespace annex::detail
