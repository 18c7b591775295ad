// tests/arena_test.cpp - chunks of the segment: every size, reuse, what a death leaves, no room;
// and a map beside them that says who has what (shared/arena.hpp).
#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "bare_segment.hpp"
#include "platform/files.hpp"

namespace annex {
namespace {

using held_chunks = std::vector<std::pair<chunk_ref, u64>>;

char* bytes_of(const segment& s, chunk_ref ref) {
  return s.base() + u64{ref} * chunk_unit_bytes;
}
bool is_all(const char* p, u64 bytes, char value) {
  return bytes == 0 || (*p == value && std::memcmp(p, p + 1, bytes - 1) == 0);
}

/// Every size at which something changes: units, the last small one, both sides of each large one.
std::vector<u64> telling_sizes(u64 most) {
  std::vector<u64> sizes{1, 63, 64, 65};
  for (u64 bytes = 128; bytes <= 2 * KiB; bytes += 64)
    sizes.push_back(bytes);
  sizes.push_back(2 * KiB + 1);
  for (u32 i = 0; large_chunk_bytes(i) <= most; ++i)
    for (const u64 bytes : {large_chunk_bytes(i) - 1, large_chunk_bytes(i)})
      sizes.push_back(bytes);
  return sizes;
}

// Allocates as many chunks as there are sizes, each in a transaction, and fills them.
held_chunks allocate_all(bare_segment& b, const std::vector<u64>& sizes) {
  held_chunks held;
  for (const u64 bytes : sizes) {
    transaction t(b.seg(), b.me());
    const chunk_ref ref = allocate_chunk(t, bytes);
    EXPECT_NE(ref, 0u) << bytes;
    if (ref == 0) break;
    EXPECT_TRUE(is_all(bytes_of(b.seg(), ref), chunk_bytes(bytes), 0)) << bytes;
    std::memset(bytes_of(b.seg(), ref), static_cast<int>(held.size() % 255 + 1), bytes);
    held.emplace_back(ref, bytes);
  }
  return held;
}
void free_all(bare_segment& b, const held_chunks& held) {
  for (const auto& [ref, bytes] : held) {
    transaction t(b.seg(), b.me());
    free_chunk(t, ref, bytes);
  }
}

TEST(arena, hands_out_zeros_of_every_size_and_no_byte_twice) {
  bare_segment b;
  const held_chunks held = allocate_all(b, telling_sizes(1 * MiB));
  EXPECT_EQ(what_is_wrong_with_arena(b.seg(), held), "");
  for (std::size_t i = 0; i < held.size(); ++i)
    EXPECT_TRUE(
        is_all(bytes_of(b.seg(), held[i].first), held[i].second, static_cast<char>(i % 255 + 1)))
        << held[i].second << " bytes were changed by somebody else";
  free_all(b, held);
  EXPECT_EQ(what_is_wrong_with_arena(b.seg(), {}), "");
}

TEST(arena, hands_out_what_was_freed_before_it_grows_and_zeroes_it_again) {
  bare_segment b;
  const std::vector<u64> sizes = telling_sizes(1 * MiB);
  held_chunks first = allocate_all(b, sizes);
  const u64 top = b.header().arena.top;
  free_all(b, first);
  held_chunks second = allocate_all(b, sizes);  // which looks for zeros
  EXPECT_EQ(b.header().arena.top, top);
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  for (std::size_t i = 0; i < first.size(); ++i)
    EXPECT_EQ(first[i].first, second[i].first);
  EXPECT_EQ(what_is_wrong_with_arena(b.seg(), second), "");
}

TEST(arena, rounds_up_to_the_next_of_its_sizes) {
  for (u64 bytes = 1; bytes <= 2 * KiB; ++bytes)
    EXPECT_EQ(chunk_bytes(bytes), (bytes + 63) / 64 * 64);
  for (u32 i = 0; i < 120; ++i) {
    EXPECT_EQ(chunk_bytes(large_chunk_bytes(i)), large_chunk_bytes(i)) << i;
    EXPECT_EQ(chunk_bytes(large_chunk_bytes(i) + 1), large_chunk_bytes(i + 1)) << i;
    EXPECT_LE(large_chunk_bytes(i + 1),
              large_chunk_bytes(i) + std::max(4 * KiB, large_chunk_bytes(i) / 4));
  }
}

TEST(arena, takes_no_memory_for_a_sparse_chunk_until_it_is_written) {
  constexpr u64 bytes = 16 * MiB;
  bare_segment b(128 * MiB);
  const u64 before = os::allocated_bytes(b.seg().fd());
  transaction t(b.seg(), b.me());
  const chunk_ref ref = allocate_chunk(t, bytes, backing::sparse);
  ASSERT_NE(ref, 0u);
  EXPECT_LT(os::allocated_bytes(b.seg().fd()) - before, 1 * MiB);
  std::memset(bytes_of(b.seg(), ref), 1, bytes);
  free_chunk(t, ref, bytes);
  // The same place again: without a page, and zeros.
  EXPECT_EQ(allocate_chunk(t, bytes, backing::sparse), ref);
  EXPECT_LT(os::allocated_bytes(b.seg().fd()) - before, 1 * MiB);
  EXPECT_TRUE(is_all(bytes_of(b.seg(), ref), bytes, 0));
}

TEST(arena, says_no_when_all_is_taken_and_serves_again_what_comes_back) {
  bare_segment b(4 * MiB);
  held_chunks held;
  for (const u64 bytes :
       {u64{256 * KiB}, u64{64 * KiB}, u64{8 * KiB}, u64{4 * KiB}, u64{2 * KiB}, u64{64}})
    for (;;) {
      transaction t(b.seg(), b.me());
      const chunk_ref ref = allocate_chunk(t, bytes);
      if (ref == 0) break;
      held.emplace_back(ref, bytes);
    }
  EXPECT_FALSE(b.is_damaged());
  EXPECT_EQ(what_is_wrong_with_arena(b.seg(), held), "");
  for (const u64 bytes : {u64{1}, u64{3 * KiB}, u64{4 * MiB}, u64{1} << 40, ~u64{0}}) {
    transaction t(b.seg(), b.me());
    EXPECT_EQ(allocate_chunk(t, bytes), 0u) << bytes;
    EXPECT_EQ(allocate_chunk(t, bytes, backing::sparse), 0u) << bytes;
  }
  EXPECT_EQ(what_is_wrong_with_arena(b.seg(), held), "");
  for (auto& [ref, bytes] : held) {
    transaction t(b.seg(), b.me());
    free_chunk(t, ref, bytes);
    EXPECT_EQ(allocate_chunk(t, bytes), ref);
  }
  EXPECT_EQ(what_is_wrong_with_arena(b.seg(), held), "");
}

// ---- transactions that end early ----------------------------------------------------------------

/// What a transaction may change of the arena, and the contents of chunks that somebody has.
struct arena_as_it_was {
  arena_lists lists;
  std::vector<std::string> contents;
  arena_as_it_was(const segment& s, const held_chunks& held) : lists(s.header().arena) {
    for (const auto& [ref, bytes] : held)
      contents.emplace_back(bytes_of(s, ref), bytes);
  }
  void expect_again(const segment& s, const held_chunks& held) const {
    EXPECT_EQ(std::memcmp(&lists, &s.header().arena, sizeof lists), 0);
    for (std::size_t i = 0; i < held.size(); ++i)
      EXPECT_EQ(contents[i], std::string(bytes_of(s, held[i].first), held[i].second));
    EXPECT_EQ(what_is_wrong_with_arena(s, held), "");
  }
};

// Some of everything: chunks from lists, from the run of small ones and from the end are taken and
// written, some of them freed again; then what others had is freed. In this order: what a
// transaction has freed it does not take, since a chunk's contents would not come back.
void do_so_many_things(const segment& s, transaction& t, const held_chunks& held, u32 steps) {
  std::mt19937 random(7);
  held_chunks own;
  for (u32 i = 0; i < steps; ++i) {
    const u64 bytes = i % 3 == 0 ? 1 + random() % (300 * KiB) : 1 + random() % (2 * KiB);
    const chunk_ref ref = allocate_chunk(t, bytes);
    if (ref == 0) break;
    std::memset(bytes_of(s, ref), 0x5a, chunk_bytes(bytes));
    own.emplace_back(ref, bytes);
    if (i % 4 != 3) continue;
    free_chunk(t, own[own.size() / 2].first, own[own.size() / 2].second);
    own.erase(own.begin() + static_cast<std::ptrdiff_t>(own.size() / 2));
  }
  for (u32 i = 0; i < steps && i < held.size(); ++i)
    free_chunk(t, held[i].first, held[i].second);
}

// Free lists with something in them, and a few chunks with contents.
held_chunks a_used_arena(bare_segment& b) {
  held_chunks held = allocate_all(b, telling_sizes(256 * KiB));
  held_chunks back;
  for (std::size_t i = 0; i < held.size(); i += 2)
    back.push_back(held[i]);
  free_all(b, back);
  std::erase_if(held, [&](const auto& one) {
    return std::find(back.begin(), back.end(), one) != back.end();
  });
  return held;
}

TEST(arena, is_as_before_when_a_transaction_is_rolled_back) {
  bare_segment b;
  const held_chunks held = a_used_arena(b);
  const arena_as_it_was before(b.seg(), held);
  {
    transaction t(b.seg(), b.me());
    do_so_many_things(b.seg(), t, held, 60);
    t.roll_back();
  }
  before.expect_again(b.seg(), held);
  // What was written meanwhile is handed out as zeros.
  const held_chunks more = allocate_all(b, telling_sizes(512 * KiB));
  EXPECT_FALSE(more.empty());
}

TEST(arena, is_as_before_when_a_process_dies_in_a_transaction_wherever_that_was) {
  bare_segment b;
  const held_chunks held = a_used_arena(b);
  const arena_as_it_was before(b.seg(), held);
  for (const u32 steps : {0u, 1u, 2u, 3u, 10u, 40u, 80u}) {
    child_process child([&] {
      const lock_identity who = b.join();
      transaction t(b.seg(), who);
      do_so_many_things(b.seg(), t, held, steps);
      ::_exit(0);  // without the transaction's end
      return 0;
    });
    ASSERT_EQ(child.wait_for_exit_code(), 0);
    transaction t(b.seg(), b.me());
    EXPECT_TRUE(t.stole());
    before.expect_again(b.seg(), held);
  }
  EXPECT_FALSE(b.is_damaged());
  (void)allocate_all(b, telling_sizes(512 * KiB));  // which looks for zeros
}

// ---- words that can't be ------------------------------------------------------------------------

TEST(arena, follows_no_list_and_no_mark_that_leads_outside) {
  for (const auto& harm : std::vector<std::function<void(arena_lists&)>>{
           [](arena_lists& a) { a.small_free[2] = ~chunk_ref{0}; },
           [](arena_lists& a) { a.small_free[2] = 1; },  // in the header
           [](arena_lists& a) { a.small_top = 64, a.small_end = 64 * KiB; },
           [](arena_lists& a) { a.small_end = u64{1} << 40, a.small_top = a.small_end - 4 * KiB; },
       }) {
    bare_segment b;
    const held_chunks held = allocate_all(b, {100});
    harm(b.header().arena);
    transaction t(b.seg(), b.me());
    EXPECT_EQ(allocate_chunk(t, 128), 0u);
    EXPECT_TRUE(b.is_damaged());
  }
  for (const u64 top : {u64{0}, u64{64}, ~u64{0}, u64{1} << 40, u64{100}}) {
    bare_segment b;
    b.header().arena.top = top;
    transaction t(b.seg(), b.me());
    EXPECT_EQ(allocate_chunk(t, 100 * KiB), 0u) << top;
  }
}

TEST(arena, takes_back_nothing_that_lies_outside) {
  bare_segment b;
  const arena_lists before = b.header().arena;
  {
    transaction t(b.seg(), b.me());
    free_chunk(t, 0, 64);  // null: nothing
    EXPECT_FALSE(b.is_damaged());
    free_chunk(t, 1, 64);
    EXPECT_TRUE(b.is_damaged());
  }
  EXPECT_EQ(std::memcmp(&before, &b.header().arena, sizeof before), 0);
}

// ---- repair -------------------------------------------------------------------------------------

TEST(arena, files_any_stretch_of_free_space_without_a_gap) {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    bare_segment b(16 * MiB);
    const u64 begin = b.seg().geometry().arena_at, units = 1 + random() % (round < 40 ? 200 : 9000);
    const u64 before = random() % std::min<u64>(units, 70);
    arena_lists& a = b.header().arena;
    a.top = begin + units * chunk_unit_bytes;
    a.file_bytes = align_up(a.top + spare_file_bytes, 4 * KiB);
    ASSERT_EQ(os::set_length(b.seg().fd(), a.file_bytes), 0);
    free_space(b.seg(), begin + before * chunk_unit_bytes, a.top);
    held_chunks held;
    for (u64 at = 0; at < before; ++at)
      held.emplace_back(static_cast<chunk_ref>(begin / chunk_unit_bytes + at), 64);
    ASSERT_EQ(what_is_wrong_with_arena(b.seg(), held), "") << units << " units, from " << before;
  }
}

// ---- a model ------------------------------------------------------------------------------------

// A map of who has what, and what is written there. Each transaction does a few things, and then
// has happened or not.
TEST(arena, agrees_with_a_map_over_thousands_of_random_operations) {
  const u32 seed = a_seed();
  std::mt19937 random(seed);
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  bare_segment b(4 * MiB);
  const segment& s = b.seg();
  struct chunk {
    u64 bytes;
    char filled_with;
  };
  std::map<chunk_ref, chunk> model;
  u64 refused = 0;
  for (u32 round = 0; round < 300; ++round) {
    // What is to be undone takes first and frees then (see do_so_many_things()).
    const bool is_to_happen = random() % 3 != 0;
    std::map<chunk_ref, chunk> next = model;
    transaction t(s, b.me());
    for (u32 i = 0; i < 30; ++i) {
      if (is_to_happen ? random() % 5 < 3 && next.size() < 400 : i < 15) {
        const u64 kind = random() % 10;
        const u64 bytes = 1 + random() % (kind == 0 ? 400 * KiB : kind < 4 ? 20 * KiB : 2 * KiB);
        const chunk_ref ref = allocate_chunk(t, bytes);
        if (ref == 0) {
          ++refused;
          continue;
        }
        ASSERT_TRUE(is_all(bytes_of(s, ref), chunk_bytes(bytes), 0));
        const char fill = static_cast<char>(1 + random() % 100);
        std::memset(bytes_of(s, ref), fill, bytes);
        ASSERT_TRUE(next.emplace(ref, chunk{bytes, fill}).second) << "handed out twice";
      } else if (!next.empty()) {
        auto one = next.lower_bound(static_cast<chunk_ref>(random() % (next.rbegin()->first + 1)));
        ASSERT_TRUE(is_all(bytes_of(s, one->first), one->second.bytes, one->second.filled_with));
        free_chunk(t, one->first, one->second.bytes);
        next.erase(one);
      }
    }
    if (is_to_happen)
      model = std::move(next);
    else
      t.roll_back();
    held_chunks held;
    for (const auto& [ref, what] : model)
      held.emplace_back(ref, what.bytes);
    ASSERT_EQ(what_is_wrong_with_arena(s, held), "") << "after round " << round;
  }
  for (const auto& [ref, what] : model)
    EXPECT_TRUE(is_all(bytes_of(s, ref), what.bytes, what.filled_with));
  EXPECT_GT(refused, 0u) << "the model should come to the end of the arena, too";
  EXPECT_FALSE(b.is_damaged());
}

}  // namespace
}  // namespace annex
