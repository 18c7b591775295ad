// region/room.cpp - see room.hpp.
#include "region/room.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <annex/types.hpp>

#include "base/sentence.hpp"
#include "platform/files.hpp"
#include "platform/numa.hpp"
#include "platform/resource_limits.hpp"
#include "region/local_region.hpp"
#include "shared/segment.hpp"

namespace annex::detail {
namespace {

// What is reserved at once: a signal in between costs no more than this.
constexpr u64 piece_bytes = 16 * MiB;
constexpr u64 arena_step_bytes = 256 * KiB;  // by which the segment grows at least
constexpr size_t longest_point_told = 48;    // in a sentence
constexpr size_t way_bytes = 256;

std::string_view name_of(const os::mount_point& point) noexcept {
  const std::string_view text = point;
  return text.empty() ? "its file system" : text;
}

// How the file system is given `more` bytes, as the middle of a sentence.
std::string_view way_to_enlarge(std::span<char> into, const os::file_system& place,
                                std::string_view point, u64 more) noexcept {
  if (!place.in_memory || point.empty()) return "free some of it, choose another place";
  const u64 wanted = divide_up(place.total_bytes + more, MiB);
  if (point.size() > longest_point_told)
    return write_sentence(into, "enlarge it (mount -o remount,size={}M)", wanted);
  if (point != "/dev/shm")
    return write_sentence(into, "enlarge it (mount -o remount,size={}M {})", wanted, point);
  return write_sentence(into,
                        "enlarge it (mount -o remount,size={}M {}; a container: docker run "
                        "--shm-size={}m)",
                        wanted, point, wanted);
}

// The file system is full: how full, and what helps.
std::string_view say_full(std::span<char> into, int fd, const os::file_system& place,
                          u64 bytes) noexcept {
  const os::mount_point point = os::mount_point_of(fd);
  char way[way_bytes];
  return write_sentence(into, "{} is full ({} bytes, {} free); {}", name_of(point),
                        place.total_bytes, place.free_bytes,
                        way_to_enlarge(way, place, point, std::max(bytes, MiB)));
}

std::unexpected<error> refuse_place(int why, int fd, u64 bytes, u64 table_bytes = 0) {
  const os::file_system place = os::file_system_of(fd);
  const os::mount_point point = os::mount_point_of(fd);
  char way[way_bytes];
  const u64 all = bytes + table_bytes, lacking = all - std::min(all, place.free_bytes);
  const std::string tables = table_bytes != 0 ? fmt::format(" and {} of tables", table_bytes) : "";
  return refuse_os(
      errc::out_of_memory, why,
      "{} bytes{} do not fit on {} ({} bytes, {} free): {}, bring less, or allow overcommit", bytes,
      tables, name_of(point), place.total_bytes, place.free_bytes,
      way_to_enlarge(way, place, point, std::max(lacking, MiB)));
}

std::unexpected<error> refuse_file_size(u64 bytes) {
  return refuse_os(errc::os_failure, EFBIG,
                   "a file of {} bytes is more than this process may make: its file size limit is "
                   "{} bytes; raise it (ulimit -f), or bring less",
                   bytes, os::file_size_limit());
}

}  // namespace

std::string remedy_for(int why) {
  switch (why) {
    case EMFILE:
      return fmt::format("; close some, or raise the limit of {} descriptors (ulimit -n)",
                         os::descriptor_limit());
    case ENFILE: return "; the whole machine has no more: raise fs.file-max";
    case EFBIG:
      if (os::file_size_limit() == ~u64{0})
        return "; this file system has no files so long: choose another place";
      return fmt::format("; this process may make files of {} bytes: raise the limit (ulimit -f)",
                         os::file_size_limit());
    case ENOSPC: return "; free some room there, enlarge it, or choose another place";
    case EDQUOT: return "; this user's quota is used up: raise it, or choose another place";
    case EROFS: return "; mount it writable, or choose another place";
    case ENOLCK: return "; choose a place that has file locks, a local file system";
    case EACCES:
    case EPERM: return "; check the permissions";
    case ENOMEM:
      if (const u64 limit = os::address_space_limit(); limit != ~u64{0})
        return fmt::format(
            "; the address space is limited to {} bytes (ulimit -v): raise it, or ask for less",
            limit);
      return "; ask for less, or look at vm.overcommit_memory and vm.max_map_count";
    default: return "";
  }
}

result<void> check_room(u64 bytes, u64 huge_page_bytes, int node) {
  if (node == any_node) {
    // The kernel refuses hugepages it has not, and nobody is killed.
    const u64 free = huge_page_bytes != 0 ? ~u64{0} : os::free_memory();
    if (bytes <= free) return {};
    return refuse(errc::out_of_memory,
                  "this machine (or its control group) has {} bytes available, {} are wanted now; "
                  "free memory, raise the group's limit, or bring less",
                  free, bytes);
  }
  const u64 free = os::free_on_node(node, huge_page_bytes);
  if (bytes <= free) return {};
  if (huge_page_bytes != 0)
    return refuse(errc::out_of_memory,
                  "node {} has {} bytes free in hugepages of {} bytes, {} are wanted; reserve more "
                  "(/sys/devices/system/node/node{}/hugepages), or bring less",
                  node, free, huge_page_bytes, bytes, node);
  return refuse(errc::out_of_memory,
                "node {} has {} bytes free, {} are wanted; free memory there, bring less, or "
                "choose another node",
                node, free, bytes);
}

result<void> check_place(int fd, const place_request& r) {
  if (r.file_bytes > os::file_size_limit()) return refuse_file_size(r.file_bytes);
  const os::file_system place = os::file_system_of(fd);
  // Hugepages: the pages themselves say.
  if (place.huge_page_bytes != 0 || place.total_bytes == 0 ||
      r.more_bytes + r.table_bytes <= place.free_bytes + r.spare_bytes)
    return {};
  return refuse_place(ENOSPC, fd, r.more_bytes, r.table_bytes);
}

result<void> reserve_file(int fd, u64 offset, u64 bytes,
                          const std::function<void(u64, u64)>& progress) {
  for (u64 done = 0; done < bytes;) {
    const u64 n = std::min(piece_bytes, bytes - done);
    const int why = os::allocate_range(fd, offset + done, n);
    if (why == EFBIG) return refuse_file_size(offset + bytes);
    if (why == ENOMEM)
      return refuse_os(errc::out_of_memory, why,
                       "the machine has no memory for all of {} bytes; free memory, bring less, or "
                       "allow overcommit",
                       bytes);
    if (why == ENOSPC || why == EDQUOT) {
      const u64 huge = os::file_system_of(fd).huge_page_bytes;
      return huge != 0 ? result<void>(refuse_hugepages(why, bytes, huge))
                       : result<void>(refuse_place(why, fd, bytes - done));
    }
    if (why == EOPNOTSUPP || why == ENOSYS || why == ENODEV || why == EBADF || why == EPERM)
      return refuse_os(errc::not_supported, why,
                       "{} can't reserve {} bytes: {}; prefault them instead",
                       name_of(os::mount_point_of(fd)), bytes, std::strerror(why));
    if (why != 0)
      return refuse_os(errc::os_failure, why, "{} bytes can't be reserved on {}: {}{}", bytes,
                       name_of(os::mount_point_of(fd)), std::strerror(why), remedy_for(why));
    done += n;
    if (progress) progress(done, bytes);
  }
  return {};
}

std::unexpected<error> refuse_hugepages(int why, u64 bytes, u64 page_bytes) {
  const os::hugepage_pool pool = os::hugepages_of(page_bytes);
  if (!pool.exists)
    return refuse_os(errc::not_supported, why,
                     "this kernel has no hugepages of {} bytes (/sys/kernel/mm/hugepages lists the "
                     "sizes it has); bring one of those, or ordinary pages",
                     page_bytes);
  return refuse_os(
      errc::out_of_memory, why,
      "{} hugepages of {} bytes are wanted, {} are free (a cgroup's or mount's limit may allow "
      "fewer); reserve more (/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages), or bring less",
      divide_up(bytes, page_bytes), page_bytes, pool.free_pages, page_bytes / KiB);
}

std::unexpected<error> refuse_pages(int why, int fd, u64 bytes, u64 page_bytes) {
  const os::file_system place = fd >= 0 ? os::file_system_of(fd) : os::file_system{};
  if (place.huge_page_bytes != 0) return refuse_hugepages(why, bytes, place.huge_page_bytes);
  if (why == EFAULT && place.total_bytes != 0) return refuse_place(ENOSPC, fd, bytes);
  if (why == EFAULT)
    return refuse_os(errc::out_of_memory, why,
                     "no memory is behind all of {} bytes ({} byte pages): hugepages or the file "
                     "ran out, or it was cut short; reserve more, or bring less",
                     bytes, page_bytes);
  return refuse_os(errc::out_of_memory, why,
                   "the machine has no memory for all of {} bytes ({} byte pages): {}; free "
                   "memory, or bring less",
                   bytes, page_bytes, std::strerror(why));
}

std::string_view metadata_shortage(std::span<char> into, const segment& s, u64 bytes) noexcept {
  const segment_header& h = s.header();
  const u64 top = h.arena.top, file = h.arena.file_bytes;
  const u64 end = top + std::min(bytes, h.reserve_bytes) + spare_file_bytes;
  if (end > h.reserve_bytes)
    return write_sentence(
        into, "its metadata_limit_bytes ({}) is reached; release some, or create it with more",
        h.reserve_bytes);
  const u64 longer = std::max(end, file + (end > file ? arena_step_bytes : 0));
  if (longer > file && std::min(longer, h.reserve_bytes) > os::file_size_limit())
    return write_sentence(into,
                          "this process may make files of {} bytes only, and the segment needs "
                          "more; raise the limit (ulimit -f)",
                          os::file_size_limit());
  const os::file_system place = os::file_system_of(s.fd());
  if (place.total_bytes == 0 || place.free_bytes > bytes) return {};
  return say_full(into, s.fd(), place, bytes);
}

std::string_view place_shortage(std::span<char> into, const local_region& region,
                                u64 bytes) noexcept {
  if (region.fd < 0 || region.record->first_unsure == 0) return {};
  const os::file_system place = os::file_system_of(region.fd);
  if (place.total_bytes == 0 || place.free_bytes > bytes) return {};
  return say_full(into, region.fd, place, bytes);
}

error no_metadata(const segment& s, std::string_view heap, u64 bytes, std::string_view what) {
  char shortage[longest_shortage];
  std::string why(metadata_shortage(shortage, s, bytes));
  if (why.empty())
    why = fmt::format(
        "metadata_limit_bytes ({}) or the file system of its segment allows no more; release some, "
        "free room there, or create it with more",
        s.mapped_bytes());
  const std::string who = heap.empty() ? "the private heap" : fmt::format("\"{}\"", heap);
  return make_error(errc::limit_reached, 0, "{} has no metadata left for {}: {}", who, what, why);
}

}  // namespace annex::detail
