// tests/process_test.cpp - several processes, each with the memory at an address of its own; really
// killed ones.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include <annex/pool.hpp>

#include "another_member.hpp"
#include "support.hpp"

namespace annex {
namespace {

using processes = in_own_directory;

TEST_F(processes, free_each_others_blocks_through_handles) {
  struct words {
    std::atomic<u64> to_child[512], to_parent[512];
    std::atomic<int> ready{0};
    std::atomic<u64> base{0};
  };
  auto* mail = shared_words<words>();
  heap h = heap_with(8 << 20, {}, "a");
  char* const base = static_cast<char*>(h.allocate(64));
  child_process child([mail] {
    // Something where the kernel would place the region, so that it lies elsewhere here.
    heap mine = must(attach_as_another("a"));
    mail->base = reinterpret_cast<u64>(must(mine.resolve(mine.handle_of(mine.allocate(64)))));
    mail->ready = 1;
    std::mt19937 random(1);
    for (int round = 0; round < 60000; ++round) {
      const auto at = random() % 512;
      if (const u64 got = mail->to_child[at].exchange(0)) {
        auto* block = static_cast<u64*>(must(mine.resolve(handle{got})));
        if (block[0] != got) return 1;
        heap::free(block);
      }
      auto* block = static_cast<u64*>(mine.allocate(16 + random() % 2000));
      if (block == nullptr) continue;
      block[0] = static_cast<u64>(mine.handle_of(block));
      if (const u64 old = mail->to_parent[at].exchange(block[0]))
        heap::free(must(mine.resolve(handle{old})));
    }
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return mail->ready == 1; }));
  std::mt19937 random(2);
  for (int round = 0; round < 60000; ++round) {
    const auto at = random() % 512;
    if (const u64 got = mail->to_parent[at].exchange(0)) {
      auto* block = static_cast<u64*>(must(h.resolve(handle{got})));
      ASSERT_EQ(block[0], got);
      heap::free(block);
    }
    auto* block = static_cast<u64*>(h.allocate(16 + random() % 2000));
    if (block == nullptr) continue;
    block[0] = static_cast<u64>(h.handle_of(block));
    if (const u64 old = mail->to_child[at].exchange(block[0]))
      heap::free(must(h.resolve(handle{old})));
  }
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  expect_sound(h);
  for (auto* box : {mail->to_child, mail->to_parent})
    for (int i = 0; i < 512; ++i)
      if (const u64 left = box[i].exchange(0)) heap::free(must(h.resolve(handle{left})));
  EXPECT_NE(mail->base.load(), reinterpret_cast<u64>(base));
  heap::free(base);
  h.recover();
  for (const member_summary& m : h.members())
    if (!m.alive) must(h.reap(m.id));
  h.trim();
  EXPECT_EQ(h.stats().used_bytes, 0u);
  expect_sound(h);
}

TEST_F(processes, two_mappings_in_one_process_are_two_members) {
  heap a = heap_with(8 << 20, {}, "a");
  heap b = must(attach_as_another("a"));
  EXPECT_EQ(a.id(), b.id());
  EXPECT_NE(a.self(), b.self());
  constexpr int rounds = 30000;
  std::atomic<u64> slots[64] = {};
  auto work = [&](heap& mine, unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < rounds; ++i) {
      auto* block = static_cast<u64*>(mine.allocate(16 + random() % 500));
      if (block == nullptr) continue;
      block[0] = static_cast<u64>(mine.handle_of(block));
      if (const u64 old = slots[random() % 64].exchange(block[0])) {
        auto* other = static_cast<u64*>(must(mine.resolve(handle{old})));
        ASSERT_EQ(other[0], old);
        heap::free(other);
      }
    }
  };
  std::thread one([&] { work(a, 1); }), two([&] { work(b, 2); }), three([&] { work(a, 3); });
  one.join();
  two.join();
  three.join();
  for (auto& slot : slots)
    if (const u64 left = slot.exchange(0)) heap::free(must(a.resolve(handle{left})));
  expect_sound(a);
  expect_sound(b);
  a.trim();
  b.trim();
  a.trim();
  EXPECT_EQ(a.stats().used_bytes, 0u);
}

TEST_F(processes, any_may_be_the_first_and_any_the_last) {
  child_process maker([] {
    heap mine = heap_with(2 << 20, {}, "a");
    std::strcpy(static_cast<char*>(must(mine.reserve_zone("z", {.size_bytes = 100})).address),
                "hello");
    return 0;
  });
  EXPECT_EQ(maker.wait_for_exit_code(), 0);
  child_process user([] {
    heap mine = must(attach_as_another("a"));
    return std::strcmp(static_cast<char*>(must(mine.find_zone("z")).address), "hello");
  });
  EXPECT_EQ(user.wait_for_exit_code(), 0);
  heap h = must(attach_as_another("a"));
  must(h.release_zone("z"));
  must(h.remove_memory(region_id{1}));
  expect_sound(h);
}

