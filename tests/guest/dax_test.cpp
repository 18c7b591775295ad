// tests/guest/dax_test.cpp - persistent memory as a device (/dev/dax0.0), which is how CXL memory
// comes too: brought, shared, reached by a DMA device, found again.
#include <annex/devices/vfio.hpp>

#include <cstring>
#include <fstream>

#include "edu.hpp"
#include "support.hpp"

namespace annex {
namespace {

const char* const device = "/dev/dax0.0";

class dax : public in_own_directory {
 protected:
  void SetUp() override {
    if (::access(device, F_OK) != 0) GTEST_SKIP() << "no " << device;
  }
  static int node_of_device() {
    int node = -1;
    std::ifstream("/sys/bus/dax/devices/dax0.0/target_node") >> node;
    return node;
  }
  static memory_source whole(u64 bytes = 32 * MiB) {
    return {.from = memory_source::kind::device,
            .length_bytes = bytes,
            .page_bytes = 2 * MiB,
            .path = device};
  }
};

region_summary first_region(const heap& h) {
  region_summary found;
  h.for_each_region([&](const region_summary& r) { found = r; });
  return found;
}

TEST_F(dax, a_device_is_a_region_that_every_process_shares) {
  heap h = must(heap::create("h"));
  must(h.bring_memory(whole()));
  EXPECT_EQ(first_region(h).numa_node, node_of_device());
  auto* const block = static_cast<char*>(h.allocate(3 * MiB));
  ASSERT_NE(block, nullptr);
  std::memset(block, 0x37, 3 * MiB);
  const handle where = h.handle_of(block);
  child_process other([&] {
    const mapped_memory in_the_way(64 * MiB);
    heap mine = must(heap::attach("h"));
    auto* const same = static_cast<char*>(must(mine.resolve(where)));
    for (u64 i = 0; i < 3 * MiB; ++i)
      if (same[i] != 0x37) return 1;
    std::memset(same, 0x38, 3 * MiB);
    return 0;
  });
  EXPECT_EQ(other.wait_for_exit_code(), 0);
  for (u64 i = 0; i < 3 * MiB; i += 100)
    ASSERT_EQ(block[i], 0x38);
  heap::free(block);
}

TEST_F(dax, what_was_written_is_found_again) {
  u64 offset = 0;
  {
    heap h = must(heap::create("h"));
    must(h.bring_memory(whole()));
    auto* const block = static_cast<char*>(h.allocate(1 * MiB));
    std::memset(block, 0x39, 1 * MiB);
    offset = heap::locate(block)->offset_bytes;
  }
  heap again = must(heap::create_private());
  must(again.bring_memory(whole()));
  const char* const base = static_cast<const char*>(first_region(again).base);
  for (u64 i = 0; i < 1 * MiB; i += 100)
    ASSERT_EQ(base[offset + i], 0x39);
  // Never taken for fresh memory: zeroed blocks are cleared.
  auto* const zeroed = static_cast<char*>(again.allocate({.size_bytes = 30 * MiB, .zeroed = true}));
  ASSERT_NE(zeroed, nullptr);
  for (u64 i = 0; i < 30 * MiB; i += 64)
    ASSERT_EQ(zeroed[i], 0);
}

TEST_F(dax, pages_may_be_smaller_than_the_devices_step) {
  heap h = must(heap::create_private());
  auto source = whole();
  source.page_bytes = 4 * KiB;  // the unit of IOVAs, not of the mapping
  must(h.bring_memory(source));
  EXPECT_EQ(reinterpret_cast<u64>(first_region(h).base) % (2 * MiB), 0u);
}

TEST_F(dax, what_the_device_cannot_do_is_refused_with_the_reason) {
  heap h = must(heap::create("h"));
  auto halves = whole();
  halves.length_bytes = 3 * MiB;
  EXPECT_EQ(refused(h.bring_memory(halves)), errc::bad_length);
  auto small = whole(2 * MiB + 4096);
  small.page_bytes = 4096;
  const auto unaligned = h.bring_memory(small);
  EXPECT_FALSE(unaligned.has_value());
  EXPECT_NE(unaligned.error().message().find("2097152"), std::string_view::npos)
      << unaligned.error().message();
  const auto too_long = h.bring_memory(whole(u64{1} << 40));
  EXPECT_FALSE(too_long.has_value());
  EXPECT_NE(too_long.error().message().find("device has"), std::string_view::npos)
      << too_long.error().message();
  auto elsewhere = whole();
  elsewhere.numa_node = node_of_device() == 0 ? 1 : 0;
  const auto wrong = h.bring_memory(elsewhere);
  EXPECT_EQ(refused(wrong), errc::wrong_node);
  EXPECT_NE(wrong.error().message().find(device), std::string_view::npos)
      << wrong.error().message();
  EXPECT_EQ(h.stats().region_count, 0u);
}

TEST_F(dax, a_dma_device_reaches_it) {
  const char* const both = std::getenv("ANNEX_EDU");
  if (both == nullptr || *both == 0) GTEST_SKIP() << "no DMA device";
  auto domain = must(vfio_domain::create());
  const std::string all = both;
  edu_device edu(must(domain->open_device(all.substr(0, all.find(' ')))));
  ASSERT_TRUE(edu.works());
  heap h = must(heap::create("h"));
  auto seen = must(h.observe(*domain));
  const auto iovas = must(domain->choose_iovas(32 * MiB, 2 * MiB));
  auto source = whole();
  source.page_iovas = iovas;
  must(h.bring_memory(source));
  EXPECT_EQ(domain->entries(), 1u);
  auto* const a = static_cast<char*>(h.allocate({.size_bytes = 2048, .iova_contiguous = true}));
  auto* const b = static_cast<char*>(h.allocate({.size_bytes = 2048, .iova_contiguous = true}));
  for (int i = 0; i < 2048; ++i)
    a[i] = static_cast<char>(i * 31 >> 3);
  std::memset(b, 0, 2048);
  ASSERT_TRUE(edu.read_from(static_cast<u64>(*heap::locate(a)->bus_address), 2048));
  ASSERT_TRUE(edu.write_to(static_cast<u64>(*heap::locate(b)->bus_address), 2048));
  EXPECT_EQ(std::memcmp(a, b, 2048), 0);
}

}  // namespace
}  // namespace annex
