// tests/devices/af_xdp_test.cpp - packets through blocks of a heap, on a veth pair.
#include <annex/devices/af_xdp.hpp>

#include <fmt/format.h>
#include <sys/socket.h>

#include <chrono>
#include <cstring>

#include "network.hpp"
#include "peers.hpp"
#include "support.hpp"

namespace annex {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

class xdp : public in_own_directory {
 protected:
  void SetUp() override {
    if (!enter_own_network())
      GTEST_SKIP() << "a network namespace with a veth pair can't be had here (CAP_SYS_ADMIN, "
                      "CAP_NET_ADMIN, veth, iproute2)";
  }
};

constexpr u32 header_bytes = 14;

// An Ethernet frame of the experimental type with a number and a pattern from it.
u32 write_packet(char* at, u32 number) {
  const u32 bytes = 64 + number * 37 % 1400;
  std::memset(at, 0xff, 6);
  std::memset(at + 6, 2, 6);
  at[12] = static_cast<char>(0x88), at[13] = static_cast<char>(0xb5);
  std::memcpy(at + header_bytes, &number, 4);
  for (u32 i = header_bytes + 4; i < bytes; ++i)
    at[i] = static_cast<char>(number + i * 7);
  return bytes;
}
// The number, if every byte is right.
std::optional<u32> read_packet(const packet& p) {
  u32 number = 0;
  std::memcpy(&number, p.data + header_bytes, 4);
  if (p.bytes != 64 + number * 37 % 1400) return {};
  for (u32 i = header_bytes + 4; i < p.bytes; ++i)
    if (p.data[i] != static_cast<char>(number + i * 7)) return {};
  return number;
}

// Sends the numbers and takes them back in; returns how many came, every byte right, each once.
u32 exchange(umem& memory, xdp_socket& from, xdp_socket& to, u32 first, u32 count) {
  std::vector<bool> seen(count);
  u32 sent = 0, came = 0;
  for (const auto give_up = steady_clock::now() + 20s;
       came < count && steady_clock::now() < give_up;) {
    to.refill();
    std::array<packet, 32> out{};
    u32 n = 0;
    for (; n < out.size() && sent + n < count && sent + n < came + 500; ++n) {
      auto* const frame = static_cast<char*>(memory.frames().take());
      if (frame == nullptr) break;
      out[n] = {frame, write_packet(frame, first + sent + n)};
    }
    const auto gone = static_cast<u32>(from.send({out.data(), n}));
    for (u32 i = gone; i < n; ++i)
      memory.frames().give(memory.frame_of(out[i].data));
    sent += gone;
    from.reclaim();
    std::array<packet, 64> in{};
    const size_t got = to.receive(in);
    for (size_t i = 0; i < got; ++i) {
      const auto number = read_packet(in[i]);
      if (number && *number >= first && *number - first < count && !seen[*number - first])
        seen[*number - first] = true, ++came;
      else
        ADD_FAILURE() << "a packet of " << in[i].bytes << " bytes is not what was sent";
      memory.frames().give(memory.frame_of(in[i].data));
    }
  }
  for (const auto give_up = steady_clock::now() + 1s;
       sent != 0 && steady_clock::now() < give_up && from.reclaim() != 0;)
    (void)from.send({});
  return came;
}

TEST_F(xdp, packets_go_through_the_heap_byte_by_byte) {
  heap h = must(heap::create("h"));
  const region_id region =
      must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 64 * MiB}));
  for (const u32 frame_bytes : {2048u, 4096u}) {
    const std::string name = fmt::format("frames of {}", frame_bytes);
    umem memory = must(umem::create(h, name, {.frames = 4096, .frame_bytes = frame_bytes}));
    {
      xdp_socket left = must(xdp_socket::bind(memory, "ax0", 0, {.ring_entries = 512}));
      umem second = must(umem::create(h, "second", {.frames = 64}));
      xdp_redirect program = must(xdp_redirect::attach("ax1"));
      xdp_socket right = must(xdp_socket::bind(memory, "ax1", 0, {.ring_entries = 512}));
      must(program.set(0, right));
      EXPECT_EQ(exchange(memory, left, right, 1, 20'000), 20'000u);
      EXPECT_EQ(refused(h.remove_memory(region)), errc::blocks_live);
      // The queue has one.
      EXPECT_EQ(refused(xdp_socket::bind(second, "ax1", 0)), errc::os_failure);
    }
    must(raw_pool::release(h, "second"));
    // What the rings held went with the sockets: those frames are out, and the pool says so.
    EXPECT_EQ(refused(raw_pool::release(h, name)), errc::blocks_live);
  }
}

TEST_F(xdp, a_umem_is_a_lease) {
  heap h = must(heap::create("h"));
  const region_id region =
      must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 8 * MiB}));
  {
    umem memory = must(umem::create(h, "frames", {.frames = 64}));
    EXPECT_EQ(reinterpret_cast<u64>(memory.base()) % 4096, 0u);
    must(raw_pool::release(h, "frames"));
    h.trim();
    EXPECT_EQ(refused(h.remove_memory(region)), errc::leased);
  }
  must(h.remove_memory(region));
}