TEST_F(processes, a_fresh_attach_lies_at_an_address_of_its_own) {
  heap h = heap_with(2 << 20, {}, "a");
  auto* mine = static_cast<char*>(must(h.reserve_zone("z", {.size_bytes = 100})).address);
  heap again = must(attach_as_another("a"));
  auto* theirs = static_cast<char*>(must(again.find_zone("z")).address);
  EXPECT_NE(mine, theirs);
  std::strcpy(mine, "seen from both");
  EXPECT_STREQ(theirs, "seen from both");
}

TEST_F(processes, kill_after_kill_leaves_the_heap_sound) {
  heap h = heap_with(16 << 20, {}, "a");
  u64 stolen = 0;
  for (int round = 0; round < 150; ++round) {
    child_process child([round] {
      heap mine = must(attach_as_another("a"));
      std::mt19937 random(static_cast<unsigned>(round));
      std::vector<void*> blocks;
      for (unsigned i = 0;; ++i) {
        const auto choice = random() % 100;
        if (choice < 50 || blocks.empty()) {
          const std::size_t size = choice < 3 ? 70000 + random() % 300000 : 1 + random() % 4000;
          if (void* block = mine.allocate(size)) blocks.push_back(block);
        } else if (choice < 95 || blocks.size() > 500) {
          const std::size_t at = random() % blocks.size();
          heap::free(blocks[at]);
          blocks[at] = blocks.back();
          blocks.pop_back();
        } else if (choice < 98) {
          const std::string name = "zone" + std::to_string(random() % 5);
          if (!mine.reserve_zone(name, {.size_bytes = 5000})) (void)mine.release_zone(name);
        } else {
          mine.trim();
        }
      }
      return 0;
    });
    ::usleep(500 + static_cast<useconds_t>(round * 7919 % 6000));
    child.kill_now();
    child.wait_for_exit_code();
    void* block = h.allocate(100);  // at once
    ASSERT_NE(block, nullptr);
    heap::free(block);
    h.recover();
    expect_sound(h);
    for (const member_summary& m : h.members())
      if (!m.alive) must(h.reap(m.id));
    expect_sound(h);
    if (HasFailure()) FAIL() << "round " << round;
  }
  stolen = h.stats().lock_steals;
  for (int i = 0; i < 5; ++i)
    (void)h.release_zone("zone" + std::to_string(i));
  h.trim();
  EXPECT_EQ(h.stats().free_bytes, 16u << 20) << stolen << " locks were taken over";
}

