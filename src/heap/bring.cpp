// heap/bring.cpp - getting memory in one call: anonymous, shared, hugepages, files, devices.
//
// Order (devices.md): room looked at → map → bind to the node → reserve or populate → read physical
// addresses → observers → publish. What was mapped, made or made longer here is put right again
// when any step refuses; removal unmaps.
//
//   from, on                  by default                reserve                overcommit
//   shared or file:           reserved (fallocate),     the same               no look, and no
//     on a file system        or refused                                       reservation
//   shared: a memfd           the machine must have     reserved               no look
//                             so much now
//   descriptor:               reserved where that       reserved, or refused   no look, and no
//     on a file system        can be done                                      reservation
//   hugetlb: hugepages        populated                 the same               neither
//   anonymous                 as malloc                 populated              as malloc
//
// docs/design/0010 says why. With prefault or pin pages are populated instead of reserved.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include <annex/heap.hpp>

#include "heap/memory_range.hpp"
#include "heap/regions.hpp"
#include "platform/directories.hpp"
#include "platform/files.hpp"
#include "platform/memory.hpp"
#include "platform/numa.hpp"
#include "platform/open_result.hpp"
#include "platform/pinning.hpp"
#include "platform/report.hpp"
#include "region/room.hpp"

namespace annex::detail {
namespace {

using source = memory_source::kind;

// Where the heap's own tables lie on the same file system, they need room there too: those of the
// region, which are taken at once, and some for what is to come (caches, slabs, zones).
constexpr u64 table_bytes_of(u64 length) noexcept {
  return divide_up(length, u64{1} << granule_shift_of(length)) *
             (sizeof(granule_entry) + sizeof(extent_entry)) +
         256 * KiB;
}

// And a region may be as large as the file system: the last part of it is then taken only when
// blocks are cut from it.
constexpr u64 spare_bytes_of(u64 length) noexcept {
  return align_down(std::min(length / 16, 64 * MiB), u64{1} << limits::granule_shift);
}

// Everything that can be said of the numbers before anything is opened.
result<void> check_source(const memory_source& m) {
  if (!is_power_of_two(m.page_bytes) || m.page_bytes < limits::smallest_page_bytes ||
      m.page_bytes > limits::largest_page_bytes)
    return refuse(errc::bad_page_size,
                  "{} bytes are no page size: use a power of two from {} to {}", m.page_bytes,
                  limits::smallest_page_bytes, limits::largest_page_bytes);
  if (m.length_bytes == 0 || m.length_bytes % m.page_bytes != 0 ||
      m.length_bytes > limits::largest_region_bytes)
    return refuse(errc::bad_length,
                  "{} bytes are no region: bring 1 or more whole pages of {} bytes, up to {} bytes",
                  m.length_bytes, m.page_bytes, limits::largest_region_bytes);
  if (m.from == source::hugetlb && m.page_bytes < 64 * KiB)
    return refuse(errc::bad_page_size, "{} is no hugepage size; use 2 MiB or 1 GiB", m.page_bytes);
  if (m.offset_bytes % limits::smallest_page_bytes != 0)
    return refuse(errc::bad_alignment,
                  "offset {} is no multiple of {}, so nothing can be mapped there", m.offset_bytes,
                  limits::smallest_page_bytes);
  if (passes(m.offset_bytes, m.length_bytes, limits::largest_file_bytes))
    return refuse(errc::bad_length, "{} bytes from offset {} pass what a file can have ({} bytes)",
                  m.length_bytes, m.offset_bytes, limits::largest_file_bytes);
  if (!m.page_iovas.empty() && m.page_iovas.size() != m.length_bytes / m.page_bytes)
    return refuse(errc::bad_iova, "{} IOVAs for {} pages; give one per page of {} bytes, or none",
                  m.page_iovas.size(), m.length_bytes / m.page_bytes, m.page_bytes);
  ANNEX_TRY(check_numa_node(m.numa_node));
  if ((m.from == source::file || m.from == source::device) && m.path.empty())
    return refuse(errc::invalid_argument, "a file or device needs a path");
  if (m.overcommit && (m.reserve || m.prefault || m.pin))
    return refuse(errc::invalid_argument,
                  "overcommit asks for memory that need not be there, reserve, prefault and pin "
                  "for memory that is; ask for one of them");
  if (m.physical_iovas && m.from != source::hugetlb && !m.pin)
    return refuse(errc::not_supported,
                  "the kernel may move pages that are not pinned at any time, even locked ones, "
                  "and their physical addresses with them; pin them (memory_source::pin), bring "
                  "hugetlb memory, or give IOVAs of an IOMMU");
  return {};
}

// A file that was made under this path, and is not wanted after all.
void remove_at(const std::string& path, const os::file_identity& made) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == path.npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  const os::open_result place = os::open_place(directory.c_str(), os::links::followed);
  if (place.fd >= 0)
    (void)os::remove_in(place.fd, path.substr(slash == path.npos ? 0 : slash + 1).c_str(),
                        made.device, made.inode);
  os::close_file(place.fd);
}

}  // namespace

