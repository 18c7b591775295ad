// tests/extent_test.cpp - runs of granules: the shortest that fits, constraints of place and of the
// bus, splitting and merging, and a map of intervals beside it (extent/extents.hpp).
#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "bare_segment.hpp"

namespace annex {
namespace {

constexpr u64 granule = 64 * KiB;  // of regions from 32 MiB on

class extent : public ::testing::Test {
 protected:
  bare_segment b{256 * MiB};
  const segment& s = b.seg();

  std::optional<extent_place> take(const local_region& r, extent_request q) {
    if (q.kind == granule_large && q.holder == 0) q.holder = static_cast<u16>(b.me().member);
    transaction t(s, b.me());
    return extents(r).allocate(t, q);
  }
  /// A large block of so many granules.
  u32 take_granules(const local_region& r, u64 granules, granule_kind kind = granule_large) {
    const auto place = take(r, {.size_bytes = granules << r.granule_shift, .kind = kind});
    return place ? place->granule : no_extent;
  }
  void give(const local_region& r, u32 first) {
    transaction t(s, b.me());
    extents(r).free(t, first);
  }
  void expect_right(const local_region& r) {
    EXPECT_EQ(what_is_wrong_with_extents(s, r), "");
    EXPECT_FALSE(b.is_damaged());
  }
  /// A region whose free granules are exactly these holes, in this order, each between extents in
  /// use. Returns where they begin.
  std::vector<u32> make_holes(const local_region& r, const std::vector<u64>& lengths) {
    std::vector<u32> holes, walls;
    for (const u64 length : lengths) {
      holes.push_back(take_granules(r, length));
      walls.push_back(take_granules(r, 1));
    }
    while (r.record->free_granules != 0)
      if (take_granules(r, longest_free(r)) == no_extent) {
        ADD_FAILURE() << "a free extent of " << longest_free(r) << " granules can't be had";
        break;
      }
    for (u32 hole : holes)
      give(r, hole);
    expect_right(r);
    return holes;
  }
};

TEST_F(extent, of_a_new_region_is_all_of_it) {
  for (const u64 bytes : {u64{4 * KiB}, u64{1 * MiB}, 32 * MiB - 4 * KiB, u64{32 * MiB}}) {
    bare_segment other;
    const local_region& r = other.add_region(bytes);
    EXPECT_EQ(what_is_wrong_with_extents(other.seg(), r), "");
    u64 holes = 0;
    EXPECT_EQ(longest_free(r, &holes), r.granule_count);
    EXPECT_EQ(holes, 1u);
    EXPECT_EQ(extents(r).largest_block({}), bytes);
  }
}

TEST(extent_bins, hold_lengths_in_order_eight_for_each_doubling) {
  auto shortest_of = [](u32 bin) -> u32 { return bin < 8 ? bin : (8 + bin % 8) << (bin / 8 - 1); };
  for (u32 bin = 1; bin < extent_bins && bin / 8 - (bin >= 8) < 29; ++bin) {
    EXPECT_EQ(bin_of(shortest_of(bin)), bin);
    EXPECT_EQ(bin_of(shortest_of(bin) - 1), bin - 1);
    EXPECT_EQ(bin_that_fits(shortest_of(bin)), bin) << "the shortest of a bin is served by it";
    if (shortest_of(bin + 1) > shortest_of(bin) + 1) {
      EXPECT_EQ(bin_that_fits(shortest_of(bin) + 1), bin + 1) << "a longer one by the next";
    }
  }
  EXPECT_LT(bin_of(~u32{0}), extent_bins);
}

// ---- which --------------------------------------------------------------------------------------

TEST_F(extent, for_a_large_block_is_the_shortest_free_one_that_fits) {
  const local_region& r = b.add_region(32 * MiB);
  const std::vector<u32> holes = make_holes(r, {20, 3, 9, 6, 40});
  EXPECT_EQ(take_granules(r, 4), holes[3]);
  EXPECT_EQ(take_granules(r, 3), holes[1]);
  EXPECT_EQ(take_granules(r, 8), holes[2]);
  EXPECT_EQ(take_granules(r, 21), holes[4]);
  EXPECT_EQ(take_granules(r, 20), holes[0]);
  expect_right(r);
}

TEST_F(extent, for_a_slab_is_the_lowest) {
  const local_region& r = b.add_region(32 * MiB);
  const std::vector<u32> holes = make_holes(r, {20, 3, 9, 6, 40});
  EXPECT_EQ(take_granules(r, 1, granule_slab), holes[0]);
  EXPECT_EQ(take_granules(r, 18, granule_slab), holes[0] + 1);
  EXPECT_EQ(take_granules(r, 4, granule_slab), holes[2]);
}

TEST_F(extent, that_fits_is_found_though_its_bin_holds_shorter_ones_too) {
  const local_region& r = b.add_region(32 * MiB);
  ASSERT_EQ(bin_of(17), bin_of(16));
  const std::vector<u32> holes = make_holes(r, {16, 17, 16});
  EXPECT_EQ(take_granules(r, 18), no_extent);
  EXPECT_EQ(take_granules(r, 17), holes[1]);
  EXPECT_EQ(take_granules(r, 17), no_extent);
  EXPECT_EQ(take_granules(r, 16), holes[0]) << "the lowest of a bin";
  EXPECT_EQ(take_granules(r, 16), holes[2]);
  EXPECT_EQ(r.record->free_granules, 0u);
  EXPECT_EQ(take_granules(r, 1), no_extent);
  expect_right(r);
}

// ---- splitting and merging ----------------------------------------------------------------------

TEST_F(extent, is_one_again_in_whatever_order_its_parts_come_back) {
  const local_region& r = b.add_region(32 * MiB);
  std::vector<int> order{0, 1, 2, 3};
  do {
    std::vector<u32> parts;
    for (const u64 length : {1u, 2u, 7u, 30u})
      parts.push_back(take_granules(r, length));
    for (std::size_t i = 1; i < parts.size(); ++i)
      EXPECT_EQ(parts[i], parts[i - 1] + r.extents[parts[i - 1]].length);
    expect_right(r);
    for (const int i : order) {
      give(r, parts[static_cast<std::size_t>(i)]);
      expect_right(r);
    }
    EXPECT_EQ(longest_free(r), r.granule_count);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_F(extent, grows_into_the_free_one_behind_it_and_shrinks) {
  const local_region& r = b.add_region(32 * MiB);
  const u32 first = take_granules(r, 2), hole = take_granules(r, 3), wall = take_granules(r, 1);
  give(r, hole);
  auto resize = [&](u64 granules, u64 bytes_less = 0) {
    transaction t(s, b.me());
    return extents(r).resize(t, first, (first + granules) * granule - bytes_less, false);
  };
  EXPECT_TRUE(resize(3));
  EXPECT_EQ(r.extents[first].length, 3u);
  expect_right(r);
  EXPECT_TRUE(resize(5, granule - 1)) << "a byte of the fifth granule is all of it";
  EXPECT_EQ(r.extents[first].length, 5u);
  expect_right(r);
  EXPECT_FALSE(resize(6)) << "somebody's";
  EXPECT_FALSE(resize(r.granule_count + 1)) << "behind the region";
  EXPECT_EQ(r.extents[first].length, 5u);
  expect_right(r);
  EXPECT_TRUE(resize(1));
  expect_right(r);
  EXPECT_EQ(take_granules(r, 4), first + 1) << "what it gave back is one hole";
  EXPECT_EQ(r.granules[wall].kind, granule_large);
}

TEST_F(extent, whose_bytes_follow_each_other_on_the_bus_does_not_grow_into_another_run) {
  // Two runs of 32 MiB.
  std::vector<iova> pages;
  for (u64 i = 0; i < 1024; ++i)
    pages.push_back(iova{(i < 512 ? 0x1'0000'0000 : 0x9'0000'0000) + i * 64 * KiB});
  const local_region& r = b.add_region(64 * MiB, 0x2000'0000'0000, pages, 64 * KiB);
  const u32 first = take_granules(r, 510);
  ASSERT_EQ(first, 0u);
  auto resize = [&](u64 granules, bool contiguous) {
    transaction t(s, b.me());
    return extents(r).resize(t, first, granules * granule, contiguous);
  };
  EXPECT_TRUE(resize(512, true));
  EXPECT_FALSE(resize(513, true));
  EXPECT_TRUE(resize(513, false));
  expect_right(r);
}

// ---- where --------------------------------------------------------------------------------------

TEST_F(extent, begins_where_its_alignment_wants_whatever_the_regions_own_address) {
  for (const u64 base : {u64{0x2000'0000'0000}, 0x2000'0000'0000 + 3 * granule,
                         0x2000'0000'0000 + 4 * KiB, 0x2000'0000'0000 + 2 * MiB - 4 * KiB}) {
    bare_segment other;
    const local_region& r = other.add_region(64 * MiB, base);
    for (u64 align = 1; align <= 8 * MiB; align *= 2) {
      transaction t(other.seg(), other.me());
      for (const u64 bytes : {u64{1}, u64{100 * KiB}, granule}) {
        const auto place =
            extents(r).allocate(t, {.size_bytes = bytes, .align_bytes = align, .holder = 1});
        ASSERT_TRUE(place) << align;
        EXPECT_EQ((base + place->offset_bytes) % align, 0u) << align;
        EXPECT_EQ(place->granule, place->offset_bytes / granule) << "in its first granule";
        EXPECT_EQ(r.extents[place->granule].lead, place->offset_bytes % granule / 64);
        EXPECT_LE(place->offset_bytes + bytes, extents(r).end_of(place->granule));
        EXPECT_EQ(what_is_wrong_with_extents(other.seg(), r), "");
      }
      t.roll_back();
      EXPECT_EQ(what_is_wrong_with_extents(other.seg(), r), "");
    }
  }
}

TEST_F(extent, crosses_no_boundary) {
  const u64 base = 0x2000'0000'0000 + 5 * granule;
  const local_region& r = b.add_region(64 * MiB, base);
  std::mt19937 random(3);
  for (u32 i = 0; i < 200; ++i) {
    const u64 boundary = u64{128 * KiB} << random() % 5, bytes = 1 + random() % boundary;
    const auto place = take(r, {.size_bytes = bytes, .boundary_bytes = boundary});
    if (!place) break;
    const u64 address = base + place->offset_bytes;
    EXPECT_EQ(address / boundary, (address + bytes - 1) / boundary) << bytes << " " << boundary;
  }
  expect_right(r);
}

TEST_F(extent, ends_with_the_region_though_its_last_granule_is_cut_short) {
  const local_region& r = b.add_region(32 * MiB + 4 * KiB);
  ASSERT_EQ(r.granule_count, 513u);
  EXPECT_FALSE(take(r, {.size_bytes = 32 * MiB + 4 * KiB + 1}));
  const u32 rest = take_granules(r, 512);
  EXPECT_EQ(rest, 0u);
  EXPECT_FALSE(take(r, {.size_bytes = 4 * KiB + 1}));
  const auto last = take(r, {.size_bytes = 4 * KiB});
  ASSERT_TRUE(last);
  EXPECT_EQ(last->granule, 512u);
  EXPECT_EQ(extents(r).end_of(512), 32 * MiB + 4 * KiB);
  expect_right(r);
}

/// Pages in runs of 1 to 40, whose IOVAs lie apart and not at multiples of more than a page.
std::vector<iova> scattered_pages(u64 count, u64 page_bytes, u32 seed) {
  std::mt19937 random(seed);
  std::vector<iova> pages;
  u64 next = 0x10'0000'0000;
  while (pages.size() < count) {
    next += page_bytes * (1 + random() % 9);
    for (u64 run = 1 + random() % 40; run != 0 && pages.size() < count; --run, next += page_bytes)
      pages.push_back(iova{next});
  }
  return pages;
}

TEST_F(extent, may_be_asked_to_lie_in_one_run_of_the_bus) {
  constexpr u64 page = 64 * KiB;
  const std::vector<iova> pages = scattered_pages(1024, page, 5);
  const local_region& r = b.add_region(64 * MiB, 0x2000'0000'0000, pages, page);
  const u64 longest = r.record->longest_run_bytes;
  EXPECT_FALSE(take(r, {.size_bytes = longest + 1, .iova_contiguous = true}));
  std::mt19937 random(9);
  u32 placed = 0;
  for (u32 i = 0; i < 300; ++i) {
    extent_request q{.size_bytes = i == 0 ? longest : 1 + random() % (20 * page),
                     .align_bytes = u64{1} << random() % 18,
                     .iova_contiguous = true};
    if (i % 3 == 0 && i != 0) q.boundary_bytes = std::bit_ceil(q.size_bytes) * 2;
    if (i == 0) q.align_bytes = 1;
    const auto place = take(r, q);
    if (!place) continue;
    ++placed;
    const auto bus = r.iovas.at(place->offset_bytes);
    ASSERT_TRUE(bus);
    EXPECT_GE(bus->contiguous_bytes, q.size_bytes);
    EXPECT_EQ(bus->address % q.align_bytes, 0u) << "aligned on the bus as well as here";
    EXPECT_EQ((reinterpret_cast<u64>(r.base) + place->offset_bytes) % q.align_bytes, 0u);
    EXPECT_TRUE(q.boundary_bytes == 0 || !crosses(bus->address, q.size_bytes, q.boundary_bytes));
    expect_right(r);
  }
  EXPECT_GT(placed, 20u);
}

TEST_F(extent, of_the_largest_block_can_be_had_and_no_larger_one) {
  constexpr u64 page = 64 * KiB;
  std::mt19937 random(13);
  for (u32 round = 0; round < 40; ++round) {
    bare_segment other;
    const local_region& r = other.add_region(64 * MiB, 0x2000'0000'0000 + random() % 8 * granule,
                                             scattered_pages(1024, page, round), page);
    transaction t(other.seg(), other.me());
    for (u32 i = 0; i < 40; ++i) {
      (void)extents(r).allocate(t, {.size_bytes = 1 + random() % (3 * MiB), .holder = 1});
      t.commit();
    }
    for (u32 g = 0; g < r.granule_count;) {
      const u32 length = r.extents[g].length;
      const bool is_mine = r.granules[g].kind == granule_large && random() % 2 == 0;
      g += length;
      if (is_mine) extents(r).free(t, g - length);
      t.commit();
    }
    for (const bool contiguous : {false, true})
      for (const u64 align : {u64{1}, 4 * KiB, granule, 1 * MiB}) {
        extent_request q{.align_bytes = align, .iova_contiguous = contiguous, .holder = 1};
        const u64 largest = extents(r).largest_block(q);
        q.size_bytes = largest + 4 * KiB;
        EXPECT_FALSE(extents(r).allocate(t, q)) << align << contiguous;
        q.size_bytes = largest;
        EXPECT_TRUE(largest == 0 || extents(r).allocate(t, q)) << align << contiguous;
        t.roll_back();
        q.boundary_bytes = 1 * MiB;
        q.size_bytes = extents(r).largest_block(q);
        EXPECT_TRUE(q.size_bytes == 0 || extents(r).allocate(t, q)) << align << contiguous;
        t.roll_back();
      }
    EXPECT_EQ(what_is_wrong_with_extents(other.seg(), r), "");
    EXPECT_FALSE(other.is_damaged());
  }
}

// ---- what is known of it ------------------------------------------------------------------------

TEST_F(extent, is_known_to_be_clean_until_somebody_had_it) {
  const local_region& r = b.add_region(32 * MiB);
  const auto first = take(r, {.size_bytes = 3 * granule});
  ASSERT_TRUE(first);
  EXPECT_EQ(first->dirty_bytes(), 0u);
  give(r, first->granule);
  const auto second = take(r, {.size_bytes = 5 * granule});
  ASSERT_TRUE(second);
  EXPECT_EQ(second->granule, first->granule);
  EXPECT_EQ(second->dirty_bytes(), 3 * granule) << "what the first one had, and no more";
  EXPECT_EQ(r.record->first_clean, second->granule + 5);
}

TEST_F(extent, is_found_from_any_of_its_granules_with_or_without_a_hint) {
  constexpr u64 rest = 20;
  const local_region& r = b.add_region((1 + 9000 + 4 + 300 + rest) * granule);
  const u32 small = take_granules(r, 1), large = take_granules(r, 9000);
  const u32 slab = take_granules(r, 4, granule_slab), last = take_granules(r, 300, granule_zone);
  const extents all(r);
  for (const bool hinted : {false, true}) {
    EXPECT_EQ(all.first_of(small), small);
    for (const u32 inside : {0u, 1u, 2u, 100u, 4095u, 4096u, 4097u, 8999u}) {
      EXPECT_EQ(all.first_of(large + inside), large) << inside;
      if (!hinted) all.remember_first(large + inside, large);
    }
    EXPECT_EQ(all.first_of(last + 299), last);
    EXPECT_EQ(all.first_of(slab), no_extent) << "slabs are found by their granules";
    EXPECT_EQ(all.first_of(r.granule_count - 1), no_extent) << "free";
  }
  EXPECT_EQ(r.granules[large + 100].distance, 100u);
  // A hint of what lay there before leads nobody astray.
  give(r, large);
  const u32 front = take_granules(r, 50), behind = take_granules(r, 8950);
  ASSERT_EQ(front, large);
  EXPECT_EQ(all.first_of(large + 100), behind);
  EXPECT_EQ(all.first_of(large + 8999), behind);
  expect_right(r);
}

TEST_F(extent, that_had_a_name_is_followed_by_one_of_a_later_generation) {
  const local_region& r = b.add_region(32 * MiB);
  const u32 first = take_granules(r, 2);
  EXPECT_EQ(count_in(r.extents[first].name), 0u);
  give(r, first);
  EXPECT_EQ(take_granules(r, 2), first);
  EXPECT_EQ(count_in(r.extents[first].name), 0u) << "nobody named it";
  for (u32 generation = 1; generation < 5; ++generation) {
    r.extents[first].name |= word_is_named;
    give(r, first);
    EXPECT_EQ(take_granules(r, 3), first);
    EXPECT_EQ(count_in(r.extents[first].name), generation);
    expect_right(r);
  }
  // Who has a name keeps its generation, so it does not grow over a place where a later one was.
  const u32 low = take_granules(r, 16), high = take_granules(r, 16);
  for (u32 i = 0; i < 10; ++i) {
    r.extents[high].name |= word_is_named;
    give(r, high);
    EXPECT_EQ(take_granules(r, 16), high);
  }
  give(r, high);
  const u32 generation = count_in(r.extents[low].name);
  auto grow = [&] {
    transaction t(s, b.me());
    return extents(r).resize(t, low, (low + 32) * granule, false);
  };
  r.extents[low].name |= word_is_named;
  EXPECT_FALSE(grow());
  EXPECT_EQ(count_in(r.extents[low].name), generation);
  r.extents[low].name &= ~word_is_named;
  EXPECT_TRUE(grow());
  EXPECT_GE(count_in(r.extents[low].name), 10u);
  expect_right(r);
}

TEST_F(extent, whose_table_leads_in_a_circle_ends_the_search) {
  const local_region& r = b.add_region(32 * MiB);
  const std::vector<u32> holes = make_holes(r, {16, 16});
  r.extents[holes[1]].next = holes[0];
  EXPECT_EQ(take_granules(r, 17), no_extent);
  EXPECT_TRUE(b.is_damaged());
}

// ---- a death, and a model -----------------------------------------------------------------------

std::string bytes_of_tables(const local_region& r) {
  std::string bytes(reinterpret_cast<const char*>(r.record), sizeof *r.record);
  bytes.append(reinterpret_cast<const char*>(r.granules.data()),
               r.granule_count * sizeof(granule_entry));
  bytes.append(reinterpret_cast<const char*>(r.extents.data()),
               r.granule_count * sizeof(extent_entry));
  return bytes;
}

TEST_F(extent, tables_are_as_before_when_a_process_dies_changing_them) {
  const local_region& r = b.add_region(32 * MiB);
  std::vector<u32> in_use = make_holes(r, {3, 9, 1, 30, 2});
  for (u32 steps = 0; steps < 20; ++steps) {
    const std::string before = bytes_of_tables(r);
    child_process child([&] {
      std::mt19937 random(steps);
      const lock_identity who = b.join();
      transaction t(s, who);
      extents all(r);
      for (u32 i = 0; i < steps; ++i) {
        if (random() % 2 == 0) {
          (void)all.allocate(t, {.size_bytes = 1 + random() % (20 * granule), .holder = 1});
          continue;
        }
        const u32 g = static_cast<u32>(random() % r.granule_count);
        if (const u32 first = all.first_of(g); first != no_extent) all.free(t, first);
      }
      ::_exit(0);
      return 0;
    });
    ASSERT_EQ(child.wait_for_exit_code(), 0);
    { transaction t(s, b.me()); }
    EXPECT_EQ(bytes_of_tables(r), before) << steps << " steps";
    expect_right(r);
  }
}

// Intervals in use, and free ones as what lies between. Each refusal is looked into: was there
// really no place?
class model {
 public:
  explicit model(const local_region& r) : region_(r) {}
  std::map<u32, u32> in_use;  // first granule: length

  template <class Visit>
  void for_each_hole(Visit visit) const {
    u32 at = 0;
    for (const auto& [first, length] : in_use) {
      if (first > at) visit(at, first - at);
      at = first + length;
    }
    if (at < region_.granule_count) visit(at, region_.granule_count - at);
  }
  u64 free_granules() const {
    u64 sum = 0;
    for_each_hole([&](u32, u32 length) { sum += length; });
    return sum;
  }
  bool is_free(u32 first, u32 length) const {
    bool is_inside = false;
    for_each_hole([&](u32 at, u32 hole) {
      is_inside |= first >= at && u64{first} + length <= u64{at} + hole;
    });
    return is_inside;
  }
  /// By trying every place.
  bool has_place_for(const extent_request& q) const {
    const u64 base = reinterpret_cast<u64>(region_.base), align = std::max(q.align_bytes, 4 * KiB);
    bool found = false;
    for_each_hole([&](u32 at, u32 length) {
      const u64 begin = u64{at} << region_.granule_shift;
      const u64 end = std::min(u64{at + length} << region_.granule_shift, region_.region_bytes);
      for (u64 offset = align_up(base + begin, align) - base;
           !found && offset + q.size_bytes <= end; offset += align)
        found =
            (q.boundary_bytes == 0 || !crosses(base + offset, q.size_bytes, q.boundary_bytes)) &&
            (!q.iova_contiguous || is_one_run(offset, q));
    });
    return found;
  }

 private:
  bool is_one_run(u64 offset, const extent_request& q) const {
    const auto bus = region_.iovas.at(offset);
    return bus && bus->contiguous_bytes >= q.size_bytes && bus->address % q.align_bytes == 0;
  }
  const local_region& region_;
};

TEST_F(extent, tables_agree_with_a_map_of_intervals_over_thousands_of_random_operations) {
  const u32 seed = a_seed();
  std::mt19937 random(seed);
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  for (const bool has_iovas : {false, true}) {
    bare_segment other;
    const local_region& r = other.add_region(
        40 * MiB + 12 * KiB, 0x2000'0000'0000 + random() % 64 * 4 * KiB,
        has_iovas ? scattered_pages(10 * 1024 + 3, 4 * KiB, seed) : std::vector<iova>{});
    model m(r);
    u32 refused = 0, moved = 0;
    for (u32 i = 0; i < 15000; ++i) {
      transaction t(other.seg(), other.me());
      extents all(r);
      const u64 choice = random() % 10;
      if (choice < 5) {
        extent_request q{.size_bytes = 1 + random() % (random() % 4 == 0 ? 4 * MiB : 400 * KiB),
                         .kind = random() % 3 == 0 ? granule_zone : granule_large};
        if (random() % 3 == 0) q.align_bytes = u64{4 * KiB} << random() % 9;
        if (random() % 5 == 0 && !has_iovas)
          q.boundary_bytes = std::bit_ceil(q.size_bytes) << random() % 3;
        if (random() % 2 == 0 && has_iovas) {
          q.iova_contiguous = true;
          q.align_bytes = std::min(q.align_bytes, 16 * KiB);
          q.size_bytes = 1 + random() % (160 * KiB);
        }
        if (q.kind == granule_large) q.holder = 1;
        const auto place = all.allocate(t, q);
        if (!place) {
          ++refused;
          ASSERT_FALSE(m.has_place_for(q))
              << q.size_bytes << " bytes, aligned to " << q.align_bytes << ", boundary "
              << q.boundary_bytes << (q.iova_contiguous ? ", in one run" : "");
          continue;
        }
        const u32 length = r.extents[place->granule].length;
        ASSERT_TRUE(m.is_free(place->granule, length));
        ASSERT_LE(place->offset_bytes + q.size_bytes, all.end_of(place->granule));
        m.in_use.emplace(place->granule, length);
      } else if (!m.in_use.empty()) {
        auto one = m.in_use.lower_bound(static_cast<u32>(random() % r.granule_count));
        if (one == m.in_use.end()) one = m.in_use.begin();
        const auto [first, length] = *one;
        ASSERT_EQ(all.first_of(first + static_cast<u32>(random() % length)), first);
        if (choice == 5) {
          const u32 wanted = 1 + static_cast<u32>(random() % (2 * length));
          const u64 end = std::min(u64{first + wanted} << r.granule_shift, r.region_bytes);
          const u32 really = static_cast<u32>(divide_up(end, granule)) - first;
          const bool has_room = really <= length || m.is_free(first + length, really - length);
          ASSERT_EQ(all.resize(t, first, end, false), has_room);
          if (has_room) one->second = really;
          moved += has_room && really != length;
        } else {
          all.free(t, first);
          m.in_use.erase(one);
        }
      }
      ASSERT_EQ(r.record->free_granules, m.free_granules());
      if (i % 20 == 0) {
        ASSERT_EQ(what_is_wrong_with_extents(other.seg(), r), "") << "operation " << i;
        u32 longest = 0;
        u64 holes = 0, counted = 0;
        m.for_each_hole([&](u32, u32 length) { longest = std::max(longest, length), ++holes; });
        ASSERT_EQ(longest_free(r, &counted), longest);
        ASSERT_EQ(counted, holes);
      }
    }
    EXPECT_GT(refused, 10u);
    EXPECT_GT(moved, 10u);
    EXPECT_FALSE(other.is_damaged());
  }
}

}  // namespace
}  // namespace annex
