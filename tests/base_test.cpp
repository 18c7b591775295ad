// tests/base_test.cpp - arithmetic, size classes, errors, IOVA tables, the address index: the
// layers without shared state.
#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "base/size_class.hpp"
#include "region/address_index.hpp"
#include "support.hpp"

namespace annex {
namespace {

TEST(units, round_and_overflow) {
  EXPECT_EQ(align_up(1, 4096), 4096u);
  EXPECT_EQ(align_down(4097, 4096), 4096u);
  EXPECT_EQ(divide_up(4097, 4096), 2u);
  EXPECT_EQ(log2_floor(65535), 15u);
  EXPECT_EQ(low_bits(64), ~u64{0});
  EXPECT_EQ(low_bits(0), 0u);
  u64 out = 0;
  EXPECT_TRUE(add_overflows(~u64{0}, 1, &out));
  EXPECT_FALSE(multiply_overflows(1ul << 31, 1ul << 32, &out));
  EXPECT_TRUE(multiply_overflows(1ul << 32, 1ul << 32, &out));
}

TEST(size_classes, waste_at_most_a_fifth_above_128_bytes) {
  for (u64 bytes = 129; bytes <= limits::largest_slab_block_bytes; ++bytes)
    ASSERT_LE((class_bytes[class_of(bytes)] - bytes) * 5, class_bytes[class_of(bytes)]);
}

TEST(size_classes, aligned_ones_are_multiples) {
  for (u64 align = 1; align <= 4096; align *= 2)
    for (u64 bytes : {1ul, 63ul, 64ul, 65ul, 1000ul, 5000ul, 65536ul}) {
      const u32 c = class_of_aligned(bytes, align);
      EXPECT_EQ(class_bytes[c] % align, 0u);
      EXPECT_GE(class_bytes[c], bytes);
    }
}

TEST(errors, have_names_texts_and_a_category) {
  EXPECT_EQ(name_of(errc::region_overlap), "region_overlap");
  EXPECT_EQ(describe(errc{}), "no error");
  EXPECT_EQ(describe(errc{9999}), "not an annex error");
  EXPECT_EQ(name_of(errc{9999}), "unknown");
  const std::error_code code = errc::vetoed;
  EXPECT_STREQ(code.category().name(), "annex");
  EXPECT_EQ(code.message(), describe(errc::vetoed));
  std::set<std::string_view> names;
  for (int i = 1; i <= 41; ++i) {
    EXPECT_NE(name_of(errc{i}), "unknown") << i;
    EXPECT_TRUE(names.insert(name_of(errc{i})).second);
  }
}

TEST(iova_tables, become_runs) {
  std::vector<iova> table;
  for (u64 i = 0; i < 100000; ++i)
    table.push_back(iova{0x10000000 + i * 4096});
  const iova_tables one = must(make_iova_tables(table, 4096));
  EXPECT_EQ(one.runs.size(), 1u);
  EXPECT_EQ(one.longest_run_bytes, 100000u * 4096);
  EXPECT_EQ(must(make_iova_tables({}, 4096)).runs.size(), 0u);
  table[50000] = iova{0};
  EXPECT_EQ(must(make_iova_tables(table, 4096)).runs.size(), 3u);
}

TEST(iova_tables, tell_overlaps_as_a_walk_over_the_runs_does) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<iova> pages;
    std::vector<u64> places(60);
    std::iota(places.begin(), places.end(), u64{1});
    std::shuffle(places.begin(), places.end(), random);
    for (u64 i = 0; i < 1 + random() % 40; ++i)
      pages.push_back(iova{places[i] * 4096});
    const iova_tables t = must(make_iova_tables(pages, 4096));
    const iova_map map{t.runs.data(),  t.index.data(),
                       t.order.data(), static_cast<u32>(t.runs.size()),
                       t.index_shift,  pages.size() * 4096};
    for (int look = 0; look < 50; ++look) {
      const u64 address = random() % (64 * 4096), bytes = 1 + random() % (3 * 4096);
      const bool expected = std::any_of(pages.begin(), pages.end(), [&](iova page) {
        const u64 first = static_cast<u64>(page);
        return first < address + bytes && address < first + 4096;
      });
      ASSERT_EQ(map.overlaps(address, bytes), expected) << address << ", " << bytes;
    }
  }
}

TEST(address_index, finds_the_first_and_the_last_byte_of_regions_of_every_size) {
  struct range {
    u64 base, bytes;
    local_region* region;
  };
  std::vector<range> ranges;
  std::mt19937_64 random(3);
  u64 at = 0x100000000000;
  for (int i = 0; i < 300; ++i) {
    const u64 bytes = (1 + random() % 5) * (i % 50 == 0 ? GiB : i % 7 == 0 ? 2 * MiB : 4 * KiB);
    local_region* region = address_index::make_region();
    region->base = reinterpret_cast<char*>(at);
    region->length_bytes = bytes;
    must(address_index::reserve(region->base, bytes));
    address_index::enter(region);
    ranges.push_back({at, bytes, region});
    at += bytes + (random() % 3) * 4096;
  }
  for (const range& r : ranges) {
    EXPECT_EQ(address_index::find(reinterpret_cast<void*>(r.base)), r.region);
    EXPECT_EQ(address_index::find(reinterpret_cast<void*>(r.base + r.bytes - 1)), r.region);
    EXPECT_EQ(address_index::find(reinterpret_cast<void*>(r.base + random() % r.bytes)), r.region);
    EXPECT_EQ(
        refused(address_index::reserve(reinterpret_cast<void*>(r.base + r.bytes - 4096), 4096)),
        errc::region_overlap);
  }
  EXPECT_EQ(address_index::find(reinterpret_cast<void*>(0xfffffffff000)), nullptr);
  EXPECT_EQ(address_index::find(reinterpret_cast<void*>(~u64{0})), nullptr);
  for (const range& r : ranges) {
    address_index::leave(reinterpret_cast<void*>(r.base));
    EXPECT_EQ(address_index::find(reinterpret_cast<void*>(r.base)), nullptr);
    address_index::discard_region(r.region);
  }
}

TEST(address_index, finds_addresses_above_the_usual_47_bits) {
  local_region* region = address_index::make_region();
  region->base = reinterpret_cast<char*>(u64{1} << 55);
  region->length_bytes = 1 << 20;
  must(address_index::reserve(region->base, 1 << 20));
  address_index::enter(region);
  EXPECT_EQ(address_index::find(region->base + 500), region);
  EXPECT_EQ(address_index::find(region->base + (1 << 20)), nullptr);
  address_index::leave(region->base);
  address_index::discard_region(region);
}

}  // namespace
}  // namespace annex
