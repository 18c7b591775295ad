// torture/recall_test.cpp - a thread is stopped before each instruction of a hit, for as long as
// another process recalls its cache and takes its slabs: what it read before is old then, and must
// not be gone by.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>
#include <annex/heap.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <new>
#include <string>
#include <vector>

#include "cache/thread_cache.hpp"
#include "stepper.hpp"

namespace annex::torture {
namespace {

using namespace std::chrono_literals;

// A free that empties half a magazine has thousands more; what they leave behind is torture_steps'
// subject.
constexpr std::size_t looked_at = 300;

/// What is done between the two stops, with blocks that were allocated before; returns what is live
/// afterwards.
using operation = std::function<std::vector<void*>(heap&, std::vector<void*>)>;

std::vector<void*> free_one(heap&, std::vector<void*> blocks) {
  heap::free(blocks.back());
  blocks.pop_back();
  return blocks;
}

class recall : public ::testing::Test {
 protected:
  recall() : directory_(::mkdtemp(name_)) {
    ::setenv("ANNEX_DIR", directory_.c_str(), 1);
    void* const shared =
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    may_end_ = new (shared) std::atomic<bool>(true);
  }
  ~recall() override { std::filesystem::remove_all(directory_); }

  std::function<void()> body_of(const operation& op, unsigned allocated, unsigned freed) const {
    return [op, allocated, freed, may_end = may_end_, bytes = block_bytes_] {
      auto h = heap::attach("r");
      if (!h) ::_exit(1);
      void* const kept = h->allocate(100'000);  // so that the region is not removed
      std::vector<void*> blocks;
      for (unsigned i = 0; i < allocated; ++i)
        blocks.push_back(h->allocate(bytes));
      for (unsigned i = 0; i < freed; ++i)
        blocks = free_one(*h, std::move(blocks));
      stepper::stop_here();
      blocks = op(*h, std::move(blocks));
      stepper::stop_here();
      while (!may_end->load())
        ::usleep(100);
      for (void* block : blocks)
        heap::free(block);
      heap::free(kept);
      *h = heap{};
      ::_exit(0);
    };
  }

  // Takes every slab from its thread, and finds that one has a live block. Waits while the victim
  // has the heap lock, at most until somebody lets it go.
  static void try_to_remove(heap& h, region_id region) {
    const auto removed = h.remove_memory(region);
    ASSERT_FALSE(removed.has_value());
    EXPECT_EQ(removed.error().code, errc::blocks_live) << removed.error().message();
  }

  static void await_end(stepper& victim) {
    int status = -1;
    victim.await_exit(&status);
    EXPECT_EQ(status, 0);
  }

  void stop_everywhere(const operation& op, unsigned allocated, unsigned freed = 0,
                       std::size_t step = 1) {
    path known;
    {
      heap h = *heap::create("r");
      ASSERT_TRUE(h.bring_memory({.length_bytes = region_bytes_}).has_value());
      stepper first(body_of(op, allocated, freed));
      known = first.record();
      first.let_go();
      await_end(first);
    }
    if (const auto ended = heap::destroy("r"); !ended) FAIL() << ended.error().message();
    ASSERT_GT(known.length(), 20u);
    for (std::size_t k = 0; k < std::min(known.length(), looked_at); k += step) {
      SCOPED_TRACE(k);
      {
        heap h = *heap::create("r");
        const auto region = h.bring_memory({.length_bytes = region_bytes_});
        may_end_->store(false);
        stepper victim(body_of(op, allocated, freed));
        (void)victim.go_to(known, k);
        auto recalled = std::async(std::launch::async, [&] { try_to_remove(h, *region); });
        // Longer only if the victim was stopped with the heap lock in its hand.
        (void)recalled.wait_for(200ms);
        victim.let_go();
        recalled.wait();
        may_end_->store(true);
        await_end(victim);
        h.trim();
        const auto report = h.audit();
        ASSERT_TRUE(report.has_value());
        EXPECT_TRUE(report->holds()) << report->broken.front();
        EXPECT_EQ(h.stats().live_blocks, 0u);
        ASSERT_TRUE(h.remove_memory(*region).has_value());
      }
      if (const auto ended = heap::destroy("r"); !ended) FAIL() << ended.error().message();
      if (HasFailure()) break;
    }
  }

  // Larger ones than slabs have are kept by the thread where they are little of the region.
  void use_large_blocks() {
    block_bytes_ = 200'000;
    region_bytes_ = 16 << 20;
  }

 private:
  std::size_t block_bytes_ = 64, region_bytes_ = 1 << 20;
  std::atomic<bool>* may_end_ = nullptr;  // shared with the victims
  char name_[32] = "/dev/shm/annex-recall-XXXXXX";
  std::string directory_;
};

TEST_F(recall, before_any_instruction_of_a_free_leaves_each_block_in_one_place) {
  stop_everywhere(free_one, 3);
}

// Into a full magazine: there a free goes the long way, as it does when the cache was found frozen.
TEST_F(recall, before_any_instruction_of_a_free_by_the_long_way_leaves_each_block_in_one_place) {
  stop_everywhere(free_one, 2 * magazine_slots, magazine_slots);
}

TEST_F(recall, before_any_instruction_of_an_allocation_leaves_each_block_in_one_place) {
  stop_everywhere(
      [](heap& h, std::vector<void*> blocks) {
        blocks.push_back(h.allocate(64));
        return blocks;
      },
      2);
}

TEST_F(recall, before_any_instruction_of_the_free_of_a_large_block_leaves_it_in_one_place) {
  use_large_blocks();
  stop_everywhere(free_one, 3, 1, 5);
}

TEST_F(recall, before_any_instruction_of_an_allocation_of_a_large_block_leaves_it_in_one_place) {
  use_large_blocks();
  stop_everywhere(
      [](heap& h, std::vector<void*> blocks) {
        blocks.push_back(h.allocate(200'000));
        return blocks;
      },
      3, 2, 3);
}

}  // namespace
}  // namespace annex::torture
