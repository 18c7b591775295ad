// platform/own_memory.hpp - memory for annex's own records of this process, from the kernel.
//
// Not from malloc: malloc may be annex itself one day, or fail just where a block has to be found.
// Containers take it as any std::pmr resource; who shares one among threads brings a mutex. In a
// forked child it is what it was in the parent.
#pragma once
#include <memory_resource>
#include <string>
#include <string_view>

namespace annex {

/// Whole pages, given back when they are deallocated. Throws std::bad_alloc. Any thread.
std::pmr::memory_resource* own_pages() noexcept;

/// Records of any size, carved from such pages.
using own_memory = std::pmr::unsynchronized_pool_resource;

/// A path or name for a moment, on a path that must not ask malloc.
inline std::pmr::string own_string(std::string_view text) {
  return std::pmr::string(text, own_pages());
}

}  // namespace annex
