// examples/vhost_disk.cpp - a disk in another process on the memory of a heap: written, read back,
// every byte checked.
//
//   example_vhost_disk [SOCKET]      of a vhost-user-blk back end whose disk may be overwritten;
//                                    without: a qemu-storage-daemon of its own on a file of 64 MiB
//                                    in /var/tmp. Exit 77: it is not installed.
#include <annex/annex.hpp>
#include <annex/devices/vhost_user.hpp>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "must.hpp"

namespace {

using clock_type = std::chrono::steady_clock;
constexpr std::uint64_t sector_bytes = 512;
constexpr std::uint32_t request_bytes = 64 << 10;
constexpr unsigned depth = 32;

struct header {
  std::uint32_t type, reserved;
  std::uint64_t sector;
};

// What a request needs, all of it blocks of the heap.
struct slot {
  header* head;
  std::uint64_t* data;
  unsigned char* status;
};

std::uint64_t word_at(std::uint64_t offset) {
  return offset * 0x9e3779b97f4a7c15 + 1;
}

// A pass over the whole disk. Returns the number of wrong words, and of requests the disk refused.
std::uint64_t pass(annex::vhost_queue& queue, std::vector<slot>& slots, std::uint64_t disk_bytes,
                   bool write) {
  std::uint64_t next = 0, wrong = 0;
  auto submit = [&](std::size_t i) {
    if (next + request_bytes > disk_bytes) return;
    slot& s = slots[i];
    *s.head = {write ? 1u : 0u, 0, next / sector_bytes};
    *s.status = 0xff;
    for (std::uint64_t w = 0; w < request_bytes / 8; ++w)
      s.data[w] = write ? word_at(next + w * 8) : 0;
    const annex::vhost_queue::segment parts[] = {
        {s.head, sizeof *s.head, false}, {s.data, request_bytes, !write}, {s.status, 1, true}};
    if (!must(queue.submit(parts, i))) std::abort();  // there are entries for all slots
    next += request_bytes;
  };
  for (std::size_t i = 0; i < slots.size(); ++i)
    submit(i);
  while (queue.under_way() != 0) {
    pollfd wait{queue.call_descriptor(), POLLIN, 0};
    if (::poll(&wait, 1, 10'000) == 0) {
      std::fprintf(stderr, "the disk does not answer\n");
      std::exit(1);
    }
    queue.poll([&](std::uint64_t i, std::uint32_t) {
      const slot& s = slots[i];
      wrong += *s.status != 0 ? 1u : 0u;
      if (!write)
        for (std::uint64_t w = 0; w < request_bytes / 8; ++w)
          wrong += s.data[w] != word_at(s.head->sector * sector_bytes + w * 8) ? 1u : 0u;
      submit(i);
    });
  }
  return wrong;
}

pid_t start_daemon(const std::string& image, const std::string& socket) {
  const int fd = ::open(image.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0 || ::ftruncate(fd, 64 << 20) != 0) {
    std::perror(image.c_str());
    std::exit(1);
  }
  ::close(fd);
  const pid_t id = ::fork();
  if (id != 0) return id;
  const std::string
      file = "driver=file,node-name=file,filename=" + image,
      sharing =
          "type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix,addr.path=" +
          socket;
  ::execlp("qemu-storage-daemon", "qemu-storage-daemon", "--blockdev", file.c_str(), "--blockdev",
           "driver=raw,node-name=disk,file=file", "--export", sharing.c_str(), nullptr);
  ::_exit(127);
}

}  // namespace

int main(int count, char** arguments) {
  std::string socket = count > 1 ? arguments[1] : "", image;
  pid_t daemon = -1;
  if (socket.empty()) {
    if (std::system("command -v qemu-storage-daemon >/dev/null") != 0) {
      std::printf("skipped: qemu-storage-daemon (qemu-system-common) is not installed\n");
      return 77;
    }
    const std::string base = "/var/tmp/annex-vhost-disk." + std::to_string(::getpid());
    socket = base + ".sock", image = base + ".raw";
    daemon = start_daemon(image, socket);
    for (int i = 0; i < 500 && ::access(socket.c_str(), F_OK) != 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // named a moment before it listens
  }
  int wrong_exit = 1;
  {
    annex::heap heap = must(annex::heap::create_private());
    auto device = must(annex::vhost_user::connect(socket));
    auto observation = must(heap.observe(*device));
    must(heap.bring_memory({.from = annex::memory_source::kind::shared, .length_bytes = 16 << 20}));
    std::uint64_t sectors = 0;
    must(device->read_config(0, std::as_writable_bytes(std::span(&sectors, 1))));
    annex::vhost_queue queue = must(annex::vhost_queue::start(*device, heap, 0, 4 * depth));
    std::vector<slot> slots;
    for (unsigned i = 0; i < depth; ++i)
      slots.push_back({static_cast<header*>(heap.allocate(sizeof(header))),
                       static_cast<std::uint64_t*>(
                           heap.allocate({.size_bytes = request_bytes, .align_bytes = 4096})),
                       static_cast<unsigned char*>(heap.allocate(64))});
    double seconds[2] = {};
    const std::uint64_t disk_bytes = sectors * sector_bytes;
    std::uint64_t wrong = 0;
    for (const bool write : {true, false}) {
      const auto begin = clock_type::now();
      wrong += pass(queue, slots, disk_bytes, write);
      seconds[write ? 0 : 1] = std::chrono::duration<double>(clock_type::now() - begin).count();
    }
    const double megabytes = static_cast<double>(disk_bytes) / 1e6;
    std::printf(
        "%llu bytes written at %.0f MB/s and read at %.0f MB/s, %u KiB at a time; %llu wrong; "
        "memory table: %s, %u of %u entries\n",
        static_cast<unsigned long long>(disk_bytes), megabytes / seconds[0], megabytes / seconds[1],
        request_bytes >> 10, static_cast<unsigned long long>(wrong),
        device->has_slots() ? "slots" : "whole", device->entries(), device->most_entries());
    for (slot& s : slots) {
      annex::heap::free(s.head);
      annex::heap::free(s.data);
      annex::heap::free(s.status);
    }
    wrong_exit = wrong == 0 ? 0 : 1;
  }
  if (daemon > 0) {
    ::kill(daemon, SIGTERM);
    ::waitpid(daemon, nullptr, 0);
    ::unlink(image.c_str());
    ::unlink(socket.c_str());
  }
  return wrong_exit;
}
