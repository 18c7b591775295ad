// examples/nvme_copy.cpp - an NVMe disk driven from user space: queues and buffers are blocks of a
// heap, the disk reaches them by their bus addresses.
//
//   nvme_copy 0000:00:07.0 --overwrite   the first 8 MiB of the disk are written, read back and
//                                        compared; it must be bound to vfio-pci
//
// One I/O queue, one command at a time, polled.
// Source: NVM Express base specification 1.4.
#include <annex/annex.hpp>
#include <annex/devices/vfio.hpp>

#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "must.hpp"

namespace {

constexpr std::uint32_t page = 4096, entries = 32, command_bytes = 128 << 10, disk_bytes = 8 << 20;

std::uint64_t bus_address(const void* block) {
  return static_cast<std::uint64_t>(*annex::heap::locate(block)->bus_address);
}
char byte_of(std::uint32_t at) {
  return static_cast<char>((at * 2654435761u) >> 11);
}
[[noreturn]] void fail(const char* why) {
  std::fprintf(stderr, "nvme_copy: %s\n", why);
  std::exit(1);
}

struct command {
  std::uint32_t opcode = 0, name_space = 0;
  // Where the data is: one page, and another or a list of them.
  std::uint64_t reserved = 0, metadata = 0, first = 0, second = 0;
  std::uint32_t argument[6] = {};
};
struct completion {
  std::uint32_t result, reserved;
  std::uint16_t head, queue, id, status;
};
static_assert(sizeof(command) == 64 && sizeof(completion) == 16);

class controller {
 public:
  controller(annex::heap& heap, int device) : heap_(heap), device_(device) {
    ::vfio_region_info bar{}, config{};
    bar.argsz = config.argsz = sizeof bar;
    config.index = VFIO_PCI_CONFIG_REGION_INDEX;
    if (::ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &bar) != 0 ||
        ::ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config) != 0)
      fail("the device has no registers");
    void* const window = ::mmap(nullptr, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, device,
                                static_cast<off_t>(bar.offset));
    if (window == MAP_FAILED) fail("its registers can't be mapped");
    registers_ = static_cast<char*>(window);
    std::uint16_t pci_command = 0;
    const auto pci_command_at = static_cast<off_t>(config.offset) + 4;
    if (::pread(device, &pci_command, 2, pci_command_at) != 2)
      fail("its configuration can't be read");
    pci_command |= 6;  // memory space, bus master
    if (::pwrite(device, &pci_command, 2, pci_command_at) != 2)
      fail("its configuration can't be written");

