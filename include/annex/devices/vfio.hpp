// annex/devices/vfio.hpp - the regions of heaps in an IOMMU domain: what a VFIO device may reach
// (library annex_vfio).
//
//   region: runs of IOVAs ── one entry a run, cut at piece_bytes ──▶ the domain's page table
//                                                                    ──▶ every device of the domain
//   block ── heap::locate(block)->bus_address ──▶ what the device is told
//
// A device reaches the regions, and nothing else: a region is in the table before its first block
// is handed out, and out of it before its memory goes. The IOVAs are the region's own, the same in
// every process and domain; choose_iovas() finds some that the domain takes:
//
//   auto domain = must(annex::vfio_domain::create());
//   int device = must(domain->open_device("0000:00:05.0"));  // a VFIO descriptor; you close it
//   auto seen = must(heap.observe(*domain));
//   auto iovas = must(domain->choose_iovas(64 << 20, 2 << 20));
//   must(heap.bring_memory({.from = annex::memory_source::kind::hugetlb,
//                           .length_bytes = 64 << 20,
//                           .page_bytes = 2 << 20,
//                           .page_iovas = iovas}));
//
// The kernel pins what is mapped and counts it against RLIMIT_MEMLOCK unless the process has
// CAP_IPC_LOCK.
// Source: Documentation/driver-api/vfio.rst; Documentation/userspace-api/iommufd.rst (Linux 6.2).
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <annex/observer.hpp>

#include <functional>
#include <memory>
#include <string>

namespace annex {

namespace devices {
class iommu;
}

/// The kernel's two interfaces to a domain. container: /dev/vfio/vfio, type 1. iommufd: /dev/iommu
/// and /dev/vfio/devices.
enum class vfio_interface : std::uint8_t { container, iommufd };

/// Which domain, and which addresses.
struct vfio_options {
  vfio_interface through = vfio_interface::container;  ///< the interface to make it with
  /// Choose_iovas begins here: many devices take 0 for none.
  std::uint64_t lowest_iova = 1 << 20;
  /// The last a device of the domain can say, by its address lines; more is refused.
  std::uint64_t highest_iova = ~std::uint64_t{0};
  /// An entry covers at most so much: power of two, from one page up.
  std::size_t piece_bytes = std::size_t{1} << 30;
  /// After each piece of a region, by whoever adds it; must not use the domain.
  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress{};
};

/// Observes any number of heaps whose IOVAs don't meet, in one process. Threads: any. A process
/// that dies leaves nothing mapped; others' domains stay. A device must be at rest (its descriptor
/// closed, or told to stop) before memory it was given is freed: removal cuts it off, and what it
/// writes then is lost.
class ANNEX_PUBLIC vfio_domain final : public observer {
 public:
  /// Errors: invalid_argument, not_supported (no VFIO or IOMMUFD in this kernel), permission,
  /// os_failure.
  static result<std::unique_ptr<vfio_domain>> create(const vfio_options& options = {});
  /// The program's container, which has a group and its IOMMU set, as DPDK's has; annex keeps a
  /// duplicate. Errors: invalid_argument (not such a container).
  static result<std::unique_ptr<vfio_domain>> adopt_container(int container,
                                                              const vfio_options& options = {});
  /// The program's I/O address space. Errors: invalid_argument (no such).
  static result<std::unique_ptr<vfio_domain>> adopt_iommufd(int iommufd,
                                                            std::uint32_t address_space,
                                                            const vfio_options& options = {});
  /// Its observations must have ended, and its devices been closed.
  ~vfio_domain() override;

  /// Puts a PCI device ("0000:00:05.0", bound to vfio-pci) into the domain: it reaches every region
  /// that is there and those that come. Returns its VFIO descriptor, the caller's to close before
  /// the domain goes. Errors: invalid_argument (no such device), not_supported (no IOMMU, not bound
  /// to vfio-pci, its group is shared with a device that is not), permission, os_failure (EBUSY:
  /// another process has it).
  result<int> open_device(const std::string& address);
  /// IOVAs for a region to come: one for each page, following each other, which the domain takes
  /// and nothing of it uses. They are not kept for the caller. Errors: bad_page_size, bad_length,
  /// limit_reached (no such gap), os_failure; not_attached (a container without a device).
  result<std::vector<iova>> choose_iovas(std::size_t length_bytes, std::size_t page_bytes);

  /// A stretch of bus addresses.
  struct range {
    std::uint64_t first;  ///< that can be mapped
    std::uint64_t last;   ///< that can be mapped
  };
  /// What the domain can map: holes are the interrupt window's and the firmware's. Errors: as
  /// choose_iovas.
  result<std::vector<range>> ranges() const;
  /// Entries of the page table in use.
  std::size_t entries() const noexcept;
  /// How many more the kernel takes: 65,535 to begin with; iommufd has no limit. Errors:
  /// os_failure.
  result<std::size_t> entries_left() const;

  /// As observer::name().
  std::string_view name() const noexcept override;
  result<void> on_add(const region_view& region) override;
  result<void> finish_remove(const region_view& region,
                             std::chrono::steady_clock::time_point deadline) override;

 private:
  struct state;
  static result<std::unique_ptr<vfio_domain>> over(result<std::unique_ptr<devices::iommu>> table,
                                                   const vfio_options& options);
  explicit vfio_domain(std::unique_ptr<state> s) noexcept;
  std::unique_ptr<state> state_;
};

}  // namespace annex

#endif
