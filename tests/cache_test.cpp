// tests/cache_test.cpp - what a thread keeps: taken, put back, filled from slabs, given back to
// them, held still (cache/thread_cache.hpp). Without a heap.
#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "bare_segment.hpp"
#include "cache/thread_cache.hpp"

namespace annex {
namespace {

constexpr u32 class_of_64 = class_of(64);

struct caches : testing::Test {
  bare_segment b;
  const segment& s = b.seg();
  region_views& views = b.views();
  local_region& r = b.add_region(32 * MiB);
  thread_cache& c = make_cache(b.me());
  magazine& m = c.magazines[class_of_64];
  u32 doubles = 0;

  thread_cache& make_cache(lock_identity who, bool checked = false) {
    transaction t(s, who);
    const chunk_ref ref = allocate_chunk(t, sizeof(thread_cache));
    t.put(s.slot(who.slot).cache, ref);
    thread_cache& made = *s.chunk<thread_cache>(ref);
    start_cache(made, who.slot, who.member, checked);
    return made;
  }
  /// As a thread gets one when its others are full.
  slab_record& add_slab(thread_cache& to, local_region& region, u32 size_class = class_of_64,
                        u32 lane = 0) {
    transaction t(s, {to.slot, to.member});
    slab_record* const slab = make_slab(t, region, size_class, 64 * KiB, to.slot, to.member);
    if (slab == nullptr) std::abort();
    slab->lane = static_cast<u16>(lane);
    mark_lane(to, lane);
    link_slab(t, &to.lanes[lane], slab);
    t.commit();
    add_partial(s, to, slab);
    ++to.magazines[size_class].empties;
    return *slab;
  }
  slab_record& add_slab() { return add_slab(c, r); }

