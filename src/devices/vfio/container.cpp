// devices/vfio/container.cpp - a domain as VFIO's container (type 1, version 2), and where a PCI
// device is found in sysfs.
//
//   container ◀─ group ◀─ device      the first group decides what the IOMMU is;
//                                     until then the container can't map
//
// Groups stay open as long as the container: closing one would take its devices out of the domain.
#include <fcntl.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <mutex>

#include "base/failure.hpp"
#include "devices/vfio/iommu.hpp"

namespace annex::devices {
namespace {

class container final : public iommu {
 public:
  explicit container(int fd) : fd_(fd) {}
  ~container() override {
    for (const auto& [number, group] : groups_)
      ::close(group);
    ::close(fd_);
  }

  result<int> open_device(const std::string& address) override {
    const auto number = device_link(address, "iommu_group");
    if (!number) return std::unexpected(number.error());
    if (number->empty())
      return refuse(errc::not_supported,
                    "device {} is behind no IOMMU; turn it on in the firmware and on the kernel's "
                    "command line (intel_iommu=on)",
                    address);
    const auto driver = device_link(address, "driver");
    if (!driver || *driver != "vfio-pci") return not_bound(address);
    std::lock_guard guard(mutex_);
    const auto group = join(*number, address);
    if (!group) return std::unexpected(group.error());
    const int device = ::ioctl(*group, VFIO_GROUP_GET_DEVICE_FD, address.c_str());
    if (device < 0)
      return refuse_os(errc::os_failure, errno, "VFIO does not give out device {}: {}", address,
                       std::strerror(errno));
    return device;
  }

  result<iommu_reach> reach() const override {
    ::vfio_iommu_type1_info head{};
    head.argsz = sizeof head;
    if (::ioctl(fd_, VFIO_IOMMU_GET_INFO, &head) != 0)
      return refuse_os(
          errc::not_attached, errno,
          "no device is in this domain yet, so its IOVAs are not known; open_device first");
    std::vector<char> all(head.argsz);
    auto* const info = reinterpret_cast<::vfio_iommu_type1_info*>(all.data());
    *info = {};
    info->argsz = head.argsz;
    if (::ioctl(fd_, VFIO_IOMMU_GET_INFO, info) != 0)
      return refuse_os(errc::os_failure, errno, "VFIO does not say what the IOMMU can map: {}",
                       std::strerror(errno));
    iommu_reach r;
    if ((info->flags & VFIO_IOMMU_INFO_PGSIZES) != 0 && info->iova_pgsizes != 0)
      r.smallest_page_bytes = info->iova_pgsizes & (~info->iova_pgsizes + 1);
    for (u32 at = (info->flags & VFIO_IOMMU_INFO_CAPS) != 0 ? info->cap_offset : 0; at != 0;) {
      const auto* const capability =
          reinterpret_cast<const ::vfio_info_cap_header*>(all.data() + at);
      if (capability->id == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) {
        const auto* const ranges =
            reinterpret_cast<const ::vfio_iommu_type1_info_cap_iova_range*>(capability);
        for (u32 i = 0; i < ranges->nr_iovas; ++i)
          r.ranges.push_back({ranges->iova_ranges[i].start, ranges->iova_ranges[i].end});
      } else if (capability->id == VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL) {
        r.entries_left =
            reinterpret_cast<const ::vfio_iommu_type1_info_dma_avail*>(capability)->avail;
      }
      at = capability->next;
    }
    // A kernel that does not say: what the narrowest IOMMU has.
    if (r.ranges.empty()) r.ranges.push_back({0, (u64{1} << 39) - 1});
    return r;
  }

  int map(void* base, u64 bytes, u64 bus) override {
    ::vfio_iommu_type1_dma_map request{};
    request.argsz = sizeof request;
    request.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
    request.vaddr = reinterpret_cast<u64>(base);
    request.iova = bus;
    request.size = bytes;
    return ::ioctl(fd_, VFIO_IOMMU_MAP_DMA, &request) == 0 ? 0 : errno;
  }

  int unmap(u64 bus, u64 bytes) override {
    ::vfio_iommu_type1_dma_unmap request{};
    request.argsz = sizeof request;
    request.iova = bus;
    request.size = bytes;
    if (::ioctl(fd_, VFIO_IOMMU_UNMAP_DMA, &request) != 0) return errno;
    return request.size == bytes ? 0 : ENOENT;
  }