TEST_F(processes, reclaim_dead_frees_by_itself) {
  heap h = heap_with(4 << 20, {.reclaim_dead = true}, "a");
  void* kept = h.allocate(100);
  child_process child([] {
    heap mine = must(attach_as_another("a"));
    for (int i = 0; i < 1000; ++i)
      mine.allocate(1000);
    mine.allocate(500000);
    ::kill(::getpid(), SIGKILL);
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
  EXPECT_EQ(h.recover(), 1u);
  EXPECT_EQ(h.members().size(), 1u);
  EXPECT_EQ(h.stats().live_blocks, 1u);
  heap::free(kept);
  expect_sound(h);
}

TEST_F(processes, the_application_looks_at_the_blocks_of_the_dead_before_they_go) {
  struct words {
    std::atomic<u64> wanted{0};
  };
  auto* w = shared_words<words>();
  heap h = heap_with(4 << 20, {}, "a");
  must(raw_pool::create(h, "pool", {.object_bytes = 64, .object_count = 10}));
  child_process child([w] {
    heap mine = must(attach_as_another("a"));
    for (int i = 0; i < 20; ++i)
      mine.allocate(1000);
    for (int i = 0; i < 2; ++i)
      mine.allocate(100000);
    auto* wanted = static_cast<char*>(mine.allocate(1000));
    std::strcpy(wanted, "the last words");
    w->wanted = static_cast<u64>(mine.handle_of(wanted));
    must(raw_pool::open(mine, "pool")).take();
    ::kill(::getpid(), SIGKILL);
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
  member_id dead{};
  for (const member_summary& m : h.members())
    if (!m.alive) dead = m.id;
  int small = 0, large = 0, objects = 0;
  const auto keep_all = must(h.reap(dead, [&](const block_summary& b) {
    small += b.kind == block_kind::slab_block;
    large += b.kind == block_kind::large;
    objects += b.kind == block_kind::pool_object;
    EXPECT_EQ(b.holder, dead);
    return reap_choice::keep;
  }));
  EXPECT_EQ(keep_all, 0u);
  EXPECT_EQ(small, 21);
  EXPECT_EQ(large, 2);
  EXPECT_EQ(objects, 1);
  const auto freed = must(h.reap(dead, [&](const block_summary& b) {
    heap::free(h.allocate(500));  // the heap can be used meanwhile
    return static_cast<u64>(b.where) == w->wanted ? reap_choice::keep : reap_choice::free;
  }));
  EXPECT_EQ(freed, 23u);
  auto* words_left = static_cast<char*>(must(h.resolve(handle{w->wanted.load()})));
  EXPECT_STREQ(words_left, "the last words");
  EXPECT_EQ(h.members().size(), 2u) << "it still holds one";
  heap::free(words_left);
  h.trim();
  EXPECT_EQ(h.members().size(), 1u) << "the last block went, and its name with it";
  must(raw_pool::release(h, "pool"));
  EXPECT_EQ(h.stats().live_blocks, 0u);
  expect_sound(h);
}

TEST_F(processes, who_holds_what_survives_adoption) {
  heap h = heap_with(4 << 20, {}, "a");
  child_process child([] {
    heap mine = must(attach_as_another("a"));
    for (int i = 0; i < 100; ++i)
      mine.allocate(64);
    ::kill(::getpid(), SIGKILL);
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
  h.recover();
  std::vector<void*> mine;
  for (int i = 0; i < 156; ++i)
    mine.push_back(h.allocate(64));  // out of the dead one's slab first
  member_id dead{};
  u64 held_by_me = 0;
  for (const member_summary& m : h.members()) {
    if (m.self) {
      held_by_me = m.held_blocks;
      continue;
    }
    dead = m.id;
    EXPECT_EQ(m.held_blocks, 100u);
  }
  EXPECT_EQ(held_by_me, 156u);
  EXPECT_EQ(h.stats().slab_count, 4u)
      << "the free blocks of the dead one's slabs were used: 64 blocks a slab";
  EXPECT_EQ(refused(h.reap(h.self())), errc::invalid_argument);
  EXPECT_EQ(refused(h.reap(member_id{77})), errc::invalid_argument);
  EXPECT_EQ(must(h.reap(dead)), 100u);
  EXPECT_EQ(h.stats().live_blocks, 156u);
  expect_sound(h);
  heap::free_bulk(mine);
  h.trim();
  EXPECT_EQ(h.stats().used_bytes, 0u);
}

TEST_F(processes, a_forked_child_becomes_a_member_of_its_own) {
  heap h = heap_with(4 << 20, {}, "a");
  void* block = h.allocate(100);
  child_process child([&] {
    void* mine = h.allocate(200);
    if (mine == nullptr) return 1;
    heap::free(block);  // the parent's
    heap::free(mine);
    return h.members().size() == 2 ? 0 : 2;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  EXPECT_EQ(heap::usable_size(block), 0u);
  h.recover();
  EXPECT_EQ(h.members().size(), 1u);
  expect_sound(h);
}

TEST_F(processes, a_private_heap_is_not_the_childs) {
  heap h = heap_with(4 << 20);
  void* block = h.allocate(100);
  child_process child([&] {
    heap::free(block);  // ignored: it is the parent's
    if (h.allocate(5000) != nullptr) return 1;
    if (heap::last_failure().why != explanation::cause::forked_away) return 2;
    mapped_memory m(4096);
    return refused(h.add_memory(m.range())) == errc::forked_away ? 0 : 3;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  EXPECT_EQ(heap::usable_size(block), 112u);
  expect_sound(h);
}

TEST_F(processes, a_stopped_process_is_not_dead_and_stops_nobody) {
  struct words {
    std::atomic<int> ready{0};
  };
  auto* w = shared_words<words>();
  heap h = heap_with(4 << 20, {}, "a");
  child_process child([w] {
    heap mine = must(attach_as_another("a"));
    std::vector<void*> kept;
    for (int i = 0; i < 50; ++i)
      kept.push_back(mine.allocate(1000));
    // The first of its size takes the heap lock; whoever is stopped with that is waited for.
    heap::free(mine.allocate(100));
    w->ready = 1;
    for (;;)
      heap::free(mine.allocate(100));
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return w->ready == 1; }));
  child.kill_now(SIGSTOP);
  ::waitpid(child.id(), nullptr, WUNTRACED);
  EXPECT_EQ(h.recover(), 0u);
  for (int i = 0; i < 1000; ++i)
    ASSERT_NE(h.allocate(100), nullptr);
  const auto blocked = h.remove_memory(region_id{1});
  EXPECT_EQ(refused(blocked), errc::blocks_live);
  child.kill_now(SIGKILL);
  child.wait_for_exit_code();
  EXPECT_EQ(h.recover(), 1u);
  expect_sound(h);
}

}  // namespace
}  // namespace annex
