// tests/guest/numa_test.cpp - memory on the nodes that were asked for, as the kernel says: three
// nodes, the last without a processor, as CXL memory is.
#include <sys/syscall.h>

#include <cstring>
#include <fstream>
#include <map>

#include "support.hpp"

namespace annex {
namespace {

constexpr int nodes = 3, memory_only = 2;

class numa : public in_own_directory {
 protected:
  void SetUp() override {
    if (::access("/sys/devices/system/node/node2", F_OK) != 0) GTEST_SKIP() << "not three nodes";
  }
};

void set_huge_pages(int node, int count) {
  std::ofstream("/sys/devices/system/node/node" + std::to_string(node) +
                "/hugepages/hugepages-2048kB/nr_hugepages")
      << count;
}

// How many pages of a stretch lie where; -1: not there.
std::map<int, u64> pages_by_node(char* base, u64 bytes, u64 page_bytes) {
  std::map<int, u64> found;
  for (u64 at = 0; at < bytes; at += page_bytes) {
    void* page = base + at;
    int node = -1;
    if (::syscall(SYS_move_pages, 0, 1ul, &page, nullptr, &node, 0) != 0) node = -99;
    ++found[node < -1 ? -1 : node];
  }
  return found;
}
region_summary summary_of(const heap& h, region_id id) {
  region_summary found;
  h.for_each_region([&](const region_summary& r) {
    if (r.id == id) found = r;
  });
  return found;
}

TEST_F(numa, memory_of_every_kind_lies_on_the_node_asked_for) {
  heap h = must(heap::create("h"));
  heap mine = must(heap::create_private());
  // Of all nodes before anything else: huge pages that were free a moment ago lie in lists of the
  // processors, where a node as small as these has no others left for the pool.
  for (int node = 0; node < nodes; ++node)
    set_huge_pages(node, 4);
  for (int node = 0; node < nodes; ++node) {
    for (heap* where : {&h, &mine})
      for (const auto from : {memory_source::kind::shared, memory_source::kind::anonymous,
                              memory_source::kind::hugetlb})
        for (const bool prefault : {true, false})
          for (const bool pin : {false, true}) {
            const u64 page_bytes = from == memory_source::kind::hugetlb ? 2 * MiB : 4 * KiB;
            const region_id id = must(where->bring_memory({.from = from,
                                                           .length_bytes = 4 * MiB,
                                                           .page_bytes = page_bytes,
                                                           .numa_node = node,
                                                           .prefault = prefault,
                                                           .pin = pin}));
            const region_summary r = summary_of(*where, id);
            EXPECT_EQ(r.numa_node, node);
            if (!prefault) std::memset(r.base, 1, 4 * MiB);
            EXPECT_EQ(pages_by_node(static_cast<char*>(r.base), 4 * MiB, page_bytes),
                      (std::map<int, u64>{{node, 4 * MiB / page_bytes}}))
                << static_cast<int>(from);
            must(where->remove_memory(id));
          }
    set_huge_pages(node, 0);
  }
}

TEST_F(numa, blocks_come_from_the_node_that_is_preferred_and_from_others_when_it_is_full) {
  heap h = must(heap::create("h"));
  std::map<region_id, int> node_of;
  for (int node = 0; node < nodes; ++node)
    node_of[must(h.bring_memory({.length_bytes = 4 * MiB, .numa_node = node, .prefault = true}))] =
        node;
  for (int node = 0; node < nodes; ++node) {
    std::vector<void*> all;
    u64 elsewhere = 0, at_home = 0;
    for (void* b = nullptr; (b = h.allocate({.size_bytes = 100'000, .numa_node = node})) != nullptr;
         all.push_back(b)) {
      const bool home = node_of[heap::locate(b)->region] == node;
      EXPECT_TRUE(!home || elsewhere == 0) << "another node served before this one was full";
      (home ? at_home : elsewhere) += 1;
      std::memset(b, 7, 100'000);
      EXPECT_EQ(pages_by_node(static_cast<char*>(b), 1, 4096).begin()->first,
                node_of[heap::locate(b)->region]);
    }
    EXPECT_GT(at_home, 35u);
    EXPECT_GT(elsewhere, 70u);
    for (void* b : all)
      heap::free(b);
  }
}

TEST_F(numa, a_node_that_is_short_is_refused_with_the_reason_and_nobody_is_killed) {
  heap h = must(heap::create("h"));
  set_huge_pages(memory_only, 2);
  set_huge_pages(0, 8);
  for (const bool pin : {false, true}) {
    const auto huge = h.bring_memory({.from = memory_source::kind::hugetlb,
                                      .length_bytes = 8 * MiB,
                                      .page_bytes = 2 * MiB,
                                      .numa_node = memory_only,
                                      .pin = pin});
    EXPECT_EQ(refused(huge), errc::out_of_memory);
    EXPECT_NE(huge.error().message().find("node 2"), std::string_view::npos)
        << huge.error().message();
    EXPECT_NE(huge.error().message().find("4194304"), std::string_view::npos)
        << huge.error().message();
    const auto ordinary = h.bring_memory(
        {.length_bytes = 400 * MiB, .numa_node = memory_only, .prefault = true, .pin = pin});
    EXPECT_EQ(refused(ordinary), errc::out_of_memory);
    EXPECT_NE(ordinary.error().message().find("node 2"), std::string_view::npos)
        << ordinary.error().message();
  }
  const region_id fits = must(h.bring_memory({.from = memory_source::kind::hugetlb,
                                              .length_bytes = 4 * MiB,
                                              .page_bytes = 2 * MiB,
                                              .numa_node = memory_only}));
  must(h.remove_memory(fits));
  const auto absent = h.bring_memory({.length_bytes = 1 * MiB, .numa_node = 9});
  EXPECT_EQ(refused(absent), errc::wrong_node);
  EXPECT_NE(absent.error().message().find("3 nodes"), std::string_view::npos)
      << absent.error().message();
  EXPECT_EQ(h.stats().region_count, 0u);
  set_huge_pages(memory_only, 0);
  set_huge_pages(0, 0);
}

TEST_F(numa, memory_that_lies_elsewhere_is_refused) {
  heap h = must(heap::create("h"));
  const mapped_memory m(1 * MiB);
  const unsigned long only[1] = {1ul << 1};
  ASSERT_EQ(::syscall(SYS_mbind, m.data(), m.size(), 2 /* bind */, only, 64ul, 0u), 0);
  std::memset(m.data(), 1, m.size());
  memory_range r = m.range();
  r.numa_node = 0;
  const auto wrong = h.add_memory(r);
  EXPECT_EQ(refused(wrong), errc::wrong_node);
  EXPECT_NE(wrong.error().message().find("node 1, not 0"), std::string_view::npos)
      << wrong.error().message();
  r.numa_node = 1;
  must(h.add_memory(r));

  // A file whose pages were there before.
  const int fd = ::memfd_create("before", MFD_CLOEXEC);
  ASSERT_EQ(::ftruncate(fd, 4 * MiB), 0);
  char* const before =
      static_cast<char*>(::mmap(nullptr, 4 * MiB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  ASSERT_EQ(::syscall(SYS_mbind, before, 4 * MiB, 2, only, 64ul, 0u), 0);
  before[3 * MiB + 4096] = 1;  // a single page in the midst
  const auto mixed = h.bring_memory({.from = memory_source::kind::descriptor,
                                     .length_bytes = 4 * MiB,
                                     .fd = fd,
                                     .numa_node = 0,
                                     .prefault = true});
  EXPECT_EQ(refused(mixed), errc::wrong_node);
  ::munmap(before, 4 * MiB);
  ::close(fd);
  EXPECT_EQ(h.stats().region_count, 1u);
}

TEST_F(numa, another_process_finds_the_pages_on_the_node_too) {
  heap h = must(heap::create("h"));
  // Bound, not touched.
  const region_id id = must(h.bring_memory({.length_bytes = 4 * MiB, .numa_node = memory_only}));
  child_process other([&] {
    heap mine = must(heap::attach("h"));
    must(mine.attach_memory(id));
    auto* const base = static_cast<char*>(summary_of(mine, id).base);
    std::memset(base, 3, 4 * MiB);
    return pages_by_node(base, 4 * MiB, 4096) == std::map<int, u64>{{memory_only, 1024}} ? 0 : 1;
  });
  EXPECT_EQ(other.wait_for_exit_code(), 0);
}

}  // namespace
}  // namespace annex
