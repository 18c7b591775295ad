// devices/vhost_user/vhost_queue.cpp - a split virtqueue in a block of the heap.
//
//   block:   descriptors   address, bytes, flags, next: 16 B × n
//            available     flags, index, ring[n]
//            used          flags, index, ring[n] of id, bytes
//
//   submit   descriptors chained → available ring → index + 1 (release) → kick, unless the device
//            asked for silence
//   poll     used index (acquire) → cookie of the chain → its descriptors are free
//
// Descriptors' addresses are the device's (IOVAs), the ring's own address is this process's: the
// back end knows both by its memory table.
#define VIRTIO_RING_NO_LEGACY  // what is left is C++ too
#include <linux/virtio_ring.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include <annex/heap.hpp>

#include "base/failure.hpp"
#include "devices/vhost_user/vhost_user_state.hpp"

namespace annex {

using vhost::request;

namespace {

constexpr unsigned most_queue_entries = 32768;
u64 available_offset(unsigned n) {
  return u64{n} * sizeof(::vring_desc);
}
u64 used_offset(unsigned n) {
  return align_up(available_offset(n) + 6 + u64{n} * 2, 64);
}
u64 ring_bytes(unsigned n) {
  return used_offset(n) + 6 + u64{n} * sizeof(::vring_used_elem);
}

}  // namespace

struct vhost_queue::state {
  vhost_user::state* device = nullptr;
  vhost_user* front = nullptr;
  unsigned index = 0, entries = 0;
  char* block = nullptr;
  ::vring_desc* descriptors = nullptr;
  ::vring_avail* available = nullptr;
  ::vring_used* used = nullptr;
  int kick = -1, call = -1;
  bool started = false;
  std::vector<u16> free;     // descriptors
  std::vector<u64> cookies;  // of the chain that begins there
  std::vector<u16> lengths;
  u16 seen = 0, made = 0;
  size_t out = 0;

