// platform/numa.hpp - on which node memory shall lie and does lie, how much more there could be, on
// a node or at all; what a memory device says of itself.
//
// Errors are errno values (0: done). Any thread may call.
#pragma once
#include "base/units.hpp"

namespace annex::os {

int node_count();
int bind_to_node(void* address, u64 bytes, int node);
struct misplaced_page {
  u64 offset = 0;
  int node = -1;
};  // node -1: none is
/// The first of every stride bytes' pages that is there and lies on another node; touches none.
misplaced_page find_off_node(const void* address, u64 bytes, u64 stride, int node);
// What populating could get there; ~0: not known.
u64 free_on_node(int node, u64 huge_page_bytes);
// The same anywhere, within the control group's limit; ~0: not known.
u64 free_memory();
/// Hugepages of one size. exists false: this kernel has none of it.
struct hugepage_pool {
  bool exists = false;
  u64 free_pages = 0;
};
hugepage_pool hugepages_of(u64 page_bytes);
/// What a character device with memory (/dev/dax…) says of itself; 0 and -1: nothing.
struct device_facts {
  u64 length_bytes = 0, align_bytes = 0;
  int node = -1;
};
device_facts facts_of_device(int fd);

}  // namespace annex::os
