// tests/snapshot_test.cpp - a heap in one look: exact when it is quiet, never waiting when it is
// not, whatever lies in the segment.
#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include <cstring>
#include <random>
#include <set>
#include <thread>

#include "another_member.hpp"
#include "heap/local_heap.hpp"
#include "inside.hpp"
#include "support.hpp"

namespace annex {
namespace {

using snapshots = in_own_directory;

struct words {
  std::atomic<int> ready{0}, leave{0};
  std::atomic<u64> rounds{0};
};

// Blocks of every kind, of threads that live and threads that ended, with caches that are not
// empty.
void fill(heap& h, std::vector<void*>* kept) {
  for (const int size : {16, 100, 100, 1500, 4000, 9000, 70'000, 300'000, 1'000'000})
    for (int i = 0; i < 40; ++i)
      kept->push_back(h.allocate(static_cast<std::size_t>(size)));
  for (std::size_t i = 0; i < kept->size(); i += 3) {
    heap::free((*kept)[i]);
    (*kept)[i] = nullptr;
  }
  std::thread([&] {
    for (int i = 0; i < 100; ++i)
      kept->push_back(h.allocate(200));
  }).join();
  // Out of what the thread left, or beside it.
  for (int i = 0; i < 20; ++i)
    kept->push_back(h.allocate(200));
  must(h.reserve_zone("zone", {.size_bytes = 100'000}));
  must(h.reserve_zone("another", {.size_bytes = 1}));
  must(h.reserve_zone("being filled", {.size_bytes = 1}, visibility::on_commit));
  raw_pool pool = must(raw_pool::create(h, "pool", {.object_bytes = 256, .object_count = 500}));
  for (int i = 0; i < 30; ++i)
    (void)pool.take();
  must(ring::create(h, "ring", 64));
}

void expect_same(const heap_stats& a, const heap_stats& b) {
  EXPECT_EQ(a.total_bytes, b.total_bytes);
  EXPECT_EQ(a.used_bytes, b.used_bytes);
  EXPECT_EQ(a.cached_bytes, b.cached_bytes);
  EXPECT_EQ(a.free_bytes, b.free_bytes);
  EXPECT_EQ(a.largest_free_bytes, b.largest_free_bytes);
  EXPECT_EQ(a.live_blocks, b.live_blocks);
  EXPECT_EQ(a.region_count, b.region_count);
  EXPECT_EQ(a.zone_count, b.zone_count);
  EXPECT_EQ(a.member_count, b.member_count);
  EXPECT_EQ(a.thread_count, b.thread_count);
  EXPECT_EQ(a.slab_count, b.slab_count);
  EXPECT_EQ(a.hole_count, b.hole_count);
  EXPECT_EQ(a.metadata_bytes, b.metadata_bytes);
  EXPECT_EQ(a.misuse_count, b.misuse_count);
  EXPECT_EQ(a.lock_steals, b.lock_steals);
  EXPECT_EQ(a.recovered_threads, b.recovered_threads);
}

// What the functions of the heap say, each by itself, against one snapshot.
void expect_snapshot_is_exact(const heap& h) {
  // Asked first: members() recovers the dead, and may take its own caches' blocks about.
  const std::vector<member_summary> members = h.members();
  const heap_snapshot s = h.snapshot();
  EXPECT_FALSE(s.changed);
  EXPECT_TRUE(s.complete);
  EXPECT_EQ(s.problem, "");
  EXPECT_EQ(s.lock_holder, member_id{});
  EXPECT_EQ(s.tries, 1u);
  EXPECT_GT(s.taken_ns, 0u);
  expect_same(s.stats, h.stats());

  std::size_t i = 0;
  h.for_each_region([&](const region_summary& r) {
    ASSERT_LT(i, s.regions.size());
    const region_summary& seen = s.regions[i++];
    EXPECT_EQ(seen.id, r.id);
    EXPECT_EQ(seen.length_bytes, r.length_bytes);
    EXPECT_EQ(seen.page_bytes, r.page_bytes);
    EXPECT_EQ(seen.free_bytes, r.free_bytes);
    EXPECT_EQ(seen.largest_free_bytes, r.largest_free_bytes);
    EXPECT_EQ(seen.granule_bytes, r.granule_bytes);
    EXPECT_EQ(seen.numa_node, r.numa_node);
    EXPECT_EQ(seen.access, r.access);
    EXPECT_EQ(seen.draining, r.draining);
    EXPECT_EQ(seen.base, r.base);
    EXPECT_EQ(seen.origin, r.origin);
    EXPECT_EQ(seen.adder, r.adder);
    EXPECT_EQ(seen.iova_runs, r.iova_runs);
    EXPECT_EQ(seen.first_iova, r.first_iova);
    EXPECT_EQ(seen.backing, r.backing);
  });
  EXPECT_EQ(i, s.regions.size());

  i = 0;
  h.for_each_zone([&](const zone_summary& z) {
    ASSERT_LT(i, s.zones.size());
    const zone_summary& seen = s.zones[i++];
    EXPECT_EQ(seen.name, z.name);
    EXPECT_EQ(seen.where, z.where);
    EXPECT_EQ(seen.size_bytes, z.size_bytes);
    EXPECT_EQ(seen.kind, z.kind);
    EXPECT_EQ(seen.committed, z.committed);
    EXPECT_EQ(seen.generation, z.generation);
    EXPECT_EQ(seen.maker, z.maker);
    EXPECT_EQ(seen.maker_process_id, z.maker_process_id);
    EXPECT_EQ(seen.maker_alive, z.maker_alive);
  });
  EXPECT_EQ(i, s.zones.size());

  i = 0;
  h.for_each_map_piece([&](const map_piece& p) {
    ASSERT_LT(i, s.map_pieces.size());
    const map_piece& seen = s.map_pieces[i++];
    EXPECT_EQ(seen.region, p.region);
    EXPECT_EQ(seen.use, p.use);
    EXPECT_EQ(seen.offset_bytes, p.offset_bytes);
    EXPECT_EQ(seen.length_bytes, p.length_bytes);
    EXPECT_EQ(seen.live_bytes, p.live_bytes);
    EXPECT_EQ(seen.cached_bytes, p.cached_bytes);
    EXPECT_EQ(seen.block_bytes, p.block_bytes);
    EXPECT_EQ(seen.holder, p.holder);
  });
  EXPECT_EQ(i, s.map_pieces.size());

  ASSERT_EQ(s.members.size(), members.size());
  for (i = 0; i < members.size(); ++i) {
    EXPECT_EQ(s.members[i].id, members[i].id);
    EXPECT_EQ(s.members[i].process_id, members[i].process_id);
    EXPECT_EQ(s.members[i].program, members[i].program);
    EXPECT_EQ(s.members[i].alive, members[i].alive);
    EXPECT_EQ(s.members[i].self, members[i].self);
    EXPECT_EQ(s.members[i].threads, members[i].threads);
    EXPECT_EQ(s.members[i].cached_bytes, members[i].cached_bytes);
    EXPECT_EQ(s.members[i].held_blocks, members[i].held_blocks) << "member " << i + 1;
    EXPECT_EQ(s.members[i].held_bytes, members[i].held_bytes) << "member " << i + 1;
  }
}

TEST_F(snapshots, of_a_quiet_heap_are_exact_in_every_figure) {
  heap h = must(heap::create("a"));
  expect_snapshot_is_exact(h);
  must(h.bring_memory({.length_bytes = 64 << 20}));
  mapped_memory small(1 << 20), untouched(2 << 20, PROT_NONE);
  memory_range bus = small.range();
  std::vector<iova> iovas;
  for (u64 i = 0; i < small.size() / 4096; ++i)
    iovas.push_back(iova{0x100000000 + i * 8192});
  bus.page_iovas = iovas;
  must(h.add_memory(bus));
  memory_range no_cpu = untouched.range();
  no_cpu.access = touch::none;
  must(h.add_memory(no_cpu));
  expect_snapshot_is_exact(h);
  std::vector<void*> kept;
  fill(h, &kept);
  expect_snapshot_is_exact(h);
}

TEST_F(snapshots, know_whose_the_blocks_of_others_are_also_of_the_dead) {
  heap h = must(heap::create("a"));
  must(h.bring_memory({.length_bytes = 64 << 20}));
  auto* w = shared_words<words>();
  auto live = [w](bool dies) {
    heap mine = must(attach_as_another("a"));
    std::vector<void*> kept;
    for (int i = 0; i < 300; ++i)
      kept.push_back(mine.allocate(static_cast<std::size_t>(50 + i % 5 * 100)));
    for (int i = 0; i < 50; ++i)
      heap::free(kept[static_cast<std::size_t>(i)]);
    raw_pool pool = must(raw_pool::open(mine, "pool"));
    for (int i = 0; i < 7; ++i)
      (void)pool.take();
    ++w->ready;
    if (dies) ::raise(SIGKILL);
    wait_until([&] { return w->leave == 1; });
    ::_exit(0);
    return 0;
  };
  std::vector<void*> kept;
  fill(h, &kept);
  child_process dead([&] { return live(true); });
  EXPECT_EQ(dead.wait_for_exit_code(), -SIGKILL);
  child_process alive([&] { return live(false); });
  ASSERT_TRUE(wait_until([&] { return w->ready == 2; }));
  h.recover();
  // Adopts slabs that the dead left, with holdings.
  for (int i = 0; i < 200; ++i)
    kept.push_back(h.allocate(150));
  expect_snapshot_is_exact(h);
  w->leave = 1;
  EXPECT_EQ(alive.wait_for_exit_code(), 0);
}

TEST_F(snapshots, are_the_same_in_a_process_that_may_only_read) {
  heap h = must(heap::create("a"));
  must(h.bring_memory({.length_bytes = 64 << 20}));
  std::vector<void*> kept;
  fill(h, &kept);
  (void)h.members();
  const heap_snapshot writable = h.snapshot();
  heap reader = must(attach_as_another("a", {.read_only = true}));
  const heap_snapshot s = reader.snapshot();
  EXPECT_FALSE(s.changed);
  EXPECT_EQ(s.problem, "");
  expect_same(s.stats, writable.stats);
  EXPECT_EQ(s.sequence, writable.sequence);
  ASSERT_EQ(s.members.size(), writable.members.size());
  EXPECT_EQ(s.members[0].held_blocks, writable.members[0].held_blocks);
  EXPECT_EQ(s.members[0].held_bytes, writable.members[0].held_bytes);
  EXPECT_EQ(s.zones.size(), 5u);
  EXPECT_EQ(s.map_pieces.size(), writable.map_pieces.size());
}

TEST_F(snapshots, take_no_lock_and_change_nothing) {
  heap h = must(heap::create("a"));
  must(h.bring_memory({.length_bytes = 16 << 20}));
  std::vector<void*> kept;
  fill(h, &kept);
  const u64 before = h.internal()->here.seg.header().lock_sequence.load(std::memory_order_relaxed);
  for (int i = 0; i < 100; ++i)
    EXPECT_FALSE(h.snapshot().changed);
  EXPECT_EQ(h.internal()->here.seg.header().lock_sequence.load(std::memory_order_relaxed), before)
      << "the lock was taken";
}

TEST_F(snapshots, do_not_wait_for_a_member_that_is_stopped_with_the_heap_lock_in_its_hand) {
  heap h = must(heap::create("a"));
  must(h.bring_memory({.length_bytes = 16 << 20}));
  std::vector<void*> kept;
  fill(h, &kept);
  (void)h.members();
  const heap_snapshot before = h.snapshot();
  child_process holder([] {
    heap mine = must(attach_as_another("a"));
    {
      detail::locked t(mine.internal()->here);
      ::raise(SIGSTOP);
    }
    ::_exit(0);
    return 0;
  });
  int status = 0;
  ASSERT_EQ(::waitpid(holder.id(), &status, WUNTRACED), holder.id());
  ASSERT_TRUE(WIFSTOPPED(status));
  for (int i = 0; i < 100; ++i) {
    // Stats() too would do; members() and zones would wait here for ever.
    const heap_snapshot s = h.snapshot();
    EXPECT_TRUE(s.changed) << "nobody can say what its holder is about to do";
    EXPECT_EQ(s.lock_holder, member_id{2});
    EXPECT_EQ(s.problem, "");
    EXPECT_EQ(s.stats.live_blocks, before.stats.live_blocks);
    EXPECT_EQ(s.stats.used_bytes, before.stats.used_bytes);
    EXPECT_EQ(s.zones.size(), before.zones.size());
    ASSERT_EQ(s.members.size(), 2u);
    EXPECT_TRUE(s.members[1].alive);
  }
  ::kill(holder.id(), SIGCONT);
  EXPECT_EQ(holder.wait_for_exit_code(), 0);
  EXPECT_TRUE(wait_until([&] { return h.recover() == 0; }));
  EXPECT_EQ(h.snapshot().lock_holder, member_id{});
}

TEST_F(snapshots, stop_nobody_who_allocates_at_full_speed) {
  heap h = must(heap::create("a"));
  must(h.bring_memory({.length_bytes = 64 << 20}));
  auto* w = shared_words<words>();
  child_process worker([w] {
    heap mine = must(attach_as_another("a"));
    std::mt19937 random(7);
    std::vector<void*> blocks(200);
    while (w->leave == 0) {
      void*& block = blocks[random() % blocks.size()];
      heap::free(block);
      block = mine.allocate(16 + random() % 100'000);
      ++w->rounds;
    }
    for (void* block : blocks)
      heap::free(block);
    ::_exit(0);
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return w->rounds > 1000; }));
  for (int i = 0; i < 100; ++i) {
    const u64 rounds = w->rounds;
    const heap_snapshot s = h.snapshot();
    EXPECT_LE(s.tries, 3u);
    EXPECT_TRUE(s.complete) << s.problem;
    EXPECT_EQ(s.problem, "");
    EXPECT_EQ(s.stats.total_bytes, 64u << 20);
    ASSERT_EQ(s.members.size(), 2u);
    u64 covered = 0;
    for (const map_piece& p : s.map_pieces) {
      EXPECT_TRUE(s.changed || p.offset_bytes == covered) << p.offset_bytes;
      covered = p.offset_bytes + p.length_bytes;
      EXPECT_LE(covered, 64u << 20);
    }
    EXPECT_TRUE(s.changed || s.stats.used_bytes + s.stats.cached_bytes + s.stats.free_bytes ==
                                 s.stats.total_bytes);
    EXPECT_TRUE(wait_until([&] { return w->rounds > rounds; })) << "the worker stands still";
  }
  w->leave = 1;
  EXPECT_EQ(worker.wait_for_exit_code(), 0);
  h.recover();
  EXPECT_EQ(h.snapshot().stats.live_blocks, 0u);
  expect_sound(h);
}

TEST_F(snapshots, go_on_while_regions_and_zones_come_and_go) {
  heap h = must(heap::create("a"));
  must(h.bring_memory({.length_bytes = 1 << 20}));
  auto* w = shared_words<words>();
  child_process worker([w] {
    heap mine = must(attach_as_another("a"));
    while (w->leave == 0) {
      const region_id r =
          must(mine.bring_memory({.length_bytes = std::size_t{1 + w->rounds % 3} << 20}));
      if (auto z = mine.reserve_zone("zone", {.size_bytes = 5000})) must(mine.release_zone("zone"));
      if (auto pool = raw_pool::create(mine, "pool", {.object_bytes = 64, .object_count = 100}))
        must(raw_pool::release(mine, "pool"));
      must(mine.drain_memory(r, std::chrono::seconds(60)));
      ++w->rounds;
    }
    ::_exit(0);
    return 0;
  });
  std::atomic<bool> stop{false};
  std::thread here([&] {  // views of regions of this process come and go, too
    while (!stop) {
      h.synchronize();
      heap::free(h.allocate(700'000));
    }
  });
  while (w->rounds < 60) {
    const heap_snapshot s = h.snapshot();
    EXPECT_TRUE(s.complete);
    EXPECT_GE(s.stats.total_bytes, 1u << 20);
    EXPECT_LE(s.stats.total_bytes, 4u << 20);
    EXPECT_LE(s.zones.size(), 2u);
  }
  w->leave = 1;
  EXPECT_EQ(worker.wait_for_exit_code(), 0);
  stop = true;
  here.join();
  h.recover();
  EXPECT_EQ(h.snapshot().stats.total_bytes, 1u << 20);
  expect_sound(h);
}

TEST_F(snapshots, say_when_they_did_not_look_at_everything) {
  heap h = must(heap::create("a"));
  must(h.bring_memory({.length_bytes = 16 << 20}));
  std::vector<void*> kept;
  fill(h, &kept);
  const heap_snapshot all = h.snapshot();
  const heap_snapshot some = h.snapshot({.most_extents = 3});
  EXPECT_FALSE(some.complete);
  EXPECT_NE(some.problem.find("more than 3 extents"), std::string::npos) << some.problem;
  EXPECT_EQ(some.map_pieces.size(), 3u);
  const heap_snapshot none = h.snapshot({.map_pieces = false, .tries = 0});
  EXPECT_TRUE(none.map_pieces.empty());
  EXPECT_EQ(none.tries, 1u);
  expect_same(none.stats, all.stats);
}

// Every table of the segment, as it was.
class restored {
 public:
  restored(const segment& s, u64 from, u64 to)
      : base_(s.base() + from), bytes_(base_, base_ + (to - from)) {}
  ~restored() { std::memcpy(base_, bytes_.data(), bytes_.size()); }
  restored(const restored&) = delete;
  restored& operator=(const restored&) = delete;

 private:
  char* base_;
  std::vector<char> bytes_;
};

TEST_F(snapshots, of_tables_that_lead_in_circles_end_and_say_so) {
  heap h = must(heap::create("a"));
  must(h.bring_memory({.length_bytes = 16 << 20}));
  std::vector<void*> kept;
  fill(h, &kept);
  const opened_segment opened("a");
  const segment s = opened.view();
  {
    zone_record* z = nullptr;
    for_each_zone_bucket(
        s, [&](chunk_ref ref) { z = s.at<zone_record>(u64{ref} * chunk_unit_bytes); });
    ASSERT_NE(z, nullptr);
    const chunk_ref before = z->next;
    z->next = s.ref_of(z);
    const heap_snapshot seen = h.snapshot({.most_extents = 1000, .tries = 1});
    EXPECT_FALSE(seen.complete);
    EXPECT_NE(seen.problem, "");
    z->next = 0x7fffffff;  // far behind the file's end
    const heap_snapshot far = h.snapshot({.tries = 1});
    EXPECT_TRUE(far.changed);
    EXPECT_NE(far.problem.find("annex check --repair"), std::string::npos) << far.problem;
    z->next = before;
  }
  EXPECT_EQ(h.snapshot().problem, "") << "looking has marked nothing as damaged";
  expect_sound(h);
}

TEST_F(snapshots, of_a_segment_that_is_scribbled_over_always_end) {
  heap h = must(heap::create("a"));
  must(h.bring_memory({.length_bytes = 16 << 20}));
  std::vector<void*> kept;
  fill(h, &kept);
  (void)h.members();
  const opened_segment opened("a");
  const segment s = opened.view();
  const segment_geometry& g = s.geometry();
  std::mt19937_64 random(20);
  for (int round = 0; round < 400; ++round) {
    // The header's counts and lists, members, threads, regions, or the arena; of the pages that are
    // there.
    const std::pair<u64, u64> ranges[] = {
        {offsetof(segment_header, region_epoch), offsetof(segment_header, arena)},
        {offsetof(segment_header, orphans), sizeof(segment_header)},
        {g.members_at, g.members_at + 4 * sizeof(member_record)},
        {g.threads_at, g.threads_at + 8 * sizeof(thread_slot)},
        {g.regions_at, g.regions_at + 4 * sizeof(region_record)},
        {g.arena_at, s.header().arena.top}};
    const auto [from, to] = ranges[random() % std::size(ranges)];
    const restored after(s, from, to);
    const int changes = 1 + static_cast<int>(random() % 200);
    for (int i = 0; i < changes; ++i) {
      char* const at = s.base() + from + random() % (to - from - 8);
      const u64 value = random() % 3 == 0 ? ~u64{0} : random() >> (random() % 64);
      std::memcpy(at, &value, 1 + random() % 8);
    }
    const heap_snapshot seen = h.snapshot({.most_extents = 10'000, .tries = 2});
    EXPECT_LE(seen.map_pieces.size(), 10'000u);
  }
  EXPECT_EQ(h.snapshot().problem, "");
  expect_snapshot_is_exact(h);
}

}  // namespace
}  // namespace annex