  bool fill(u32 size_class = class_of_64) { return refill(s, views, c, size_class, &doubles); }
  /// A block's offset in its region; ~0: the magazine has none.
  u64 take(u64 bytes = 64) {
    void* block = nullptr;
    if (!take_cached(&c, views.bases(), bytes, &block)) return ~u64{0};
    return static_cast<u64>(static_cast<char*>(block) - r.base);
  }
  bool put(u64 offset) { return put_cached(&c, r, offset); }
  u32 count() const { return m.count.load(std::memory_order_relaxed); }
  std::vector<u64> entries() const { return {m.entries, m.entries + count()}; }
  bool is_free(slab_record& slab, u64 offset) const {
    const u64 block =
        (offset - (u64{slab.granule} << r.granule_shift)) / class_bytes[slab.size_class];
    return (slab.free_bits(static_cast<u32>(block / 64)) >> (block % 64) & 1) != 0;
  }
};

// ---- the hit ------------------------------------------------------------------------------------

TEST_F(caches, hand_out_what_was_put_last) {
  slab_record& slab = add_slab();
  const u64 begin = u64{slab.granule} << r.granule_shift;
  EXPECT_EQ(take(), ~u64{0}) << "empty";
  ASSERT_TRUE(fill());
  EXPECT_EQ(take(), begin) << "the lowest block first";
  EXPECT_EQ(take(), begin + 64);
  EXPECT_TRUE(put(begin));
  EXPECT_EQ(take(), begin);
  EXPECT_TRUE(put(begin + 64));
  EXPECT_TRUE(put(begin));
  EXPECT_EQ(take(), begin);
  EXPECT_EQ(take(), begin + 64);
  EXPECT_EQ(c.busy.load(std::memory_order_relaxed), 0u);
}

TEST_F(caches, take_no_more_than_their_capacity) {
  (void)add_slab();
  ASSERT_TRUE(fill());
  std::vector<u64> mine;
  while (count() != 0)
    mine.push_back(take());
  while (mine.size() < m.capacity + 1u) {
    ASSERT_TRUE(fill());
    while (count() != 0)
      mine.push_back(take());
  }
  for (u32 i = 0; i < m.capacity; ++i)
    EXPECT_TRUE(put(mine[i]));
  EXPECT_FALSE(put(mine[m.capacity]));
  EXPECT_EQ(count(), m.capacity);
  EXPECT_EQ(c.busy.load(std::memory_order_relaxed), 0u);
  // A checked heap keeps nothing in caches.
  thread_cache& checked = make_cache(b.join(), true);
  slab_record& slab = add_slab(checked, r);
  EXPECT_FALSE(put_cached(&checked, r, u64{slab.granule} << r.granule_shift));
}

TEST_F(caches, that_are_held_still_take_the_slow_path) {
  (void)add_slab();
  ASSERT_TRUE(fill());
  const u64 mine = take();
  const u32 before = count();
  for (const u32 state : {u32{frozen_asked}, u32{frozen_held}, u32{frozen_look}, 0x40u}) {
    c.frozen.store(state, std::memory_order_relaxed);
    EXPECT_EQ(take(), ~u64{0}) << state;
    EXPECT_FALSE(put(mine)) << state;
    EXPECT_EQ(count(), before) << state;
    EXPECT_EQ(c.busy.load(std::memory_order_relaxed), 0u) << state;
    busy_scope scope(c);
    EXPECT_FALSE(scope.entered()) << state;
    EXPECT_EQ(c.busy.load(std::memory_order_relaxed), 1u);
  }
  c.frozen.store(frozen_held | frozen_look, std::memory_order_relaxed);
  EXPECT_EQ(frozen_of(c), frozen_held);
  set_frozen(c, frozen_no);
  EXPECT_EQ(c.frozen.load(std::memory_order_relaxed), u32{frozen_look}) << "still to be heeded";
  c.frozen.store(frozen_no, std::memory_order_relaxed);
  EXPECT_TRUE(busy_scope(c).entered());
  EXPECT_TRUE(put(mine));
  EXPECT_EQ(take(), mine);
}

TEST_F(caches, refuse_what_is_no_block_of_their_thread) {
  slab_record& slab = add_slab(c, r, class_of(100));  // blocks of 112 bytes do not fill a granule
  const u64 begin = u64{slab.granule} << r.granule_shift, bytes = class_bytes[slab.size_class];
  auto refuses = [&](u64 offset) {
    const u32 before = c.magazines[slab.size_class].count.load(std::memory_order_relaxed);
    return !put(offset) &&
           c.magazines[slab.size_class].count.load(std::memory_order_relaxed) == before;
  };
  for (const u64 inside : {u64{1}, u64{16}, bytes / 2, bytes - 16, bytes - 1})
    for (const u64 block : {u64{0}, u64{1}, u64{7}, u64{slab.capacity} - 1})
      EXPECT_TRUE(refuses(begin + block * bytes + inside)) << inside;
  ASSERT_LE((u64{slab.capacity} + 1) * bytes - bytes, 64 * KiB);
  EXPECT_TRUE(refuses(begin + slab.capacity * bytes)) << "behind the last block";
  EXPECT_FALSE(refuses(begin + (slab.capacity - 1) * bytes)) << "the last block";
  EXPECT_TRUE(refuses(begin + (slab.capacity - 1) * bytes)) << "again: freed twice";
  // Another thread's, one with holders, one without an owner, and no slab at all.
  slab_record& other = add_slab(make_cache(b.join()), r);
  EXPECT_TRUE(refuses(u64{other.granule} << r.granule_shift));
  {
    transaction t(s, b.me());
    set_owner(t, r, &slab, c.slot, true);
    EXPECT_TRUE(refuses(begin)) << "held";
    set_owner(t, r, &slab, no_owner, false);
    EXPECT_TRUE(refuses(begin)) << "an orphan";
    set_owner(t, r, &slab, c.slot, false);
  }
  EXPECT_FALSE(refuses(begin));
  const auto large = [&] {
    transaction t(s, b.me());
    return extents(r).allocate(t, {.size_bytes = 1 * MiB, .holder = 1});
  }();
  EXPECT_TRUE(refuses(large->offset_bytes));
  EXPECT_TRUE(refuses(r.region_bytes - 64)) << "free memory";
}

TEST_F(caches, hand_out_no_entry_that_leads_nowhere) {
  (void)add_slab();
  ASSERT_TRUE(fill());
  const u64 good = m.entries[count() - 1];
  for (const u64 bad :
       {good + 32 * MiB, u64{2} << region_shift, ~u64{0}, u64{0xffff} << region_shift}) {
    m.entries[count() - 1] = bad;
    const u32 before = count();
    EXPECT_EQ(take(), ~u64{0});
    EXPECT_EQ(count(), before);
  }
  m.entries[count() - 1] = good;
  // Not even a count that can't be leads out of the magazine's neighbourhood.
  m.count.value = ~u32{0};
  EXPECT_LE(count_for_a_hit(m.count), 255u);
  EXPECT_EQ(m.count.load(std::memory_order_relaxed), 0u);
}

// ---- refill and flush ---------------------------------------------------------------------------

TEST_F(caches, are_filled_in_growing_batches_each_block_once) {
  slab_record& slab = add_slab();
  std::set<u64> seen;
  u32 last_capacity = first_capacity, free = slab.free_count;
  EXPECT_EQ(m.empties, 1u);
  while (fill()) {
    EXPECT_EQ(m.empties, 0u) << "the slab has live blocks now";
    EXPECT_EQ(m.capacity, std::min(last_capacity * 2, largest_capacity_of(64)));
    EXPECT_EQ(count(), std::min({m.capacity / 2, largest_batch, free}));
    last_capacity = m.capacity;
    free -= count();
    EXPECT_EQ(slab.free_count, free);
    for (const u64 entry : entries()) {
      EXPECT_TRUE(seen.insert(entry & offset_mask).second);
      EXPECT_FALSE(is_free(slab, entry & offset_mask)) << "in the magazine only";
      EXPECT_TRUE((entry & entry_is_clean) != 0) << "nobody had it before";
      EXPECT_EQ(entry >> region_shift, r.slot);
    }
    while (take() != ~u64{0}) {}
  }
  EXPECT_EQ(seen.size(), slab.capacity);
  EXPECT_EQ(slab.summary, 0u);
  EXPECT_EQ(slab.in_partial, 0u);
  EXPECT_EQ(m.partial, 0u);
  EXPECT_EQ(doubles, 0u);
  EXPECT_FALSE(b.is_damaged());
}

TEST_F(caches, say_of_a_block_that_it_is_clean_once) {
  slab_record& slab = add_slab();
  ASSERT_TRUE(fill());
  const u32 first = count();
  flush(s, views, c, class_of_64, 0, &doubles);
  EXPECT_EQ(slab.first_clean(), first);
  for (int i = 0; i < 3; ++i)
    ASSERT_TRUE(fill());
  for (const u64 entry : entries())
    EXPECT_EQ((entry & entry_is_clean) != 0, (entry & offset_mask) / 64 >= first) << entry;
}

TEST_F(caches, give_the_older_part_back_and_keep_what_was_put_last) {
  slab_record& slab = add_slab();
  for (u32 i = 0; i < 4; ++i)
    (void)fill();
  const std::vector<u64> before = entries();
  ASSERT_GE(before.size(), 8u);
  const u32 keep = 3, given = static_cast<u32>(before.size()) - keep;
  flush(s, views, c, class_of_64, keep, &doubles);
  EXPECT_EQ(entries(), std::vector<u64>(before.end() - keep, before.end()));
  for (u32 i = 0; i < before.size(); ++i)
    EXPECT_EQ(is_free(slab, before[i] & offset_mask), i < given) << i;
  EXPECT_EQ(slab.free_count, slab.capacity - keep);
  EXPECT_EQ(m.empties, 0u);
  flush(s, views, c, class_of_64, keep, &doubles);
  EXPECT_EQ(count(), keep) << "nothing more to give";
  flush(s, views, c, class_of_64, 0, &doubles);
  EXPECT_EQ(count(), 0u);
  EXPECT_EQ(slab.free_count, slab.capacity);
  EXPECT_EQ(m.empties, 1u) << "the slab has no live block any more";
  EXPECT_EQ(m.moving, 0u);
  EXPECT_EQ(doubles, 0u);
}

TEST_F(caches, put_a_full_slab_on_the_list_again_when_a_block_of_it_comes_back) {
  slab_record& slab = add_slab();
  std::vector<u64> mine;
  while (fill())
    for (u64 block = take(); block != ~u64{0}; block = take())
      mine.push_back(block);
  ASSERT_EQ(m.partial, 0u);
  EXPECT_TRUE(put(mine.back()));
  flush(s, views, c, class_of_64, 0, &doubles);
  EXPECT_EQ(m.partial, s.ref_of(&slab));
  EXPECT_EQ(slab.in_partial, 1u);
  EXPECT_TRUE(fill());
  EXPECT_EQ(take(), mine.back());
}

TEST_F(caches, notice_what_was_freed_twice_when_it_leaves_them) {
  slab_record& slab = add_slab();
  ASSERT_TRUE(fill());
  const u64 one = take(), other = take();
  ASSERT_TRUE(put(one) && put(other) && put(one)) << "not the top: the hit does not see it";
  flush(s, views, c, class_of_64, 0, &doubles);
  EXPECT_EQ(doubles, 1u);
  EXPECT_EQ(slab.free_count, slab.capacity);
  // Its slab has gone, and what lies there now is no slab of this cache.
  ASSERT_TRUE(fill());
  const u64 gone = take();
  flush(s, views, c, class_of_64, 0, &doubles);
  ASSERT_TRUE(put(gone)) << "a second time, in a slab that is all free";
  remove_partial(s, c, &slab);
  {
    transaction t(s, b.me());
    release_slab(t, r, &slab, &c.lanes[0]);
  }
  doubles = 0;
  flush(s, views, c, class_of_64, 0, &doubles);
  EXPECT_EQ(doubles, 1u);
  EXPECT_EQ(what_is_wrong_with_extents(s, r), "");
  EXPECT_FALSE(b.is_damaged());
}

TEST_F(caches, take_no_death_for_a_second_free) {
  slab_record& slab = add_slab();
  // Who refilled or flushed here died when some blocks were in both places (rule R2).
  for (const bool is_gone : {false, true}) {
    ASSERT_TRUE(fill());
    for (const u64 entry : entries()) {
      const u32 block = static_cast<u32>((entry & offset_mask) / 64 % 1024);
      if (block % 2 == 0) mark_free(slab, block / 64, u64{1} << (block % 64));
    }
    recount(s, &slab);
    m.moving = 1;
    if (is_gone)
      give_back_magazine(s, views, c, class_of_64, &doubles);
    else
      flush(s, views, c, class_of_64, 0, &doubles);
    recount(s, &slab);
    EXPECT_EQ(doubles, 0u);
    EXPECT_EQ(slab.free_count, slab.capacity);
    EXPECT_EQ(count(), 0u);
    EXPECT_EQ(m.moving, 0u);
  }
}

TEST_F(caches, of_the_dead_are_given_back_whatever_their_indexes_say) {
  slab_record& slab = add_slab();
  ASSERT_TRUE(fill());
  const u32 had = count();
  m.partial = 12345;
  m.empties = 77;
  slab.in_partial = 0;
  slab.free_count = 1;
  slab.summary = 0;
  m.entries[had] = m.entries[0];                                // twice
  m.entries[had + 1] = u64{r.slot} << region_shift | 31 * MiB;  // in nobody's memory
  m.entries[had + 2] = m.entries[1] + 16;                       // inside of a block
  m.count.store(had + 3, std::memory_order_relaxed);
  give_back_magazine(s, views, c, class_of_64, &doubles);
  recount(s, &slab);
  EXPECT_EQ(doubles, 3u);
  EXPECT_EQ(slab.free_count, slab.capacity);
  EXPECT_EQ(count(), 0u);
}

TEST_F(caches, of_checked_heaps_are_passed_by_straight_to_the_bitmap) {
  slab_record& slab = add_slab();
  const u64 begin = u64{slab.granule} << r.granule_shift, slot = u64{r.slot} << region_shift;
  EXPECT_EQ(take_direct(s, views, c, class_of_64, &doubles), slot | begin | entry_is_clean);
  EXPECT_EQ(m.empties, 0u);
  EXPECT_EQ(take_direct(s, views, c, class_of_64, &doubles), slot | (begin + 64) | entry_is_clean);
  EXPECT_EQ(slab.free_count, slab.capacity - 2u);
  EXPECT_EQ(slab_at(s, r, begin + 64), &slab);
  free_direct(s, c, &slab, 0);
  EXPECT_TRUE(is_free(slab, begin));
  EXPECT_EQ(take_direct(s, views, c, class_of_64, &doubles), slot | begin)
      << "no longer known to be clean";
  free_direct(s, c, &slab, 0);
  free_direct(s, c, &slab, 1);
  EXPECT_EQ(m.empties, 1u);
  EXPECT_EQ(slab.free_count, slab.capacity);
  EXPECT_EQ(count(), 0u);
}

TEST_F(caches, fill_themselves_from_no_slab_of_another_class) {
  slab_record& wrong = add_slab(c, r, class_of(256));
  remove_partial(s, c, &wrong);
  m.partial = s.ref_of(&wrong);
  EXPECT_FALSE(fill());
  EXPECT_TRUE(b.is_damaged());
  EXPECT_EQ(m.partial, 0u);
  EXPECT_EQ(wrong.free_count, wrong.capacity);
}

// ---- regions ------------------------------------------------------------------------------------

TEST_F(caches, give_back_what_lies_in_one_region_and_keep_the_rest) {
  local_region& second = b.add_region(32 * MiB, 0x3000'0000'0000);
  slab_record &here = add_slab(), &there = add_slab(c, second);
  std::vector<u64> from_both;
  for (local_region* region : {&r, &second, &r, &second})
    from_both.push_back(take_in_region(s, views, c, class_of_64, region->slot, &doubles));
  for (std::size_t i = 0; i < from_both.size(); ++i)
    EXPECT_EQ(from_both[i] >> region_shift, i % 2 == 0 ? r.slot : second.slot);
  EXPECT_EQ(count(), 0u) << "straight from the slabs";
  std::copy(from_both.begin(), from_both.end(), m.entries);
  m.count.store(4, std::memory_order_relaxed);
  EXPECT_EQ(take_in_region(s, views, c, class_of_64, second.slot, &doubles), from_both[3])
      << "the top, if it lies there";
  EXPECT_EQ(count(), 3u);
  flush_region(s, views, c, r.slot, &doubles);
  EXPECT_EQ(entries(), std::vector<u64>{from_both[1]});
  EXPECT_EQ(here.free_count, here.capacity);
  EXPECT_EQ(there.free_count, there.capacity - 2);
  EXPECT_EQ(take_in_region(s, views, c, class_of_64, 0xffff, &doubles), ~u64{0});
  EXPECT_EQ(doubles, 0u);
}

// ---- what others free ---------------------------------------------------------------------------

TEST_F(caches, find_what_others_freed_by_a_hint_or_when_they_look_everywhere) {
  slab_record &first = add_slab(c, r, class_of_64, 0), &second = add_slab(c, r, class_of_64, 300);
  for (slab_record* slab : {&first, &second})
    while (slab->free_count != 0)
      (void)take_direct(s, views, c, class_of_64, &doubles);
  ASSERT_EQ(take_direct(s, views, c, class_of_64, &doubles), ~u64{0});
  (void)free_remotely(first, 7);
  (void)free_remotely(second, 9);
  EXPECT_FALSE(fill()) << "the hints were lost: who freed has died";
  s.slot(c.slot).hints[300 / 64].store(u64{1} << (300 % 64), std::memory_order_relaxed);
  EXPECT_TRUE(fill());
  EXPECT_EQ(second.free_count, 0u);
  EXPECT_EQ(count(), 1u);
  EXPECT_EQ(take(), (u64{second.granule} << r.granule_shift) + 9 * 64);
  EXPECT_EQ(s.slot(c.slot).hints[300 / 64].load(std::memory_order_relaxed), 0u);
  EXPECT_FALSE(collect_lanes(s, c, false, &doubles));
  EXPECT_TRUE(collect_lanes(s, c, true, &doubles));
  EXPECT_EQ(first.free_count, 1u);
  EXPECT_EQ(doubles, 0u);
}

// ---- a model ------------------------------------------------------------------------------------

TEST_F(caches, agree_with_a_set_of_blocks_over_thousands_of_random_operations) {
  const u32 seed = a_seed();
  std::mt19937 random(seed);
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::vector<slab_record*> all{&add_slab(), &add_slab(c, r, class_of_64, 5)};
  std::set<u64> live;
  u64 remote = 0;
  auto slab_of = [&](u64 offset) { return slab_at(s, r, offset); };
  for (u32 i = 0; i < 30'000; ++i) {
    const u64 choice = random() % 16;
    if (choice < 7) {
      u64 block = take();
      if (block == ~u64{0} && (fill() || (collect_lanes(s, c, true, &doubles) && fill())))
        block = take();
      if (block == ~u64{0}) {
        ASSERT_EQ(live.size(), all[0]->capacity + all[1]->capacity)
            << "refused, though some is free";
        continue;
      }
      ASSERT_TRUE(live.insert(block).second) << "handed out twice";
    } else if (choice < 14 && !live.empty()) {
      auto one = live.lower_bound(random() % (2 * 64 * KiB));
      if (one == live.end()) one = live.begin();
      const u64 block = *one;
      live.erase(one);
      if (choice < 12) {
        if (!put(block)) {
          flush(s, views, c, class_of_64, m.capacity / 2, &doubles);
          ASSERT_TRUE(put(block));
        }
      } else {
        slab_record& slab = *slab_of(block);
        const u64 index = (block - (u64{slab.granule} << r.granule_shift)) / 64;
        (void)free_remotely(slab, static_cast<u32>(index));
        ++remote;
      }
    } else if (choice == 14) {
      flush(s, views, c, class_of_64, static_cast<u32>(random() % 8), &doubles);
    } else if (random() % 4 == 0) {
      for (u32 most = 0; most < 700; ++most)  // towards all taken
        if (u64 block = take(); block != ~u64{0} || (fill() && (block = take()) != ~u64{0}))
          live.insert(block);
    }
    if (i % 100 != 0) continue;
    u32 free = count(), empty = 0;
    for (slab_record* slab : all) {
      empty += slab->free_count == slab->capacity;
      u32 in_bitmap = 0, freed_by_others = 0;
      for (u32 w = 0; w < slab->words; ++w) {
        in_bitmap += static_cast<u32>(std::popcount(slab->free_bits(w)));
        freed_by_others += static_cast<u32>(std::popcount(slab->remote_bits(w)));
      }
      ASSERT_EQ(in_bitmap, slab->free_count);
      free += in_bitmap + freed_by_others;
      ASSERT_EQ(slab->in_partial, slab->summary != 0 ? 1u : 0u);
    }
    ASSERT_EQ(m.empties, empty);
    ASSERT_EQ(free + live.size(), all[0]->capacity + all[1]->capacity) << "operation " << i;
  }
  EXPECT_GT(remote, 100u);
  EXPECT_EQ(doubles, 0u);
  EXPECT_FALSE(b.is_damaged());
}

}  // namespace
}  // namespace annex
