// heap/memory_range.cpp - see memory_range.hpp.
#include "heap/memory_range.hpp"

#include <cerrno>
#include <cstring>

#include "base/in_parallel.hpp"
#include "base/limits.hpp"
#include "heap/huge_pages.hpp"
#include "platform/memory.hpp"
#include "platform/numa.hpp"
#include "region/room.hpp"

namespace annex::detail {
namespace {

constexpr u64 piece_bytes = 16 * MiB;

}  // namespace

result<void> check_numa_node(int node) {
  if (node >= any_node && node <= limits::largest_numa_node) return {};
  return refuse(errc::invalid_argument, "{} is no NUMA node: use 0 to {}, or any_node (-1)", node,
                limits::largest_numa_node);
}

result<void> check_node(const void* base, u64 bytes, u64 stride, int node) {
  if (node == any_node) return {};
  const os::misplaced_page page = os::find_off_node(base, bytes, stride, node);
  if (page.node < 0) return {};
  return refuse(errc::wrong_node,
                "the page at offset {} lies on NUMA node {}, not {}; bind memory before it is "
                "touched (bring_memory does)",
                page.offset, page.node, node);
}

result<void> check_page_size(u64 page_bytes) {
  if (is_power_of_two(page_bytes) && page_bytes >= limits::smallest_page_bytes &&
      page_bytes <= limits::largest_page_bytes)
    return {};
  return refuse(errc::bad_page_size, "{} bytes are no page size: use a power of two from {} to {}",
                page_bytes, limits::smallest_page_bytes, limits::largest_page_bytes);
}

result<void> check_range(const memory_range& m) {
  if (m.base == nullptr)
    return refuse(errc::invalid_argument,
                  "the base is null; give the address the memory has in this process");
  ANNEX_TRY(check_page_size(m.page_bytes));
  if (m.length_bytes == 0 || m.length_bytes % m.page_bytes != 0 ||
      m.length_bytes > limits::largest_region_bytes)
    return refuse(errc::bad_length,
                  "{} bytes are no region: use 1 or more whole pages of {} bytes, up to {} bytes",
                  m.length_bytes, m.page_bytes, limits::largest_region_bytes);
  if (reinterpret_cast<u64>(m.base) % m.page_bytes != 0)
    return refuse(errc::bad_alignment, "base {} is no multiple of the page size {}", m.base,
                  m.page_bytes);
  if (passes(reinterpret_cast<u64>(m.base), m.length_bytes, ~u64{0}))
    return refuse(errc::bad_length, "{} bytes from {} pass the end of the address space",
                  m.length_bytes, m.base);
  ANNEX_TRY(check_numa_node(m.numa_node));
  if (m.fd >= 0 && m.fd_offset % limits::smallest_page_bytes != 0)
    return refuse(errc::bad_alignment,
                  "offset {} of descriptor {} is no multiple of {}: nobody could map it",
                  m.fd_offset, m.fd, limits::smallest_page_bytes);
  if (m.fd >= 0 && passes(m.fd_offset, m.length_bytes, limits::largest_file_bytes))
    return refuse(errc::bad_length, "{} bytes from offset {} pass what a file can have ({} bytes)",
                  m.length_bytes, m.fd_offset, limits::largest_file_bytes);
  if (!m.page_iovas.empty() && m.page_iovas.size() != m.length_bytes / m.page_bytes)
    return refuse(errc::bad_iova, "{} IOVAs for {} pages; give one per page of {} bytes, or none",
                  m.page_iovas.size(), m.length_bytes / m.page_bytes, m.page_bytes);
  if (m.access == touch::none && m.contents != fill::keep)
    return refuse(errc::no_cpu_access,
                  "memory the CPU may not touch can't be zeroed, or be known to be zero; zero it "
                  "by its device, and add it with fill::keep");
  return check_huge(m);
}

result<void> check_mapped(const void* base, u64 bytes, touch access) {
  if (access == touch::none) return {};
  if (passes(reinterpret_cast<u64>(base), bytes, ~u64{0}))
    return refuse(errc::bad_length, "{} bytes from {} pass the end of the address space", bytes,
                  base);
  const os::mapping_check check = os::check_mapping(base, bytes);
  if (check.error != 0)
    return refuse_os(errc::os_failure, check.error,
                     "whether [{}, +{}) is mapped can't be seen (/proc/self/maps): {}{}", base,
                     bytes, std::strerror(check.error), remedy_for(check.error));
  if (!check.mapped)
    return refuse(
        errc::not_mapped,
        "[{}, +{}) is not all mapped in this process; map it first, or declare touch::none", base,
        bytes);
  if (!check.readable || !check.writable)
    return refuse(
        errc::not_writable,
        "[{}, +{}) is not all readable and writable; change its protection, or declare touch::none",
        base, bytes);
  return {};
}

result<void> populate_memory(char* base, u64 bytes, u64 page_bytes, int fd, unsigned threads,
                             const std::function<void(u64, u64)>& progress, huge_pages huge) {
  const u64 piece = std::max(piece_bytes, page_bytes);
  huge_maker whole(base, bytes, huge);
  const int why = in_parallel(
      bytes, piece, threads,
      [&](unsigned, u64 at, u64 n) {
        const int no_touch = whole.make(at, n);
        return no_touch != 0 ? no_touch : os::populate(base + at, n);
      },
      progress);
  return why == 0 ? whole.check() : refuse_pages(why, fd, bytes, page_bytes);
}

result<void> make_huge_as_asked(const memory_range& m) {
  ask_for_huge(m.base, m.length_bytes, m.huge);
  if (m.huge != huge_pages::always && !(m.huge == huge_pages::aligned && m.pin)) return {};
  return populate_memory(static_cast<char*>(m.base), m.length_bytes, m.page_bytes, m.fd, m.threads,
                         m.progress, m.huge);
}

}  // namespace annex::detail
