// platform/linux/numa.cpp - on which node memory shall lie, does lie, and could still lie; what a memory device says of itself.
#include <linux/mempolicy.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <string_view>

#include "platform/os.hpp"

namespace annex::os {
namespace {

std::optional<u64> number_in(const std::string& path) {
  FILE* const f = ::fopen(path.c_str(), "re");
  if (f == nullptr) return {};
  unsigned long long value = 0;
  const bool read = std::fscanf(f, "%llu", &value) == 1;
  std::fclose(f);
  return read ? std::optional<u64>(value) : std::nullopt;
}

}  // namespace

int bind_to_node(void* address, u64 bytes, int node) {
  unsigned long mask[16] = {};
  if (node < 0 || node >= 1024) return EINVAL;
  mask[node / 64] = 1ul << (node % 64);
  return ::syscall(SYS_mbind, address, bytes, MPOL_BIND, mask, 1024ul, 0u) == 0 ? 0 : errno;
}

misplaced_page find_off_node(const void* address, u64 bytes, u64 stride, int node) {
  constexpr u64 batch = 1024;
  void* pages[batch];
  int where[batch];
  for (u64 offset = 0; offset < bytes;) {
    u64 count = 0;
    const u64 first = offset;
    for (; count < batch && offset < bytes; offset += stride) pages[count++] = const_cast<char*>(static_cast<const char*>(address)) + offset;
    if (::syscall(SYS_move_pages, 0, count, pages, nullptr, where, 0) != 0) return {};  // no NUMA here
    for (u64 i = 0; i < count; ++i)
      if (where[i] >= 0 && where[i] != node) return {first + i * stride, where[i]};
  }
  return {};
}

u64 free_on_node(int node, u64 huge_page_bytes) {
  const std::string directory = "/sys/devices/system/node/node" + std::to_string(node);
  if (huge_page_bytes != 0) return number_in(directory + "/hugepages/hugepages-" + std::to_string(huge_page_bytes / KiB) + "kB/free_hugepages").value_or(0) * huge_page_bytes;
  // Pages of files are given up for others; a part of the node is kept for the kernel.
  u64 total = 0, free = 0;
  if (FILE* f = ::fopen((directory + "/meminfo").c_str(), "re")) {
    char line[128], name[64];
    unsigned long long kib = 0;
    while (std::fgets(line, sizeof line, f) != nullptr) {
      if (std::sscanf(line, "Node %*d %63[^:]: %llu", name, &kib) != 2) continue;
      const std::string_view what = name;
      if (what == "MemTotal") total = kib * KiB;
      if (what == "MemFree" || what == "Active(file)" || what == "Inactive(file)") free += kib * KiB;
    }
    std::fclose(f);
  }
  return free - std::min(free, total / 64);
}

int node_count() {
  int nodes = 0;
  for (const std::string& name : list_directory("/sys/devices/system/node"))
    nodes += name.size() > 4 && name.starts_with("node") && name[4] >= '0' && name[4] <= '9';
  return nodes > 0 ? nodes : 1;
}

device_facts facts_of_device(int fd) {
  struct ::stat s;
  if (::fstat(fd, &s) != 0 || !S_ISCHR(s.st_mode)) return {};
  const std::string directory = "/sys/dev/char/" + std::to_string(major(s.st_rdev)) + ":" + std::to_string(minor(s.st_rdev));
  const auto node = number_in(directory + "/target_node");
  return {number_in(directory + "/size").value_or(0), number_in(directory + "/align").value_or(0), node ? static_cast<int>(*node) : -1};
}

}  // namespace annex::os
