// region/room.hpp - whether the memory that is promised is there, and what mends it where it is
// not.
//
//   the machine   what is free, within the control group's limit                 check_room
//   the place     what the file system has free, the process's file size limit   check_place
//   reserved      every page of the file taken now: no write can fail later      reserve_file
//
// docs/design/0010. Nothing here is written to the segment; a process that dies in the middle
// leaves a file without a name.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/failure.hpp"

namespace annex {
class segment;
struct local_region;
}  // namespace annex

namespace annex::detail {

/// What mends this errno, as the end of a sentence: "; raise …". Empty: nothing that is known.
std::string remedy_for(int os_errno);

/// Populating so much, on the node, will not get anybody killed. huge_page_bytes 0: ordinary pages.
result<void> check_room(u64 bytes, u64 huge_page_bytes, int node);
/// What a region wants of the file system it lies on.
struct place_request {
  u64 more_bytes = 0;   // of the region, that are not there yet
  u64 table_bytes = 0;  // of the heap, where they lie there too
  u64 spare_bytes = 0;  // so many may be missing
  u64 file_bytes = 0;   // the length the file shall have; 0: as it is
};
result<void> check_place(int fd, const place_request& request);
/// Every page of [offset, offset + bytes) of the file is taken now. Errors: out_of_memory,
/// not_supported (this file system can't).
result<void> reserve_file(int fd, u64 offset, u64 bytes,
                          const std::function<void(u64, u64)>& progress);
/// Why pages of a mapping could not be had; fd: of the file behind it, or -1.
std::unexpected<error> refuse_pages(int os_errno, int fd, u64 bytes, u64 page_bytes);
/// Why there are no hugepages of this size.
std::unexpected<error> refuse_hugepages(int os_errno, u64 bytes, u64 page_bytes);

/// Room that the longest of the next two needs.
inline constexpr std::size_t longest_shortage = 512;
/// Why the segment has no room for so many bytes more; empty: nothing is short that shows.
std::string_view metadata_shortage(std::span<char> into, const segment& s, u64 bytes) noexcept;
/// The same for the end of a region that is taken from its file system as blocks are cut from it.
std::string_view place_shortage(std::span<char> into, const local_region& region,
                                u64 bytes) noexcept;
/// The refusal of what needs metadata: limit_reached.
error no_metadata(const segment& s, std::string_view heap, u64 bytes, std::string_view what);

}  // namespace annex::detail
