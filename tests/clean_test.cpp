// tests/clean_test.cpp - zeroed blocks: always zeros, and cleared only where somebody may have
// written.
#include <algorithm>
#include <cstring>
#include <random>
#include <thread>

#include "support.hpp"

namespace annex {
namespace {

class clean_memory : public in_own_directory {};

bool is_zero(const void* block, u64 bytes) {
  const auto* const p = static_cast<const unsigned char*>(block);
  return std::all_of(p, p + bytes, [](unsigned char c) { return c == 0; });
}

// Zeroed blocks of every kind, written full of ones, freed in any order; some not zeroed between
// them. Returns how many were not zeros.
u64 churn(heap& h, unsigned seed, unsigned rounds) {
  std::mt19937 random(seed);
  struct held {
    void* block;
    u64 bytes;
  };
  std::vector<held> live;
  u64 wrong = 0;
  for (unsigned i = 0; i < rounds; ++i) {
    if (live.size() > 200 || (!live.empty() && random() % 3 == 0)) {
      std::swap(live[random() % live.size()], live.back());
      heap::free(live.back().block);
      live.pop_back();
      continue;
    }
    const u64 bytes = random() % 8 == 0 ? 1 + random() % 300'000 : 1 + random() % 3000;
    const bool zeroed = random() % 4 != 0;
    void* const block = zeroed ? h.allocate({.size_bytes = bytes,
                                             .align_bytes = random() % 5 == 0 ? 4096u : 64u,
                                             .zeroed = true})
                               : h.allocate(bytes);
    if (block == nullptr) continue;
    if (zeroed && !is_zero(block, bytes)) ++wrong;
    std::memset(block, 0xff, heap::usable_size(block));
    live.push_back({block, bytes});
  }
  for (const held& b : live)
    heap::free(b.block);
  return wrong;
}

TEST_F(clean_memory, zeroed_blocks_are_zeros_whatever_lay_there) {
  for (const bool checked : {false, true}) {
    heap h = must(heap::create(checked ? "c" : "h", {.checked = checked}));
    mapped_memory dirty(8 * MiB), fresh(8 * MiB);
    std::memset(dirty.data(), 0xff, dirty.size());
    must(h.add_memory(dirty.range()));
    memory_range r = fresh.range();
    r.contents = fill::is_zero;
    must(h.add_memory(r));
    must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 40 * MiB}));
    EXPECT_EQ(churn(h, 1, 20'000), 0u);
    std::vector<std::thread> threads;
    std::atomic<u64> wrong{0};
    for (unsigned t = 0; t < 3; ++t)
      threads.emplace_back([&, t] { wrong += churn(h, t + 2, 10'000); });
    for (std::thread& t : threads)
      t.join();
    EXPECT_EQ(wrong.load(), 0u);
    expect_sound(h);
  }
}

TEST_F(clean_memory, is_cleared_the_second_time_only) {
  for (const u64 bytes : {u64{64}, 5 * KiB, 300 * KiB}) {
    heap h = must(heap::create_private());
    mapped_memory m(4 * MiB);
    std::memset(m.data(), 0x55, m.size());  // a lie: it shows what was cleared
    memory_range r = m.range();
    r.contents = fill::is_zero;
    must(h.add_memory(r));
    void* const first = h.allocate({.size_bytes = bytes, .zeroed = true});
    EXPECT_FALSE(is_zero(first, bytes)) << bytes << ": cleared though said to be zeros";
    heap::free(first);
    h.trim();
    void* const all = h.allocate({.size_bytes = m.size(), .zeroed = true});
    ASSERT_EQ(all, m.data());
    EXPECT_TRUE(is_zero(first, bytes)) << bytes << ": handed out before, and not cleared";
    EXPECT_EQ(m.data()[m.size() - 1], 0x55) << bytes << ": never handed out, and cleared";
    heap::free(all);
    const zone z = must(h.reserve_zone("all", {.size_bytes = m.size(), .zeroed = true}));
    EXPECT_TRUE(is_zero(z.address, m.size()));
  }
}

TEST_F(clean_memory, that_grows_in_place_is_no_longer_clean) {
  heap h = heap_with(0);
  must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 40 * MiB}));
  void* block = h.allocate(1 * MiB);
  block = h.reallocate(block, 4 * MiB);
  std::memset(block, 0xff, 4 * MiB);
  block = h.reallocate(block, 1 * MiB);
  void* const behind = h.allocate({.size_bytes = 3 * MiB, .zeroed = true});
  EXPECT_TRUE(is_zero(behind, 3 * MiB));
  heap::free(behind);
  heap::free(block);
  expect_sound(h);
}

TEST_F(clean_memory, what_the_killed_wrote_is_cleared) {
  heap h = must(heap::create("h"));
  must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 40 * MiB}));
  for (unsigned round = 0; round < 12; ++round) {
    child_process writer([&] {
      heap mine = must(heap::attach("h"));
      for (;;)
        (void)churn(mine, round, 5000);
      return 0;
    });
    usleep(3000 + round * 1700);
    writer.kill_now();
    writer.wait_for_exit_code();
    h.recover();
    for (const member_summary& m : h.members())
      if (!m.alive) must(h.reap(m.id));
    EXPECT_EQ(churn(h, round, 3000), 0u);
  }
  expect_sound(h);
}

}  // namespace
}  // namespace annex
