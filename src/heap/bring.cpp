// heap/bring.cpp - getting memory in one call: anonymous, shared, hugepages, files, devices.
//
// Order (devices.md): map → bind to the node → populate → read physical addresses → observers → publish. What was mapped
// here is unmapped again when any step refuses, and on removal.
#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "heap/local_heap.hpp"

#include "platform/os.hpp"

namespace annex::detail {
namespace {

using source = memory_source::kind;

std::string_view remedy_of(source from, int why) {
  if (from == source::hugetlb && (why == ENOMEM || why == ENODEV)) return "; reserve hugepages (vm.nr_hugepages), or bring ordinary pages";
  if (why == EACCES || why == EPERM) return "; check the permissions";
  if (why == ENOSPC || why == ENOMEM) return "; free memory or bring less";
  return "";
}

}  // namespace

result<region_id> local_heap::bring_memory(const memory_source& m) {
  if (is_read_only()) return refuse(errc::read_only, "\"{}\" is attached read-only; attach it writable to bring memory", name_);
  const u64 huge = m.from == source::hugetlb ? m.page_bytes : 0;
  if (m.length_bytes == 0 || m.length_bytes > limits::largest_region_bytes) return refuse(errc::bad_length, "{} bytes are no region: bring 1 page to {} bytes", m.length_bytes, limits::largest_region_bytes);
  if (m.from == source::hugetlb && (!is_power_of_two(huge) || huge < 64 * KiB || huge > limits::largest_page_bytes))
    return refuse(errc::bad_page_size, "{} is no hugepage size; use 2 MiB or 1 GiB", huge);
  if (!is_power_of_two(m.page_bytes) || m.page_bytes < limits::smallest_page_bytes || m.page_bytes > limits::largest_page_bytes)
    return refuse(errc::bad_page_size, "{} bytes are no page size: use a power of two from {} to {}", m.page_bytes, limits::smallest_page_bytes, limits::largest_page_bytes);
  if ((m.from == source::file || m.from == source::device) && m.path.empty()) return refuse(errc::invalid_argument, "a file or device needs a path");
  if (m.physical_iovas && m.from != source::hugetlb && !m.pin)
    return refuse(errc::not_supported, "the kernel may move pages that are not pinned at any time, even locked ones, and their physical addresses with them; pin them (memory_source::pin), bring hugetlb memory, or give IOVAs of an IOMMU");

  // 1 a descriptor, so that other processes can map it too
  const bool is_private = has_option(option_private);
  os::open_result file;
  std::string owned_path;
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
        // A file of its own next to the segment (or on the given hugetlbfs), so that it outlives every process. It gets its
        // name when the region's record knows it: a death before leaves no file.
        const std::string place = m.path.empty() ? directory() : m.path;
        owned_path = place + fmt::format("/{}.annex.{:016x}", name_, os::random_number());
        file = os::create_unnamed(place.c_str(), segment_.header().file_mode & 0666);
        if (file.error == EOPNOTSUPP || file.error == EISDIR) file = os::open_or_create(owned_path.c_str(), segment_.header().file_mode & 0666);
      }
      break;
    case source::file: file = os::open_or_create(m.path.c_str(), segment_.header().file_mode & 0666); break;
    case source::device: file = os::open_file(m.path.c_str(), true); break;
    case source::descriptor:
      file.fd = os::duplicate(m.fd);
      if (file.fd < 0) file.error = EBADF;
      break;
  }
  void* base = nullptr;
  os::pinned* pins = nullptr;
  auto fail = [&](std::unexpected<error> e) -> result<region_id> {
    os::unpin(pins);
    if (base != nullptr) os::unmap(base, m.length_bytes);
    os::close_file(file.fd);
    if (!owned_path.empty()) os::remove_file(owned_path.c_str());
    return e;
  };
  auto refused = [&](int why, std::string_view doing) {
    const errc code = why == EACCES || why == EPERM ? errc::permission : why == ENODEV || why == ENOSYS ? errc::not_supported : why == ENOMEM || why == ENOSPC ? errc::out_of_memory : errc::os_failure;
    return refuse_os(code, why, "can't {} {} bytes ({} byte pages){}{}: {}{}", doing, m.length_bytes, m.page_bytes, m.path.empty() ? "" : " of ", m.path, std::strerror(why), remedy_of(m.from, why));
  };
  if (m.from != source::anonymous && file.fd < 0) {
    owned_path.clear();
    return fail(refused(file.error, "open"));
  }
  int node = m.numa_node;
  u64 alignment = std::max<u64>(m.page_bytes, m.length_bytes >= 2 * MiB ? 2 * MiB : 0);
  if (m.from == source::device) {
    const os::device_facts facts = os::facts_of_device(file.fd);
    const u64 step = std::max<u64>(facts.align_bytes, 1);
    if (m.length_bytes % step != 0 || m.offset_bytes % step != 0)
      return fail(refuse(errc::bad_length, "{} bytes at offset {} of {} are not whole steps of {} bytes, in which it can be mapped; use multiples", m.length_bytes, m.offset_bytes, m.path, step));
    alignment = std::max(alignment, step);
    if (facts.length_bytes != 0 && m.offset_bytes + m.length_bytes > facts.length_bytes)
      return fail(refuse(errc::bad_length, "{} bytes at offset {} of {}: the device has {}", m.length_bytes, m.offset_bytes, m.path, facts.length_bytes));
    if (node != any_node && facts.node >= 0 && facts.node != node) return fail(refuse(errc::wrong_node, "{} belongs to NUMA node {}, not {}; its memory can't be moved", m.path, facts.node, node));
    if (node == any_node && facts.node >= 0) node = facts.node;
  }
  if (file.fd >= 0 && m.from != source::device) {
    os::file_identity identity;
    if (const int why = os::identify(file.fd, &identity); why != 0) return fail(refused(why, "look at"));
    const u64 end = m.offset_bytes + m.length_bytes;
    if (m.from == source::descriptor && identity.length_bytes < end)
      return fail(refuse(errc::wrong_memory, "descriptor {} has {} bytes, but the region would reach to {}; make it longer, or bring less", m.fd, identity.length_bytes, end));
    if (identity.length_bytes < end)
      if (const int why = os::set_length(file.fd, m.offset_bytes + m.length_bytes); why != 0) return fail(refused(why, "make"));
  }

  // 2 mapped, bound, populated
  const auto mapped = file.fd >= 0 ? os::map_file(file.fd, m.offset_bytes, m.length_bytes, true, alignment) : os::map_anonymous(m.length_bytes, 0, !is_private, alignment);
  if (mapped.address == nullptr) return fail(refused(mapped.error, "map"));
  base = mapped.address;
  const bool is_fresh = m.from == source::anonymous || m.from == source::hugetlb || m.from == source::shared;
  const int bound_node = m.from == source::device ? any_node : node;  // a device's memory is where it is
  if (bound_node != any_node)
    if (const int why = os::bind_to_node(base, m.length_bytes, bound_node); why != 0)
      return fail(refuse_os(errc::wrong_node, why, "can't bind {} bytes to NUMA node {}: {}; this machine has {} nodes", m.length_bytes, bound_node, std::strerror(why), os::node_count()));
  const bool populates = m.pin || m.prefault || huge != 0;  // a hugepage that is not there is a fault later: better a refusal now
  if (is_fresh && populates)
    if (auto room = check_room(m.length_bytes, huge, bound_node); !room) return fail(std::unexpected(room.error()));
  if (m.pin) {
    const auto pinned = pin_memory(base, m.length_bytes, touch::read_write, m.threads, m.progress);
    if (!pinned) return fail(std::unexpected(pinned.error()));
    pins = *pinned;
  } else if (populates) {
    if (auto there = populate_memory(static_cast<char*>(base), m.length_bytes, m.page_bytes, m.threads, m.progress); !there) return fail(std::unexpected(there.error()));
  }
  if (populates)
    if (auto there = check_node(base, m.length_bytes, m.page_bytes, bound_node); !there) return fail(std::unexpected(there.error()));

  // 3 addresses, and the rest as for any memory
  std::vector<iova> iovas(m.page_iovas.begin(), m.page_iovas.end());
  if (m.physical_iovas) {
    std::vector<os::physical_run> runs;
    if (const int why = os::physical_runs(base, m.length_bytes, m.page_bytes, &runs); why != 0)
      return fail(refuse_os(errc::permission, why, "physical addresses are hidden: {}; run with CAP_SYS_ADMIN, or use IOVAs of an IOMMU", std::strerror(why)));
    if (pins == nullptr) log(log_level::info, "hugepages of \"{}\" are used by their physical addresses without a pin: move_pages, mbind with MPOL_MF_MOVE and taking memory offline would change them", name_);
    iovas.resize(m.length_bytes / m.page_bytes);
    for (const os::physical_run& run : runs)
      for (u64 at = 0; at < run.bytes; at += m.page_bytes) iovas[(run.offset + at) / m.page_bytes] = iova{run.address + at};
  }
  const memory_range range{.base = base, .length_bytes = m.length_bytes, .page_bytes = m.page_bytes, .page_iovas = iovas, .fd = file.fd, .fd_offset = m.offset_bytes, .numa_node = node,
                           .contents = is_fresh ? fill::is_zero : fill::keep, .pin = m.pin};
  auto added = add_memory(range, true, owned_path, pins, m.physical_iovas);
  if (!added) return fail(std::unexpected(added.error()));
  pins = nullptr;  // the region's
  os::close_file(std::exchange(file.fd, -1));  // the region has a duplicate
  return added;
}

}  // namespace annex::detail
