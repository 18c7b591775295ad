// tests/schedule_test.cpp - processes and threads work on one heap while the platform beneath them
// is late, or refuses, as a seed says (src/platform/simulated/schedule.hpp).
//
// Late calls open every window between two steps of one thread for all others; refused ones make
// everybody turn back anywhere. Afterwards every block has what its owner wrote, and the audit
// finds nothing. ANNEX_SCHEDULE_SEED gives the seed of a run again, ANNEX_SCHEDULE_ROUNDS says how
// many seeds in a row are tried.
#include <fmt/format.h>

#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <iostream>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "another_member.hpp"
#include "platform/simulated/schedule.hpp"
#include "support.hpp"

namespace annex {
namespace {

using schedules = in_own_directory;
using namespace std::chrono_literals;

u64 setting(const char* name, u64 otherwise) {
  const char* const text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

constexpr unsigned processes = 3, threads_of_each = 2, operations = 1500;

/// What all processes share besides the heap: handles on their way, and those that nobody could
/// resolve where they came to.
struct mail {
  std::array<std::atomic<u64>, 32> boxes;
  std::array<std::atomic<u64>, 4096> returned;
  std::atomic<u32> returned_count, refusals;
};

/// A thread's part: random steps. Every block is full of one number.
class worker {
 public:
  worker(heap& h, mail& post, u64 seed, bool may_be_refused)
      : heap_(h), mail_(post), random_(seed), may_be_refused_(may_be_refused) {}

  void work() {
    for (unsigned i = 0; i < operations && !::testing::Test::HasFailure(); ++i)
      step();
    for (void* block : own_)
      give_up(block);
    for (const region_id region : regions_)
      (void)heap_.drain_memory(region, 1s);
  }

 private:
  void step() {
    switch (random_() % 16) {
      case 0:
      case 1:
      case 2:
      case 3: return make(16 + random_() % 2000);
      case 4: return make(5000 + random_() % 200'000);
      case 5:
      case 6:
      case 7: return send();
      case 8:
      case 9:
      case 10: return receive();
      case 11: return end_one();
      case 12: return use_a_zone();
      case 13: return use_the_pool();
      case 14: return use_the_ring();
      default: return see_to_the_heap();
    }
  }

  // Whether it worked; if nothing is refused, it has to.
  template <class T>
  bool passed(const result<T>& r) {
    if (r) return true;
    ++mail_.refusals;
    EXPECT_TRUE(may_be_refused_) << r.error().message();
    EXPECT_FALSE(r.error().message().empty());
    return false;
  }

  void make(u64 bytes) {
    auto* const block = static_cast<u64*>(heap_.allocate(bytes));
    EXPECT_TRUE(block != nullptr || may_be_refused_) << heap::last_failure().message();
    if (block == nullptr) return;
    const u64 number = random_();
    std::fill_n(block, heap::usable_size(block) / sizeof(u64), number);
    own_.push_back(block);
  }

  void give_up(void* block) {
    const auto* const words = static_cast<u64*>(block);
    const u64 count = heap::usable_size(block) / sizeof(u64);
    for (u64 i = 1; i < count; ++i)
      if (words[i] != words[0]) {
        ADD_FAILURE() << "a block of " << count << " words has another's number at " << i;
        break;
      }
    heap::free(block);
  }

  void* take_own() {
    const std::size_t at = random_() % own_.size();
    void* const block = own_[at];
    own_[at] = own_.back();
    own_.pop_back();
    return block;
  }

  void end_one() {
    if (!own_.empty()) give_up(take_own());
  }

  void send() {
    if (own_.empty()) return;
    void* const block = take_own();
    const u64 number = static_cast<u64>(heap_.handle_of(block));
    ASSERT_NE(number, 0u);
    if (const u64 other = mail_.boxes[random_() % mail_.boxes.size()].exchange(number)) open(other);
  }

  void receive() {
    if (const u64 number = mail_.boxes[random_() % mail_.boxes.size()].exchange(0)) open(number);
  }

  void open(u64 number) {
    if (auto block = heap_.resolve(handle{number}); passed(block)) return give_up(*block);
    const u32 at = mail_.returned_count++;
    ASSERT_LT(at, mail_.returned.size());
    mail_.returned[at] = number;
  }

  void use_a_zone() {
    const std::string name = fmt::format("zone{}", random_());
    if (auto made = heap_.reserve_zone(name, {.size_bytes = 64 + random_() % 3000}); passed(made)) {
      passed(heap_.find_zone(name));
      passed(heap_.release_zone(name));
    }
  }

  void use_the_pool() {
    auto pool = raw_pool::open(heap_, "pool");
    if (!passed(pool)) return;
    const auto object = pool->take(20ms);
    if (!object) return;  // others have them all
    auto* const owner = static_cast<std::atomic<u64>*>(*object);
    EXPECT_EQ(owner->exchange(1), 0u) << "an object that another one has";
    owner->store(0);
    pool->give(*object);
  }

  void use_the_ring() {
    auto line = ring::open(heap_, "ring");
    if (!passed(line)) return;
    if (random_() % 2 == 0) {
      (void)line->put(handle{1 + random_() % 1000}, 2ms);
    } else if (const auto taken = line->take(2ms)) {
      EXPECT_LE(static_cast<u64>(*taken), 1000u);
    }
  }

  void see_to_the_heap() {
    switch (random_() % 8) {
      case 0:
        if (regions_.size() < 2)
          if (const auto region = heap_.bring_memory({.length_bytes = 2 << 20}); passed(region))
            regions_.push_back(*region);
        break;
      case 1:
        if (regions_.empty()) break;
        (void)heap_.drain_memory(regions_.back(), 5ms);  // others' blocks may be there
        regions_.pop_back();
        break;
      case 2: heap_.trim(); break;
      case 3: heap_.synchronize(); break;
      case 4: (void)heap_.members(); break;
      case 5: (void)heap_.recover(); break;
      case 6: passed(heap::list()); break;
      default: (void)heap_.stats(); break;
    }
  }

  heap& heap_;
  mail& mail_;
  std::mt19937_64 random_;
  bool may_be_refused_;
  std::vector<void*> own_;
  std::vector<region_id> regions_;
};

int work_in_a_process(mail& post, const os::simulated::plan& plan) {
  os::simulated::follow(plan);
  result<heap> mine = attach_as_another("s");
  for (int tries = 0; !mine && plan.refused != 0 && tries < 1000; ++tries)
    mine = attach_as_another("s");
  heap h = must(std::move(mine), "attach");
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < threads_of_each; ++t)
    threads.emplace_back(
        [&, t] { worker(h, post, plan.seed * 100 + t, plan.refused != 0).work(); });
  for (std::thread& t : threads)
    t.join();
  h = heap{};
  return ::testing::Test::HasFailure() ? 1 : 0;
}

// What is on its way when all have left; the platform is as it should be again.
void empty_the_mail(heap& h, mail& post) {
  auto end = [&](std::atomic<u64>& place) {
    if (const u64 number = place.exchange(0)) heap::free(must(h.resolve(handle{number})));
  };
  for (auto& box : post.boxes)
    end(box);
  for (auto& returned : post.returned)
    end(returned);
}

// Who left while blocks of its own were on their way stays known until they are reaped: all are
// freed by now.
void forget_who_left(heap& h) {
  for (;;) {
    (void)h.recover();  // of whom nothing is left is no member any more
    const auto members = h.members();
    const auto dead = std::ranges::find(members, false, &member_summary::alive);
    if (dead == members.end()) return;
    // Invalid_argument: counting what it holds brought the last of it back, and it is gone.
    const auto reaped = h.reap(dead->id);
    EXPECT_TRUE(reaped ? *reaped == 0 : reaped.error().code == errc::invalid_argument);
  }
}

void run_round(u64 seed, u32 late, u32 refused) {
  auto* const post = shared_words<mail>();
  heap h = heap_with(8 << 20, {}, "s");
  must(raw_pool::create(h, "pool", {.object_bytes = 64, .object_count = 12}), "pool");
  must(ring::create(h, "ring", 16), "ring");
  std::vector<std::unique_ptr<child_process>> children;
  for (unsigned i = 0; i < processes; ++i)
    children.push_back(std::make_unique<child_process>([&] {
      return work_in_a_process(*post, {.seed = seed * 100 + i, .late = late, .refused = refused});
    }));
  for (const auto& child : children)
    EXPECT_EQ(child->wait_for_exit_code(), 0);
  expect_sound(h);
  (void)h.recover();
  empty_the_mail(h, *post);
  must(raw_pool::release(h, "pool"), "pool");
  must(ring::release(h, "ring"), "ring");
  std::vector<std::string> zones;
  h.for_each_zone([&](const zone_summary& z) { zones.emplace_back(z.name); });
  EXPECT_TRUE(zones.empty() || refused != 0);
  for (const std::string& zone : zones)
    must(h.release_zone(zone), "zone");
  forget_who_left(h);
  expect_alone_and_empty(h);
  h = heap{};
  must(heap::destroy("s"), "destroy");
  ::munmap(post, sizeof(mail) + 4096);
}

void run_rounds(u32 late, u32 refused) {
  const u64 first = setting("ANNEX_SCHEDULE_SEED", std::random_device{}()),
            rounds = setting("ANNEX_SCHEDULE_ROUNDS", 4);
  for (u64 seed = first; seed < first + rounds; ++seed) {
    std::cout << "seed " << seed << std::endl;
    run_round(seed, late, refused);
    ASSERT_FALSE(::testing::Test::HasFailure()) << "again: ANNEX_SCHEDULE_SEED=" << seed;
  }
}

TEST_F(schedules, where_any_call_may_be_late_break_nothing) {
  run_rounds(100'000, 0);
}
TEST_F(schedules, where_any_call_may_be_late_or_refused_break_nothing) {
  run_rounds(50'000, 5'000);
}

}  // namespace
}  // namespace annex
