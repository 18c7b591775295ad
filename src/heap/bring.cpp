// heap/bring.cpp - getting memory in one call: anonymous, shared, hugepages, files, devices.
//
// Order: the file (source_file.hpp) → room looked at → map → bind to the node → reserve or
// populate → read physical addresses → observers → publish. What was mapped, made or made longer
// here is put right again when any step refuses; removal unmaps.
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
// docs/design/0010 says why. With prefault or pin, and for huge pages in memory, pages are
// populated instead of reserved.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "heap/huge_pages.hpp"
#include "heap/memory_range.hpp"
#include "heap/regions.hpp"
#include "heap/source_file.hpp"
#include "platform/files.hpp"
#include "platform/memory.hpp"
#include "platform/numa.hpp"
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
  ANNEX_TRY(check_page_size(m.page_bytes));
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
  ANNEX_TRY(check_huge(m));
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

}  // namespace

// Memory on its way in. What was mapped and pinned for it is let go of, and then its file put right
// again, when any step refuses; after the last one both are the region's.
class regions::bringing {
 public:
  bringing(regions& memory, const memory_source& m) noexcept
      : memory_(memory),
        m_(m),
        file_(m, memory.files_, memory.segment_, memory.has_option(option_private)),
        node_(m.numa_node) {}
  ~bringing();
  bringing(const bringing&) = delete;
  bringing& operator=(const bringing&) = delete;

  result<void> open();
  result<void> look_for_room();
  result<void> map();
  result<void> reserve();
  result<void> populate();
  result<void> read_addresses();
  result<region_id> add();

 private:
  result<void> fit_device();
  result<void> settle_huge();
  result<void> want_of_place();

  // A device's memory is where it is.
  int bound_node() const noexcept { return m_.from == source::device ? any_node : node_; }
  bool is_file() const noexcept { return file_.is_there() && m_.from != source::device; }
  // A hugepage that is not there is a fault later: better a refusal now.
  bool populates() const noexcept {
    return m_.pin || m_.prefault || (file_.huge_page_bytes() != 0 && !m_.overcommit) ||
           (m_.reserve && m_.from == source::anonymous) || m_.huge == huge_pages::always ||
           (m_.huge == huge_pages::aligned && is_file() && !m_.overcommit);
  }
  // A memfd has no size that others could use up: the look at the machine is all by default.
  bool reserves() const noexcept {
    const bool is_limited = place_.total_bytes != 0 || place_.huge_page_bytes != 0;
    return is_file() && !m_.overcommit && (m_.reserve || is_limited) &&
           !(populates() && place_.in_memory);
  }

  regions& memory_;
  const memory_source& m_;
  source_file file_;
  int node_;
  huge_pages huge_ = huge_pages::automatic;
  u64 alignment_ = 0;
  os::file_system place_;  // of a file
  place_request wanted_;
  void* base_ = nullptr;
  u64 sure_bytes_ = 0;  // reserved
  os::pinned* pins_ = nullptr;
  std::vector<iova> iovas_;
  bool is_done_ = false;
};

regions::bringing::~bringing() {
  if (is_done_) return;
  os::unpin(pins_);
  if (base_ != nullptr) os::unmap(base_, m_.length_bytes);
}

// The steps in which a device can be mapped, and its node.
result<void> regions::bringing::fit_device() {
  const os::device_facts facts = os::facts_of_device(file_.fd());
  const u64 step = std::max<u64>(facts.align_bytes, 1);
  if (m_.length_bytes % step != 0 || m_.offset_bytes % step != 0)
    return refuse(errc::bad_length,
                  "{} bytes at offset {} of {} are not whole steps of {} bytes, in which it "
                  "can be mapped; use multiples",
                  m_.length_bytes, m_.offset_bytes, m_.path, step);
  alignment_ = std::max(alignment_, step);
  if (facts.length_bytes != 0 && file_.end() > facts.length_bytes)
    return refuse(errc::bad_length, "{} bytes at offset {} of {}: the device has {}",
                  m_.length_bytes, m_.offset_bytes, m_.path, facts.length_bytes);
  if (node_ != any_node && facts.node >= 0 && facts.node != node_)
    return refuse(errc::wrong_node, "{} belongs to NUMA node {}, not {}; its memory can't be moved",
                  m_.path, facts.node, node_);
  if (node_ == any_node && facts.node >= 0) node_ = facts.node;
  return {};
}

