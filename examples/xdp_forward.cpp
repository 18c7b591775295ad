// examples/xdp_forward.cpp - a packet forwarder on a veth pair: packets live in blocks of a heap,
// AF_XDP moves them.
//
//   generator ─ax0═══ax1─ forwarder: exchanges the addresses and sends each packet back
//
//   example_xdp_forward [SECONDS [PACKET-BYTES]]
//       needs root: a network namespace of its own, a veth pair, an XDP program
//
// Prints packets per second both ways, and checks every byte of every packet that comes back.
// Exit 77: not allowed here.
#include <annex/annex.hpp>
#include <annex/devices/af_xdp.hpp>

#include <sched.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "must.hpp"

namespace {

using clock_type = std::chrono::steady_clock;
constexpr unsigned header_bytes = 14;

void exchange_addresses(char* frame) {
  std::array<char, 6> target;
  std::memcpy(target.data(), frame, 6);
  std::memcpy(frame, frame + 6, 6);
  std::memcpy(frame + 6, target.data(), 6);
}

void forward(annex::umem& memory, annex::xdp_socket& socket, const std::atomic<bool>& stop,
             std::uint64_t& forwarded) {
  std::array<annex::packet, 64> packets;
  while (!stop) {
    socket.refill();
    const std::size_t came = socket.receive(packets);
    for (std::size_t i = 0; i < came; ++i)
      exchange_addresses(packets[i].data);
    const std::size_t gone = socket.send({packets.data(), came});
    for (std::size_t i = gone; i < came; ++i)
      memory.frames().give(memory.frame_of(packets[i].data));
    forwarded += gone;
    if (socket.reclaim() == 0 && came == 0) std::this_thread::yield();
  }
}

}  // namespace

int main(int count, char** arguments) {
  const double seconds = count > 1 ? std::atof(arguments[1]) : 1.0;
  const unsigned bytes = count > 2 ? static_cast<unsigned>(std::atoi(arguments[2])) : 64;
  if (bytes < 60 || bytes > 1514) {
    std::fprintf(stderr, "packets of %u bytes: use 60 to 1514\n", bytes);
    return 2;
  }
  if (::unshare(CLONE_NEWNET) != 0 ||
      std::system(
          "ip link add ax0 type veth peer name ax1 2>/dev/null && for i in ax0 ax1; do echo 1 > "
          "/proc/sys/net/ipv6/conf/$i/disable_ipv6; ip link set $i up || exit 1; done") != 0) {
    std::printf(
        "skipped: a network namespace with a veth pair can't be had here (root, veth, iproute2)\n");
    return 77;
  }
  annex::heap heap = must(annex::heap::create_private());
  must(
      heap.bring_memory({.from = annex::memory_source::kind::anonymous, .length_bytes = 64 << 20}));
  annex::umem memory = must(annex::umem::create(heap, "frames", {.frames = 8192}));
  annex::xdp_socket generator = must(annex::xdp_socket::bind(memory, "ax0", 0)),
                    forwarder = must(annex::xdp_socket::bind(memory, "ax1", 0));
  annex::xdp_redirect to_generator = must(annex::xdp_redirect::attach("ax0")),
                      to_forwarder = must(annex::xdp_redirect::attach("ax1"));
  must(to_generator.set(0, generator));
  must(to_forwarder.set(0, forwarder));

  generator.refill();  // before the first packet: one that finds no frame is dropped
  forwarder.refill();
  std::atomic<bool> stop{false};
  std::uint64_t forwarded = 0, sent = 0, came_back = 0, given_up = 0, wrong = 0;
  std::thread worker([&] { forward(memory, forwarder, stop, forwarded); });
  std::vector<char> expected(bytes);
  for (unsigned i = header_bytes; i < bytes; ++i)
    expected[i] = static_cast<char>(i * 31);
  std::array<annex::packet, 64> packets;
  const auto begin = clock_type::now();
  auto last_came = begin;
  for (bool sending = true;
       sending || clock_type::now() - last_came < std::chrono::milliseconds(200);) {
    const auto now = clock_type::now();
    sending = std::chrono::duration<double>(now - begin).count() < seconds;
    generator.refill();
    std::size_t n = 0;
    // Dropped on the way, as packets may be.
    if (now - last_came > std::chrono::milliseconds(50)) given_up = sent - came_back;
    while (sending && n < packets.size() && sent + n < came_back + given_up + 1500) {
      auto* const frame = static_cast<char*>(memory.frames().take());
      if (frame == nullptr) break;
      std::memcpy(frame, expected.data(), bytes);
      std::memset(frame, 2, 6);
      std::memset(frame + 6, 4, 6);
      frame[12] = static_cast<char>(0x88), frame[13] = static_cast<char>(0xb5);
      packets[n++] = {frame, bytes};
    }
    const std::size_t gone = generator.send({packets.data(), n});
    for (std::size_t i = gone; i < n; ++i)
      memory.frames().give(memory.frame_of(packets[i].data));
    sent += gone;
    generator.reclaim();
    const std::size_t came = generator.receive(packets);
    for (std::size_t i = 0; i < came; ++i) {
      const char* const p = packets[i].data;
      const bool right =
          packets[i].bytes == bytes && p[0] == 4 && p[6] == 2 &&
          std::memcmp(p + header_bytes, expected.data() + header_bytes, bytes - header_bytes) == 0;
      wrong += right ? 0u : 1u;
      memory.frames().give(memory.frame_of(p));
    }
    if (came != 0) last_came = clock_type::now();
    came_back += came;
  }
  stop = true;
  worker.join();
  const double took = std::chrono::duration<double>(last_came - begin).count();
  std::printf(
      "%llu packets of %u bytes sent, %llu forwarded, %llu came back in %.2f s: %.3f Mpps each "
      "way; %llu wrong\n",
      static_cast<unsigned long long>(sent), bytes, static_cast<unsigned long long>(forwarded),
      static_cast<unsigned long long>(came_back), took, static_cast<double>(came_back) / took / 1e6,
      static_cast<unsigned long long>(wrong));
  return wrong == 0 && came_back != 0 ? 0 : 1;
}
