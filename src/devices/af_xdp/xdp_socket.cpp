// devices/af_xdp/xdp_socket.cpp - the four rings of a socket, mapped by its descriptor; and the
// program that fills it.
//
//   ring      producer ─┐                        who writes          who reads
//             consumer  │ entries[n]             fill, transmit: us  the kernel
//                       └ 32-bit counters        receive, completion: the kernel, us
//
// Nothing is kept outside the rings: a process that adopts the descriptor finds the counters where
// the last one left them.
// If the process dies between writing entries and the counter: they were never there; the frames
// they named are lost (see af_xdp.hpp).
#include <annex/devices/af_xdp.hpp>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/failure.hpp"
#include "devices/af_xdp/umem_state.hpp"

namespace annex {
namespace {

// A closed socket leaves its queue some ms later.
constexpr auto longest_close = std::chrono::milliseconds(500);
constexpr u32 most_queues = 256;

// A ring of the kernel's: entries of type Entry.
template <class Entry>
class kernel_ring {
 public:
  kernel_ring() = default;
  kernel_ring(const kernel_ring&) = delete;
  kernel_ring& operator=(const kernel_ring&) = delete;
  ~kernel_ring() {
    if (map_ != nullptr) ::munmap(map_, map_bytes_);
  }
  bool map(int fd, u32 entries, const ::xdp_ring_offset& at, off_t page_offset) noexcept {
    map_bytes_ = at.desc + u64{entries} * sizeof(Entry);
    void* const where = ::mmap(nullptr, map_bytes_, PROT_READ | PROT_WRITE,
                               MAP_SHARED | MAP_POPULATE, fd, page_offset);
    if (where == MAP_FAILED) return false;
    map_ = static_cast<char*>(where);
    producer_ = reinterpret_cast<u32*>(map_ + at.producer);
    consumer_ = reinterpret_cast<u32*>(map_ + at.consumer);
    flags_ = reinterpret_cast<u32*>(map_ + at.flags);
    entries_ = reinterpret_cast<Entry*>(map_ + at.desc);
    mask_ = entries - 1;
    return true;
  }
  // sync(xdp ring): the kernel is done with what it consumed.
  u32 room() const noexcept {
    return mask_ + 1 -
           (load(producer_, std::memory_order_relaxed) -
            load(consumer_, std::memory_order_acquire));
  }
  // sync(xdp ring): entries before the counter.
  u32 available() const noexcept {
    return load(producer_, std::memory_order_acquire) - load(consumer_, std::memory_order_relaxed);
  }
  Entry& to_produce(u32 i) noexcept {
    return entries_[(load(producer_, std::memory_order_relaxed) + i) & mask_];
  }
  const Entry& to_consume(u32 i) const noexcept {
    return entries_[(load(consumer_, std::memory_order_relaxed) + i) & mask_];
  }
  // sync(xdp ring).
  void produced(u32 count) noexcept {
    std::atomic_ref(*producer_).store(*producer_ + count, std::memory_order_release);
  }
  // sync(xdp ring).
  void consumed(u32 count) noexcept {
    std::atomic_ref(*consumer_).store(*consumer_ + count, std::memory_order_release);
  }
  bool needs_waking() const noexcept {
    return (load(flags_, std::memory_order_relaxed) & XDP_RING_NEED_WAKEUP) != 0;
  }

 private:
  static u32 load(u32* word, std::memory_order order) noexcept {
    return std::atomic_ref(*word).load(order);
  }
  char* map_ = nullptr;
  u64 map_bytes_ = 0;
  u32 *producer_ = nullptr, *consumer_ = nullptr, *flags_ = nullptr;
  Entry* entries_ = nullptr;
  u32 mask_ = 0;
};

}  // namespace

struct xdp_socket::state {
  std::shared_ptr<umem::state> memory;
  int fd = -1;
  kernel_ring<u64> fill, completion;
  kernel_ring<::xdp_desc> receive, transmit;
  ~state() {
    if (fd >= 0) ::close(fd);
  }
  bool map_rings(const std::array<u32, 4>& entries) noexcept {
    ::xdp_mmap_offsets at{};
    ::socklen_t length = sizeof at;
    return ::getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &length) == 0 &&
           fill.map(fd, entries[0], at.fr, static_cast<off_t>(XDP_UMEM_PGOFF_FILL_RING)) &&
           completion.map(fd, entries[1], at.cr,
                          static_cast<off_t>(XDP_UMEM_PGOFF_COMPLETION_RING)) &&
           receive.map(fd, entries[2], at.rx, XDP_PGOFF_RX_RING) &&
           transmit.map(fd, entries[3], at.tx, static_cast<off_t>(XDP_PGOFF_TX_RING));
  }
};

