// devices/vfio/vfio_domain.cpp - which regions are in the page table, by which entries, and IOVAs
// that are free.
//
//   on_add         checked (holes, address lines, pages, entries left) → mapped piece by piece → in
//                  the list; when it is refused, what was mapped is unmapped
//   finish_remove  unmapped piece by piece, each as it was mapped, and out of the list;
//                  what a refusal leaves is tried again
//
// One region at a time: the kernel would let only one map anyway.
// If the process dies the kernel closes the domain: nothing is mapped any more.
#include <algorithm>
#include <cstring>
#include <mutex>

#include "base/failure.hpp"
#include "base/limits.hpp"
#include "devices/vfio/iommu.hpp"

namespace annex {

struct vfio_domain::state {
  struct entry {
    heap_id heap;
    region_id region;
    u64 bus, bytes;
    u64 last() const { return bus + bytes - 1; }
    bool is_of(const region_view& r) const { return heap == r.heap && region == r.region; }
  };
  vfio_options options;
  std::unique_ptr<devices::iommu> table;
  mutable std::mutex mutex;
  std::vector<entry> entries;
  u64 search_from = 0;  // choose_iovas goes on behind what it gave last

  // The ranges without what no device here can say, and without the last page of all: mapped there,
  // it can't be unmapped.
  result<devices::iommu_reach> usable() const {
    auto reach = table->reach();
    if (!reach) return reach;
    const u64 last = std::min(options.highest_iova, ~u64{0} - reach->smallest_page_bytes);
    std::erase_if(reach->ranges, [&](const range& r) { return r.first > last; });
    for (range& r : reach->ranges)
      r.last = std::min(r.last, last);
    return reach;
  }

  result<void> check(const region_view& region, const devices::iommu_reach& reach,
                     u64 pieces) const {
    const u32 id = static_cast<u32>(region.region);
    if (region.runs.empty())
      return refuse(errc::bad_iova,
                    "region {} has no IOVAs, so no device could be told where it is; add it with "
                    "page_iovas of vfio_domain::choose_iovas",
                    id);
    if (region.page_bytes % reach.smallest_page_bytes != 0)
      return refuse(errc::bad_page_size,
                    "region {} has pages of {} bytes; this IOMMU maps {} at the least", id,
                    region.page_bytes, reach.smallest_page_bytes);
    for (const auto& run : region.runs) {
      const u64 first = static_cast<u64>(run.bus_address), last = first + run.length_bytes - 1;
      if (last > options.highest_iova)
        return refuse(errc::bad_iova,
                      "IOVA {:#x} of region {} is beyond {:#x}, the last a device of this domain "
                      "can say; use choose_iovas",
                      last, id, options.highest_iova);
      if (std::none_of(reach.ranges.begin(), reach.ranges.end(),
                       [&](const range& r) { return first >= r.first && last <= r.last; }))
        return refuse(errc::bad_iova,
                      "IOVAs {:#x} to {:#x} of region {} are not all within what this IOMMU maps "
                      "(vfio_domain::ranges); use choose_iovas",
                      first, last, id);
      for (const entry& e : entries)
        if (!e.is_of(region) && first <= e.last() && e.bus <= last)
          return refuse(errc::iova_overlap,
                        "IOVA {:#x} of region {} is in use in this domain, by a region of heap "
                        "{:#x}; use choose_iovas",
                        std::max(first, e.bus), id, static_cast<u64>(e.heap));
    }
    if (pieces > reach.entries_left)
      return refuse(errc::limit_reached,
                    "region {} needs {} entries and VFIO takes {} more; bring memory whose IOVAs "
                    "follow each other, or raise vfio_iommu_type1.dma_entry_limit",
                    id, pieces, reach.entries_left);
    return {};
  }

