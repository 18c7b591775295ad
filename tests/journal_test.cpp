// tests/journal_test.cpp - transactions: what was put is undone in reverse, by who put it or by who
// takes the lock over from the dead; and entries that no transaction makes (shared/heap_lock.hpp).
#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "bare_segment.hpp"
#include "inside.hpp"

namespace annex {
namespace {

using namespace std::chrono_literals;

/// Words of every width to put something into, in a chunk of the arena.
struct words {
  u64 first;
  u32 second;
  u16 third;
  u8 fourth;
  u8 beside;
  shared_word<u64> shared;
  u64 many[64];
  bool operator==(const words& o) const { return std::memcmp(this, &o, sizeof o) == 0; }
};

struct journals : testing::Test {
  bare_segment b;
  const segment& s = b.seg();
  words& w = make_words(b);

  /// The same place in each segment.
  static words& make_words(bare_segment& of) {
    transaction t(of.seg(), of.me());
    const chunk_ref ref = allocate_chunk(t, sizeof(words));
    t.commit();
    words& made = *of.seg().chunk<words>(ref);
    std::memset(static_cast<void*>(&made), 0x11, sizeof made);
    return made;
  }
  u32 count() const { return s.log().count.load(std::memory_order_relaxed); }
  u64 steals() const { return b.header().lock_steals.load(std::memory_order_relaxed); }
  u64 offset(const void* p) const { return s.offset_of(p); }
};

void put_into_all(transaction& t, words& w) {
  t.put(w.first, 1);
  t.put(w.second, 2);
  t.put(w.third, 3);
  t.put(w.fourth, 4);
  t.put(w.shared, 5);
  t.put(w.first, 6);  // again: the oldest value is the one that comes back
  t.put(w.first, 7);
}

TEST_F(journals, undo_each_put_in_reverse_and_nothing_beside_it) {
  const words before = w;
  transaction t(s, b.me());
  put_into_all(t, w);
  EXPECT_EQ(w.first, 7u);
  EXPECT_EQ(w.second, 2u);
  EXPECT_EQ(w.third, 3u);
  EXPECT_EQ(w.fourth, 4u);
  EXPECT_EQ(w.beside, 0x11);
  EXPECT_EQ(w.shared.load(std::memory_order_relaxed), 5u);
  EXPECT_EQ(count(), 7u);
  t.roll_back();
  EXPECT_EQ(w, before);
  EXPECT_EQ(count(), 0u);
  t.put(w.second, 9);  // and it goes on as a new one
  t.commit();
  t.put(w.third, 9);
  t.roll_back();
  EXPECT_EQ(w.second, 9u);
  EXPECT_EQ(w.third, 0x1111u);
  EXPECT_FALSE(b.is_damaged());
}

TEST_F(journals, hold_what_a_word_was_before_it_changes) {
  transaction t(s, b.me());
  t.put(w.third, 3);
  t.put(w.first, 1);
  const journal& j = s.log();
  EXPECT_EQ(j.entries[0].offset_and_bytes, offset(&w.third) << 4 | 2);
  EXPECT_EQ(j.entries[0].old_value, 0x1111u);
  EXPECT_EQ(j.entries[1].offset_and_bytes, offset(&w.first) << 4 | 8);
  EXPECT_EQ(j.entries[1].old_value, 0x1111'1111'1111'1111u);
  t.commit();
  EXPECT_EQ(j.count.load(std::memory_order_relaxed), 0u);
}

TEST_F(journals, end_with_the_transaction) {
  {
    transaction t(s, b.me());
    EXPECT_NE(b.header().lock.load(std::memory_order_relaxed), 0u);
    EXPECT_EQ(b.header().lock_sequence.load(std::memory_order_relaxed) % 2, 1u) << "held";
    t.put(w.second, 2);
  }
  EXPECT_EQ(w.second, 2u) << "its end commits";
  EXPECT_EQ(count(), 0u);
  EXPECT_EQ(b.header().lock.load(std::memory_order_relaxed), 0u);
  EXPECT_EQ(b.header().lock_sequence.load(std::memory_order_relaxed) % 2, 0u);
}

// ---- deaths -------------------------------------------------------------------------------------

TEST_F(journals, of_the_dead_are_undone_by_who_takes_the_lock_over) {
  const words before = w;
  for (u32 puts = 0; puts <= 20; ++puts) {
    const u64 stolen = steals();
    child_process child([&] {
      transaction t(s, b.join());
      for (u32 i = 0; i < puts; ++i)
        t.put(w.many[i * 7 % 3], i);  // the same three words again and again
      ::_exit(0);
      return 0;
    });
    ASSERT_EQ(child.wait_for_exit_code(), 0);
    EXPECT_EQ(count(), puts);
    EXPECT_NE(b.header().lock.load(std::memory_order_relaxed), 0u);
    transaction t(s, b.me());
    EXPECT_TRUE(t.stole());
    EXPECT_EQ(w, before) << "after " << puts << " puts";
    EXPECT_EQ(count(), 0u);
    EXPECT_EQ(steals(), stolen + 1);
    EXPECT_EQ(b.header().lock_sequence.load(std::memory_order_relaxed) % 2, 1u);
  }
  EXPECT_EQ(b.header().lock_sequence.load(std::memory_order_relaxed) % 2, 0u);
  EXPECT_FALSE(b.is_damaged());
}

TEST_F(journals, of_the_dead_leave_what_was_committed) {
  child_process child([&] {
    transaction t(s, b.join());
    t.put(w.first, 1);
    t.commit();
    t.put(w.first, 2);
    t.put(w.second, 2);
    ::_exit(0);
    return 0;
  });
  ASSERT_EQ(child.wait_for_exit_code(), 0);
  transaction t(s, b.me());
  EXPECT_TRUE(t.stole());
  EXPECT_EQ(w.first, 1u);
  EXPECT_EQ(w.second, 0x1111'1111u);
}

TEST_F(journals, of_a_process_that_is_killed_are_undone_by_one_who_waits) {
  struct shared {
    std::atomic<int> is_in{0};
  };
  auto* told = shared_words<shared>();
  const words before = w;
  child_process child([&] {
    transaction t(s, b.join());
    put_into_all(t, w);
    told->is_in = 1;
    for (;;)
      ::pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return told->is_in == 1; }));
  std::thread killer([&] {
    // Once this process sleeps for the lock.
    wait_until(
        [&] { return (b.header().lock.load(std::memory_order_relaxed) & lock_waiters) != 0; });
    child.kill_now();
  });
  {
    transaction t(s, b.me());
    EXPECT_TRUE(t.stole());
    EXPECT_EQ(w, before);
  }
  killer.join();
  EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
}

TEST_F(journals, of_a_process_that_died_after_its_end_are_left_alone) {
  child_process child([&] {
    transaction(s, b.join()).put(w.first, 1);
    return 0;
  });
  ASSERT_EQ(child.wait_for_exit_code(), 0);
  transaction t(s, b.me());
  EXPECT_FALSE(t.stole());
  EXPECT_EQ(w.first, 1u);
}

TEST_F(journals, of_the_living_are_waited_for) {
  struct shared {
    std::atomic<int> is_in{0};
  };
  auto* told = shared_words<shared>();
  child_process child([&] {
    transaction t(s, b.join());
    t.put(w.first, 1);
    told->is_in = 1;
    wait_until(
        [&] { return (b.header().lock.load(std::memory_order_relaxed) & lock_waiters) != 0; });
    std::this_thread::sleep_for(10ms);  // several looks of who waits
    t.put(w.second, 2);
    return 0;  // by the transaction's end
  });
  ASSERT_TRUE(wait_until([&] { return told->is_in == 1; }));
  {
    transaction t(s, b.me());
    EXPECT_FALSE(t.stole());
    EXPECT_EQ(w.first, 1u);
    EXPECT_EQ(w.second, 2u);
  }
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

// Who undoes a dead holder's journal may die over it: the next one begins again, with the words
// from any entry on already as they were.
TEST_F(journals, may_be_undone_again_from_wherever_that_broke_off) {
  const words before = w;
  constexpr u32 puts = 12;
  for (u32 undone = 0; undone <= puts; ++undone) {
    child_process child([&] {
      transaction t(s, b.join());
      for (u32 i = 0; i < puts; ++i)
        t.put(w.many[i % 4], 100 + i);
      ::_exit(0);
      return 0;
    });
    ASSERT_EQ(child.wait_for_exit_code(), 0);
    for (u32 i = 0; i < undone; ++i) {  // as somebody who then died
      const journal_entry e = s.log().entries[puts - 1 - i];
      std::memcpy(s.base() + (e.offset_and_bytes >> 4), &e.old_value, e.offset_and_bytes & 15);
    }
    transaction t(s, b.me());
    EXPECT_EQ(w, before) << undone << " were undone already";
  }
}

// ---- entries that no transaction makes ----------------------------------------------------------

TEST_F(journals, change_only_what_a_transaction_may_change) {
  const words before = w;
  const segment_geometry& g = s.geometry();
  segment_header& h = b.header();
  const u64 file = s.file_bytes();
  const std::vector<std::pair<journaled, const char*>> lies{
      {{offset(&h.magic), 8, 7}, "the header's beginning"},
      {{offset(&h.heap_id), 8, 7}, "the heap's number"},
      {{offset(&h.state), 4, segment_destroyed}, "the state"},
      {{offset(&h.member_limit), 4, 7}, "a limit"},
      {{offset(&h.arena_at), 8, 7}, "where a table is"},
      {{offset(&h.lock), 4, 7}, "the lock"},
      {{offset(&h.region_epoch) - 4, 8, 7}, "across the border of what may be changed"},
      {{sizeof(segment_header), 8, 7}, "behind the header"},
      {{g.journal_at, 4, 7}, "the journal's length"},
      {{offset(&s.log().entries[0]), 8, 7}, "the journal itself"},
      {{g.arena_at - 8, 8, 7}, "the journal's end"},
      {{g.journal_at - 4, 8, 7}, "across the journal's beginning"},
      {{file - 4, 8, 7}, "across the file's end"},
      {{file, 8, 7}, "behind the file"},
      {{g.reserve_bytes + 4096, 8, 7}, "behind the mapping"},
      {{~u64{0} >> 4, 8, 7}, "the last offset that can be said"},
      {{offset(&w.second), 0, 7}, "no bytes"},
      {{offset(&w.first), 9, 7}, "nine bytes"},
      {{offset(&w.first), 15, 7}, "fifteen bytes"},
  };
  for (const auto& [lie, what] : lies) {
    bare_segment other;
    const segment& o = other.seg();
    const words& there = make_words(other);
    const std::string image(o.base(), g.arena_at);
    write_journal(o, {{offset(&w.third), 2, 0x3333}, lie, {offset(&w.fourth), 1, 0x44}});
    o.header().lock.store(0, std::memory_order_relaxed);
    EXPECT_FALSE(undo_journal(o)) << what;
    EXPECT_TRUE(other.is_damaged()) << what;
    EXPECT_EQ(o.header().damaged.load(std::memory_order_relaxed), 1u) << what;
    // The honest entries are undone.
    EXPECT_EQ(there.third, 0x3333u) << what;
    EXPECT_EQ(there.fourth, 0x44u) << what;
    // Nothing else has changed, but for the mark and the journal.
    o.header().damaged.store(0, std::memory_order_relaxed);
    EXPECT_EQ(std::memcmp(image.data(), o.base(), g.journal_at), 0) << what;
    EXPECT_EQ(there.first, w.first) << what;
    EXPECT_EQ(there.second, w.second) << what;
  }
  EXPECT_EQ(w, before);
}

TEST_F(journals, of_an_impossible_length_are_not_read) {
  for (const u32 length : {limits::journal_entries + 1, 1u << 20, ~0u}) {
    bare_segment other;
    const words& there = make_words(other);
    write_journal(other.seg(), {{offset(&w.first), 8, 7}});
    other.seg().log().count.value = length;
    other.header().lock.store(0, std::memory_order_relaxed);
    EXPECT_FALSE(undo_journal(other.seg()));
    EXPECT_TRUE(other.is_damaged());
    EXPECT_EQ(other.seg().log().count.value, 0u);
    EXPECT_EQ(there, w);
  }
}

TEST_F(journals, have_room_for_the_longest_transaction_and_undo_a_longer_one) {
  const words before = w;
  {
    transaction t(s, b.me());
    for (u32 i = 0; i < limits::journal_entries; ++i)
      t.put(w.many[i % 64], i);
    EXPECT_FALSE(b.is_damaged());
    t.roll_back();
    EXPECT_EQ(w, before);
    for (u32 i = 0; i <= limits::journal_entries; ++i)
      t.put(w.many[i % 64], i);
    EXPECT_TRUE(b.is_damaged());
  }
  EXPECT_EQ(w, before);
}

TEST_F(journals, of_a_copy_are_undone_there_without_the_lock_or_a_mark) {
  write_journal(s, {{offset(&w.first), 8, 7}, {offset(&b.header().magic), 8, 7}});
  EXPECT_FALSE(undo_journal_in_copy(s));
  EXPECT_EQ(w.first, 7u);
  EXPECT_EQ(b.header().magic, segment_magic);
  EXPECT_EQ(count(), 0u);
  EXPECT_FALSE(b.is_damaged());
  b.header().lock.store(0, std::memory_order_relaxed);
}

TEST_F(journals, that_nobody_left_open_are_emptied_and_not_undone) {
  const words before = w;
  s.log().entries[0] = {offset(&w.first) << 4 | 8, 7};
  s.log().count.value = 1;
  transaction t(s, b.me());
  EXPECT_FALSE(t.stole());
  EXPECT_EQ(count(), 0u);
  EXPECT_EQ(w, before);
}

// ---- the lock -----------------------------------------------------------------------------------

TEST_F(journals, are_written_by_one_thread_at_a_time) {
  constexpr u32 threads = 4, rounds = 3000;
  w.first = w.second = 0;
  std::vector<std::thread> all;
  for (u32 i = 0; i < threads; ++i)
    all.emplace_back([&, who = b.join()] {
      for (u32 n = 0; n < rounds; ++n) {
        transaction t(s, who);
        t.put(w.first, w.first + 1);
        if (n % 3 == 0) {
          t.roll_back();
          t.put(w.second, w.second + 1);
        }
      }
    });
  for (std::thread& t : all)
    t.join();
  EXPECT_EQ(w.first, threads * rounds * 2 / 3);
  EXPECT_EQ(w.second, threads * rounds / 3);
  EXPECT_EQ(b.header().lock.load(std::memory_order_relaxed), 0u);
  EXPECT_EQ(steals(), 0u);
}

TEST_F(journals, are_committed_before_others_are_let_in) {
  std::optional<transaction> t(std::in_place, s, b.me());
  t->put(w.first, 1);
  EXPECT_FALSE(t->let_others_in()) << "nobody waits";
  EXPECT_EQ(count(), 0u) << "it commits all the same";
  std::thread other([&, who = b.join()] {
    transaction mine(s, who);
    EXPECT_EQ(w.first, 2u);
    mine.put(w.second, 2);
  });
  EXPECT_TRUE(wait_until(
      [&] { return (b.header().lock.load(std::memory_order_relaxed) & lock_waiters) != 0; }));
  t->put(w.first, 2);
  // The other one may wake too late, and has to say again that it waits.
  EXPECT_TRUE(wait_until([&] { return t->let_others_in() && w.second == 2; }));
  t.reset();  // whatever was found: the other one can end
  other.join();
}

}  // namespace
}  // namespace annex
