// platform/simulated/numa.cpp - nodes and amounts that the kernel does not tell.
#include "platform/numa.hpp"

#include <cerrno>

#include "platform/simulated/ask.hpp"
#include "platform/simulated/beneath.hpp"

namespace annex::os {

int node_count() {
  return simulated::ask(__func__, {1}, beneath::node_count);
}

int bind_to_node(void* address, u64 bytes, int node) {
  return simulated::ask(__func__, {ENOMEM, EPERM, ENOSYS, EINVAL}, beneath::bind_to_node, address,
                        bytes, node);
}

misplaced_page find_off_node(const void* address, u64 bytes, u64 stride, int node) {
  return simulated::ask(__func__, {misplaced_page()}, beneath::find_off_node, address, bytes,
                        stride, node);
}

u64 free_on_node(int node, u64 huge_page_bytes) {
  return simulated::ask(__func__, {~u64{0}}, beneath::free_on_node, node, huge_page_bytes);
}

u64 free_memory() {
  return simulated::ask(__func__, {~u64{0}}, beneath::free_memory);
}

hugepage_pool hugepages_of(u64 page_bytes) {
  return simulated::ask(__func__, {hugepage_pool()}, beneath::hugepages_of, page_bytes);
}

device_facts facts_of_device(int fd) {
  return simulated::ask(__func__, {device_facts()}, beneath::facts_of_device, fd);
}

}  // namespace annex::os