 private:
  result<int> join(const std::string& number, const std::string& address) {
    if (const auto known = groups_.find(number); known != groups_.end()) return known->second;
    const std::string path = "/dev/vfio/" + number;
    const int group = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (group < 0) {
      const int why = errno;
      if (why == EBUSY)
        return refuse_os(errc::os_failure, why,
                         "device {}: another process, or another part of this one, has {}", address,
                         path);
      if (why == EACCES || why == EPERM)
        return refuse_os(errc::permission, why,
                         "device {}: {} may not be opened; chown it to this user", address, path);
      return refuse_os(errc::not_supported, why, "device {}: {} can't be opened: {}", address, path,
                       std::strerror(why));
    }
    auto leave = [&](std::unexpected<error> refusal) {
      ::close(group);
      return refusal;
    };
    ::vfio_group_status status{};
    status.argsz = sizeof status;
    if (::ioctl(group, VFIO_GROUP_GET_STATUS, &status) != 0 ||
        (status.flags & VFIO_GROUP_FLAGS_VIABLE) == 0)
      return leave(refuse(errc::not_supported,
                          "device {} shares IOMMU group {} with devices that other drivers have; "
                          "bind all of /sys/kernel/iommu_groups/{}/devices to vfio-pci",
                          address, number, number));
    if (::ioctl(group, VFIO_GROUP_SET_CONTAINER, &fd_) != 0)
      return leave(refuse_os(errc::os_failure, errno,
                             "IOMMU group {} of device {} does not fit this domain: {}", number,
                             address, std::strerror(errno)));
    ::vfio_iommu_type1_info info{};
    info.argsz = sizeof info;
    const bool has_iommu = ::ioctl(fd_, VFIO_IOMMU_GET_INFO, &info) == 0;
    if (!has_iommu && ::ioctl(fd_, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) != 0) {
      const int why = errno;
      ::ioctl(group, VFIO_GROUP_UNSET_CONTAINER);
      if (why == EPERM)
        return leave(
            refuse_os(errc::permission, why,
                      "device {}: its IOMMU can't keep interrupts apart; load vfio_iommu_type1 "
                      "with allow_unsafe_interrupts=1 if that is acceptable",
                      address));
      return leave(refuse_os(errc::not_supported, why,
                             "device {}: no type 1 IOMMU (is vfio_iommu_type1 loaded?): {}",
                             address, std::strerror(why)));
    }
    groups_.emplace(number, group);
    return group;
  }

  int fd_;
  std::mutex mutex_;
  std::map<std::string, int> groups_;
};

}  // namespace

result<std::unique_ptr<iommu>> open_container(int given) {
  const int fd = given >= 0 ? ::fcntl(given, F_DUPFD_CLOEXEC, 3)
                            : ::open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
  if (fd < 0 && given >= 0)
    return refuse_os(errc::invalid_argument, errno, "descriptor {} is no VFIO container: {}", given,
                     std::strerror(errno));
  if (fd < 0 && errno == EACCES)
    return refuse_os(errc::permission, EACCES, "/dev/vfio/vfio may not be opened by this user");
  if (fd < 0)
    return refuse_os(errc::not_supported, errno,
                     "no VFIO here: /dev/vfio/vfio: {}; load vfio-pci, and turn the IOMMU on",
                     std::strerror(errno));
  auto c = std::make_unique<container>(fd);
  if (::ioctl(fd, VFIO_GET_API_VERSION) != VFIO_API_VERSION)
    return refuse(given >= 0 ? errc::invalid_argument : errc::not_supported,
                  "descriptor {} is no VFIO container of version {}", given >= 0 ? given : fd,
                  VFIO_API_VERSION);
  if (given >= 0 && !c->reach())
    return refuse(errc::invalid_argument,
                  "descriptor {} is a container whose IOMMU is not set; put a group into it first",
                  given);
  return c;
}

result<std::string> device_link(const std::string& address, const char* link) {
  const std::string device = "/sys/bus/pci/devices/" + address;
  if (address.empty() || address.find('/') != std::string::npos ||
      ::access(device.c_str(), F_OK) != 0)
    return refuse(errc::invalid_argument,
                  "there is no PCI device \"{}\"; write it as lspci -D does: 0000:00:05.0",
                  address);
  char target[256];
  const ssize_t bytes = ::readlink((device + "/" + link).c_str(), target, sizeof target);
  const std::string_view whole(target, bytes > 0 ? static_cast<size_t>(bytes) : 0);
  return std::string(whole.substr(whole.rfind('/') + 1));
}

std::unexpected<error> not_bound(const std::string& address) {
  return refuse(errc::not_supported,
                "device {} is not bound to vfio-pci: echo vfio-pci > "
                "/sys/bus/pci/devices/{}/driver_override, unbind its driver, echo {} > "
                "/sys/bus/pci/drivers_probe",
                address, address, address);
}

}  // namespace annex::devices
