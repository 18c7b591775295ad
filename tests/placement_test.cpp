// tests/placement_test.cpp - alignment, boundary, IOVA contiguity, zeroing, and refusing fast what
// cannot be.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>

#include "support.hpp"

namespace annex {
namespace {

using placing = in_own_directory;

TEST_F(placing, every_alignment_from_one_to_a_gigabyte) {
  heap h = heap_with(0);
  mapped_memory m(std::size_t{4} << 30, PROT_NONE);
  memory_range r = m.range();
  r.access = touch::none;
  must(h.add_memory(r));
  for (std::size_t align = 1; align <= std::size_t{1} << 30; align *= 2)
    for (const std::size_t size :
         {std::size_t{1}, std::size_t{100}, std::size_t{5000}, std::size_t{200000}}) {
      void* block = h.allocate({.size_bytes = size, .align_bytes = align});
      ASSERT_NE(block, nullptr) << align << ": " << heap::last_failure().message();
      EXPECT_EQ(reinterpret_cast<u64>(block) % align, 0u);
      EXPECT_GE(heap::usable_size(block), size);
      heap::free(block);
    }
  h.trim();
  EXPECT_EQ(h.stats().free_bytes, std::size_t{4} << 30);
  expect_sound(h);
}

TEST_F(placing, alignment_holds_in_a_region_that_begins_anywhere) {
  heap h = heap_with(0);
  mapped_memory m(64 << 20);
  memory_range r = m.range();
  r.base = m.data() + 12288;  // only a page's alignment
  r.length_bytes -= 12288;
  must(h.add_memory(r));
  std::vector<void*> blocks;
  for (std::size_t align = 4096; align <= 4 << 20; align *= 2) {
    void* block = h.allocate({.size_bytes = 300000, .align_bytes = align});
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(reinterpret_cast<u64>(block) % align, 0u);
    EXPECT_GE(heap::usable_size(block), 300000u);
    std::memset(block, 1, heap::usable_size(block));
    blocks.push_back(block);
  }
  expect_sound(h);
  heap::free_bulk(blocks);
  expect_sound(h);
}

TEST_F(placing, a_larger_block_serves_only_where_it_is_as_asked) {
  heap h = heap_with(0);
  mapped_memory m(1 << 20);
  std::vector<iova> iovas;  // no two pages follow each other
  for (std::size_t page = 0; page < m.size() / 4096; ++page)
    iovas.push_back(iova{0x100000000 + page * 8192});
  memory_range r = m.range();
  r.page_iovas = iovas;
  must(h.add_memory(r));
  std::vector<void*> large, rest;
  while (void* block = h.allocate(7168))
    large.push_back(block);
  while (void* block = h.allocate(4096))
    rest.push_back(block);
  for (std::size_t i = 0; i < large.size(); i += 2)
    heap::free(large[i]);
  int served = 0;
  auto take_all = [&](const placement& p, std::size_t unit) {
    std::vector<void*> taken;
    while (void* block = h.allocate(p)) {
      const auto first = reinterpret_cast<u64>(block);
      EXPECT_EQ(first / unit, (first + p.size_bytes - 1) / unit)
          << p.size_bytes << " bytes at " << block;
      taken.push_back(block);
    }
    served += static_cast<int>(taken.size());
    heap::free_bulk(taken);
  };
  take_all({.size_bytes = 3581, .boundary_bytes = 16384}, 16384);
  take_all({.size_bytes = 3581, .boundary_bytes = 4096}, 4096);
  take_all({.size_bytes = 3000, .align_bytes = 16, .iova_contiguous = true}, 4096);
  EXPECT_GT(served, 0) << "no larger block served at all";
  expect_sound(h);
}

TEST_F(placing, a_boundary_is_not_crossed) {
  heap h = heap_with(512 << 20);
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    const std::size_t boundary = std::size_t{64} << (random() % 14), size = 1 + random() % boundary;
    auto* block = static_cast<char*>(h.allocate({.size_bytes = size, .boundary_bytes = boundary}));
    ASSERT_NE(block, nullptr) << size << " within " << boundary << ": "
                              << heap::last_failure().message();
    const u64 first = reinterpret_cast<u64>(block), last = first + size - 1;
    EXPECT_EQ(first / boundary, last / boundary);
    if (i % 3 != 0) heap::free(block);
  }
  EXPECT_EQ(h.allocate({.size_bytes = 100, .boundary_bytes = 64}), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::bad_request);
  EXPECT_EQ(h.allocate({.size_bytes = 10, .boundary_bytes = 100}), nullptr);
  EXPECT_EQ(h.allocate({.size_bytes = 10, .align_bytes = 48}), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::bad_request);
}

// A table of runs of random lengths in random places.
std::vector<iova> scattered(std::size_t pages, std::size_t longest, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<iova> table;
  std::vector<std::size_t> lengths;
  for (std::size_t total = 0; total < pages;) {
    const std::size_t length = std::min<std::size_t>(1 + random() % longest, pages - total);
    lengths.push_back(length);
    total += length;
  }
  std::vector<std::size_t> order(lengths.size());
  for (std::size_t i = 0; i < order.size(); ++i)
    order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  std::vector<u64> start(lengths.size());
  u64 next = 0x40000000;
  for (const std::size_t i : order) {
    start[i] = next;
    next += (lengths[i] + 1) * 4096;  // a gap, so that runs never join by accident
  }
  for (std::size_t i = 0; i < lengths.size(); ++i)
    for (std::size_t page = 0; page < lengths[i]; ++page)
      table.push_back(iova{start[i] + page * 4096});
  return table;
}

TEST_F(placing, contiguous_means_that_every_page_follows) {
  heap h = heap_with(0);
  mapped_memory m(64 << 20);
  const auto table = scattered(m.size() / 4096, 40, 3);
  memory_range r = m.range();
  r.page_iovas = table;
  must(h.add_memory(r));
  std::mt19937 random(5);
  std::vector<void*> blocks;
  for (int i = 0; i < 3000; ++i) {
    const std::size_t size = 1 + random() % 100000, align = std::size_t{64} << (random() % 8);
    auto* block = static_cast<char*>(
        h.allocate({.size_bytes = size, .align_bytes = align, .iova_contiguous = true}));
    if (block == nullptr) break;
    const u64 first = static_cast<u64>(*heap::locate(block)->bus_address);
    EXPECT_EQ(first % align, 0u);
    EXPECT_GE(heap::locate(block)->contiguous_bytes, size);
    for (std::size_t at = 0; at < size; at += 4096)
      ASSERT_EQ(static_cast<u64>(*heap::locate(block + at)->bus_address), first + at);
    blocks.push_back(block);
  }
  EXPECT_GT(blocks.size(), 500u);
  heap::free_bulk(blocks);
  h.trim();
  expect_sound(h);
}

TEST_F(placing, every_byte_translates_both_ways) {
  heap h = heap_with(0);
  mapped_memory m(16 << 20);
  const auto table = scattered(m.size() / 4096, 5, 11);
  memory_range r = m.range();
  r.page_iovas = table;
  must(h.add_memory(r));
  for (std::size_t offset = 0; offset < m.size(); offset += 509) {
    const location l = *heap::locate(m.data() + offset);
    const u64 expected = static_cast<u64>(table[offset / 4096]) + offset % 4096;
    ASSERT_EQ(static_cast<u64>(*l.bus_address), expected);
    ASSERT_EQ(h.address_of(iova{expected}), m.data() + offset);
    std::size_t run = 4096 - offset % 4096;
    for (std::size_t page = offset / 4096 + 1;
         page < table.size() &&
         static_cast<u64>(table[page]) == static_cast<u64>(table[page - 1]) + 4096;
         ++page)
      run += 4096;
    ASSERT_EQ(l.contiguous_bytes, run);
  }
  EXPECT_EQ(h.address_of(iova{0x3fffffff}), nullptr);
  EXPECT_EQ(h.address_of(no_iova), nullptr);
}

TEST_F(placing, a_hopeless_request_fails_fast_and_says_why) {
  heap h = heap_with(0);
  mapped_memory m(256 << 20, PROT_NONE);
  std::vector<iova> table;
  // Runs of 255 pages.
  for (std::size_t page = 0; page < m.size() / 4096; ++page)
    table.push_back(iova{0x100000000 + (page + page / 255) * 4096});
  memory_range r = m.range();
  r.page_iovas = table;
  r.access = touch::none;
  must(h.add_memory(r));
  EXPECT_NE(h.allocate({.size_bytes = 255 * 4096, .iova_contiguous = true}), nullptr);
  const auto began = std::chrono::steady_clock::now();
  for (int i = 0; i < 100; ++i)
    EXPECT_EQ(h.allocate({.size_bytes = 256 * 4096, .iova_contiguous = true}), nullptr);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(10));
  EXPECT_EQ(heap::last_failure().why, explanation::cause::contiguity);
  EXPECT_NE(heap::last_failure().message().find(std::to_string(255 * 4096)),
            std::string_view::npos);
}