    doorbell_bytes_ = 4u << (get64(0) >> 32 & 15);
    set32(0x14, 0);
    wait_for(0x1c, 0);
    admin_ = make_queue(0);
    set32(0x24, (entries - 1) << 16 | (entries - 1));
    set64(0x28, bus_address(admin_.commands));
    set64(0x30, bus_address(admin_.completions));
    set32(0x14, 1 | 6 << 16 | 4 << 20);
    wait_for(0x1c, 1);
    io_ = make_queue(1);
    list_ = static_cast<std::uint64_t*>(block(page));
    command make{.opcode = 5, .first = bus_address(io_.completions)};
    make.argument[0] = (entries - 1) << 16 | 1;
    make.argument[1] = 1;
    if (run(admin_, make) != 0) fail("no completion queue");
    make.opcode = 1;
    make.first = bus_address(io_.commands);
    make.argument[1] = 1 << 16 | 1;
    if (run(admin_, make) != 0) fail("no submission queue");
  }
  ~controller() {
    set32(0x14, 0);  // it lets go of the queues before their blocks are freed
    wait_for(0x1c, 0);
    for (void* b : {static_cast<void*>(admin_.commands), static_cast<void*>(io_.commands),
                    static_cast<void*>(list_), static_cast<void*>(admin_.completions),
                    static_cast<void*>(io_.completions)})
      annex::heap::free(b);
    ::close(device_);
  }
  controller(const controller&) = delete;
  controller& operator=(const controller&) = delete;

  /// Whole pages, to or from a block whose bus addresses follow each other.
  bool transfer(bool write, std::uint64_t at, void* data, std::uint32_t bytes) {
    const std::uint64_t bus = bus_address(data);
    command c{.opcode = write ? 1u : 2u, .name_space = 1, .first = bus};
    if (bytes == 2 * page) c.second = bus + page;
    if (bytes > 2 * page) {
      for (std::uint32_t i = 1; i < bytes / page; ++i)
        list_[i - 1] = bus + std::uint64_t{i} * page;
      c.second = bus_address(list_);
    }
    c.argument[0] = static_cast<std::uint32_t>(at / 512);
    c.argument[2] = bytes / 512 - 1;
    return run(io_, c) == 0;
  }

 private:
  struct queue {
    command* commands;
    completion* completions;
    std::uint32_t number, tail, head, phase;
  };

  void* block(std::size_t bytes) {
    void* const b = heap_.allocate(
        {.size_bytes = bytes, .align_bytes = page, .iova_contiguous = true, .zeroed = true});
    if (b == nullptr) fail(annex::heap::last_failure().text);
    return b;
  }
  queue make_queue(std::uint32_t number) {
    return {static_cast<command*>(block(entries * sizeof(command))),
            static_cast<completion*>(block(entries * sizeof(completion))),
            number,
            0,
            0,
            1};
  }
  int run(queue& q, const command& c) {
    q.commands[q.tail] = c;
    q.tail = (q.tail + 1) % entries;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    set32(0x1000 + 2 * q.number * doorbell_bytes_, q.tail);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    const volatile std::uint16_t& status = q.completions[q.head].status;
    while ((status & 1u) != q.phase)
      if (std::chrono::steady_clock::now() > deadline) return -1;
    const int code = status >> 1;
    if (++q.head == entries) q.head = 0, q.phase ^= 1;
    set32(0x1000 + (2 * q.number + 1) * doorbell_bytes_, q.head);
    return code;
  }
  void wait_for(std::uint32_t at, std::uint32_t value) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while ((get32(at) & 1) != value)
      if (std::chrono::steady_clock::now() > deadline) fail("the controller does not answer");
  }
  std::uint32_t get32(std::uint32_t at) const {
    return *reinterpret_cast<volatile std::uint32_t*>(registers_ + at);
  }
  std::uint64_t get64(std::uint32_t at) const {
    return *reinterpret_cast<volatile std::uint64_t*>(registers_ + at);
  }
  void set32(std::uint32_t at, std::uint32_t value) {
    *reinterpret_cast<volatile std::uint32_t*>(registers_ + at) = value;
  }
  void set64(std::uint32_t at, std::uint64_t value) {
    *reinterpret_cast<volatile std::uint64_t*>(registers_ + at) = value;
  }

  annex::heap& heap_;
  int device_;
  char* registers_ = nullptr;
  std::uint32_t doorbell_bytes_ = 4;
  queue admin_{}, io_{};
  std::uint64_t* list_ = nullptr;
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 3 || std::strcmp(arguments[2], "--overwrite") != 0)
    return std::puts(
               "usage: nvme_copy ADDRESS --overwrite    an NVMe disk bound to vfio-pci; its first "
               "8 MiB are overwritten"),
           77;
  auto domain = must(annex::vfio_domain::create());
  const int device = must(domain->open_device(arguments[1]));
  auto heap = must(annex::heap::create_private());
  auto seen = must(heap.observe(*domain));
  const auto iovas = must(domain->choose_iovas(32 << 20, page));
  must(heap.bring_memory({.from = annex::memory_source::kind::anonymous,
                          .length_bytes = 32 << 20,
                          .page_iovas = iovas}));
  std::printf("32 MiB in %zu entries of the IOMMU, from bus address %#lx\n", domain->entries(),
              static_cast<unsigned long>(iovas[0]));

  controller disk(heap, device);
  auto* const data = static_cast<char*>(
      heap.allocate({.size_bytes = disk_bytes, .align_bytes = page, .iova_contiguous = true}));
  if (data == nullptr) fail(annex::heap::last_failure().text);
  for (std::uint32_t i = 0; i < disk_bytes; ++i)
    data[i] = byte_of(i);
  const auto began = std::chrono::steady_clock::now();
  for (std::uint32_t at = 0; at < disk_bytes; at += command_bytes)
    if (!disk.transfer(true, at, data + at, command_bytes)) fail("a write failed");
  std::memset(data, 0, disk_bytes);
  for (std::uint32_t at = 0; at < disk_bytes; at += command_bytes)
    if (!disk.transfer(false, at, data + at, command_bytes)) fail("a read failed");
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  std::uint64_t wrong = 0;
  for (std::uint32_t i = 0; i < disk_bytes; ++i)
    wrong += data[i] != byte_of(i);
  std::printf("%u bytes written and read back by DMA in %u commands, %lu bytes wrong, %.0f MB/s\n",
              disk_bytes, 2 * disk_bytes / command_bytes, static_cast<unsigned long>(wrong),
              2e-6 * disk_bytes / seconds);
  annex::heap::free(data);
  return wrong == 0 ? 0 : 1;
}
