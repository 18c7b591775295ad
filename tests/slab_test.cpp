// tests/slab_test.cpp - an extent cut into equal blocks: its bitmaps and their witnesses, what
// others free, who holds what, and what a handle leaves (slab/slab_record.hpp). Without a heap.
#include <algorithm>
#include <bit>
#include <random>
#include <thread>
#include <vector>

#include "bare_segment.hpp"
#include "slab/slab_record.hpp"

namespace annex {
namespace {

constexpr u32 class_of_64 = class_of(64);

struct slabs : testing::Test {
  bare_segment b;
  const segment& s = b.seg();
  const local_region& r = b.add_region(32 * MiB);
  chunk_ref& list = b.header().orphans[0];  // a list of slabs

  slab_record* make(u32 size_class = class_of_64, u64 bytes = 64 * KiB) {
    transaction t(s, b.me());
    slab_record* const slab = make_slab(t, r, size_class, bytes, b.me().slot, b.me().member);
    if (slab != nullptr) link_slab(t, &list, slab);
    return slab;
  }
  void release(slab_record* slab) {
    transaction t(s, b.me());
    release_slab(t, r, slab, &list);
  }
  /// As its owner takes blocks: free bit first, then the count and the summary.
  void take(slab_record& slab, const std::vector<u32>& blocks) {
    for (const u32 block : blocks) {
      const u64 left = slab.free_bits(block / 64) & ~(u64{1} << (block % 64));
      leave_free(slab, block / 64, left);
      --slab.free_count;
      if (left == 0) slab.summary &= ~(u64{1} << (block / 64));
    }
  }
  static std::vector<u32> free_blocks(slab_record& slab) {
    std::vector<u32> blocks;
    for (u32 i = 0; i < slab.capacity; ++i)
      if ((slab.free_bits(i / 64) >> (i % 64) & 1) != 0) blocks.push_back(i);
    return blocks;
  }
};

/// What is wrong with a slab (S1, S3, S7, S8, S9); empty: nothing.
std::string what_is_wrong_with(const local_region& r, slab_record& slab) {
  if (slab.seal != slab.right_seal()) return "S9: its seal";
  u32 count = 0;
  for (u32 w = 0; w < slab.words; ++w) {
    const u64 free = slab.free_words()[w];
    if ((free & ~slab.valid_bits(w)) != 0) return "S1: blocks beyond its capacity are free";
    if ((slab.summary >> w & 1) != (free != 0)) return "S1: its summary";
    if (slab.taken_words()[w] != ~free) return "S7: a free block without a witness";
    for (const u32 half : {0u, 1u})
      if (!is_remote_word(slab.remote_words()[2 * w + half].value)) return "S8: a remote word";
    count += static_cast<u32>(std::popcount(free));
  }
  if (count != slab.free_count) return "S1: its count of free blocks";
  if (slab.words < 64 && slab.summary >> slab.words != 0) return "S1: its summary's end";
  const u32 length = r.extents[slab.granule].length;
  for (u32 i = 0; i < length; ++i) {
    const granule_entry g = r.granules[slab.granule + i];
    const u64 begin = u64{i} << r.granule_shift,
              all = u64{slab.capacity} * class_bytes[slab.size_class];
    const u64 here = std::min(all > begin ? all - begin : 0, u64{1} << r.granule_shift);
    if (g.owner != slab.owner || g.size_class != slab.size_class || g.distance != i ||
        (g.kind != granule_slab && g.kind != granule_slab_held) ||
        g.blocks_end * u64{blocks_end_unit} != here)
      return "S3: what a granule says";
  }
  return {};
}

// ---- making and releasing -----------------------------------------------------------------------

TEST_F(slabs, of_every_class_begin_with_all_blocks_free_and_clean) {
  for (const u64 region_bytes : {u64{8 * MiB}, u64{64 * MiB}}) {
    bare_segment other;
    const local_region& region = other.add_region(region_bytes);
    for (u32 c = 1; c < class_count; ++c) {
      transaction t(other.seg(), other.me());
      const u64 bytes = slab_bytes_of(c, u64{1} << region.granule_shift, region_bytes, c % 3 * 40);
      slab_record* const slab = make_slab(t, region, c, bytes, 3, 1);
      ASSERT_NE(slab, nullptr);
      EXPECT_EQ(what_is_wrong_with(region, *slab), "") << class_bytes[c];
      EXPECT_EQ(slab->capacity, std::min<u64>(bytes / class_bytes[c], limits::slab_blocks));
      EXPECT_EQ(slab->free_count, slab->capacity);
      EXPECT_EQ(slab->first_clean(), 0u);
      EXPECT_EQ(live_blocks(slab), 0u);
      EXPECT_EQ(slab->owner, 3u);
      EXPECT_EQ(region.extents[slab->granule].record, other.seg().ref_of(slab));
    }
    EXPECT_EQ(what_is_wrong_with_extents(other.seg(), region), "");
  }
}

TEST_F(slabs, give_their_granules_and_metadata_back) {
  (void)make();
  const u64 top = b.header().arena.top;
  const u32 free = r.record->free_granules;
  slab_record* const slab = make();
  const u32 granule = slab->granule;
  release(slab);
  EXPECT_EQ(r.record->free_granules, free);
  EXPECT_EQ(what_is_wrong_with_extents(s, r), "");
  slab_record* const again = make();
  EXPECT_EQ(again, slab) << "the same chunk";
  EXPECT_EQ(again->granule, granule) << "the lowest granule";
  EXPECT_EQ(b.header().arena.top, top);
  EXPECT_EQ(again->first_clean(), again->capacity)
      << "nobody knows what the first one's blocks were used for";
}

TEST_F(slabs, are_shorter_where_no_more_room_is_left) {
  const auto rest = [&] {
    transaction t(s, b.me());
    return extents(r).allocate(t, {.size_bytes = 32 * MiB - 2 * 64 * KiB, .holder = 1});
  }();
  ASSERT_TRUE(rest);
  slab_record* const slab = make(class_of(8 * KiB), 1 * MiB);
  ASSERT_NE(slab, nullptr);
  EXPECT_EQ(slab->capacity, 16u);
  EXPECT_EQ(what_is_wrong_with(r, *slab), "");
  EXPECT_EQ(make(), nullptr);
  EXPECT_EQ(what_is_wrong_with_extents(s, r), "");
}

TEST_F(slabs, use_a_last_granule_that_is_cut_short) {
  bare_segment other;
  const local_region& region = other.add_region(32 * MiB + 4 * KiB);
  transaction t(other.seg(), other.me());
  ASSERT_TRUE(extents(region).allocate(t, {.size_bytes = 32 * MiB, .holder = 1}));
  EXPECT_EQ(make_slab(t, region, class_of(8 * KiB), 64 * KiB, 0, 1), nullptr);
  slab_record* const slab = make_slab(t, region, class_of(1000), 64 * KiB, 0, 1);
  ASSERT_NE(slab, nullptr);
  EXPECT_EQ(slab->capacity, 4u) << "blocks of 1024 bytes in 4 KiB";
  EXPECT_EQ(what_is_wrong_with(region, *slab), "");
}

TEST_F(slabs, are_not_made_without_metadata_and_nothing_has_happened_then) {
  bare_segment other(3 * MiB);
  const local_region& region = other.add_region(8 * MiB);
  {
    transaction t(other.seg(), other.me());
    for (const u64 bytes : {u64{64 * KiB}, u64{4 * KiB}, u64{64}})
      while (allocate_chunk(t, bytes) != 0)
        t.commit();
  }
  transaction t(other.seg(), other.me());
  EXPECT_EQ(make_slab(t, region, class_of_64, 64 * KiB, 0, 1), nullptr);
  t.commit();
  EXPECT_EQ(region.record->free_granules, region.granule_count);
  EXPECT_EQ(what_is_wrong_with_extents(other.seg(), region), "");
  EXPECT_FALSE(other.is_damaged());
}

TEST_F(slabs, are_taken_out_of_their_list_wherever_they_stand) {
  std::vector<slab_record*> all;
  for (int i = 0; i < 6; ++i)
    all.insert(all.begin(), make());  // the newest is first
  std::mt19937 random(1);
  while (!all.empty()) {
    std::vector<slab_record*> listed;
    chunk_ref before = 0;
    for (chunk_ref ref = list; ref != 0; before = ref, ref = s.chunk<slab_record>(ref)->lane_next) {
      EXPECT_EQ(s.chunk<slab_record>(ref)->lane_previous, before);
      listed.push_back(s.chunk<slab_record>(ref));
    }
    EXPECT_EQ(listed, all);
    const auto one = all.begin() + static_cast<std::ptrdiff_t>(random() % all.size());
    transaction t(s, b.me());
    unlink_slab(t, &list, *one);
    all.erase(one);
  }
  EXPECT_EQ(list, 0u);
}

// ---- a block is free when both of its words say so ----------------------------------------------

TEST_F(slabs, call_a_block_free_only_if_its_witness_does) {
  slab_record& slab = *make();
  take(slab, {0, 5, 64, 1023});
  EXPECT_EQ(what_is_wrong_with(r, slab), "");
  EXPECT_EQ(live_blocks(&slab), 4u);
  slab.free_words()[0] |= 1;  // by somebody who has no business here
  EXPECT_EQ(slab.free_bits(0) & 1, 0u);
  slab.taken_words()[1] |= 1u << 7;
  EXPECT_EQ(slab.free_bits(1) >> 7 & 1, 0u);
  mark_free(slab, 0, 1u << 5);
  EXPECT_EQ(slab.free_bits(0) >> 5 & 1, 1u);
  leave_free(slab, 0, u64{1} << 5);
  EXPECT_EQ(slab.free_bits(0), u64{1} << 5);
  EXPECT_EQ(slab.free_words()[0] & 1, 1u) << "what has no witness is left as it was found";
}

TEST_F(slabs, are_counted_anew_from_what_both_words_say) {
  slab_record& slab = *make();
  take(slab, {1, 2, 3, 70, 71});
  // Somebody died between the two stores of a word, and the counts were never right.
  slab.taken_words()[0] &= ~u64{2};    // block 1 was about to be free
  slab.free_words()[2] &= ~u64{0xff};  // blocks 128 to 135 were about to be taken
  slab.free_count = 7;
  slab.summary = 0;
  recount(s, &slab);
  EXPECT_EQ(slab.free_count, slab.capacity - 5 - 8);
  EXPECT_EQ(what_is_wrong_with(r, slab), "");
}

// ---- blocks that others free --------------------------------------------------------------------

TEST_F(slabs, take_over_what_others_freed) {
  slab_record& slab = *make();
  take(slab, {0, 31, 32, 63, 64, 1000});
  EXPECT_EQ(free_remotely(slab, 31), 0u);
  EXPECT_EQ(free_remotely(slab, 0), 1u << 31) << "what was there before";
  EXPECT_EQ(free_remotely(slab, 32), 0u) << "another word";
  EXPECT_EQ(free_remotely(slab, 1000), 0u);
  EXPECT_NE(free_remotely(slab, 0) & 1, 0u) << "freed twice: its bit is there";
  EXPECT_EQ(slab.remote_bits(0), u64{1} << 31 | 1 | u64{1} << 32);
  EXPECT_EQ(slab.free_bits(0) & slab.remote_bits(0), 0u);
  EXPECT_EQ(live_blocks(&slab), 2u);
  u32 doubles = 0;
  EXPECT_EQ(collect(s, &slab, &doubles), 4u);
  EXPECT_EQ(doubles, 0u);
  EXPECT_EQ(collect(s, &slab, &doubles), 0u) << "nothing is left";
  EXPECT_EQ(live_blocks(&slab), 2u);
  EXPECT_EQ(what_is_wrong_with(r, slab), "");
}

TEST_F(slabs, believe_no_remote_word_that_contradicts_itself) {
  slab_record& slab = *make();
  take(slab, {0, 1, 40});
  (void)free_remotely(slab, 0);
  (void)free_remotely(slab, 40);
  slab.remote_words()[0].value ^= 2;  // block 1, without its complement
  EXPECT_EQ(slab.remote_bits(0), u64{1} << 40);
  u32 doubles = 0;
  EXPECT_EQ(collect(s, &slab, &doubles), 1u);
  EXPECT_EQ(slab.free_bits(0) & 3, 0u);
}

TEST_F(slabs, count_a_block_that_is_free_already_as_freed_twice) {
  slab_record& slab = *make();
  take(slab, {0, 1});
  (void)free_remotely(slab, 0);
  (void)free_remotely(slab, 2);  // which nobody has
  u32 doubles = 0;
  EXPECT_EQ(collect(s, &slab, &doubles), 1u);
  EXPECT_EQ(doubles, 1u);
  EXPECT_EQ(what_is_wrong_with(r, slab), "");
}

// Rule R2: a word's blocks are written to the bitmap before they are taken out of the remote word.
TEST_F(slabs, lose_and_double_nothing_when_who_collects_dies) {
  for (const u32 stage : {0u, 1u, 2u, 3u}) {
    slab_record& slab = *make();
    take(slab, {3, 4, 70});
    for (const u32 block : {3u, 70u})
      (void)free_remotely(slab, block);
    slab.moving = stage >= 1 ? 1 : 0;                    // the first word is being moved
    if (stage >= 2) mark_free(slab, 0, u64{1} << 3);     // and has arrived
    if (stage >= 3) clear_remote(slab, 0, u64{1} << 3);  // and left
    u32 doubles = 0;
    (void)collect(s, &slab, &doubles);
    recount(s, &slab);  // as recovery does
    EXPECT_EQ(doubles, 0u) << stage;
    EXPECT_EQ(slab.moving, 0u);
    EXPECT_EQ(slab.free_count, slab.capacity - 1) << stage;
    EXPECT_EQ(what_is_wrong_with(r, slab), "") << stage;
  }
}

TEST_F(slabs, get_each_block_once_from_many_who_free_at_a_time) {
  constexpr u32 threads = 4;
  slab_record& slab = *make();
  std::vector<u32> blocks(slab.capacity);
  for (u32 i = 0; i < blocks.size(); ++i)
    blocks[i] = i;
  take(slab, blocks);
  ASSERT_EQ(slab.free_count, 0u);
  std::atomic<u32> freed{0};
  std::vector<std::thread> all;
  for (u32 i = 0; i < threads; ++i)
    all.emplace_back([&, i] {
      for (u32 block = i; block < slab.capacity; block += threads, ++freed)
        EXPECT_EQ(free_remotely(slab, block) >> (block % 32) & 1, 0u);
    });
  u32 collected = 0, doubles = 0;
  do
    collected += collect(s, &slab, &doubles);
  while (freed < slab.capacity);
  for (std::thread& t : all)
    t.join();
  collected += collect(s, &slab, &doubles);
  EXPECT_EQ(collected, slab.capacity);
  EXPECT_EQ(doubles, 0u);
  EXPECT_EQ(what_is_wrong_with(r, slab), "");
}

// ---- holdings -----------------------------------------------------------------------------------

u32 count_of_holdings(const segment& s, const slab_record& slab) {
  u32 count = 0;
  for (chunk_ref ref = slab.holdings; ref != 0; ref = s.chunk<holding_record>(ref)->next)
    ++count;
  return count;
}

TEST_F(slabs, remember_who_holds_what_when_they_change_hands) {
  slab_record& slab = *make();
  const u32 first = slab.member, second = b.join().member;
  take(slab, {1, 2, 3, 100});
  (void)free_remotely(slab, 3);  // on its way back: nobody's
  {
    transaction t(s, b.me());
    ASSERT_TRUE(add_holding(t, &slab));
  }
  EXPECT_EQ(s.member(first).holdings, 1u);
  EXPECT_EQ(held_bits(s, &slab, 0), u64{6});
  EXPECT_EQ(held_bits(s, &slab, 1), u64{1} << 36);
  slab.member = static_cast<u16>(second);
  take(slab, {4});
  {
    transaction t(s, b.me());
    ASSERT_TRUE(add_holding(t, &slab));
  }
  const auto& newest = *s.chunk<holding_record>(slab.holdings);
  EXPECT_EQ(newest.member, second);
  EXPECT_EQ(newest.seal, newest.right_seal(s.ref_of(&slab)));
  EXPECT_EQ(const_cast<holding_record&>(newest).held_bits(0), u64{1} << 4)
      << "what the first one holds stays the first one's";
  EXPECT_EQ(held_bits(s, &slab, 0), u64{6 | 1 << 4});
  // A block that is freed by somebody is no longer held.
  (void)free_remotely(slab, 2);
  u32 doubles = 0;
  EXPECT_EQ(collect(s, &slab, &doubles), 2u);
  EXPECT_EQ(held_bits(s, &slab, 0), u64{2 | 1 << 4});
  clear_holders(s, &slab, 0, 1u << 4);
  transaction t(s, b.me());
  EXPECT_FALSE(drop_empty_holdings(t, &slab)) << "the first still holds two";
  EXPECT_EQ(count_of_holdings(s, slab), 1u);
  EXPECT_EQ(s.member(second).holdings, 0u);
  clear_holders(s, &slab, 0, ~u64{0});
  clear_holders(s, &slab, 1, ~u64{0});
  EXPECT_TRUE(drop_empty_holdings(t, &slab));
  EXPECT_EQ(s.member(first).holdings, 0u);
}

TEST_F(slabs, believe_a_holder_only_with_a_witness) {
  slab_record& slab = *make();
  take(slab, {1, 2});
  {
    transaction t(s, b.me());
    ASSERT_TRUE(add_holding(t, &slab));
  }
  auto& holding = *s.chunk<holding_record>(slab.holdings);
  holding.bits()[0] |= 1u << 5;
  EXPECT_EQ(held_bits(s, &slab, 0), u64{6});
  holding.bits()[0] &= ~u64{2};  // somebody died between the two stores of a block that is freed
  recount(s, &slab);
  EXPECT_EQ(held_bits(s, &slab, 0), u64{4});
  EXPECT_EQ(holding.gone_words()[0] & 2, 2u);
}

// The journal has room for the puts of 255 drops at most: more of them must be several
// transactions.
TEST_F(slabs, forget_more_former_owners_than_a_transaction_has_room_for) {
  constexpr u32 former_owners = 300;
  slab_record& slab = *make();
  take(slab, {0});
  // The first has the live block, the others nothing any more.
  for (u32 i = 0; i < former_owners; ++i) {
    transaction t(s, b.me());
    ASSERT_TRUE(add_holding(t, &slab));
  }
  ASSERT_EQ(count_of_holdings(s, slab), former_owners);
  {
    transaction t(s, b.me());
    EXPECT_FALSE(drop_empty_holdings(t, &slab));
  }
  EXPECT_FALSE(b.is_damaged());
  EXPECT_EQ(count_of_holdings(s, slab), 1u);
  clear_holders(s, &slab, 0, ~u64{0});
  {
    transaction t(s, b.me());
    EXPECT_TRUE(drop_empty_holdings(t, &slab));
  }
  EXPECT_FALSE(b.is_damaged());
  EXPECT_EQ(s.member(b.me().member).holdings, 0u);
}

// A record that was dropped is the next one's memory, and what is written into it is not logged: a
// commit must lie between, or a death would bring the old record back with the new one's contents.
TEST_F(slabs, keep_their_holders_when_who_takes_them_over_dies_before_or_after) {
  for (const bool dies_before : {true, false}) {
    slab_record& slab = *make();
    const u32 first = b.join().member, second = b.join().member;
    slab.member = static_cast<u16>(first);
    take(slab, {1});
    {
      transaction t(s, b.me());
      ASSERT_TRUE(add_holding(t, &slab));
    }
    slab.member = static_cast<u16>(second);
    take(slab, {2});
    (void)free_remotely(slab, 1);
    u32 doubles = 0;
    ASSERT_EQ(collect(s, &slab, &doubles), 1u);  // the first holds nothing any more
    const chunk_ref record = slab.holdings;
    child_process child([&] {
      transaction t(s, b.join());
      (void)drop_empty_holdings(t, &slab);
      t.commit();
      (void)add_holding(t, &slab);
      if (!dies_before) t.commit();
      ::_exit(slab.holdings == record ? 0 : 1);
      return 0;
    });
    EXPECT_EQ(child.wait_for_exit_code(), 0) << "the same memory";
    transaction t(s, b.me());
    EXPECT_TRUE(t.stole());
    EXPECT_EQ(s.member(first).holdings, 0u);
    EXPECT_EQ(s.member(second).holdings, dies_before ? 0u : 1u);
    EXPECT_EQ(count_of_holdings(s, slab), dies_before ? 0u : 1u);
    EXPECT_EQ(held_bits(s, &slab, 0), dies_before ? 0u : 4u);
  }
}

// ---- generations --------------------------------------------------------------------------------

TEST_F(slabs, count_the_names_of_a_block_and_begin_above_them_when_cut_anew) {
  slab_record& slab = *make();
  const extent_entry& extent = extent_of(r, slab);
  const u32 granule = slab.granule;
  EXPECT_EQ(generation_word(s, extent, slab, 5), nullptr);
  forget_block(s, r, slab, 5);  // nobody ever asked: nothing to do
  {
    transaction t(s, b.me());
    ASSERT_TRUE(make_generations(t, r, &slab));
    EXPECT_TRUE(make_generations(t, r, &slab)) << "once is enough";
  }
  EXPECT_EQ(r.granules[granule].kind, granule_slab_held) << "every free takes the slow path now";
  EXPECT_EQ(what_is_wrong_with(r, slab), "");
  EXPECT_EQ(what_is_wrong_with_extents(s, r), "");
  EXPECT_EQ(generation_word(s, extent, slab, slab.capacity), nullptr);
  u32& word = *generation_word(s, extent, slab, 5);
  forget_block(s, r, slab, 5);
  EXPECT_EQ(word, 0u) << "it has no name that could become stale";
  for (u32 risen = 1; risen < 4; ++risen) {
    word |= word_is_named;
    forget_block(s, r, slab, 5);
    EXPECT_EQ(word, risen << 1);
  }
  EXPECT_EQ(*generation_word(s, extent, slab, 6), 0u);
  release(&slab);
  slab_record& next = *make();
  ASSERT_EQ(next.granule, granule);
  EXPECT_EQ(first_generation(extent_of(r, next)), 3u);
  EXPECT_EQ(generation_word(s, extent_of(r, next), next, 5), nullptr);
  EXPECT_EQ(what_is_wrong_with_extents(s, r), "");
}

TEST_F(slabs, say_whose_they_are_in_every_granule) {
  slab_record& slab = *make(class_of(1 * KiB), 5 * 64 * KiB);
  transaction t(s, b.me());
  set_owner(t, r, &slab, no_owner, false);
  EXPECT_EQ(what_is_wrong_with(r, slab), "");
  EXPECT_EQ(r.granules[slab.granule + 4].kind, granule_slab);
  set_owner(t, r, &slab, 7, true);
  EXPECT_EQ(what_is_wrong_with(r, slab), "");
  EXPECT_EQ(r.granules[slab.granule + 4].kind, granule_slab_held);
  EXPECT_EQ(r.granules[slab.granule + 4].owner, 7u);
}

}  // namespace
}  // namespace annex
