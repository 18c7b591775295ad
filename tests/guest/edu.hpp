// tests/guest/edu.hpp - QEMU's "edu" PCI device over VFIO: a DMA engine that copies between its own
// 4 KiB and the bus.
#pragma once
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "base/units.hpp"

namespace annex {

/// Owns the descriptor. Source: QEMU's docs/specs/edu.rst.
class edu_device {
 public:
  explicit edu_device(int descriptor) : fd_(descriptor) {
    ::vfio_region_info bar{}, config{};
    bar.argsz = config.argsz = sizeof bar;
    bar.index = VFIO_PCI_BAR0_REGION_INDEX;
    config.index = VFIO_PCI_CONFIG_REGION_INDEX;
    if (::ioctl(fd_, VFIO_DEVICE_GET_REGION_INFO, &bar) != 0 ||
        ::ioctl(fd_, VFIO_DEVICE_GET_REGION_INFO, &config) != 0)
      return;
    void* const window = ::mmap(nullptr, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_,
                                static_cast<off_t>(bar.offset));
    if (window == MAP_FAILED) return;
    registers_ = static_cast<char*>(window);
    window_bytes_ = bar.size;
    std::uint16_t command = 0;
    const off_t command_at = static_cast<off_t>(config.offset) + 4;
    if (::pread(fd_, &command, sizeof command, command_at) != sizeof command) return;
    command |= 6;  // memory space, bus master
    works_ = ::pwrite(fd_, &command, sizeof command, command_at) == sizeof command;
  }
  ~edu_device() {
    if (registers_ != nullptr) ::munmap(registers_, window_bytes_);
    if (fd_ >= 0) ::close(fd_);
  }
  edu_device(const edu_device&) = delete;
  edu_device& operator=(const edu_device&) = delete;

  bool works() const { return works_; }
  /// Less than 4 KiB (QEMU 7.2 takes the last byte for one too many) from the bus into the device,
  /// and back. False: it did not finish.
  bool read_from(u64 bus, u64 bytes) { return run(bus, own_memory, bytes, 1); }
  bool write_to(u64 bus, u64 bytes) { return run(own_memory, bus, bytes, 1 | 2); }

 private:
  static constexpr u64 own_memory = 0x40000;
  bool run(u64 from, u64 to, u64 bytes, u64 command) {
    set(0x80, from);
    set(0x88, to);
    set(0x90, bytes);
    set(0x98, command);
    for (int i = 0; i < 5000; ++i) {
      if ((*reinterpret_cast<volatile u64*>(registers_ + 0x98) & 1) == 0) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }
  void set(u64 at, u64 value) { *reinterpret_cast<volatile u64*>(registers_ + at) = value; }

  int fd_;
  char* registers_ = nullptr;
  u64 window_bytes_ = 0;
  bool works_ = false;
};

}  // namespace annex