TEST_F(placing, without_iovas_nothing_is_contiguous) {
  heap h = heap_with(1 << 20);
  EXPECT_EQ(h.allocate({.size_bytes = 64, .iova_contiguous = true}), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::no_addresses);
  mapped_memory m(1 << 20);
  std::vector<iova> table;
  for (u64 i = 0; i < 256; ++i)
    table.push_back(iova{(i + 1) * 4096});
  memory_range r = m.range();
  r.page_iovas = table;
  must(h.add_memory(r));
  for (const std::size_t size : {std::size_t{64}, std::size_t{3000}, std::size_t{100000}}) {
    void* block = h.allocate({.size_bytes = size, .iova_contiguous = true});
    ASSERT_NE(block, nullptr);
    EXPECT_TRUE(heap::locate(block)->bus_address.has_value());
  }
}

TEST_F(placing, zeroed_is_zero_and_refused_where_nothing_may_be_touched) {
  heap h = heap_with(4 << 20);
  for (const std::size_t size : {std::size_t{100}, std::size_t{70000}}) {
    void* dirty = h.allocate(size);
    std::memset(dirty, 9, size);
    heap::free(dirty);
    auto* clean = static_cast<unsigned char*>(h.allocate({.size_bytes = size, .zeroed = true}));
    EXPECT_TRUE(std::all_of(clean, clean + size, [](unsigned char c) { return c == 0; }));
  }
  heap untouchable = heap_with(0);
  mapped_memory m(1 << 20, PROT_NONE);
  memory_range r = m.range();
  r.access = touch::none;
  must(untouchable.add_memory(r));
  EXPECT_EQ(untouchable.allocate({.size_bytes = 100, .zeroed = true}), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::no_cpu_access);
  EXPECT_EQ(untouchable.allocate({.size_bytes = 100000, .zeroed = true}), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::no_cpu_access);
  void* block = untouchable.allocate(100000);
  EXPECT_EQ(untouchable.reallocate(block, 500000), block) << "in place needs no copy";
  void* wall = untouchable.allocate(100000);
  EXPECT_EQ(untouchable.reallocate(block, 900000), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::no_cpu_access);
  heap::free(block);
  heap::free(wall);
}