// The file, looked at.
result<void> regions::bringing::open() {
  ANNEX_TRY(file_.open());
  alignment_ = std::max<u64>(m_.page_bytes, m_.length_bytes >= 2 * MiB ? 2 * MiB : 0);
  if (m_.from == source::device) ANNEX_TRY(fit_device());
  ANNEX_TRY(file_.identify());
  if (is_file()) place_ = os::file_system_of(file_.fd());
  return settle_huge();
}

// By itself where every page comes at once and it costs no memory; what others made stays as it is.
result<void> regions::bringing::settle_huge() {
  const bool is_hugetlb = file_.huge_page_bytes() != 0 || place_.huge_page_bytes != 0;
  const bool can_be =
      m_.from == source::anonymous || (is_file() && place_.in_memory && !is_hugetlb);
  if (wants_huge(m_.huge) && !can_be)
    return refuse(errc::invalid_argument,
                  "transparent huge pages are asked for, but {} lies on a disk or in hugetlbfs; "
                  "leave huge automatic, or bring anonymous or shared memory",
                  m_.path.empty() ? "the descriptor" : m_.path);
  huge_ = m_.huge;
  if (huge_ == huge_pages::automatic && can_be && populates() && m_.from != source::descriptor)
    huge_ = huge_pages::aligned;
  if (wants_huge(huge_) && m_.length_bytes >= os::transparent_page_bytes())
    alignment_ = std::max(alignment_, os::transparent_page_bytes());
  return {};
}

// What the file system must have for it.
result<void> regions::bringing::want_of_place() {
  const os::file_identity& identity = file_.identity();
  if (m_.from == source::descriptor && file_.is_too_short())
    return refuse(errc::wrong_memory,
                  "descriptor {} has {} bytes, but the region would reach to {}; make it "
                  "longer, or bring less",
                  m_.fd, identity.length_bytes, file_.end());
  wanted_.more_bytes -= std::min(wanted_.more_bytes, os::allocated_bytes(file_.fd()));
  wanted_.file_bytes = file_.is_too_short() ? file_.end() : 0;
  os::file_identity tables;
  if (place_.total_bytes == 0 || os::identify(memory_.segment_.fd(), &tables) != 0 ||
      tables.device != identity.device)
    return {};
  wanted_.table_bytes = table_bytes_of(m_.length_bytes);
  if (!populates() && !m_.reserve) wanted_.spare_bytes = spare_bytes_of(m_.length_bytes);
  return {};
}

// Of the file system and of the machine, before anything is taken.
result<void> regions::bringing::look_for_room() {
  wanted_.more_bytes = m_.length_bytes;
  if (is_file()) {
    ANNEX_TRY(want_of_place());
    if (!m_.overcommit) ANNEX_TRY(check_place(file_.fd(), wanted_));
  }
  const bool takes_of_machine = place_.in_memory || (populates() && m_.from == source::anonymous);
  if (m_.overcommit || !takes_of_machine) return {};
  const u64 huge = std::max(file_.huge_page_bytes(), place_.huge_page_bytes);
  return check_room(wanted_.more_bytes, huge, bound_node());
}

// The file as long as it shall be, mapped and bound: pages are taken where the binding says.
result<void> regions::bringing::map() {
  if (is_file()) ANNEX_TRY(file_.set_length());
  file_.seal_length();
  const bool is_shared = !memory_.has_option(option_private);
  const auto mapped =
      file_.is_there()
          ? os::map_file(file_.fd(), m_.offset_bytes, m_.length_bytes, true, alignment_)
          : os::map_anonymous(m_.length_bytes, 0, is_shared, alignment_);
  if (mapped.address == nullptr) return file_.refused(mapped.error, "map");
  base_ = mapped.address;
  ANNEX_TRY(check_huge(memory_range{.base = base_,
                                    .length_bytes = m_.length_bytes,
                                    .fd = file_.fd(),
                                    .fd_offset = m_.offset_bytes,
                                    .huge = huge_}));
  ask_for_huge(base_, m_.length_bytes, huge_);
  if (bound_node() == any_node) return {};
  const int why = os::bind_to_node(base_, m_.length_bytes, bound_node());
  if (why == 0) return {};
  return refuse_os(errc::wrong_node, why,
                   "can't bind {} bytes to NUMA node {}: {}; this machine has {} nodes",
                   m_.length_bytes, bound_node(), std::strerror(why), os::node_count());
}

