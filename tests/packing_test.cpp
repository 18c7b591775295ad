// tests/packing_test.cpp - how much of the memory a placement can use: aligned windows, buffers
// that cross no page, the largest zone, pools over scattered pages, what a device can reach. Where
// a block may lie is compared with trying every offset.
#include <annex/pool.hpp>

#include <algorithm>
#include <random>
#include <vector>

#include "bare_segment.hpp"

namespace annex {
namespace {

using packing = in_own_directory;

u64 bus_address_of(const void* block) {
  const auto where = heap::locate(block);
  return where && where->bus_address ? static_cast<u64>(*where->bus_address) : ~u64{0};
}
// Pages of 2 MiB, none of which follows another.
std::vector<iova> scattered(u64 pages, u64 from = 4 * GiB) {
  std::vector<iova> iovas;
  for (u64 page = 0; page < pages; ++page)
    iovas.push_back(iova{from + (page * 7 % pages) * 4 * MiB});
  return iovas;
}
memory_range untouched(char* base, u64 bytes, const std::vector<iova>& iovas) {
  return {.base = base,
          .length_bytes = bytes,
          .page_bytes = 2 << 20,
          .page_iovas = iovas,
          .access = touch::none};
}

TEST_F(packing, aligned_windows_lie_side_by_side_wherever_the_region_begins) {
  for (const u64 skew : {u64{0}, u64{4096}, u64{64 * KiB - 4096}, u64{3 * MiB}}) {
    heap h = heap_with(0);
    mapped_memory m(132 << 20, PROT_NONE);
    must(h.add_memory({.base = m.data() + skew, .length_bytes = 128 << 20, .access = touch::none}));
    u64 windows = 0;
    while (h.allocate({.size_bytes = 4 << 20, .align_bytes = 4 << 20}))
      ++windows;
    EXPECT_GE(windows, 30u) << "of 31 or 32, in a region that begins " << skew << " further on";
    expect_sound(h);
  }
}

TEST_F(packing, buffers_that_cross_no_page_share_it) {
  for (const u64 size : {u64{600}, u64{9216}, u64{20000}}) {
    for (int by = 0; by < 3; ++by) {
      heap h = heap_with(0);
      mapped_memory m(16 << 20, PROT_NONE);
      const auto iovas = scattered(8);
      must(h.add_memory(untouched(m.data(), m.size(), iovas)));
      placement p{.size_bytes = size};
      const u64 boundary = by == 2 ? 64 * KiB : 2 * MiB;
      if (by != 1) p.boundary_bytes = boundary;
      if (by != 0) p.iova_contiguous = true;
      std::vector<void*> blocks;
      while (void* block = h.allocate(p)) {
        blocks.push_back(block);
        const u64 at = by == 0 ? reinterpret_cast<u64>(block) : bus_address_of(block);
        ASSERT_FALSE(crosses(at, size, boundary));
        ASSERT_GE(heap::locate(block)->contiguous_bytes, size);
      }
      const u64 ideal = m.size() / boundary * (boundary / size);
      EXPECT_GE(blocks.size() * 2, ideal) << size << " bytes, by " << by;
      heap::free_bulk(blocks);
      h.trim();
      EXPECT_EQ(h.stats().live_blocks, 0u);
      expect_sound(h);
    }
  }
}

TEST_F(packing, a_zone_without_a_size_never_grows_the_heap) {
  heap h = heap_with(1 << 20);
  int asked = 0;
  h.on_shortage([&](std::size_t) {
    ++asked;
    return false;
  });
  const zone all = must(h.reserve_zone("all", {}));
  EXPECT_EQ(all.size_bytes, 1u << 20);
  EXPECT_EQ(refused(h.reserve_zone("more", {})), errc::out_of_memory);
  EXPECT_EQ(asked, 0);
  EXPECT_EQ(refused(h.reserve_zone("some", {.size_bytes = 4096})), errc::out_of_memory);
  EXPECT_GT(asked, 0);
}

TEST_F(packing, the_objects_of_a_pool_are_contiguous_over_scattered_pages) {
  heap h = heap_with(0);
  mapped_memory m(64 << 20, PROT_NONE);
  const auto iovas = scattered(32);
  must(h.add_memory(untouched(m.data(), m.size(), iovas)));
  for (const u64 size : {u64{2048}, u64{2304}, u64{100}}) {
    const std::string name = std::to_string(size);
    raw_pool p = must(raw_pool::create(
        h, name, {.object_bytes = size, .object_count = 5000, .iova_contiguous = true}));
    for (u32 i = 0; i < 5000; ++i) {
      void* object = p.take();
      ASSERT_NE(object, nullptr);
      ASSERT_GE(heap::locate(object)->contiguous_bytes, size);
      ASSERT_EQ(bus_address_of(object) % 64, 0u);
      if (i % 2 == 0) p.give(object);
    }
    expect_sound(h);
  }
}

TEST_F(packing, the_objects_of_a_pool_cross_no_boundary) {
  heap h = heap_with(8 << 20);
  raw_pool p = must(raw_pool::create(
      h, "p", {.object_bytes = 1500, .object_count = 1000, .boundary_bytes = 4096}));
  for (u32 i = 0; i < 1000; ++i) {
    void* object = p.take();
    ASSERT_NE(object, nullptr);
    ASSERT_FALSE(crosses(reinterpret_cast<u64>(object), 1500, 4096));
  }
  for (const u64 boundary : {u64{1024}, u64{3000}})
    EXPECT_EQ(refused(raw_pool::create(
                  h, "q", {.object_bytes = 1500, .object_count = 10, .boundary_bytes = boundary})),
              errc::invalid_argument);
  expect_sound(h);
}

TEST_F(packing, no_byte_lies_higher_than_the_device_reaches) {
  heap h = heap_with(0);
  mapped_memory high(16 << 20, PROT_NONE), low(16 << 20, PROT_NONE);
  const auto above = scattered(8, 8 * GiB), below = scattered(8, 4 * GiB - 20 * MiB);
  constexpr iova mask{4 * GiB - 1};
  must(h.add_memory(untouched(high.data(), high.size(), above)));
  EXPECT_EQ(h.allocate({.size_bytes = 64, .highest_iova = mask}), nullptr);
  EXPECT_NE(heap::last_failure().message().find("lowest IOVA"), std::string_view::npos);
  must(h.add_memory(untouched(low.data(), low.size(), below)));
  for (int i = 0; i < 100; ++i)
    ASSERT_NE(h.allocate(64), nullptr);
  for (const u64 size : {u64{64}, u64{1500}, u64{9216}, u64{100000}, u64{2 << 20}}) {
    void* block = h.allocate({.size_bytes = size, .highest_iova = mask});
    ASSERT_NE(block, nullptr) << size << ": " << heap::last_failure().message();
    EXPECT_LE(bus_address_of(block) + size - 1, static_cast<u64>(mask));
    EXPECT_GE(heap::locate(block)->contiguous_bytes, size);
  }
  while (void* block = h.allocate({.size_bytes = 256 << 10, .highest_iova = mask}))
    ASSERT_LE(bus_address_of(block) + (256 << 10) - 1, static_cast<u64>(mask));
  const zone z = must(h.reserve_zone("z", {.highest_iova = iova{8 * GiB + 1000000}}));
  EXPECT_LE(static_cast<u64>(z.bus_address) + z.size_bytes - 1, 8 * GiB + 1000000);
  EXPECT_GT(z.size_bytes, 100000u);
  raw_pool p = must(raw_pool::create(
      h, "p",
      {.object_bytes = 3000, .object_count = 100, .highest_iova = iova{8 * GiB + 9 * MiB}}));
  for (u32 i = 0; i < 100; ++i)
    ASSERT_LE(bus_address_of(p.take()) + 2999, 8 * GiB + 9 * MiB);
  expect_sound(h);
}

TEST_F(packing, the_iova_alone_is_aligned) {
  heap h = heap_with(0);
  mapped_memory m(16 << 20, PROT_NONE);
  std::vector<iova> iovas;  // their phase is not that of the addresses
  for (u64 page = 0; page < 8; ++page)
    iovas.push_back(iova{4 * GiB + page * 4 * MiB + 64 * KiB});
  must(h.add_memory(untouched(m.data(), m.size(), iovas)));
  EXPECT_EQ(h.allocate({.size_bytes = 4096, .align_bytes = 1 << 20, .iova_contiguous = true}),
            nullptr);
  for (const u64 align : {u64{256}, u64{4096}, u64{1 << 20}})
    for (const u64 size : {u64{200}, u64{300000}}) {
      void* block = h.allocate({.size_bytes = size, .iova_align_bytes = align});
      ASSERT_NE(block, nullptr) << size << ", " << align << heap::last_failure().message();
      EXPECT_EQ(bus_address_of(block) % align, 0u);
    }
  EXPECT_EQ(h.allocate({.size_bytes = 64, .iova_align_bytes = 3}), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::bad_request);
  EXPECT_EQ(refused(h.reserve_zone("z", {.size_bytes = 64, .iova_align_bytes = 3})),
            errc::invalid_argument);
  expect_sound(h);
}

// ---- every offset is tried ----------------------------------------------------------------------

constexpr u64 grain = 64;

struct brute {
  const local_region& region;
  extent_request q;

