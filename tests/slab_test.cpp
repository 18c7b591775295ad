// tests/slab_test.cpp - a slab whose blocks had many owners, each of whom is gone.
#include <cstdint>

#include "cache/thread_cache.hpp"
#include "heap/local_heap.hpp"
#include "support.hpp"

namespace annex {
namespace {

class slabs : public in_own_directory {};

thread_cache* only_cache(const segment& s) {
  for (u32 i = 0; i < s.header().thread_slots_used.value; ++i)
    if (s.slot(i).cache != 0) return s.chunk<thread_cache>(s.slot(i).cache);
  return nullptr;
}

slab_record* only_slab(const segment& s) {
  const region_record& r = s.at<region_record>(s.header().regions_at)[1];
  const auto* granules = s.chunk<granule_entry>(r.granules);
  const auto* extents = s.chunk<extent_entry>(r.extents);
  for (u32 at = 0; at < r.granule_count; at += extents[at].length)
    if (granules[at].kind == granule_slab) return s.chunk<slab_record>(extents[at].record);
  return nullptr;
}

u32 count_of_holdings(const segment& s, const slab_record& slab) {
  u32 count = 0;
  for (chunk_ref ref = slab.holdings; ref != 0; ref = s.chunk<holding_record>(ref)->next)
    ++count;
  return count;
}

// The journal has room for the puts of 255 drops at most: more of them must be several
// transactions.
TEST_F(slabs, forget_more_former_owners_than_a_transaction_has_room_for) {
  constexpr u32 former_owners = 300;
  heap h = heap_with(1 << 20, {}, "a");
  void* block = h.allocate(64);
  const segment& s = h.internal()->seg();
  slab_record* slab = only_slab(s);
  ASSERT_NE(slab, nullptr);
  const thread_cache* mine = only_cache(s);
  ASSERT_NE(mine, nullptr);
  const lock_identity me{mine->slot, slab->member};
  // The first has the live block, the others nothing any more.
  for (u32 i = 0; i < former_owners; ++i) {
    transaction t(s, me);
    ASSERT_TRUE(add_holding(t, slab));
  }
  ASSERT_EQ(count_of_holdings(s, *slab), former_owners);
  {
    transaction t(s, me);
    EXPECT_FALSE(drop_empty_holdings(t, slab));
  }
  EXPECT_FALSE(s.is_damaged());
  EXPECT_EQ(count_of_holdings(s, *slab), 1u);
  {
    transaction t(s, me);
    for (u32 w = 0; w < slab->words; ++w)
      clear_holders(s, slab, w, ~u64{0});
    EXPECT_TRUE(drop_empty_holdings(t, slab));
  }
  EXPECT_FALSE(s.is_damaged());
  heap::free(block);
  expect_sound(h);
  EXPECT_EQ(h.stats().live_blocks, 0u);
}

}  // namespace
}  // namespace annex