// Every page of the file, but for the last where it is as large as its file system.
result<void> regions::bringing::reserve() {
  sure_bytes_ = m_.length_bytes;
  if (wanted_.spare_bytes != 0 && place_.free_bytes < wanted_.more_bytes + wanted_.table_bytes)
    sure_bytes_ =
        align_down(m_.length_bytes - wanted_.spare_bytes, u64{1} << limits::granule_shift);
  if (!reserves()) return {};
  const auto there =
      reserve_file(file_.fd(), m_.offset_bytes, sure_bytes_, populates() ? nullptr : m_.progress);
  if (there) return {};
  if (m_.reserve || there.error().code != errc::not_supported) return there;
  sure_bytes_ = m_.length_bytes;
  log(log_level::info, "memory of \"{}\": {}", memory_.name_, there.error().message());
  return {};
}

// Pinned or populated, on its node.
result<void> regions::bringing::populate() {
  if (!populates()) return {};
  if (!m_.pin || wants_huge(huge_))
    ANNEX_TRY(populate_memory(static_cast<char*>(base_), m_.length_bytes, m_.page_bytes, file_.fd(),
                              m_.threads, m_.progress, huge_));
  if (m_.pin) {
    const auto pinned =
        pin_memory(base_, m_.length_bytes, touch::read_write, m_.threads,
                   wants_huge(huge_) ? std::function<void(u64, u64)>{} : m_.progress);
    if (!pinned) return std::unexpected(pinned.error());
    pins_ = *pinned;
  }
  return check_node(base_, m_.length_bytes, m_.page_bytes, bound_node());
}

// The IOVAs of its pages: given, or where they are.
result<void> regions::bringing::read_addresses() {
  iovas_.assign(m_.page_iovas.begin(), m_.page_iovas.end());
  if (!m_.physical_iovas) return {};
  std::vector<os::physical_run> runs;
  if (const int why = os::physical_runs(base_, m_.length_bytes, m_.page_bytes, &runs); why != 0)
    return refuse_os(
        errc::permission, why,
        "physical addresses are hidden: {}; run with CAP_SYS_ADMIN, or use IOVAs of an IOMMU",
        std::strerror(why));
  if (pins_ == nullptr)
    log(log_level::info,
        "hugepages of \"{}\" are used by their physical addresses without a pin: move_pages, "
        "mbind with MPOL_MF_MOVE and taking memory offline would change them",
        memory_.name_);
  iovas_.resize(m_.length_bytes / m_.page_bytes);
  for (const os::physical_run& run : runs)
    for (u64 at = 0; at < run.bytes; at += m_.page_bytes)
      iovas_[(run.offset + at) / m_.page_bytes] = iova{run.address + at};
  return {};
}

// The rest as for any memory.
result<region_id> regions::bringing::add() {
  const bool is_fresh =
      m_.from == source::anonymous || m_.from == source::hugetlb || m_.from == source::shared;
  const memory_range range{.base = base_,
                           .length_bytes = m_.length_bytes,
                           .page_bytes = m_.page_bytes,
                           .page_iovas = iovas_,
                           .fd = file_.fd(),
                           .fd_offset = m_.offset_bytes,
                           .numa_node = node_,
                           .contents = is_fresh ? fill::is_zero : fill::keep,
                           .pin = m_.pin,
                           .huge = huge_};
  const bool has_tables_there = !m_.overcommit && wanted_.table_bytes != 0;
  auto added = memory_.add_memory(range, {.mapped_by_annex = true,
                                          .owned_path = file_.owned_path(),
                                          .pins = pins_,
                                          .physical = m_.physical_iovas,
                                          .sure_bytes = has_tables_there ? sure_bytes_ : ~u64{0}});
  if (!added) return added;
  is_done_ = true;
  file_.keep();
  return added;
}

result<region_id> regions::bring_memory(const memory_source& m) {
  ANNEX_TRY(refuse_in_callback(heap_, "bringing memory"));
  if (is_read_only())
    return refuse(errc::read_only,
                  "\"{}\" is attached read-only; attach it writable to bring memory", name_);
  if (!member_.ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(refuse_if_damaged());
  ANNEX_TRY(check_source(m));
  if (m.from == source::shared && !m.path.empty())
    return refuse(errc::invalid_argument,
                  "shared memory lies in the annex directory, not in {}; leave the path empty, or "
                  "bring a file there (kind::file)",
                  m.path);
  bringing brought(*this, m);
  ANNEX_TRY(brought.open());
  ANNEX_TRY(brought.look_for_room());
  ANNEX_TRY(brought.map());
  ANNEX_TRY(brought.reserve());
  ANNEX_TRY(brought.populate());
  ANNEX_TRY(brought.read_addresses());
  return brought.add();
}

}  // namespace annex::detail
