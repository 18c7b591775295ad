// devices/vfio/iommu.hpp - what VFIO's container and IOMMUFD have in common: a page table, and
// devices behind it.
#pragma once
#include <annex/devices/vfio.hpp>

#include "base/units.hpp"

namespace annex::devices {

/// What a domain can map now; devices that join may take away from it.
struct iommu_reach {
  std::vector<vfio_domain::range> ranges;
  u64 smallest_page_bytes = 4 * KiB;
  u64 entries_left = ~u64{0};
};

class iommu {
 public:
  virtual ~iommu() = default;
  virtual result<int> open_device(const std::string& address) = 0;
  virtual result<iommu_reach> reach() const = 0;
  /// 0, or errno.
  virtual int map(void* base, u64 bytes, u64 bus) = 0;
  /// Of exactly what was mapped by one call. 0, or errno.
  virtual int unmap(u64 bus, u64 bytes) = 0;
};

/// container -1: one of its own.
result<std::unique_ptr<iommu>> open_container(int container);
/// iommufd -1: one of its own, with an address space of its own.
result<std::unique_ptr<iommu>> open_iommufd(int iommufd, u32 address_space);

/// A link of a PCI device in sysfs, by its last part ("12" of …/iommu_group); empty: none. Errors:
/// invalid_argument (no such device).
result<std::string> device_link(const std::string& address, const char* link);
/// The sentence that says how to bind a device.
std::unexpected<error> not_bound(const std::string& address);

}  // namespace annex::devices