  u64 address(u64 offset) const { return reinterpret_cast<u64>(region.base) + offset; }
  u64 bus(u64 offset) const { return region.iovas.at(offset)->address; }
  bool is_aligned(u64 offset) const {
    if (address(offset) % std::max(q.align_bytes, grain) != 0) return false;
    const u64 align = q.iova_align_bytes != 0 ? q.iova_align_bytes : q.align_bytes;
    return !q.iova_contiguous || bus(offset) % align == 0;
  }
  /// How long a block that begins there may be.
  u64 room(u64 offset) const {
    u64 bytes = region.length_bytes - offset;
    u64 at = address(offset);
    if (q.iova_contiguous) {
      bytes = region.iovas.at(offset)->contiguous_bytes;
      at = bus(offset);
      if (at > q.highest_iova) return 0;
      bytes = std::min(bytes, q.highest_iova - at + 1);
    }
    return q.boundary_bytes != 0 ? std::min(bytes, q.boundary_bytes - at % q.boundary_bytes)
                                 : bytes;
  }
  bool fits(u64 offset) const {
    if (q.unit_bytes == 0) return is_aligned(offset) && room(offset) >= q.size_bytes;
    if (!is_aligned(offset) || offset + q.size_bytes > region.length_bytes) return false;
    for (u64 at = offset; at < offset + q.size_bytes; at += q.unit_bytes)
      if (room(at) < q.unit_bytes || (q.iova_contiguous && bus(at) % q.align_bytes != 0))
        return false;
    return true;
  }
};

TEST(places, are_those_that_trying_every_offset_finds) {
  const u32 seed = a_seed();
  std::mt19937 random(seed);
  SCOPED_TRACE(seed);
  auto one_of = [&](std::initializer_list<u64> values) {
    return values.begin()[random() % values.size()];
  };
  for (int round = 0; round < 40; ++round) {
    bare_segment b(64 * MiB);
    std::vector<iova> pages;
    u64 next = one_of({64 * KiB, 4 * GiB + 64, 4 * GiB + 512, 4 * GiB + 12288});
    for (int page = 0; page < 48; ++page, next += 4096) {
      if (random() % 4 == 0) next += 4096 * (1 + random() % 5);
      pages.push_back(iova{next});
    }
    if (random() % 2 == 0) std::reverse(pages.begin(), pages.end());
    const local_region& region =
        b.add_region(48 * 4096, 0x2000'0000'0000 + one_of({0, 4096, 20480}), pages);
    for (int n = 0; n < 25; ++n) {
      extent_request q;
      q.holder = static_cast<u16>(b.me().member);
      q.size_bytes = 64 * (1 + random() % one_of({16, 128, 1024}));
      q.align_bytes = one_of({1, 64, 256, 4096, 16384});
      q.iova_contiguous = random() % 3 != 0;
      if (random() % 2 == 0)
        q.boundary_bytes = std::max(std::bit_ceil(q.size_bytes), one_of({4096, 16384}));
      if (q.iova_contiguous && random() % 3 == 0)
        q.iova_align_bytes = one_of({64, 512, 4096, 8192});
      if (q.iova_contiguous && random() % 3 == 0)
        q.highest_iova = static_cast<u64>(pages[random() % pages.size()]) + 64 * (random() % 70);
      const brute by_hand{region, q};
      u64 longest = 0;
      bool any = false;
      for (u64 offset = 0; offset < region.length_bytes; offset += grain) {
        if (!by_hand.is_aligned(offset)) continue;
        longest = std::max(longest, by_hand.room(offset) / grain * grain);
        any |= by_hand.fits(offset);
      }
      EXPECT_EQ(extents(region).largest_block(q), longest) << round << " " << n;
      transaction t(b.seg(), b.me());
      const auto place = extents(region).allocate(t, q);
      EXPECT_EQ(place.has_value(), any) << round << " " << n;
      if (!place) continue;
      EXPECT_TRUE(by_hand.fits(place->offset_bytes)) << round << " " << n;
      extents(region).free(t, place->granule);
    }
  }
}

TEST(places, of_units_are_those_that_trying_every_offset_finds) {
  const u32 seed = a_seed();
  std::mt19937 random(seed);
  SCOPED_TRACE(seed);
  for (int round = 0; round < 200; ++round) {
    bare_segment b(64 * MiB);
    std::vector<iova> pages;
    for (u64 page = 0, next = 4 * GiB; page < 32; ++page, next += 4096) {
      if (random() % 3 == 0) next += 4096 * (random() % 3) + (random() % 8 == 0 ? 64 : 0);
      pages.push_back(iova{next});
    }
    const local_region& region = b.add_region(32 * 4096, 0x2000'0000'0000, pages);
    extent_request q;
    q.holder = static_cast<u16>(b.me().member);
    q.unit_bytes = u64{64} << (random() % 8);
    q.size_bytes = q.unit_bytes * (1 + random() % 60);
    q.align_bytes = std::min(q.unit_bytes, u64{64} << (random() % 3));
    q.iova_contiguous = true;
    if (random() % 3 == 0) q.highest_iova = static_cast<u64>(pages[random() % pages.size()]) + 4095;
    const brute by_hand{region, q};
    bool any = false;
    for (u64 offset = 0; offset < region.length_bytes; offset += q.unit_bytes)
      any |= by_hand.fits(offset);
    transaction t(b.seg(), b.me());
    const auto place = extents(region).allocate(t, q);
    EXPECT_EQ(place.has_value(), any) << round << ": units of " << q.unit_bytes;
    if (place) {
      EXPECT_TRUE(by_hand.fits(place->offset_bytes)) << round;
    }
  }
}

}  // namespace
}  // namespace annex