  static std::unexpected<error> cannot_map(int why, const region_view& region, u64 bus) {
    const u32 id = static_cast<u32>(region.region);
    if (why == ENOMEM)
      return refuse_os(errc::out_of_memory, why,
                       "region {} of {} bytes can't be pinned: the locked-memory limit is too low; "
                       "raise it (ulimit -l) or grant CAP_IPC_LOCK",
                       id, region.length_bytes);
    if (why == EEXIST || why == EADDRINUSE)
      return refuse_os(errc::iova_overlap, why,
                       "IOVA {:#x} of region {} is in use in this domain; use choose_iovas", bus,
                       id);
    if (why == ENOSPC)
      return refuse_os(
          errc::limit_reached, why,
          "region {} needs more entries than VFIO takes; raise vfio_iommu_type1.dma_entry_limit",
          id);
    if (why == EFAULT || why == EOPNOTSUPP)
      return refuse_os(errc::not_supported, why,
                       "region {} can't be pinned: it is not mapped readable and writable, or is a "
                       "disk file mapped shared",
                       id);
    return refuse_os(errc::os_failure, why, "the IOMMU refused region {} at IOVA {:#x}: {}", id,
                     bus, std::strerror(why));
  }
};

vfio_domain::vfio_domain(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}
vfio_domain::~vfio_domain() = default;

result<std::unique_ptr<vfio_domain>> vfio_domain::over(
    result<std::unique_ptr<devices::iommu>> table, const vfio_options& o) {
  if (!table) return std::unexpected(table.error());
  if (!is_power_of_two(o.piece_bytes) || o.piece_bytes < limits::smallest_page_bytes)
    return refuse(errc::invalid_argument,
                  "pieces of {} bytes can't be mapped: use a power of two from {}", o.piece_bytes,
                  limits::smallest_page_bytes);
  if (o.lowest_iova >= o.highest_iova)
    return refuse(errc::invalid_argument, "IOVAs from {:#x} to {:#x} are none", o.lowest_iova,
                  o.highest_iova);
  auto s = std::make_unique<state>();
  s->options = o;
  s->table = std::move(*table);
  return std::unique_ptr<vfio_domain>(new vfio_domain(std::move(s)));
}

result<std::unique_ptr<vfio_domain>> vfio_domain::create(const vfio_options& o) {
  return over(o.through == vfio_interface::iommufd ? devices::open_iommufd(-1, 0)
                                                   : devices::open_container(-1),
              o);
}

result<std::unique_ptr<vfio_domain>> vfio_domain::adopt_container(int container,
                                                                  const vfio_options& o) {
  if (container < 0)
    return refuse(errc::invalid_argument, "descriptor {} is no VFIO container", container);
  return over(devices::open_container(container), o);
}

result<std::unique_ptr<vfio_domain>> vfio_domain::adopt_iommufd(int iommufd,
                                                                std::uint32_t address_space,
                                                                const vfio_options& o) {
  if (iommufd < 0) return refuse(errc::invalid_argument, "descriptor {} is no IOMMUFD", iommufd);
  return over(devices::open_iommufd(iommufd, address_space), o);
}

result<int> vfio_domain::open_device(const std::string& address) {
  return state_->table->open_device(address);
}

result<std::vector<iova>> vfio_domain::choose_iovas(std::size_t length_bytes,
                                                    std::size_t page_bytes) {
  if (!is_power_of_two(page_bytes) || page_bytes < limits::smallest_page_bytes ||
      page_bytes > limits::largest_page_bytes)
    return refuse(errc::bad_page_size,
                  "pages of {} bytes are none: a power of two from 4 KiB to 1 GiB", page_bytes);
  if (length_bytes == 0 || length_bytes % page_bytes != 0)
    return refuse(errc::bad_length, "{} bytes are not whole pages of {} bytes", length_bytes,
                  page_bytes);
  state& s = *state_;
  std::lock_guard guard(s.mutex);
  const auto reach = s.usable();
  if (!reach) return std::unexpected(reach.error());
  // So that the IOMMU can use its own large pages where memory has them.
  const u64 align = std::max<u64>(
      {page_bytes, reach->smallest_page_bytes, length_bytes >= 2 * MiB ? 2 * MiB : 0});
  auto first_gap_from = [&](u64 lowest) -> std::optional<u64> {
    for (const range& r : reach->ranges) {
      u64 at = align_up(std::max(r.first, lowest), align);
      for (bool moved = true; moved && at >= lowest;) {
        moved = false;
        for (const auto& e : s.entries)
          if (at <= e.last() && e.bus <= at + length_bytes - 1)
            at = align_up(e.last() + 1, align), moved = true;
      }
      if (at >= std::max(r.first, lowest) && at <= r.last && r.last - at >= length_bytes - 1)
        return at;
    }
    return {};
  };
  auto found = first_gap_from(std::max(s.search_from, s.options.lowest_iova));
  if (!found) found = first_gap_from(s.options.lowest_iova);
  if (!found)
    return refuse(
        errc::limit_reached,
        "no gap of {} bytes is left among the IOVAs of this domain ({:#x} to {:#x}, {} entries)",
        length_bytes, s.options.lowest_iova, s.options.highest_iova, s.entries.size());
  s.search_from = *found + length_bytes;
  std::vector<iova> pages(length_bytes / page_bytes);
  for (size_t i = 0; i < pages.size(); ++i)
    pages[i] = iova{*found + i * page_bytes};
  return pages;
}

result<std::vector<vfio_domain::range>> vfio_domain::ranges() const {
  auto reach = state_->usable();
  if (!reach) return std::unexpected(reach.error());
  return std::move(reach->ranges);
}

std::size_t vfio_domain::entries() const noexcept {
  std::lock_guard guard(state_->mutex);
  return state_->entries.size();
}

result<std::size_t> vfio_domain::entries_left() const {
  const auto reach = state_->table->reach();
  if (!reach) return std::unexpected(reach.error());
  return reach->entries_left;
}

std::string_view vfio_domain::name() const noexcept {
  return "vfio";
}

result<void> vfio_domain::on_add(const region_view& region) {
  state& s = *state_;
  std::lock_guard guard(s.mutex);
  const u64 piece_bytes = std::max<u64>(s.options.piece_bytes, region.page_bytes);
  u64 pieces = 0;
  for (const auto& run : region.runs)
    pieces += divide_up(run.length_bytes, piece_bytes);
  const auto reach = s.usable();
  if (!reach) return std::unexpected(reach.error());
  ANNEX_TRY(s.check(region, *reach, pieces));
  const size_t before = s.entries.size();
  s.entries.reserve(before + pieces);
  u64 done = 0;
  for (const auto& run : region.runs)
    for (u64 at = 0; at < run.length_bytes; at += piece_bytes) {
      const u64 bus = static_cast<u64>(run.bus_address) + at,
                bytes = std::min<u64>(piece_bytes, run.length_bytes - at);
      // A removal was refused before it came here.
      if (std::any_of(s.entries.begin(), s.entries.begin() + static_cast<long>(before),
                      [&](const auto& e) { return e.is_of(region) && e.bus == bus; }))
        continue;
      if (const int why =
              s.table->map(static_cast<char*>(region.base) + run.offset_bytes + at, bytes, bus);
          why != 0) {
        for (; s.entries.size() > before; s.entries.pop_back())
          (void)s.table->unmap(s.entries.back().bus, s.entries.back().bytes);
        return state::cannot_map(why, region, bus);
      }
      s.entries.push_back({region.heap, region.region, bus, bytes});
      done += bytes;
      if (s.options.progress) s.options.progress(done, region.length_bytes);
    }
  return {};
}

result<void> vfio_domain::finish_remove(const region_view& region,
                                        std::chrono::steady_clock::time_point) {
  state& s = *state_;
  std::lock_guard guard(s.mutex);
  for (size_t i = 0; i < s.entries.size();) {
    const auto e = s.entries[i];
    if (!e.is_of(region)) {
      ++i;
      continue;
    }
    if (const int why = s.table->unmap(e.bus, e.bytes); why != 0 && why != ENOENT)
      return refuse_os(errc::os_failure, why, "IOVA {:#x} of region {} can't be unmapped: {}",
                       e.bus, static_cast<u32>(region.region), std::strerror(why));
    s.entries[i] = s.entries.back();
    s.entries.pop_back();
  }
  return {};
}

}  // namespace annex
