// heap/memory_range.hpp - may this range be a region: its numbers, whether it is mapped, on which
// node, with pages behind it.
//
// Nothing of a heap is touched. Threads: any.
#pragma once
#include <cstring>
#include <functional>

#include <annex/types.hpp>

#include "base/failure.hpp"
#include "region/region_record.hpp"

namespace annex::detail {

/// A power of two that pages may have. Errors: bad_page_size.
result<void> check_page_size(u64 page_bytes);
/// The numbers of a range. Errors name the value, the limit and the remedy.
result<void> check_range(const memory_range& m);
/// Whether all of it is mapped as its access says. Errors: not_mapped, not_writable, bad_length,
/// os_failure.
result<void> check_mapped(const void* base, u64 bytes, touch access);
/// A number that a node may have, or any_node.
result<void> check_numa_node(int node);
/// No page at base, base + stride, … is on another node (any_node: there is none); those that are
/// not there are not looked at.
result<void> check_node(const void* base, u64 bytes, u64 stride, int node);
/// Every page there, by several threads; huge ones where they are wanted. fd: of the file behind
/// it, or -1: to say what is wrong.
result<void> populate_memory(char* base, u64 bytes, u64 page_bytes, int fd, unsigned threads,
                             const std::function<void(u64, u64)>& progress,
                             huge_pages huge = huge_pages::automatic);

/// The record as it is now. What is checked in it is what is used, whoever changes it meanwhile.
inline region_record copy_of(const region_record& r) noexcept {
  region_record copy;
  std::memcpy(static_cast<void*>(&copy), &r, sizeof copy);
  return copy;
}

/// For memory that is given: asked for, and made where that is wanted (always) or pages come to
/// stay (pin). Errors: those of populating.
result<void> make_huge_as_asked(const memory_range& m);

}  // namespace annex::detail