  ~state() {
    if (started) {
      vhost::vring_state answer{};
      const vhost::vring_state which{index, 0};
      // Stops the queue.
      (void)device->link.ask(request::get_vring_base, std::as_bytes(std::span(&which, 1)),
                             std::as_writable_bytes(std::span(&answer, 1)));
    }
    if (kick >= 0) ::close(kick);
    if (call >= 0) ::close(call);
    if (block != nullptr) heap::free(block);
  }
};

vhost_queue::vhost_queue(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}
vhost_queue::vhost_queue(vhost_queue&&) noexcept = default;
vhost_queue& vhost_queue::operator=(vhost_queue&&) noexcept = default;
vhost_queue::~vhost_queue() = default;

result<vhost_queue> vhost_queue::start(vhost_user& device, heap& memory, unsigned index,
                                       unsigned entries) {
  if (!is_power_of_two(entries) || entries > most_queue_entries)
    return refuse(errc::invalid_argument, "a queue of {} entries: use a power of two up to {}",
                  entries, most_queue_entries);
  auto s = std::make_unique<state>();
  s->front = &device;
  s->device = device.state_.get();
  s->index = index;
  s->entries = entries;
  s->block = static_cast<char*>(
      memory.allocate({.size_bytes = ring_bytes(entries), .align_bytes = 4096, .zeroed = true}));
  if (s->block == nullptr)
    return refuse(errc::out_of_memory, "no block of {} bytes for a queue of {} entries: {}",
                  ring_bytes(entries), entries, heap::last_failure().message());
  if (!device.device_address(s->block))
    return refuse(
        errc::invalid_argument,
        "the back end does not have the memory of heap \"{}\": let the connection observe it first",
        memory.name());
  s->descriptors = reinterpret_cast<::vring_desc*>(s->block);
  s->available = reinterpret_cast<::vring_avail*>(s->block + available_offset(entries));
  s->used = reinterpret_cast<::vring_used*>(s->block + used_offset(entries));
  s->kick = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  s->call = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (s->kick < 0 || s->call < 0)
    return refuse_os(errc::os_failure, errno, "no eventfd: {}", std::strerror(errno));
  s->cookies.resize(entries);
  s->lengths.resize(entries);
  for (unsigned i = entries; i-- > 0;)
    s->free.push_back(static_cast<u16>(i));
  vhost::connection& link = s->device->link;
  const vhost::vring_address where{index,
                                   0,
                                   reinterpret_cast<u64>(s->descriptors),
                                   reinterpret_cast<u64>(s->used),
                                   reinterpret_cast<u64>(s->available),
                                   0};
  int why = link.send_value(request::set_vring_num, vhost::vring_state{index, entries}, {}, true);
  if (why == 0)
    why = link.send_value(request::set_vring_base, vhost::vring_state{index, 0}, {}, true);
  if (why == 0) why = link.send_value(request::set_vring_addr, where, {}, true);
  if (why == 0) why = link.send_value(request::set_vring_call, u64{index}, {&s->call, 1}, true);
  if (why == 0) why = link.send_value(request::set_vring_kick, u64{index}, {&s->kick, 1}, true);
  if (why == 0)
    why = link.send_value(request::set_vring_enable, vhost::vring_state{index, 1}, {}, true);
  if (why != 0)
    return refuse_os(errc::os_failure, why, "the back end can't start queue {} with {} entries: {}",
                     index, entries, std::strerror(why));
  s->started = true;
  return vhost_queue(std::move(s));
}

result<bool> vhost_queue::submit(std::span<const segment> parts, u64 cookie) {
  state& s = *state_;
  if (parts.empty() || parts.size() > s.entries)
    return refuse(errc::invalid_argument, "a request of {} buffers: use 1 to {}", parts.size(),
                  s.entries);
  if (parts.size() > s.free.size()) return false;
  u16 next = 0;
  for (size_t i = parts.size(); i-- > 0;) {  // the last first: it has no successor
    const segment& p = parts[i];
    const auto place = heap::locate(p.data);
    const auto address = s.front->device_address(p.data);
    if (!address || place->contiguous_bytes < p.bytes) {
      for (size_t taken = i + 1; taken < parts.size(); ++taken) {
        s.free.push_back(next);
        next = s.descriptors[next].next;
      }
      return refuse(errc::foreign_handle,
                    "{} bytes at {} are not memory the back end has in one piece; allocate them "
                    "from the heap it observes (iova_contiguous)",
                    p.bytes, p.data);
    }
    const u16 here = s.free.back();
    s.free.pop_back();
    const bool is_last = i + 1 == parts.size();
    s.descriptors[here] = {*address, p.bytes,
                           static_cast<__virtio16>((p.device_writes ? VRING_DESC_F_WRITE : 0) |
                                                   (is_last ? 0 : VRING_DESC_F_NEXT)),
                           is_last ? u16{0} : next};
    next = here;
  }
  s.cookies[next] = cookie;
  s.lengths[next] = static_cast<u16>(parts.size());
  s.available->ring[s.made % s.entries] = next;
  // sync(vring): the chain is there before the index.
  std::atomic_ref(s.available->idx).store(++s.made, std::memory_order_release);
  // The index before the look at the flags.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  ++s.out;
  if ((std::atomic_ref(s.used->flags).load(std::memory_order_relaxed) & VRING_USED_F_NO_NOTIFY) ==
      0) {
    const u64 one = 1;
    (void)!::write(s.kick, &one, sizeof one);
  }
  return true;
}

std::size_t vhost_queue::poll(const std::function<void(u64, u32)>& done) {
  state& s = *state_;
  std::size_t finished = 0;
  // sync(vring): what the device wrote before it.
  for (; s.seen != std::atomic_ref(s.used->idx).load(std::memory_order_acquire);
       ++s.seen, ++finished) {
    const ::vring_used_elem e = s.used->ring[s.seen % s.entries];
    u16 at = static_cast<u16>(e.id % s.entries);
    const u64 cookie = s.cookies[at];
    for (u16 left = s.lengths[at]; left-- > 0;) {
      const u16 here = at;
      at = s.descriptors[here].next;
      s.free.push_back(here);
    }
    --s.out;
    done(cookie, e.len);
  }
  if (finished != 0) {
    u64 calls = 0;
    (void)!::read(s.call, &calls, sizeof calls);
  }
  return finished;
}

std::size_t vhost_queue::under_way() const noexcept {
  return state_->out;
}
int vhost_queue::call_descriptor() const noexcept {
  return state_->call;
}

}  // namespace annex
