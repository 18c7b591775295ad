// tests/restart_test.cpp - everybody is gone, and the next one finds the heap as it was: zones,
// blocks, contents, rings.
#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <vector>

#include "support.hpp"

namespace annex {
namespace {

using restarts = in_own_directory;

// What is found again: a zone with the handles of blocks, whose contents say who they are.
struct inventory {
  u64 count;
  u64 blocks[200];
};

void fill(heap& h, u64 seed) {
  auto z = must(h.reserve_zone("inventory", {.size_bytes = sizeof(inventory), .zeroed = true}));
  auto* list = static_cast<inventory*>(z.address);
  std::mt19937_64 random(seed);
  for (u64 i = 0; i < 200; ++i) {
    const std::size_t bytes = 16 + random() % (i % 20 == 0 ? 200000 : 3000);
    auto* block = static_cast<unsigned char*>(h.allocate(bytes));
    ASSERT_NE(block, nullptr);
    std::memset(block, static_cast<int>(i), bytes);
    std::memcpy(block, &bytes, sizeof bytes);
    list->blocks[i] = static_cast<u64>(h.handle_of(block));
    list->count = i + 1;
  }
  auto r = must(ring::create(h, "ring", 16));
  for (u64 i = 1; i <= 5; ++i)
    r.put(handle{i});
  must(raw_pool::create(h, "pool", {.object_bytes = 64, .object_count = 50}));
}

void check_and_empty(heap& h) {
  auto* list = static_cast<inventory*>(must(h.find_zone("inventory")).address);
  EXPECT_EQ(list->count, 200u);
  for (u64 i = 0; i < list->count; ++i) {
    auto* block = static_cast<unsigned char*>(must(h.resolve(handle{list->blocks[i]})));
    std::size_t bytes = 0;
    std::memcpy(&bytes, block, sizeof bytes);
    for (std::size_t at = sizeof bytes; at < bytes; ++at)
      ASSERT_EQ(block[at], static_cast<unsigned char>(i));
    heap::free(block);
  }
  auto r = must(ring::open(h, "ring"));
  for (u64 i = 1; i <= 5; ++i)
    EXPECT_EQ(static_cast<u64>(r.take()), i);
  EXPECT_EQ(must(raw_pool::open(h, "pool")).free_count(), 50u);
  must(raw_pool::release(h, "pool"));
  must(ring::release(h, "ring"));
  must(h.release_zone("inventory"));
  for (const member_summary& m : h.members())
    if (!m.alive) (void)h.reap(m.id);
  h.trim();
  EXPECT_EQ(h.stats().live_blocks, 0u);
  expect_sound(h);
}

TEST_F(restarts, find_everything_on_memory_that_has_a_file) {
  struct medium {
    const char* name;
    memory_source source;
  };
  const std::string elsewhere = path() + "/elsewhere";
  std::filesystem::create_directory(elsewhere);
  const medium media[] = {
      {"the annex directory", {.length_bytes = 8 << 20}},
      {"a file on disk",
       {.from = memory_source::kind::file, .length_bytes = 8 << 20, .path = elsewhere + "/memory"}},
      {"hugepages",
       {.from = memory_source::kind::hugetlb,
        .length_bytes = 8 << 20,
        .page_bytes = 2 << 20,
        .path = "/dev/hugepages"}},
  };
  for (const medium& m : media) {
    for (const bool killed : {false, true}) {
      child_process first([&] {
        heap h = must(heap::create("warm"));
        if (!h.bring_memory(m.source)) return 77;
        fill(h, 5);
        if (killed) ::kill(::getpid(), SIGKILL);
        h = heap{};
        return ::testing::Test::HasFailure() ? 1 : 0;
      });
      const int code = first.wait_for_exit_code();
      if (code != 77) {
        EXPECT_EQ(code, killed ? -SIGKILL : 0) << m.name;
        child_process second([&] {  // looks, and is killed too
          heap h = must(heap::attach("warm"));
          const bool found =
              static_cast<inventory*>(must(h.find_zone("inventory")).address)->count == 200;
          ::kill(::getpid(), found ? SIGKILL : SIGTERM);
          return 0;
        });
        EXPECT_EQ(second.wait_for_exit_code(), -SIGKILL) << m.name;
        heap h = must(heap::attach("warm"), m.name);
        check_and_empty(h);
        must(h.remove_memory(region_id{1}));
        h = heap{};
      } else {
        std::printf("%s: none here\n", m.name);
      }
      must(heap::destroy("warm"), m.name);
      std::filesystem::remove(elsewhere + "/memory");
      if (HasFailure()) FAIL() << m.name << (killed ? ", killed" : ", closed");
    }
  }
}

TEST_F(restarts, after_everybody_was_killed_at_once_in_the_middle_of_work) {
  {
    heap h = heap_with(16 << 20, {}, "warm");
    fill(h, 7);
  }
  for (unsigned round = 0; round < 30; ++round) {
    {
      std::vector<std::unique_ptr<child_process>> crowd;
      for (unsigned i = 0; i < 4; ++i)
        crowd.push_back(std::make_unique<child_process>([=] {
          heap mine = must(heap::attach("warm"));
          std::mt19937 random(round * 10 + i);
          std::vector<void*> blocks;
          for (;;) {
            if (random() % 3 != 0 || blocks.empty()) {
              if (void* block = mine.allocate(1 + random() % (random() % 8 == 0 ? 200000 : 2000)))
                blocks.push_back(block);
            } else {
              heap::free(blocks.back());
              blocks.pop_back();
            }
            if (blocks.size() > 60) {
              heap::free_bulk(blocks);
              blocks.clear();
              mine.trim();
            }
          }
          return 0;
        }));
      ::usleep(3000 + round * 517);
      for (auto& one : crowd)
        one->kill_now();
    }
    heap h = must(heap::attach("warm"));  // alone: it inspects everything
    expect_sound(h);
    for (const member_summary& m : h.members())
      if (!m.alive && static_cast<u32>(m.id) != 1) (void)h.reap(m.id);
    if (HasFailure()) FAIL() << "round " << round;
  }
  heap h = must(heap::attach("warm"));
  check_and_empty(h);
}

}  // namespace
}  // namespace annex
