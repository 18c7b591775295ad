// tests/devices/vhost_user_test.cpp - the front end against QEMU's disk (vhost-user-blk) and DPDK's
// network port (net_vhost).
#include <annex/devices/vhost_user.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "support.hpp"

namespace annex {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;
namespace fs = std::filesystem;

// A program with its standard input held open; killed at the end.
class program {
 public:
  explicit program(std::vector<std::string> words, const std::string& output) {
    if (::pipe2(input_, O_CLOEXEC) != 0) std::abort();
    id_ = ::fork();
    if (id_ != 0) return;
    ::dup2(input_[0], 0);
    const int out = ::open(output.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
    ::dup2(out, 1);
    ::dup2(out, 2);
    std::vector<char*> arguments;
    for (std::string& w : words)
      arguments.push_back(w.data());
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  ~program() { kill_now(); }
  void kill_now() {
    if (id_ > 0) {
      ::kill(id_, SIGKILL);
      ::waitpid(id_, nullptr, 0);
      ::close(input_[0]);
      ::close(input_[1]);
    }
    id_ = -1;
  }

 private:
  pid_t id_ = -1;
  int input_[2] = {-1, -1};
};

bool is_installed(const char* name) {
  return std::system(fmt::format("command -v {} >/dev/null 2>&1", name).c_str()) == 0;
}

std::unique_ptr<vhost_user> connect_within(const std::string& path, std::chrono::seconds patience) {
  for (const auto give_up = steady_clock::now() + patience;;) {
    auto connected = vhost_user::connect(path);
    if (connected) return std::move(*connected);
    if (steady_clock::now() > give_up) {
      ADD_FAILURE() << connected.error().message();
      std::abort();
    }
    std::this_thread::sleep_for(20ms);
  }
}

// A shared region whose IOVAs have nothing to do with its addresses.
region_id bring_at(heap& h, u64 bytes, u64 first_iova, u64 gap_every = 0) {
  std::vector<iova> iovas;
  u64 at = first_iova;
  for (u64 page = 0; page < bytes / 4096; ++page, at += 4096) {
    if (gap_every != 0 && page != 0 && page % gap_every == 0) at += 1 * MiB;
    iovas.push_back(iova{at});
  }
  return must(h.bring_memory(
      {.from = memory_source::kind::shared, .length_bytes = bytes, .page_iovas = iovas}));
}

// ---- a disk -------------------------------------------------------------------------------------
constexpr u64 disk_bytes = 16 * MiB, sector = 512;
struct block_request {
  u32 type, reserved;
  u64 sector;
};

class disk : public in_own_directory {
 protected:
  void SetUp() override {
    if (!is_installed("qemu-storage-daemon"))
      GTEST_SKIP() << "qemu-storage-daemon (qemu-system-common) is not installed";
    image_ = path() + "/disk.raw", socket_ = path() + "/disk.sock";
    std::ofstream out(image_, std::ios::binary);
    for (u64 i = 0; i < disk_bytes / 8; ++i) {
      const u64 word = i * 0x9e3779b97f4a7c15;
      out.write(reinterpret_cast<const char*>(&word), 8);
    }
    out.close();
    daemon_ = std::make_unique<program>(
        std::vector<std::string>{
            "qemu-storage-daemon", "--blockdev", "driver=file,node-name=file,filename=" + image_,
            "--blockdev", "driver=raw,node-name=disk,file=file", "--export",
            "type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix,addr.path=" +
                socket_},
        path() + "/daemon.log");
  }
  std::string image_, socket_;
  std::unique_ptr<program> daemon_;
};

// One transfer; the status byte, or -1: no answer.
int transfer(heap& h, vhost_queue& queue, bool write, u64 at_sector, void* data, u32 bytes) {
  auto* const head = static_cast<block_request*>(
      h.allocate({.size_bytes = sizeof(block_request), .iova_contiguous = true}));
  auto* const status = static_cast<unsigned char*>(h.allocate(64));
  *head = {write ? 1u : 0u, 0, at_sector};
  *status = 0xff;
  const vhost_queue::segment parts[] = {
      {head, sizeof *head, false}, {data, bytes, !write}, {status, 1, true}};
  EXPECT_TRUE(must(queue.submit(parts, at_sector)));
  int answer = -1;
  for (const auto give_up = steady_clock::now() + 5s;
       answer < 0 && steady_clock::now() < give_up;) {
    ::pollfd wait{queue.call_descriptor(), POLLIN, 0};
    ::poll(&wait, 1, 10);
    queue.poll([&](u64 cookie, u32) {
      if (cookie == at_sector) answer = *status;
    });
  }
  heap::free(head);
  heap::free(status);
  return answer;
}

TEST_F(disk, is_read_and_written_out_of_blocks_by_their_iova) {
  auto device = connect_within(socket_, 10s);
  EXPECT_TRUE(device->has_slots());
  heap h = must(heap::create("h"));
  auto seen = must(h.observe(*device));
  bring_at(h, 8 * MiB, 0x1'0000'0000);
  EXPECT_EQ(device->entries(), 1u);
  u64 sectors = 0;
  must(device->read_config(0, std::as_writable_bytes(std::span(&sectors, 1))));
  EXPECT_EQ(sectors, disk_bytes / sector);
  {
    vhost_queue queue = must(vhost_queue::start(*device, h, 0, 128));
    auto* const block = static_cast<u64*>(
        h.allocate({.size_bytes = 64 * KiB, .align_bytes = 4096, .iova_contiguous = true}));
    EXPECT_EQ(*device->device_address(block), static_cast<u64>(*heap::locate(block)->bus_address));
    std::mt19937 random(7);
    for (int i = 0; i < 200; ++i) {
      const u64 at = random() % ((disk_bytes - 64 * KiB) / sector);
      const u32 bytes = static_cast<u32>(1 + random() % 128) * 512;
      std::memset(block, 0, 64 * KiB);
      ASSERT_EQ(transfer(h, queue, false, at, block, bytes), 0);
      for (u64 w = 0; w < bytes / 8; ++w)
        ASSERT_EQ(block[w], (at * sector / 8 + w) * 0x9e3779b97f4a7c15) << "sector " << at;
    }
    std::memset(block, 0x5a, 64 * KiB);
    ASSERT_EQ(transfer(h, queue, true, 100, block, 64 * KiB), 0);
    std::memset(block, 0, 64 * KiB);
    ASSERT_EQ(transfer(h, queue, false, 100, block, 64 * KiB), 0);
    EXPECT_EQ(std::memcmp(block, std::string(64 * KiB, 0x5a).data(), 64 * KiB), 0);
    EXPECT_EQ(queue.under_way(), 0u);
    int elsewhere = 0;
    const vhost_queue::segment foreign[] = {{&elsewhere, 4, false}};
    EXPECT_EQ(refused(queue.submit(foreign, 1)), errc::foreign_handle);
    heap::free(block);
  }
  std::ifstream in(image_, std::ios::binary);
  in.seekg(100 * sector);
  std::string written(64 * KiB, 0);
  in.read(written.data(), static_cast<std::streamsize>(written.size()));
  EXPECT_EQ(written, std::string(64 * KiB, 0x5a));
}

TEST_F(disk, memory_comes_and_goes_while_it_works_and_limits_are_kept_here) {
  auto device = connect_within(socket_, 10s);
  heap h = must(heap::create("h"));
  auto seen = must(h.observe(*device));
  bring_at(h, 4 * MiB, 0x1'0000'0000);
  vhost_queue queue = must(vhost_queue::start(*device, h, 0, 64));
  // No descriptor.
  EXPECT_EQ(
      refused(h.bring_memory({.from = memory_source::kind::anonymous, .length_bytes = 4 * MiB})),
      errc::vetoed);
  for (unsigned round = 0; round < 10; ++round) {
    const region_id more = bring_at(h, 4 * MiB, 0x2'0000'0000 + round * (u64{1} << 32));
    std::vector<void*> all;
    void* there = nullptr;
    for (void* b = nullptr;
         (b = h.allocate({.size_bytes = 100'000, .iova_contiguous = true})) != nullptr;
         all.push_back(b))
      if (heap::locate(b)->region == more) there = b;
    ASSERT_NE(there, nullptr);
    heap::free(all.back() == there ? all.front() : all.back());
    std::erase(all, all.back() == there ? all.front() : all.back());
    ASSERT_EQ(transfer(h, queue, false, round, there, 4096), 0);
    EXPECT_EQ(*static_cast<u64*>(there), round * sector / 8 * 0x9e3779b97f4a7c15);
    for (void* b : all)
      heap::free(b);
    must(h.drain_memory(more, 5s));
    EXPECT_EQ(device->entries(), 1u);
  }
  // One entry for each IOVA run; one more than the back end has slots is refused here, and its
  // service goes on.
  const unsigned room = device->most_entries() - device->entries();
  EXPECT_EQ(device->most_entries(), 32u);
  std::vector<iova> scattered;
  for (u64 page = 0; page <= room; ++page)
    scattered.push_back(iova{0x100'0000'0000 + page * 2 * MiB});
  const auto too_many = h.bring_memory({.from = memory_source::kind::shared,
                                        .length_bytes = (room + 1) * 4096,
                                        .page_iovas = scattered});
  EXPECT_EQ(refused(too_many), errc::vetoed);
  EXPECT_NE(too_many.error().message().find("32"), std::string_view::npos)
      << too_many.error().message();
  scattered.pop_back();
  must(h.bring_memory(
      {.from = memory_source::kind::shared, .length_bytes = room * 4096, .page_iovas = scattered}));
  EXPECT_EQ(device->entries(), 32u);
  void* const block = h.allocate({.size_bytes = 4096, .iova_contiguous = true});
  EXPECT_EQ(transfer(h, queue, false, 9, block, 4096), 0);
  heap::free(block);
}

TEST_F(disk, that_dies_stops_nobody) {
  auto device = connect_within(socket_, 10s);
  heap h = must(heap::create("h"));
  auto seen = must(h.observe(*device));
  const region_id region = bring_at(h, 4 * MiB, 0x1'0000'0000);
  daemon_->kill_now();
  EXPECT_EQ(refused(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 4 * MiB})),
            errc::vetoed);
  EXPECT_FALSE(device->is_connected());
  must(h.remove_memory(region));
}

TEST_F(disk, is_not_there) {
  EXPECT_EQ(refused(vhost_user::connect(path() + "/nobody.sock")), errc::invalid_argument);
}

// ---- a network port -----------------------------------------------------------------------------
class port : public in_own_directory {
 protected:
  void SetUp() override {
    if (!is_installed("dpdk-testpmd")) GTEST_SKIP() << "dpdk-testpmd (dpdk) is not installed";
    socket_ = path() + "/port.sock";
    // What it receives it sends back.
    program_ = std::make_unique<program>(
        std::vector<std::string>{
            "dpdk-testpmd", "--lcores=0@0,1@1", "--no-huge", "-m", "256", "--no-pci",
            "--no-telemetry", fmt::format("--file-prefix=annexport{}", ::getpid()), "--vdev",
            "net_vhost0,iface=" + socket_ + ",queues=1", "--", "--forward-mode=io",
            "--total-num-mbufs=4096", "--auto-start", "--no-mlockall"},
        path() + "/testpmd.log");
  }
  std::string socket_;
  std::unique_ptr<program> program_;
};

constexpr u32 net_header_bytes = 12;  // virtio 1: always with the number of buffers

TEST_F(port, packets_go_out_and_come_back_byte_by_byte_while_memory_comes_and_goes) {
  auto device = connect_within(socket_, 20s);
  EXPECT_FALSE(device->has_slots());
  EXPECT_EQ(device->most_entries(), 8u);
  heap h = must(heap::create("h"));
  auto seen = must(h.observe(*device));
  bring_at(h, 8 * MiB, 0x1'0000'0000);
  {
    vhost_queue receive = must(vhost_queue::start(*device, h, 0, 256)),
                send = must(vhost_queue::start(*device, h, 1, 256));
    u32 sent = 0, came = 0, wrong = 0;
    auto give = [&](char* b) {
      const vhost_queue::segment s{b, 2048, true};
      return must(receive.submit({&s, 1}, reinterpret_cast<u64>(b)));
    };
    std::vector<char*> buffers;
    for (int i = 0; i < 128; ++i) {
      buffers.push_back(
          static_cast<char*>(h.allocate({.size_bytes = 2048, .iova_contiguous = true})));
      ASSERT_TRUE(give(buffers.back()));
    }
    auto exchange = [&](u32 count) {
      const u32 goal = came + count;
      for (const auto give_up = steady_clock::now() + 20s;
           came < goal && steady_clock::now() < give_up;) {
        while (sent < goal && sent < came + 64) {
          const u32 bytes = 60 + sent * 13 % 1400;
          auto* const p =
              static_cast<char*>(h.allocate({.size_bytes = 2048, .iova_contiguous = true}));
          std::memset(p, 0, net_header_bytes);
          for (u32 i = 0; i < bytes; ++i)
            p[net_header_bytes + i] = static_cast<char>(sent + i * 3);
          std::memset(p + net_header_bytes, 0x02, 12);
          std::memcpy(p + net_header_bytes + 14, &sent, 4);
          const vhost_queue::segment s{p, net_header_bytes + bytes, false};
          if (!must(send.submit({&s, 1}, reinterpret_cast<u64>(p)))) {
            heap::free(p);
            break;
          }
          ++sent;
        }
        send.poll([](u64 cookie, u32) { heap::free(reinterpret_cast<void*>(cookie)); });
        receive.poll([&](u64 cookie, u32 written) {
          auto* const p = reinterpret_cast<char*>(cookie);
          u32 number = 0;
          std::memcpy(&number, p + net_header_bytes + 14, 4);
          bool right = number < sent && written == net_header_bytes + 60 + number * 13 % 1400;
          for (u32 i = 18; right && i < written - net_header_bytes; ++i)
            right = p[net_header_bytes + i] == static_cast<char>(number + i * 3);
          wrong += right ? 0u : 1u;
          ++came;
          give(p);
        });
        std::this_thread::yield();
      }
      return came == goal;
    };
    ASSERT_TRUE(exchange(2000)) << came << " of " << sent << " came back";
    for (u64 round = 1; round <= 5; ++round) {
      const region_id more = bring_at(h, 4 * MiB, 0x10'0000'0000 * round);
      EXPECT_EQ(device->entries(), 2u);
      ASSERT_TRUE(exchange(500)) << came << " of " << sent << " came back";
      for (const auto give_up = steady_clock::now() + 5s;
           send.under_way() != 0 && steady_clock::now() < give_up;)
        send.poll([](u64 cookie, u32) { heap::free(reinterpret_cast<void*>(cookie)); });
      h.trim();
      must(h.drain_memory(more, 5s));
      EXPECT_EQ(device->entries(), 1u);
      ASSERT_TRUE(exchange(500)) << came << " of " << sent << " came back";
    }
    EXPECT_EQ(wrong, 0u);
    std::vector<iova> scattered;
    for (u64 page = 0; page < 8; ++page)
      scattered.push_back(iova{0x1000'0000'0000 + page * 2 * MiB});
    // 8 and the one there.
    EXPECT_EQ(refused(h.bring_memory({.from = memory_source::kind::shared,
                                      .length_bytes = 8 * 4096,
                                      .page_iovas = scattered})),
              errc::vetoed);
    ASSERT_TRUE(exchange(500));
    for (const auto give_up = steady_clock::now() + 5s;
         send.under_way() != 0 && steady_clock::now() < give_up;)
      send.poll([](u64 cookie, u32) { heap::free(reinterpret_cast<void*>(cookie)); });
  }
  expect_sound(h);
}

}  // namespace
}  // namespace annex