xdp_socket::xdp_socket(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}
xdp_socket::xdp_socket(xdp_socket&&) noexcept = default;
xdp_socket& xdp_socket::operator=(xdp_socket&&) noexcept = default;
xdp_socket::~xdp_socket() = default;

namespace {

result<int> open_socket() {
  const int fd = ::socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return refuse_os(
        errno == EPERM ? errc::permission : errc::not_supported, errno,
        "no AF_XDP socket: {}; it needs CAP_NET_RAW, and a kernel with CONFIG_XDP_SOCKETS",
        std::strerror(errno));
  return fd;
}

// The kernel pins the memory.
result<void> give_memory(int fd, const umem& memory, u32 headroom_bytes) {
  ::xdp_umem_reg block{};
  block.addr = reinterpret_cast<u64>(memory.base());
  block.len = memory.length_bytes();
  block.chunk_size = memory.frame_bytes();
  block.headroom = headroom_bytes;
  if (::setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &block, sizeof block) == 0) return {};
  const int why = errno;
  if (why == ENOBUFS || why == ENOMEM)
    return refuse_os(errc::out_of_memory, why,
                     "the kernel can't pin the {} bytes of the umem: raise the locked-memory "
                     "limit (ulimit -l), or grant CAP_IPC_LOCK",
                     block.len);
  if (why == EFAULT)
    return refuse_os(errc::not_supported, why,
                     "the kernel can't pin the umem: it lies in memory that is not writable, or "
                     "in a disk file mapped shared; use anonymous, shared or hugetlb memory");
  return refuse_os(errc::invalid_argument, why,
                   "the kernel refused a umem of {} bytes, frames of {} and headroom {}: {}",
                   block.len, block.chunk_size, block.headroom, std::strerror(why));
}

result<void> size_rings(int fd, u32 entries) {
  for (const int ring : {XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING, XDP_TX_RING})
    if (::setsockopt(fd, SOL_XDP, ring, &entries, sizeof entries) != 0)
      return refuse_os(errc::os_failure, errno, "a ring of {} entries is refused: {}", entries,
                       std::strerror(errno));
  return {};
}

// Waits a moment for a socket that is just leaving the queue.
result<void> take_queue(int fd, const ::sockaddr_xdp& address, const std::string& interface) {
  for (const auto give_up = std::chrono::steady_clock::now() + longest_close;;) {
    if (::bind(fd, reinterpret_cast<const ::sockaddr*>(&address), sizeof address) == 0) return {};
    if (errno == EBUSY && std::chrono::steady_clock::now() < give_up) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    return refuse_os(errno == EINVAL       ? errc::invalid_argument
                     : errno == EOPNOTSUPP ? errc::not_supported
                                           : errc::os_failure,
                     errno, "queue {} of {} can't have the socket: {}{}", address.sxdp_queue_id,
                     interface, std::strerror(errno),
                     errno == EBUSY    ? "; it has one"
                     : errno == EINVAL ? "; is there such a queue?"
                                       : "");
  }
}

}  // namespace

