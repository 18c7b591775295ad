// devices/vfio/iommufd.cpp - a domain as an I/O address space of IOMMUFD, with devices opened one
// by one.
//
//   /dev/iommu: address space ◀─ attach ─ /dev/vfio/devices/vfioN
//
// Debian 12's headers are older than the interface, so its structures are written down here
// (linux/iommufd.h, linux/vfio.h of 6.6).
#include <fcntl.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "base/failure.hpp"
#include "devices/vfio/iommu.hpp"

namespace annex::devices {
namespace {

struct alloc_request {
  u32 size, flags, address_space;
};
struct destroy_request {
  u32 size, id;
};
struct ranges_request {
  u32 size, address_space, count, reserved;
  u64 ranges, alignment;
};
struct map_request {
  u32 size, flags, address_space, reserved;
  u64 user_address, length, iova;
};
struct unmap_request {
  u32 size, address_space;
  u64 iova, length;
};
struct bind_request {
  u32 size, flags;
  std::int32_t iommufd;
  u32 device;
};
struct attach_request {
  u32 size, flags, address_space;
};
static_assert(sizeof(alloc_request) == 12 && sizeof(ranges_request) == 32 &&
              sizeof(map_request) == 40 && sizeof(unmap_request) == 24 &&
              sizeof(bind_request) == 16);

constexpr unsigned long request_number(unsigned n) {
  return _IO(';', n);
}
constexpr unsigned long destroy = request_number(0x80), alloc_space = request_number(0x81),
                        space_ranges = request_number(0x84), map_memory = request_number(0x85),
                        unmap_memory = request_number(0x86);
constexpr unsigned long bind_device = _IO(VFIO_TYPE, VFIO_BASE + 18),
                        attach_device = _IO(VFIO_TYPE, VFIO_BASE + 19);
constexpr u32 map_at_iova = 1, map_writable = 2, map_readable = 4;

class address_space final : public iommu {
 public:
  address_space(int fd, u32 id, bool own) : fd_(fd), id_(id), own_(own) {}
  ~address_space() override {
    if (own_) {
      destroy_request request{sizeof request, id_};
      (void)::ioctl(fd_, destroy, &request);
    }
    ::close(fd_);
  }

  result<int> open_device(const std::string& address) override {
    const auto group = device_link(address, "iommu_group");
    if (!group) return std::unexpected(group.error());
    std::error_code none;
    const std::filesystem::directory_iterator entries(
        "/sys/bus/pci/devices/" + address + "/vfio-dev", none);
    if (none || entries == std::filesystem::directory_iterator{}) {
      const auto driver = device_link(address, "driver");
      if (!driver || *driver != "vfio-pci") return not_bound(address);
      return refuse(errc::not_supported,
                    "this kernel's VFIO gives device {} no descriptor of its own "
                    "(CONFIG_VFIO_DEVICE_CDEV); use vfio_interface::container",
                    address);
    }
    const std::string path = "/dev/vfio/devices/" + entries->path().filename().string();
    const int device = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (device < 0)
      return refuse_os(errno == EACCES ? errc::permission : errc::not_supported, errno,
                       "device {}: {} can't be opened: {}", address, path, std::strerror(errno));
    bind_request bind{sizeof bind, 0, fd_, 0};
    attach_request attach{sizeof attach, 0, id_};
    if (::ioctl(device, bind_device, &bind) != 0) {
      const int why = errno;
      ::close(device);
      // EINVAL: bound through another descriptor. EBUSY: a container has its group.
      if (why == EINVAL || why == EBUSY)
        return refuse_os(errc::os_failure, EBUSY,
                         "device {}: another process, or another part of this one, has {}", address,
                         path);
      return refuse_os(errc::os_failure, why, "device {} can't be bound to IOMMUFD: {}", address,
                       std::strerror(why));
    }
    if (::ioctl(device, attach_device, &attach) == 0) return device;
    const int why = errno;
    ::close(device);
    return refuse_os(errc::os_failure, why, "device {} does not fit address space {}: {}", address,
                     id_, std::strerror(why));
  }

  result<iommu_reach> reach() const override {
    iommu_reach r;
    for (u32 count = 64;;) {
      r.ranges.resize(count);
      ranges_request request{
          sizeof request, id_, count, 0, reinterpret_cast<u64>(r.ranges.data()), 0};
      const int done = ::ioctl(fd_, space_ranges, &request);
      if (done != 0 && errno != EMSGSIZE)
        return refuse_os(errc::os_failure, errno,
                         "IOMMUFD does not say what address space {} can map: {}", id_,
                         std::strerror(errno));
      const bool all = done == 0 && request.count <= count;
      count = request.count;
      if (!all) continue;
      r.ranges.resize(count);
      r.smallest_page_bytes = std::max<u64>(request.alignment, 4 * KiB);
      return r;
    }
  }

  int map(void* base, u64 bytes, u64 bus) override {
    map_request request{sizeof request,
                        map_at_iova | map_writable | map_readable,
                        id_,
                        0,
                        reinterpret_cast<u64>(base),
                        bytes,
                        bus};
    return ::ioctl(fd_, map_memory, &request) == 0 ? 0 : errno;
  }

  int unmap(u64 bus, u64 bytes) override {
    unmap_request request{sizeof request, id_, bus, bytes};
    return ::ioctl(fd_, unmap_memory, &request) == 0 ? 0 : errno;
  }

 private:
  int fd_;
  u32 id_;
  bool own_;
};

}  // namespace

result<std::unique_ptr<iommu>> open_iommufd(int given, u32 id) {
  const bool own = given < 0;
  const int fd =
      own ? ::open("/dev/iommu", O_RDWR | O_CLOEXEC) : ::fcntl(given, F_DUPFD_CLOEXEC, 3);
  if (fd < 0 && !own)
    return refuse_os(errc::invalid_argument, errno, "descriptor {} is no IOMMUFD: {}", given,
                     std::strerror(errno));
  if (fd < 0 && errno == EACCES)
    return refuse_os(errc::permission, EACCES, "/dev/iommu may not be opened by this user");
  if (fd < 0)
    return refuse_os(errc::not_supported, errno,
                     "no IOMMUFD here: /dev/iommu: {}; needs Linux 6.2 with CONFIG_IOMMUFD, else "
                     "vfio_interface::container",
                     std::strerror(errno));
  if (own) {
    alloc_request request{sizeof request, 0, 0};
    if (::ioctl(fd, alloc_space, &request) != 0) {
      const int why = errno;
      ::close(fd);
      return refuse_os(errc::os_failure, why, "IOMMUFD makes no address space: {}",
                       std::strerror(why));
    }
    id = request.address_space;
  }
  auto space = std::make_unique<address_space>(fd, id, own);
  if (!own && !space->reach())
    return refuse(errc::invalid_argument, "descriptor {} has no I/O address space {}", given, id);
  return space;
}

}  // namespace annex::devices