TEST_F(placing, a_node_is_a_preference) {
  heap h = heap_with(1 << 20);
  EXPECT_NE(h.allocate({.size_bytes = 100, .numa_node = 0}), nullptr);
  EXPECT_NE(h.allocate({.size_bytes = 100000, .numa_node = 5}), nullptr)
      << "another node serves when the one asked for has nothing";
}

// What a bus sees of a block; all ones: nothing.
u64 bus_address_of(const void* block) {
  const auto where = heap::locate(block);
  return where && where->bus_address ? static_cast<u64>(*where->bus_address) : ~u64{0};
}

TEST_F(placing, holds_on_the_bus_too_where_iovas_begin_at_any_multiple_of_64) {
  for (const u64 skew : {64u, 192u, 4096u, 65536u}) {
    heap h = heap_with(0);
    mapped_memory m(32 << 20, PROT_NONE);
    std::vector<iova> iovas;
    for (u64 page = 0; page < 16; ++page)
      iovas.push_back(iova{4 * GiB + page * 2 * MiB + skew});
    must(h.add_memory({.base = m.data(),
                       .length_bytes = m.size(),
                       .page_bytes = 2 << 20,
                       .page_iovas = iovas,
                       .access = touch::none}));
    for (u64 size = 64; size <= MiB; size *= 2)
      for (u64 align = 64; align <= 2 * MiB; align *= 2)
        for (const u64 boundary : {u64{0}, size, 4 * size}) {
          void* block = h.allocate({.size_bytes = size,
                                    .align_bytes = align,
                                    .boundary_bytes = boundary,
                                    .iova_contiguous = true});
          if (block == nullptr) {
            EXPECT_NE(skew % align, 0u) << size << " aligned to " << align << " within " << boundary
                                        << ": " << heap::last_failure().message();
            EXPECT_EQ(heap::last_failure().why, explanation::cause::alignment);
            continue;
          }
          const u64 at = bus_address_of(block);
          EXPECT_EQ(reinterpret_cast<u64>(block) % align + at % align, 0u)
              << size << " aligned to " << align << ", skew " << skew;
          EXPECT_GE(heap::locate(block)->contiguous_bytes, size);
          EXPECT_TRUE(boundary == 0 || !crosses(at, size, boundary))
              << size << " within " << boundary << ", skew " << skew;
          heap::free(block);
        }
    const zone z = must(h.reserve_zone(
        "z",
        {.size_bytes = 1000, .align_bytes = 64, .boundary_bytes = 1024, .iova_contiguous = true}));
    EXPECT_FALSE(crosses(static_cast<u64>(z.bus_address), 1000, 1024));
    h.trim();
    expect_sound(h);
  }
}