result<xdp_socket> xdp_socket::bind(umem& memory, const std::string& interface, u32 queue,
                                    const xdp_socket_options& o) {
  if (!is_power_of_two(o.ring_entries))
    return refuse(errc::invalid_argument, "rings of {} entries: use a power of two",
                  o.ring_entries);
  const unsigned index = ::if_nametoindex(interface.c_str());
  if (index == 0)
    return refuse_os(errc::invalid_argument, errno,
                     "this network namespace has no interface \"{}\"", interface);
  auto s = std::make_unique<state>();
  s->memory = memory.state_;
  const result<int> socket = open_socket();
  if (!socket) return std::unexpected(socket.error());
  s->fd = *socket;
  ANNEX_TRY(give_memory(s->fd, memory, o.headroom_bytes));
  ANNEX_TRY(size_rings(s->fd, o.ring_entries));
  if (!s->map_rings({o.ring_entries, o.ring_entries, o.ring_entries, o.ring_entries}))
    return refuse_os(errc::os_failure, errno, "the rings can't be mapped: {}",
                     std::strerror(errno));
  ::sockaddr_xdp address{};
  address.sxdp_family = AF_XDP;
  address.sxdp_ifindex = index;
  address.sxdp_queue_id = queue;
  address.sxdp_flags =
      static_cast<__u16>((o.zero_copy ? XDP_ZEROCOPY : XDP_COPY) | XDP_USE_NEED_WAKEUP);
  ANNEX_TRY(take_queue(s->fd, address, interface));
  return xdp_socket(std::move(s));
}

result<xdp_socket> xdp_socket::adopt(umem& memory, int descriptor, const xdp_socket_options& o) {
  if (!is_power_of_two(o.ring_entries))
    return refuse(errc::invalid_argument, "rings of {} entries: use what the socket was bound with",
                  o.ring_entries);
  auto s = std::make_unique<state>();
  s->memory = memory.state_;
  s->fd = ::fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
  ::xdp_options options{};
  ::socklen_t length = sizeof options;
  if (s->fd < 0 || ::getsockopt(s->fd, SOL_XDP, XDP_OPTIONS, &options, &length) != 0)
    return refuse_os(errc::invalid_argument, errno, "descriptor {} is no AF_XDP socket",
                     descriptor);
  if (!s->map_rings({o.ring_entries, o.ring_entries, o.ring_entries, o.ring_entries}))
    return refuse_os(
        errc::invalid_argument, errno,
        "descriptor {} has no rings of {} entries: {}; give the options it was bound with",
        descriptor, o.ring_entries, std::strerror(errno));
  return xdp_socket(std::move(s));
}

int xdp_socket::descriptor() const noexcept {
  return state_->fd;
}

std::size_t xdp_socket::refill() noexcept {
  state& s = *state_;
  std::array<void*, 64> frames;
  std::size_t filled = 0;
  for (u32 room = s.fill.room(); room != 0;) {
    const std::size_t taken =
        s.memory->frames.take_bulk({frames.data(), std::min<std::size_t>(room, frames.size())});
    for (u32 i = 0; i < taken; ++i)
      s.fill.to_produce(i) = s.memory->offset_of(frames[i]);
    s.fill.produced(static_cast<u32>(taken));
    filled += taken;
    room -= static_cast<u32>(taken);
    if (taken == 0) break;
  }
  if (filled != 0 && s.fill.needs_waking())
    (void)::recvfrom(s.fd, nullptr, 0, MSG_DONTWAIT, nullptr, nullptr);
  return filled;
}

std::size_t xdp_socket::receive(std::span<packet> packets) noexcept {
  state& s = *state_;
  const u32 count = static_cast<u32>(std::min<std::size_t>(s.receive.available(), packets.size()));
  for (u32 i = 0; i < count; ++i) {
    const ::xdp_desc& d = s.receive.to_consume(i);
    packets[i] = {s.memory->base + d.addr, d.len};
  }
  if (count != 0) s.receive.consumed(count);
  return count;
}

std::size_t xdp_socket::send(std::span<const packet> packets) noexcept {
  state& s = *state_;
  const u32 count = static_cast<u32>(std::min<std::size_t>(s.transmit.room(), packets.size()));
  for (u32 i = 0; i < count; ++i)
    s.transmit.to_produce(i) = {s.memory->offset_of(packets[i].data), packets[i].bytes, 0};
  if (count != 0) s.transmit.produced(count);
  if (s.transmit.needs_waking()) (void)::sendto(s.fd, nullptr, 0, MSG_DONTWAIT, nullptr, 0);
  return count;
}

std::size_t xdp_socket::reclaim() noexcept {
  state& s = *state_;
  std::array<void*, 64> frames;
  std::size_t reclaimed = 0;
  for (u32 there = s.completion.available(); there != 0;) {
    const u32 count = std::min<u32>(there, frames.size());
    for (u32 i = 0; i < count; ++i)
      frames[i] = s.memory->base +
                  s.completion.to_consume(i) / s.memory->frame_bytes * s.memory->frame_bytes;
    s.completion.consumed(count);
    s.memory->frames.give_bulk({frames.data(), count});
    reclaimed += count;
    there -= count;
  }
  return reclaimed;
}

