// examples/device_pages.cpp - the first lines of the pages in docs/devices/, compiled; the examples
// that each page names run on the device.
#include <annex/annex.hpp>
#include <annex/devices/af_xdp.hpp>
#include <annex/devices/cuda.hpp>
#include <annex/devices/vfio.hpp>
#include <annex/devices/vhost_user.hpp>
#include <array>

#include "must.hpp"
#if __has_include(<liburing.h>)
#include <liburing.h>

#include <annex/devices/io_uring.hpp>
#endif
#if __has_include(<infiniband/verbs.h>)
#include <infiniband/verbs.h>

#include <annex/devices/verbs.hpp>
#endif

namespace device_pages {

#if __has_include(<liburing.h>)
void use_io_uring(annex::heap& heap, io_uring& ring, io_uring_sqe* sqe, int file, void* block,
                  unsigned bytes, std::uint64_t at) {
  // snippet: io_uring
  auto buffers = must(annex::fixed_buffers::create());  // one for each heap and process
  // Regions that are there, and those that come.
  auto seen = must(heap.observe(*buffers));
  must(buffers->add_ring(ring));            // any number of rings, at any time
  if (const auto b = buffers->find(block))  // a few ns
    // Bytes <= b->contiguous_bytes.
    io_uring_prep_read_fixed(sqe, file, block, bytes, at, static_cast<int>(b->index));
  // end
}
#endif

void use_af_xdp(annex::heap& heap) {
  // snippet: af_xdp
  // One contiguous block, a pool of frames in it, a lease.
  auto memory = must(annex::umem::create(heap, "frames", {.frames = 8192}));
  auto socket = must(annex::xdp_socket::bind(memory, "eth0", 0));
  auto program = must(annex::xdp_redirect::attach("eth0"));
  must(program.set(0, socket));  // queue 0's packets come to the socket

  std::array<annex::packet, 64> packets;
  socket.refill();                                   // frames of the pool to the kernel
  const std::size_t came = socket.receive(packets);  // packets in frames that are ours now
  socket.send(std::span(packets).first(came));       // as they are
  // Frames that have been sent, back into the pool.
  socket.reclaim();
  // end
}

void use_vhost_user(annex::heap& heap, std::span<const annex::vhost_queue::segment> segments,
                    std::uint64_t cookie) {
  // snippet: vhost_user
  // Qemu-storage-daemon, DPDK's net_vhost, SPDK, a virtual switch.
  auto device = must(annex::vhost_user::connect("/run/disk.sock"));
  // Regions go over, those that come later too.
  auto seen = must(heap.observe(*device));
  auto queue = must(annex::vhost_queue::start(*device, heap, 0, 128));  // the ring is a block
  if (must(queue.submit(segments, cookie)))                             // false: the ring is full
    // What the device has finished.
    queue.poll([](std::uint64_t /*cookie*/, std::uint32_t /*bytes*/) {});
  // end
}

std::uint64_t use_vfio(annex::heap& heap) {
  // snippet: vfio
  // Or {.through = annex::vfio_interface::iommufd}.
  auto domain = must(annex::vfio_domain::create());
  // Bound to vfio-pci; the usual VFIO descriptor.
  const int device = must(domain->open_device("0000:00:05.0"));
  auto seen = must(heap.observe(*domain));
  const auto iovas = must(domain->choose_iovas(1 << 30, 2 << 20));
  must(heap.bring_memory({.from = annex::memory_source::kind::hugetlb,
                          .length_bytes = 1 << 30,
                          .page_bytes = 2 << 20,
                          .page_iovas = iovas}));
  void* block = heap.allocate(4096);
  const annex::iova told = *annex::heap::locate(block)->bus_address;  // what the device is told
  // end
  return static_cast<std::uint64_t>(told) + static_cast<std::uint64_t>(device);
}

#if __has_include(<infiniband/verbs.h>)
ibv_sge use_verbs(annex::heap& heap, ibv_pd* protection_domain, void* block, std::uint32_t bytes) {
  // snippet: verbs
  // One for each heap and domain.
  auto memory = must(annex::verbs_memory::create(protection_domain));
  auto seen = must(heap.observe(*memory));
  const auto key = memory->find(block).value();  // a few ns
  ibv_sge from{key.address, bytes, key.lkey};    // bytes <= key.contiguous_bytes
  // the peer: wr.rdma.remote_addr = key.address, wr.rdma.rkey = key.rkey
  // end
  return from;
}
#endif

void* use_cuda(annex::heap& heap, annex::heap& gpu_heap, std::size_t bytes) {
  // snippet: cuda
  // Registered for all GPUs, by several threads.
  auto host = must(annex::cuda_host_memory::create({.chunk_bytes = 256 << 20}));
  auto seen = must(heap.observe(*host));
  // A region the CPU never touches.
  auto gpu = must(annex::cuda_memory::bring(gpu_heap, std::size_t{8} << 30));
  void* tensor = gpu_heap.allocate(bytes);  // a CUdeviceptr
  // To another process by SCM_RIGHTS: cuda_memory::attach.
  [[maybe_unused]] const int descriptor = must(gpu.share());
  // end
  return tensor;
}

void* use_nodes(annex::heap& heap) {
  // snippet: numa
  // Node 2 may have no processor: CXL memory.
  must(heap.bring_memory({.length_bytes = 1 << 30, .numa_node = 2, .prefault = true}));
  must(heap.bring_memory({.from = annex::memory_source::kind::device,
                          .length_bytes = 1 << 30,
                          .page_bytes = 2 << 20,
                          .path = "/dev/dax0.0"}));
  // Preferred; another node serves when it is full.
  void* block = heap.allocate({.size_bytes = 1 << 20, .numa_node = 2});
  // end
  return block;
}

void use_pins(annex::heap& heap) {
  // snippet: pinning
  must(heap.bring_memory({.from = annex::memory_source::kind::shared,
                          .length_bytes = 1 << 30,
                          .pin = true,
                          .physical_iovas = true}));
  // end
}

}  // namespace device_pages
