// platform/linux/numa.cpp - NUMA placement: bind, find the node of a page, free memory per node;
// facts of DAX devices.
#include "platform/numa.hpp"

#include <linux/mempolicy.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "platform/directories.hpp"
#include "platform/linux/call.hpp"
#include "platform/linux/text_file.hpp"

namespace ANNEX_OS {
namespace {

std::optional<u64> number_in(const std::string& path) {
  char text[32];
  read_start(path.c_str(), text);
  unsigned long long value = 0;
  return std::sscanf(text, "%llu", &value) == 1 ? std::optional<u64>(value) : std::nullopt;
}

// Calls visit(name, number) for the lines of a file that a pattern with room for both (63 bytes, a
// u64) fits.
template <class Visit>
void each_number(const std::string& path, const char* pattern, const Visit& visit) {
  each_line<256>(path.c_str(), [&](const char* line) {
    char name[64];
    unsigned long long number = 0;
    if (std::sscanf(line, pattern, name, &number) == 2) visit(std::string_view(name), u64{number});
    return true;
  });
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
    for (; count < batch && offset < bytes; offset += stride)
      pages[count++] = const_cast<char*>(static_cast<const char*>(address)) + offset;
    // No NUMA here.
    if (::syscall(SYS_move_pages, 0, count, pages, nullptr, where, 0) != 0) return {};
    for (u64 i = 0; i < count; ++i)
      if (where[i] >= 0 && where[i] != node) return {first + i * stride, where[i]};
  }
  return {};
}

u64 free_on_node(int node, u64 huge_page_bytes) {
  const std::string directory = "/sys/devices/system/node/node" + std::to_string(node);
  if (huge_page_bytes != 0)
    return number_in(directory + "/hugepages/hugepages-" + std::to_string(huge_page_bytes / KiB) +
                     "kB/free_hugepages")
               .value_or(0) *
           huge_page_bytes;
  // Pages of files are given up for others; a part of the node is kept for the kernel.
  u64 total = ~u64{0}, free = 0;
  each_number(directory + "/meminfo", "Node %*d %63[^:]: %llu",
              [&](std::string_view what, u64 kib) {
                if (what == "MemTotal") total = kib * KiB;
                if (what == "MemFree" || what == "Active(file)" || what == "Inactive(file)")
                  free += kib * KiB;
              });
  return total == ~u64{0} ? total : free - std::min(free, total / 64);
}

u64 free_memory() {
  u64 free = ~u64{0};
  each_number("/proc/meminfo", "%63[^:]: %llu", [&](std::string_view what, u64 kib) {
    if (what == "MemAvailable") free = kib * KiB;
  });
  // The limit of the process's control group and of those around it (version 2).
  std::string group;
  each_line<4096>("/proc/self/cgroup", [&](std::string_view line) {
    if (line.starts_with("0::/")) group = line.substr(3);
    return true;
  });
  for (; !group.empty(); group.resize(group.rfind('/'))) {
    const std::string directory = "/sys/fs/cgroup" + (group == "/" ? "" : group);
    const auto most = number_in(directory + "/memory.max"),
               used = number_in(directory + "/memory.current");
    if (!most || !used) continue;
    u64 of_files = 0;
    each_number(directory + "/memory.stat", "%63s %llu", [&](std::string_view what, u64 bytes) {
      if (what == "active_file" || what == "inactive_file") of_files += bytes;
    });
    free = std::min(free, *most - std::min(*most, *used - std::min(*used, of_files)));
  }
  return free;
}

hugepage_pool hugepages_of(u64 page_bytes) {
  const auto free = number_in("/sys/kernel/mm/hugepages/hugepages-" +
                              std::to_string(page_bytes / KiB) + "kB/free_hugepages");
  return {free.has_value(), free.value_or(0)};
}

int node_count() {
  int nodes = 0;
  std::vector<std::string> names;
  const open_result place = ANNEX_OS::open_place("/sys/devices/system/node", links::followed);
  if (place.fd >= 0) (void)list_in(place.fd, &names);
  close_file(place.fd);
  for (const std::string& name : names)
    nodes += name.size() > 4 && name.starts_with("node") && name[4] >= '0' && name[4] <= '9';
  return nodes > 0 ? nodes : 1;
}

device_facts facts_of_device(int fd) {
  struct ::stat s;
  if (::fstat(fd, &s) != 0 || !S_ISCHR(s.st_mode)) return {};
  const std::string directory =
      "/sys/dev/char/" + std::to_string(major(s.st_rdev)) + ":" + std::to_string(minor(s.st_rdev));
  const auto node = number_in(directory + "/target_node");
  return {number_in(directory + "/size").value_or(0), number_in(directory + "/align").value_or(0),
          node ? static_cast<int>(*node) : -1};
}

}  // namespace ANNEX_OS