// ---- the program --------------------------------------------------------------------------------
struct xdp_redirect::state {
  int interface_index = 0, map = -1, program = -1;
  bool stays = false;
  ~state() {
    if (!stays && program >= 0) ::bpf_xdp_detach(interface_index, XDP_FLAGS_SKB_MODE, nullptr);
    if (program >= 0) ::close(program);
    if (map >= 0) ::close(map);
  }
};

xdp_redirect::xdp_redirect(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}
xdp_redirect::xdp_redirect(xdp_redirect&&) noexcept = default;
xdp_redirect& xdp_redirect::operator=(xdp_redirect&&) noexcept = default;
xdp_redirect::~xdp_redirect() = default;

result<xdp_redirect> xdp_redirect::attach(const std::string& interface) {
  auto s = std::make_unique<state>();
  s->interface_index = static_cast<int>(::if_nametoindex(interface.c_str()));
  if (s->interface_index == 0)
    return refuse_os(errc::invalid_argument, errno,
                     "this network namespace has no interface \"{}\"", interface);
  auto refused = [](int why, std::string_view what) {
    return refuse_os(why == EPERM ? errc::permission : errc::os_failure, why,
                     "{}: {}; it needs CAP_NET_ADMIN and CAP_BPF", what, std::strerror(why));
  };
  s->map = ::bpf_map_create(BPF_MAP_TYPE_XSKMAP, "annex_sockets", sizeof(u32), sizeof(u32),
                            most_queues, nullptr);
  if (s->map < 0) return refused(errno, "no map of sockets");
  // return bpf_redirect_map(&sockets, context->rx_queue_index, XDP_PASS)
  auto instruction = [](int code, int target, int source, int offset, int immediate) {
    ::bpf_insn i{};
    i.code = static_cast<__u8>(code);
    i.dst_reg = static_cast<__u8>(target & 15);
    i.src_reg = static_cast<__u8>(source & 15);
    i.off = static_cast<__s16>(offset);
    i.imm = immediate;
    return i;
  };
  const std::array<::bpf_insn, 6> program{
      instruction(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_2, BPF_REG_1,
                  offsetof(::xdp_md, rx_queue_index), 0),
      // NOLINTNEXTLINE(misc-redundant-expression): both are 0.
      instruction(BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, s->map),
      instruction(0, 0, 0, 0, 0),
      instruction(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3, 0, 0, XDP_PASS),
      instruction(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_redirect_map),
      instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
  };
  ::bpf_prog_load_opts options{};
  options.sz = sizeof options;
  const int loaded = ::bpf_prog_load(BPF_PROG_TYPE_XDP, "annex_redirect", "GPL", program.data(),
                                     program.size(), &options);
  if (loaded < 0) return refused(-loaded, "the redirecting program is refused");
  if (const int why = -::bpf_xdp_attach(s->interface_index, loaded,
                                        XDP_FLAGS_SKB_MODE | XDP_FLAGS_UPDATE_IF_NOEXIST, nullptr);
      why != 0) {
    ::close(loaded);
    return refuse_os(why == EPERM ? errc::permission : errc::os_failure, why,
                     "{} can't have the redirecting program: {}{}", interface, std::strerror(why),
                     why == EBUSY ? "; it has another (ip link set … xdpgeneric off)" : "");
  }
  s->program = loaded;
  return xdp_redirect(std::move(s));
}

result<void> xdp_redirect::set(u32 queue, const xdp_socket& socket) {
  const int fd = socket.descriptor();
  if (queue >= most_queues)
    return refuse(errc::invalid_argument, "queue {}: this program knows {}", queue, most_queues);
  if (const int why = -::bpf_map_update_elem(state_->map, &queue, &fd, BPF_ANY); why != 0)
    return refuse_os(errc::os_failure, why, "queue {} can't have the socket: {}", queue,
                     std::strerror(why));
  return {};
}

void xdp_redirect::leave() noexcept {
  state_->stays = true;
}

}  // namespace annex