TEST_F(xdp, what_cannot_be_is_refused) {
  heap h = must(heap::create("h"));
  must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 8 * MiB}));
  EXPECT_EQ(refused(umem::create(h, "a", {.frame_bytes = 1024})), errc::invalid_argument);
  EXPECT_EQ(refused(umem::open(h, "a")), errc::no_such_zone);
  must(raw_pool::create(h, "small", {.object_bytes = 100, .object_count = 10}));
  EXPECT_EQ(refused(umem::open(h, "small")), errc::wrong_kind);
  umem memory = must(umem::create(h, "a", {.frames = 64}));
  EXPECT_EQ(refused(xdp_socket::bind(memory, "no-such", 0)), errc::invalid_argument);
  EXPECT_EQ(refused(xdp_socket::bind(memory, "ax0", 9)), errc::invalid_argument);
  EXPECT_EQ(refused(xdp_socket::bind(memory, "ax0", 0, {.ring_entries = 100})),
            errc::invalid_argument);
  EXPECT_EQ(refused(xdp_socket::bind(memory, "ax0", 0, {.headroom_bytes = 1793})),
            errc::invalid_argument);
  EXPECT_EQ(refused(xdp_socket::adopt(memory, 0)), errc::invalid_argument);
  EXPECT_EQ(refused(xdp_redirect::attach("no-such")), errc::invalid_argument);
}

TEST_F(xdp, a_second_process_goes_on_when_the_owner_is_killed) {
  heap h = must(heap::create("h"));
  must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 32 * MiB}));
  umem own = must(umem::create(h, "own", {.frames = 2048}));
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  child_process owner([&] {
    heap mine = must(heap::attach("h"));
    umem memory = must(umem::create(mine, "theirs", {.frames = 2048}));
    xdp_socket socket = must(xdp_socket::bind(memory, "ax1", 0, {.ring_entries = 256}));
    xdp_redirect program = must(xdp_redirect::attach("ax1"));
    must(program.set(0, socket));
    program.leave();
    socket.refill();
    pass_descriptor(ends[1], socket.descriptor());
    for (;;) {  // drives the rings until it is killed
      std::array<packet, 16> in{};
      const size_t n = socket.receive(in);
      for (size_t i = 0; i < n; ++i)
        memory.frames().give(memory.frame_of(in[i].data));
      socket.refill();
    }
    return 0;
  });
  const int fd = take_descriptor(ends[0]);
  ASSERT_GE(fd, 0);
  xdp_socket left = must(xdp_socket::bind(own, "ax0", 0, {.ring_entries = 256}));
  for (u32 i = 0; i < 2000; ++i) {  // the owner receives these
    auto* const frame = static_cast<char*>(own.frames().take());
    if (frame == nullptr) break;
    const packet p{frame, write_packet(frame, i)};
    if (left.send({&p, 1}) != 1) own.frames().give(frame);
    left.reclaim();
  }
  owner.kill_now();
  owner.wait_for_exit_code();
  umem theirs = must(umem::open(h, "theirs"));
  xdp_socket right = must(xdp_socket::adopt(theirs, fd, {.ring_entries = 256}));
  ::close(fd);
  // What came for the owner last is still in the rings: all of it is read, every byte right.
  for (auto quiet_since = steady_clock::now(); steady_clock::now() - quiet_since < 100ms;) {
    right.refill();
    left.reclaim();
    std::array<packet, 64> in{};
    const size_t n = right.receive(in);
    for (size_t i = 0; i < n; ++i) {
      EXPECT_TRUE(read_packet(in[i])) << "bytes changed on the way";
      theirs.frames().give(theirs.frame_of(in[i].data));
    }
    if (n != 0) quiet_since = steady_clock::now();
  }
  u32 came = 0, sent = 0;
  std::vector<bool> seen(5000);
  for (const auto give_up = steady_clock::now() + 10s;
       came < 5000 && steady_clock::now() < give_up;) {
    right.refill();
    if (sent < 5000 && sent < came + 100) {
      auto* const frame = static_cast<char*>(own.frames().take());
      if (frame != nullptr) {
        const packet p{frame, write_packet(frame, 100'000 + sent)};
        if (left.send({&p, 1}) == 1)
          ++sent;
        else
          own.frames().give(frame);
      }
    }
    left.reclaim();
    std::array<packet, 64> in{};
    const size_t n = right.receive(in);
    for (size_t i = 0; i < n; ++i) {
      const auto number = read_packet(in[i]);
      EXPECT_TRUE(number) << "bytes changed on the way";
      if (number && *number >= 100'000 && !seen[*number - 100'000])
        seen[*number - 100'000] = true, ++came;
      theirs.frames().give(theirs.frame_of(in[i].data));
    }
  }
  EXPECT_EQ(came, 5000u);
  EXPECT_GT(theirs.frames().free_count(), 1000u);
  EXPECT_EQ(std::system("ip link set ax1 xdpgeneric off"), 0);
  expect_sound(h);
}

}  // namespace
}  // namespace annex