TEST_F(placing, a_mixed_heap_serves_from_the_memory_that_is_in_phase) {
  heap h = heap_with(0);
  mapped_memory odd(4 << 20, PROT_NONE), even(4 << 20, PROT_NONE);
  const std::vector<iova> skewed{iova{4 * GiB + 64}, iova{4 * GiB + 2 * MiB + 64}},
      straight{iova{8 * GiB}, iova{8 * GiB + 2 * MiB}};
  must(h.add_memory({.base = odd.data(),
                     .length_bytes = odd.size(),
                     .page_bytes = 2 << 20,
                     .page_iovas = skewed,
                     .access = touch::none}));
  for (int i = 0; i < 100; ++i)
    EXPECT_NE(h.allocate(512), nullptr);  // slabs lie in the odd one
  EXPECT_EQ(h.allocate({.size_bytes = 512, .align_bytes = 512, .iova_contiguous = true}), nullptr);
  must(h.add_memory({.base = even.data(),
                     .length_bytes = even.size(),
                     .page_bytes = 2 << 20,
                     .page_iovas = straight,
                     .access = touch::none}));
  for (int i = 0; i < 100; ++i) {
    void* block = h.allocate({.size_bytes = 512, .align_bytes = 512, .iova_contiguous = true});
    ASSERT_NE(block, nullptr) << heap::last_failure().message();
    EXPECT_EQ(bus_address_of(block) % 512, 0u);
  }
  expect_sound(h);
}

TEST_F(placing, the_last_page_of_the_bus_is_a_page_like_any_other) {
  constexpr u64 last_page = ~u64{0} - 4095;
  heap h = heap_with(0);
  mapped_memory m(1 << 20), other(1 << 20);
  // The run ends with the bus.
  const std::vector<iova> rising{iova{last_page - 4096}, iova{last_page}, iova{0}, iova{4096}};
  must(h.add_memory({.base = m.data(), .length_bytes = 4 * 4096, .page_iovas = rising}));
  EXPECT_EQ(h.address_of(iova{last_page}), m.data() + 4096);
  EXPECT_EQ(h.address_of(iova{last_page + 4095}), m.data() + 8191);
  EXPECT_EQ(h.address_of(iova{0}), m.data() + 8192);
  EXPECT_EQ(bus_address_of(m.data() + 8190), last_page + 4094);
  EXPECT_EQ(heap::locate(m.data())->contiguous_bytes, 8192u);
  EXPECT_EQ(heap::locate(m.data() + 8192)->contiguous_bytes, 8192u);
  for (const u64 taken : {last_page, last_page - 4096, u64{0}}) {
    const iova again{taken};
    EXPECT_EQ(refused(h.add_memory(
                  {.base = other.data(), .length_bytes = 4096, .page_iovas = {&again, 1}})),
              errc::iova_overlap);
  }
  const iova twice[2] = {iova{last_page}, iova{last_page}};
  EXPECT_EQ(refused(heap_with(0).add_memory(
                {.base = other.data(), .length_bytes = 8192, .page_iovas = twice})),
            errc::iova_overlap);
  const iova passes_it{last_page + 64};
  EXPECT_EQ(refused(h.add_memory(
                {.base = other.data(), .length_bytes = 4096, .page_iovas = {&passes_it, 1}})),
            errc::bad_iova);
  void* block = h.allocate({.size_bytes = 8192, .align_bytes = 64, .iova_contiguous = true});
  EXPECT_NE(block, nullptr) << heap::last_failure().message();
  EXPECT_EQ(h.allocate({.size_bytes = 4 * 4096, .iova_contiguous = true}), nullptr);
  expect_sound(h);
}

TEST_F(placing, the_phase_of_an_alignment_is_told_from_a_run_that_is_too_short) {
  heap h = heap_with(0);
  mapped_memory m(64 << 20, PROT_NONE);
  std::vector<iova> iovas;
  for (u64 page = 0; page < 32; ++page)
    iovas.push_back(iova{4 * GiB + 65536 + page * 2 * MiB});
  must(h.add_memory({.base = m.data(),
                     .length_bytes = m.size(),
                     .page_bytes = 2 << 20,
                     .page_iovas = iovas,
                     .access = touch::none}));
  EXPECT_EQ(h.allocate({.size_bytes = 4 << 20, .align_bytes = 2 << 20, .iova_contiguous = true}),
            nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::alignment)
      << heap::last_failure().message();
  EXPECT_EQ(h.allocate({.size_bytes = 65 << 20, .align_bytes = 64, .iova_contiguous = true}),
            nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::contiguity)
      << heap::last_failure().message();
  EXPECT_NE(h.allocate({.size_bytes = 4 << 20, .align_bytes = 65536, .iova_contiguous = true}),
            nullptr);
}

}  // namespace
}  // namespace annex