result<region_id> regions::bring_memory(const memory_source& m) {
  ANNEX_TRY(refuse_in_callback(heap_, "bringing memory"));
  if (is_read_only())
    return refuse(errc::read_only,
                  "\"{}\" is attached read-only; attach it writable to bring memory", name_);
  if (!member_.ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(refuse_if_damaged());
  ANNEX_TRY(check_source(m));
  const u64 huge = m.from == source::hugetlb ? m.page_bytes : 0;

  if (m.from == source::shared && !m.path.empty())
    return refuse(errc::invalid_argument,
                  "shared memory lies in the annex directory, not in {}; leave the path empty, or "
                  "bring a file there (kind::file)",
                  m.path);

  // 1 a descriptor, so that other processes can map it too
  const bool is_private = has_option(option_private);
  os::open_result file;
  std::string owned_path;
  std::optional<open_directory> home;  // in which the file gets its name
  bool is_named = false;
  bool is_made_here = false;  // a file under a name that was free before
  switch (m.from) {
    case source::anonymous: break;
    case source::hugetlb:
      if (m.path.empty()) {
        file = os::create_memory_file("annex-hugetlb", huge);
        break;
      }
      [[fallthrough]];
    case source::shared:
      if (is_private) {
        file = os::create_memory_file("annex-memory", huge);
      } else {
        // A file of its own next to the segment (or on the given hugetlbfs), so that it outlives
        // every process. It gets its name when the region's record knows it: a death before leaves
        // no file.
        if (m.path.empty()) {
          auto own = files_.open();
          if (!own) return std::unexpected(own.error());
          home.emplace(std::move(*own));
        } else {
          const os::open_result given = os::open_place(m.path.c_str(), os::links::followed);
          file.error = given.error;
          if (given.fd < 0) break;
          // Its record is not followed through any.
          const std::string without_links = os::path_of(given.fd);
          home.emplace(given.fd, without_links.empty() ? m.path : without_links);
          if (!os::is_hugetlbfs(given.fd))
            return refuse(errc::not_supported,
                          "{} is no hugetlbfs, which hugepages need; mount one (mount -t hugetlbfs "
                          "none DIRECTORY), or bring memory without hugepages",
                          m.path);
        }
        const std::string name = files_.new_name();
        owned_path = home->path_of(name);
        if (owned_path.size() >= limits::path_bytes)
          return refuse(errc::invalid_argument,
                        "{} has {} characters, but a path may have {} here; use a directory with a "
                        "shorter path",
                        owned_path.substr(0, 60), owned_path.size(), limits::path_bytes - 1);
        file = os::create_unnamed_in(home->fd(), files_.new_mode(segment_));
        if (file.error == EOPNOTSUPP || file.error == EISDIR) {
          file = os::create_in(home->fd(), name.c_str(), files_.new_mode(segment_));
          is_named = file.fd >= 0;
        }
        if (file.fd >= 0) files_.give_to_heap(segment_, file.fd);
      }
      break;
    case source::file:
      file = os::open_file(m.path.c_str(), true);
      is_made_here = file.error == ENOENT;
      if (file.fd < 0)
        file = os::open_or_create(m.path.c_str(), is_private ? 0600 : files_.new_mode(segment_));
      break;
    case source::device: file = os::open_file(m.path.c_str(), true); break;
    case source::descriptor:
      file.fd = os::duplicate(m.fd);
      if (file.fd < 0) file.error = errno;
      break;
  }
  void* base = nullptr;
  os::pinned* pins = nullptr;
  os::file_identity identity;
  const u64 end = m.offset_bytes + m.length_bytes;
  bool is_longer = false;  // the file was made longer here
  auto fail = [&](std::unexpected<error> e) -> result<region_id> {
    os::unpin(pins);
    if (base != nullptr) os::unmap(base, m.length_bytes);
    os::file_identity now;
    if (is_longer && os::identify(file.fd, &now) == 0 && now.length_bytes == end)
      (void)os::set_length(file.fd, identity.length_bytes);
    if (is_named && os::identify(file.fd, &now) == 0)
      (void)os::remove_in(home->fd(), owned_path.substr(owned_path.rfind('/') + 1).c_str(),
                          now.device, now.inode);
    if (is_made_here) remove_at(m.path, identity);
    os::close_file(file.fd);
    return e;
  };
  const std::string from = m.from == source::shared && !is_private ? directory() : m.path;
  auto refused = [&](int why, std::string_view doing) {
    if (huge != 0 && (why == ENOMEM || why == ENODEV || why == ENOSPC))
      return refuse_hugepages(why, m.length_bytes, huge);
    const errc code = why == EACCES || why == EPERM                     ? errc::permission
                      : why == ENODEV || why == ENOSYS                  ? errc::not_supported
                      : why == ENOMEM || why == ENOSPC || why == EDQUOT ? errc::out_of_memory
                                                                        : errc::os_failure;
    return refuse_os(code, why, "can't {} {} bytes ({} byte pages){}{}: {}{}", doing,
                     m.length_bytes, m.page_bytes, from.empty() ? "" : " of ", from,
                     std::strerror(why), remedy_for(why));
  };
  if (m.from != source::anonymous && file.fd < 0) {
    owned_path.clear();
    return fail(refused(file.error, m.from == source::shared ? "make a file for" : "open"));
  }
  int node = m.numa_node;
  u64 alignment = std::max<u64>(m.page_bytes, m.length_bytes >= 2 * MiB ? 2 * MiB : 0);
  if (m.from == source::device) {
    const os::device_facts facts = os::facts_of_device(file.fd);
    const u64 step = std::max<u64>(facts.align_bytes, 1);
    if (m.length_bytes % step != 0 || m.offset_bytes % step != 0)
      return fail(refuse(errc::bad_length,
                         "{} bytes at offset {} of {} are not whole steps of {} bytes, in which it "
                         "can be mapped; use multiples",
                         m.length_bytes, m.offset_bytes, m.path, step));
    alignment = std::max(alignment, step);
    if (facts.length_bytes != 0 && end > facts.length_bytes)
      return fail(refuse(errc::bad_length, "{} bytes at offset {} of {}: the device has {}",
                         m.length_bytes, m.offset_bytes, m.path, facts.length_bytes));
    if (node != any_node && facts.node >= 0 && facts.node != node)
      return fail(refuse(errc::wrong_node,
                         "{} belongs to NUMA node {}, not {}; its memory can't be moved", m.path,
                         facts.node, node));
    if (node == any_node && facts.node >= 0) node = facts.node;
  }
  if (file.fd >= 0) {
    if (const int why = os::identify(file.fd, &identity); why != 0)
      return fail(refused(why, "look at"));
    const bool is_device = identity.kind == os::file_kind::character_device ||
                           identity.kind == os::file_kind::block_device;
    if (identity.kind != os::file_kind::regular && !(is_device && m.from != source::file))
      return fail(refuse(errc::wrong_memory, "{} is {}; bring a file, or a device as kind::device",
                         m.from == source::descriptor ? fmt::format("descriptor {}", m.fd) : m.path,
                         words_for(identity.kind)));
  }
  // A device's memory is where it is.
  const int bound_node = m.from == source::device ? any_node : node;
  const bool is_file = file.fd >= 0 && m.from != source::device;
  const os::file_system place = is_file ? os::file_system_of(file.fd) : os::file_system{};
  // A hugepage that is not there is a fault later: better a refusal now.
  const bool populates = m.pin || m.prefault || (huge != 0 && !m.overcommit) ||
                         (m.reserve && m.from == source::anonymous);
  place_request wanted{.more_bytes = m.length_bytes};
  if (is_file) {
    if (m.from == source::descriptor && identity.length_bytes < end)
      return fail(refuse(errc::wrong_memory,
                         "descriptor {} has {} bytes, but the region would reach to {}; make it "
                         "longer, or bring less",
                         m.fd, identity.length_bytes, end));
    wanted.more_bytes -= std::min(wanted.more_bytes, os::allocated_bytes(file.fd));
    wanted.file_bytes = identity.length_bytes < end ? end : 0;
    os::file_identity tables;
    if (place.total_bytes != 0 && os::identify(segment_.fd(), &tables) == 0 &&
        tables.device == identity.device) {
      wanted.table_bytes = table_bytes_of(m.length_bytes);
      if (!populates && !m.reserve) wanted.spare_bytes = spare_bytes_of(m.length_bytes);
    }
    if (!m.overcommit)
      if (auto room = check_place(file.fd, wanted); !room)
        return fail(std::unexpected(room.error()));
  }
  if (!m.overcommit && (place.in_memory || (populates && m.from == source::anonymous)))
    if (auto room =
            check_room(wanted.more_bytes, std::max(huge, place.huge_page_bytes), bound_node);
        !room)
      return fail(std::unexpected(room.error()));
  if (is_file && identity.length_bytes < end) {
    if (const int why = os::set_length(file.fd, end); why != 0) return fail(refused(why, "make"));
    is_longer = true;
  }

  if (file.fd >= 0 && owned_path.empty() && (m.from == source::hugetlb || m.from == source::shared))
    (void)os::seal_length(file.fd);

  // 2 mapped, bound, reserved or populated
  const auto mapped = file.fd >= 0
                          ? os::map_file(file.fd, m.offset_bytes, m.length_bytes, true, alignment)
                          : os::map_anonymous(m.length_bytes, 0, !is_private, alignment);
  if (mapped.address == nullptr) return fail(refused(mapped.error, "map"));
  base = mapped.address;
  const bool is_fresh =
      m.from == source::anonymous || m.from == source::hugetlb || m.from == source::shared;
  if (bound_node != any_node)
    if (const int why = os::bind_to_node(base, m.length_bytes, bound_node); why != 0)
      return fail(refuse_os(errc::wrong_node, why,
                            "can't bind {} bytes to NUMA node {}: {}; this machine has {} nodes",
                            m.length_bytes, bound_node, std::strerror(why), os::node_count()));
  // Pages are taken where the binding says. A memfd has no size that others could use up: the look
  // at the machine is all by default.
  const bool is_limited = place.total_bytes != 0 || place.huge_page_bytes != 0;
  const bool reserves =
      is_file && !m.overcommit && (m.reserve || is_limited) && !(populates && place.in_memory);
  u64 sure_bytes = m.length_bytes;
  if (wanted.spare_bytes != 0 && place.free_bytes < wanted.more_bytes + wanted.table_bytes)
    sure_bytes = align_down(m.length_bytes - wanted.spare_bytes, u64{1} << limits::granule_shift);
  if (reserves)
    if (auto there =
            reserve_file(file.fd, m.offset_bytes, sure_bytes, populates ? nullptr : m.progress);
        !there) {
      if (m.reserve || there.error().code != errc::not_supported)
        return fail(std::unexpected(there.error()));
      sure_bytes = m.length_bytes;
      log(log_level::info, "memory of \"{}\": {}", name_, there.error().message());
    }
  if (m.pin) {
    const auto pinned = pin_memory(base, m.length_bytes, touch::read_write, m.threads, m.progress);
    if (!pinned) return fail(std::unexpected(pinned.error()));
    pins = *pinned;
  } else if (populates) {
    if (auto there = populate_memory(static_cast<char*>(base), m.length_bytes, m.page_bytes,
                                     file.fd, m.threads, m.progress);
        !there)
      return fail(std::unexpected(there.error()));
  }
  if (populates)
    if (auto there = check_node(base, m.length_bytes, m.page_bytes, bound_node); !there)
      return fail(std::unexpected(there.error()));

  // 3 addresses, and the rest as for any memory
  std::vector<iova> iovas(m.page_iovas.begin(), m.page_iovas.end());
  if (m.physical_iovas) {
    std::vector<os::physical_run> runs;
    if (const int why = os::physical_runs(base, m.length_bytes, m.page_bytes, &runs); why != 0)
      return fail(refuse_os(
          errc::permission, why,
          "physical addresses are hidden: {}; run with CAP_SYS_ADMIN, or use IOVAs of an IOMMU",
          std::strerror(why)));
    if (pins == nullptr)
      log(log_level::info,
          "hugepages of \"{}\" are used by their physical addresses without a pin: move_pages, "
          "mbind with MPOL_MF_MOVE and taking memory offline would change them",
          name_);
    iovas.resize(m.length_bytes / m.page_bytes);
    for (const os::physical_run& run : runs)
      for (u64 at = 0; at < run.bytes; at += m.page_bytes)
        iovas[(run.offset + at) / m.page_bytes] = iova{run.address + at};
  }
  const memory_range range{.base = base,
                           .length_bytes = m.length_bytes,
                           .page_bytes = m.page_bytes,
                           .page_iovas = iovas,
                           .fd = file.fd,
                           .fd_offset = m.offset_bytes,
                           .numa_node = node,
                           .contents = is_fresh ? fill::is_zero : fill::keep,
                           .pin = m.pin};
  const bool has_tables_there = !m.overcommit && wanted.table_bytes != 0;
  auto added = add_memory(range, {.mapped_by_annex = true,
                                  .owned_path = owned_path,
                                  .pins = pins,
                                  .physical = m.physical_iovas,
                                  .sure_bytes = has_tables_there ? sure_bytes : ~u64{0}});
  if (!added) return fail(std::unexpected(added.error()));
  is_longer = is_made_here = false;
  pins = nullptr;                              // the region's
  os::close_file(std::exchange(file.fd, -1));  // the region has a duplicate
  return added;
}

}  // namespace annex::detail
