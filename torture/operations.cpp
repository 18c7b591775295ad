// torture/operations.cpp - see operations.hpp.
#include "operations.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include <array>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "heap/local_heap.hpp"

namespace annex::torture {
namespace {

using work = std::function<void(heap&, books&)>;

void nothing(heap&, books&) {}

work allocate(std::size_t bytes, int times = 1) {
  return [=](heap& h, books& b) {
    for (int i = 0; i < times; ++i)
      keep(h, b, h.allocate(bytes));
  };
}
work free_latest(int times = 1) {
  return [=](heap& h, books& b) {
    for (int i = 0; i < times; ++i)
      drop(h, b);
  };
}
work name_latest(std::uint32_t times = 1) {
  return [=](heap& h, books& b) {
    const std::uint32_t last = b.victims.load();
    for (std::uint32_t i = last - times; i < last; ++i)
      name_block(h, b, at_place(h, b.victim[i].load()));
  };
}
work both(work first, work second) {
  return [=](heap& h, books& b) {
    first(h, b);
    second(h, b);
  };
}
work place(const placement& p) {
  return [=](heap& h, books& b) {
    if (keep(h, b, h.allocate(p)) == nullptr)
      fail("no block for a placement: " + std::string(heap::last_failure().message()));
  };
}
work resize(std::size_t from, std::size_t to) {
  return [=](heap& h, books& b) {
    // Which of the two blocks is live is not known while it dies: it is in the hand, and out of the
    // book.
    void* const moved = h.reallocate(take_out(h, b, b.victims.load() - 1), to);
    if (moved == nullptr) fail(fmt::format("{} bytes did not become {}", from, to));
    keep(h, b, moved);
  };
}

// What the survivor does when a zone may or may not be there.
void release_all(survivor& s) {
  std::vector<std::pair<std::string, std::string>> zones;
  s.own().for_each_zone([&](const zone_summary& z) { zones.emplace_back(z.kind, z.name); });
  for (const auto& [kind, name] : zones) {
    if (kind == "pool")
      must(raw_pool::release(s.own(), name));
    else if (kind == "ring")
      must(ring::release(s.own(), name));
    else
      must(s.own().release_zone(name));
  }
}

// A zone that is filled, then committed: whoever finds it finds it full.
constexpr std::size_t zone_bytes = 10000;
zone filled;
void fill(const zone& z) {
  filled = z;
  std::memset(z.address, 0x5a, z.size_bytes);
}
void check_zone(survivor& s) {
  std::uint64_t last = 0;
  if (auto found = s.own().find_zone("zone")) {
    last = found->generation;
    for (std::size_t i = 0; i < zone_bytes; ++i)
      if (static_cast<const char*>(found->address)[i] != 0x5a)
        fail("a zone was found that is not full");
  } else if (found.error().code != errc::no_such_zone &&
             found.error().code != errc::not_committed) {
    fail("a zone that may be there or not: " + std::string(found.error().message()));
  }
  s.own().for_each_zone([&](const zone_summary& z) {
    last = std::max(last, z.generation);
    if (!z.committed && z.maker_alive)
      fail("a zone is said to be filled by a process that is dead");
  });
  if (s.own().find_zone("zone")) must(s.own().release_zone("zone"));
  const zone anew =
      must(s.own().reserve_zone("zone", {.size_bytes = zone_bytes}, visibility::on_commit));
  if (anew.generation <= last) fail("a later zone has no higher generation");
  must(s.own().commit_zone("zone", anew));
  release_all(s);
}
void remove_extra_regions(survivor& s) {
  std::vector<region_id> extra;
  s.own().for_each_region([&](const region_summary& r) {
    if (r.draining) fail(fmt::format("region {} is still draining", static_cast<unsigned>(r.id)));
    if (static_cast<unsigned>(r.id) > 3) extra.push_back(r.id);
  });
  for (const region_id r : extra)
    must(s.own().drain_memory(r, std::chrono::seconds(5)));
}

// A member that did something and was killed, not stepped.
template <class Join>
void die_after_in(const Join& join, const work& what) {
  const pid_t child = ::fork();
  if (child == 0) {
    auto own = std::make_unique<books>();
    heap mine = join();
    what(mine, *own);
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
    fail("a member that was to be killed ended before by itself");
}
void die_after(const work& what) {
  die_after_in([] { return must(heap::attach(heap_name)); }, what);
}
void dead_with_blocks(survivor&) {
  die_after(allocate(208, 5));
}

// The survivor's blocks in slabs of its own: a removal, even a refused one, makes orphans of a
// region's slabs.
void settle_anew(survivor& s) {
  for (int i = 0; i < survivor_blocks; ++i)
    drop_survivors(s.own(), s.book(), i);
  s.own().trim();
  s.set_the_scene();
}
void bring_extra(survivor& s) {
  must(s.own().bring_memory({.length_bytes = 1 << 20}));
}
region_id newest(heap& h) {
  region_id latest{};
  h.for_each_region([&](const region_summary& r) { latest = std::max(latest, r.id); });
  return latest;
}

// ---- a second heap, which comes and goes as a whole
constexpr const char* second_name = "second";
const heap_options second_options{.metadata_limit_bytes = std::size_t{64} << 20,
                                  .member_limit = 16,
                                  .thread_limit = 16,
                                  .region_limit = 16,
                                  .zone_limit = 16};

// Whether it is there, half gone or not there: its name can be used at once, and nothing of it
// stays.
void end_second(survivor&) {
  if (heap h; auto made = heap::create(second_name, second_options))
    h = std::move(*made);
  else if (made.error().code != errc::name_taken)
    fail("the name of a heap can't be used again: " + std::string(made.error().message()));
  must(heap::destroy(second_name));
  for (const auto& file : std::filesystem::directory_iterator(directory()))
    if (file.path().filename().string().starts_with(second_name))
      fail("a file was left: " + file.path().string());
}

constexpr int second_blocks = 40;
constexpr std::size_t second_sizes[] = {64, 1000, 20000, 100000};
// What a crash of the machine or a stray write could leave: blocks, a zone and a pool, and indexes
// that don't fit them.
void damage_second(survivor&) {
  die_after_in(
      [] { return must(heap::create(second_name, second_options)); },
      [](heap& h, books&) {
        must(h.bring_memory({.length_bytes = 3 << 19}));
        const zone z = must(h.reserve_zone(
            "blocks", {.size_bytes = second_blocks * sizeof(handle), .zeroed = true}));
        for (int i = 0; i < second_blocks; ++i)
          static_cast<handle*>(z.address)[i] = h.handle_of(h.allocate(second_sizes[i % 4]));
        for (int i = 0; i < second_blocks; i += 2)
          heap::free(
              must(h.resolve(std::exchange(static_cast<handle*>(z.address)[i], null_handle))));
        auto p = must(raw_pool::create(
            h, "pool", {.object_bytes = 64, .object_count = 20, .cache_objects = 8}));
        p.give(p.take());
        const segment& s = h.internal()->here.seg;
        region_record& r = s.at<region_record>(s.header().regions_at)[0];
        --r.free_granules;
        ++r.live_extents;
        r.bin_groups = 0;
        s.header().zone_count = 9;
        s.header().arena.small_free[5] = 0x7fffffff;
        ++s.member(1).extents_held;
      });
}
void check_second() {
  heap h = must(heap::attach(second_name));
  if (const audit_report report = must(h.audit()); !report.holds())
    fail("the repaired heap: " + report.broken.front());
  const auto* blocks = static_cast<handle*>(must(h.find_zone("blocks")).address);
  for (int i = 1; i < second_blocks; i += 2) {
    if (heap::usable_size(must(h.resolve(blocks[i]))) < second_sizes[i % 4])
      fail("a block was lost in the repair");
    heap::free(must(h.resolve(blocks[i])));
  }
  // What the dead one's caches kept, nothing vouches for: a repair leaves it with that member,
  // until it is reaped.
  for (const member_summary& m : h.members())
    if (!m.alive) must(h.reap(m.id));
  if (must(raw_pool::open(h, "pool")).free_count() != 20)
    fail("objects of the pool were lost in the repair");
  must(raw_pool::release(h, "pool"));
  must(h.release_zone("blocks"));
  h.trim();
  if (const heap_stats s = h.stats(); s.live_blocks != 0 || s.free_bytes != s.total_bytes)
    fail(fmt::format("{} blocks and {} of {} bytes are left of the repaired heap", s.live_blocks,
                     s.free_bytes, s.total_bytes));
}

struct willing : observer {
  bool refuses = false;
  std::string_view name() const noexcept override { return "willing"; }
  result<void> finish_remove(const region_view&, std::chrono::steady_clock::time_point) override {
    return {};
  }
  result<void> on_add(const region_view&) override {
    return refuses ? result<void>(std::unexpected(error{errc::vetoed, 0, "no"})) : result<void>{};
  }
};

constexpr int pool_objects = 100, ring_items = 8;
void make_pool(survivor& s) {
  must(raw_pool::create(s.own(), "pool",
                        {.object_bytes = 128, .object_count = pool_objects, .cache_objects = 16}));
}
void make_ring(survivor& s) {
  auto r = must(ring::create(s.own(), "ring", 16));
  for (std::uint64_t i = 1; i <= ring_items; ++i)
    r.put(handle{i});
}
// Every object is in the pool again once the dead are reaped.
void check_pool(survivor& s) {
  auto p = must(raw_pool::open(s.own(), "pool"));
  if (p.free_count() != pool_objects)
    fail(fmt::format("{} of {} objects of the pool are left", p.free_count(), pool_objects));
  std::array<void*, pool_objects + 1> objects{};
  if (const std::size_t n = p.take_bulk(objects); n != pool_objects)
    fail(fmt::format("{} of {} objects could be taken", n, pool_objects));
  p.give_bulk({objects.data(), pool_objects});
  release_all(s);
}
// lost: items that one operation can have had in its hands without a record.
std::function<void(survivor&)> check_ring(std::uint64_t lost, std::uint64_t added = 0) {
  return [=](survivor& s) {
    auto r = must(ring::open(s.own(), "ring"));
    std::array<handle, 64> values{};
    std::array<int, 64> seen{};
    const std::size_t recovered = r.recover_in_hand(values);
    for (std::size_t i = 0; i < recovered; ++i)
      ++seen[static_cast<std::size_t>(values[i])];
    r.settle();
    for (handle v = r.take(); v != null_handle; v = r.take())
      ++seen[static_cast<std::size_t>(v)];
    std::uint64_t items = 0;
    for (const int n : seen) {
      if (n > 1) fail("an item came out of the ring twice");
      items += static_cast<std::uint64_t>(n);
    }
    if (items + lost < ring_items || items > ring_items + added)
      fail(fmt::format("{} of {} items are left in the ring", items, ring_items));
    release_all(s);
  };
}

// Handles to a pool, ring, lease or observation of the victim outlive prepare.
template <class T>
struct kept_in_victim {
  static inline std::optional<T> value;
};

work open_pool(work more = nothing) {
  return [=](heap& h, books& b) {
    kept_in_victim<raw_pool>::value = must(raw_pool::open(h, "pool"));
    more(h, b);
  };
}
void* last_taken = nullptr;
work take_objects(std::size_t n) {
  return [=](heap&, books&) {
    static std::array<void*, pool_objects> taken;
    for (std::size_t i = 0; i < n; ++i)
      last_taken = taken[i] = kept_in_victim<raw_pool>::value->take();
  };
}
std::array<void*, pool_objects> bulk;
// What the survivor had open before the victim released it: it works, or it says no; it reaches
// nothing made later.
std::optional<raw_pool> old_pool;
std::optional<ring> old_ring;
void open_before(survivor& s) {
  make_pool(s);
  make_ring(s);
  old_pool = must(raw_pool::open(s.own(), "pool"));
  old_ring = must(ring::open(s.own(), "ring"));
  old_pool->give(old_pool->take());  // a cache of the survivor's
}
void check_old_views(survivor& s) {
  const bool has_pool = raw_pool::open(s.own(), "pool").has_value(),
             has_ring = ring::open(s.own(), "ring").has_value();
  if (old_pool->is_open() && !has_pool) fail("a pool that was released says that it is open");
  if (old_ring->is_open() && !has_ring) fail("a ring that was released says that it is open");
  if (void* const object = old_pool->take()) {
    if (!old_pool->is_open()) fail("an object came out of a pool that was released");
    old_pool->give(object);
  } else if (old_pool->is_open()) {
    fail("a pool that was not released has no object");
  }
  const std::uint64_t before = has_ring ? must(ring::open(s.own(), "ring")).count() : 0;
  if (old_ring->put(handle{50}) && !old_ring->is_open())
    fail("a ring that was released took a handle");
  if (has_ring && !old_ring->is_open() && must(ring::open(s.own(), "ring")).count() != before)
    fail("a handle for a released ring lies in another one");
  release_all(s);
}
void release_views(heap& h, books&) {
  must(raw_pool::release(h, "pool"));
  must(ring::release(h, "ring"));
}
void make_views(heap& h, books&) {
  must(ring::create(h, "ring", 16));
  must(raw_pool::create(h, "pool", {.object_bytes = 64, .object_count = 50}));
}

work open_ring() {
  return [](heap& h, books&) { kept_in_victim<ring>::value = must(ring::open(h, "ring")); };
}

std::vector<operation> make_operations() {
  std::vector<operation> all;
  // ---- blocks of one's own
  all.push_back({"first allocation of a thread", nothing, allocate(64)});
  all.push_back(
      {"allocate, from the magazine", both(allocate(64, 2), free_latest()), allocate(64)});
  all.push_back({"free, into the magazine", allocate(64, 4), free_latest()});
  for (const std::size_t bytes : {16u, 1000u, 5000u, 20000u, 65536u})
    all.push_back({"allocate, a new slab", allocate(bytes == 16 ? 1000 : 16), allocate(bytes)});
  all.push_back({"allocate, refill of the magazine", both(allocate(64, 30), free_latest(20)),
                 allocate(64, 14)});
  all.push_back(
      {"free, flush of the magazine", both(allocate(64, 250), free_latest(110)), free_latest(20)});
  all.push_back(
      {"free, empty slabs go", both(allocate(65536, 50), free_latest(32)), free_latest(18)});
  all.push_back({"allocate, large", nothing, allocate(300000)});
  all.push_back({"free, large, merging both sides",
                 [](heap& h, books& b) {
                   allocate(100000, 3)(h, b);
                   b.victim[0] = b.victim[1].exchange(b.victim[0].load());  // the middle one last
                 },
                 free_latest(3)});
  // A sixth of the small region, which keeps none so large: the last ones lie in the large one.
  const auto in_large_region = [](int free, int live = 9) {
    return both(allocate(600000, live), free_latest(free));
  };
  all.push_back({"free, large, kept by the thread", in_large_region(0), free_latest()});
  all.push_back({"allocate, large, that the thread keeps", in_large_region(2), allocate(600000)});
  all.push_back(
      {"allocate, large, of another size than is kept", in_large_region(2), allocate(200000)});
  all.push_back({"free, large, more than a thread keeps", in_large_region(16, 26), free_latest(2)});
  all.push_back({"trim: large blocks that are kept go back", in_large_region(3),
                 [](heap& h, books&) { h.trim(); }});
  all.push_back({"drain, large blocks are kept", in_large_region(3), [](heap& h, books&) {
                   if (h.drain_memory(region_id{2}, std::chrono::milliseconds(1)))
                     fail("a region with live blocks was drained");
                 }});
  all.push_back({"allocate, aligned to 1 MiB", nothing,
                 place({.size_bytes = 200000, .align_bytes = 1 << 20})});
  all.push_back({"allocate, within a boundary", nothing,
                 place({.size_bytes = 100000, .boundary_bytes = 1 << 17})});
  all.push_back({"allocate, contiguous IOVAs", nothing,
                 place({.size_bytes = 200000, .iova_contiguous = true})});
  all.push_back({"allocate, zeroed", nothing, place({.size_bytes = 3000, .zeroed = true})});
  all.push_back({"allocate, bulk", nothing,
                 [](heap& h, books& b) {
                   std::array<void*, 20> blocks{};
                   h.allocate_bulk(64, blocks);
                   for (void* block : blocks)
                     keep(h, b, block);
                 },
                 20});
  all.push_back({"free, bulk", allocate(200, 20),
                 [](heap& h, books& b) {
                   std::array<void*, 20> blocks{};
                   for (std::size_t i = 0; i < 20; ++i)
                     blocks[i] = take_out(h, b, static_cast<std::uint32_t>(i));
                   heap::free_bulk(blocks);
                 },
                 20});
  all.push_back({"reallocate, small to small", allocate(100), resize(100, 1000), 2});
  all.push_back({"reallocate, small to large", allocate(3000), resize(3000, 200000), 2});
  all.push_back({"reallocate, large grows in place", allocate(100000), resize(100000, 200000), 2});
  all.push_back({"reallocate, large shrinks", allocate(300000), resize(300000, 100000), 2});
  // ---- others' blocks
  all.push_back({"free of another process's block, small", nothing, [](heap& h, books& b) {
                   for (int i = 0; i < 4; ++i)
                     drop_survivors(h, b, i);
                 }});
  all.push_back({"free of another process's block, large", nothing,
                 [](heap& h, books& b) { drop_survivors(h, b, 10); }});
  all.push_back(
      {"collect what others freed", allocate(64, 128), allocate(64, 2), 1, {}, [](survivor& s) {
         for (std::uint32_t i = 0; i < 100; ++i)
           heap::free(take_out(s.own(), s.book(), i));
       }});
  all.push_back(
      {"trim: every cache recalled", allocate(64, 20), [](heap& h, books&) { h.trim(); }});
  all.push_back({"adopt a dead thread's slab", nothing, allocate(208, 2), 6, dead_with_blocks});
  all.push_back({"free in an adopted slab", allocate(208, 3), free_latest(3), 6, dead_with_blocks});
  all.push_back({"free of a dead member's block",
                 nothing,
                 [](heap& h, books& b) {
                   const std::uint64_t block = b.victim[500].exchange(0);
                   heap::free(must(h.resolve(handle{block})));
                 },
                 6,
                 {},
                 [](survivor& s) {
                   books* const shared = &s.book();
                   die_after([=](heap& h, books&) {
                     for (int i = 0; i < 5; ++i)
                       shared->victim[500] =
                           static_cast<std::uint64_t>(h.handle_of(h.allocate(208)));
                   });
                 }});
  // ---- zones, pools, rings
  all.push_back({"zone, reserve",
                 nothing,
                 [](heap& h, books&) { must(h.reserve_zone("zone", {.size_bytes = 10000})); },
                 0,
                 {},
                 {},
                 release_all});
  all.push_back({"zone, reserve the largest",
                 nothing,
                 [](heap& h, books&) { must(h.reserve_zone("zone", {})); },
                 0,
                 {},
                 {},
                 release_all});
  all.push_back({"zone, release",
                 [](heap& h, books&) { must(h.reserve_zone("zone", {.size_bytes = 10000})); },
                 [](heap& h, books&) { must(h.release_zone("zone")); },
                 0,
                 {},
                 {},
                 release_all});
  all.push_back({"zone, reserve to be filled",
                 nothing,
                 [](heap& h, books&) {
                   must(h.reserve_zone("zone", {.size_bytes = zone_bytes}, visibility::on_commit));
                 },
                 0,
                 {},
                 {},
                 check_zone});
  all.push_back(
      {"zone, commit",
       [](heap& h, books&) {
         fill(must(h.reserve_zone("zone", {.size_bytes = zone_bytes}, visibility::on_commit)));
       },
       [](heap& h, books&) { must(h.commit_zone("zone", filled)); },
       0,
       {},
       {},
       check_zone});
  all.push_back({"zone, reserve anew what a dead member was filling",
                 nothing,
                 [](heap& h, books&) {
                   must(h.reserve_zone("zone", {.size_bytes = zone_bytes}, visibility::on_commit));
                 },
                 0,
                 [](survivor&) {
                   die_after([](heap& h, books&) {
                     must(
                         h.reserve_zone("zone", {.size_bytes = zone_bytes}, visibility::on_commit));
                   });
                 },
                 {},
                 check_zone});
  all.push_back({"zone, release what a dead member was filling",
                 nothing,
                 [](heap& h, books&) { must(h.release_zone("zone")); },
                 0,
                 [](survivor&) {
                   die_after([](heap& h, books&) {
                     must(
                         h.reserve_zone("zone", {.size_bytes = zone_bytes}, visibility::on_commit));
                   });
                 },
                 {},
                 check_zone});
  all.push_back({"zone, wait for one that is there",
                 nothing,
                 [](heap& h, books&) { must(h.wait_zone("zone", std::chrono::seconds(5))); },
                 0,
                 [](survivor& s) {
                   fill(must(s.own().reserve_zone("zone", {.size_bytes = zone_bytes},
                                                  visibility::on_commit)));
                   must(s.own().commit_zone("zone", filled));
                 },
                 {},
                 check_zone});
  all.push_back({"pool, create",
                 nothing,
                 [](heap& h, books&) {
                   must(raw_pool::create(h, "pool", {.object_bytes = 128, .object_count = 100}));
                 },
                 0,
                 {},
                 {},
                 release_all});
  all.push_back({"pool, first take", open_pool(), take_objects(1), 0, make_pool, {}, check_pool});
  all.push_back({"pool, take and refill",
                 open_pool(take_objects(8)),
                 take_objects(12),
                 0,
                 make_pool,
                 {},
                 check_pool});
  all.push_back({"pool, take from everybody's caches", open_pool(),
                 [](heap&, books&) { kept_in_victim<raw_pool>::value->take_bulk(bulk); }, 0,
                 make_pool,
                 [](survivor& s) {
                   auto p = must(raw_pool::open(s.own(), "pool"));
                   p.give(p.take());
                 },
                 check_pool});
  all.push_back({"pool, give and flush",
                 open_pool([](heap&, books&) {
                   kept_in_victim<raw_pool>::value->take_bulk({bulk.data(), 60});
                 }),
                 [](heap&, books&) {
                   for (std::size_t i = 0; i < 60; ++i)
                     kept_in_victim<raw_pool>::value->give(bulk[i]);
                 },
                 0,
                 make_pool,
                 {},
                 check_pool});
  all.push_back({"pool, give what another process took", open_pool(),
                 [](heap& h, books& b) {
                   kept_in_victim<raw_pool>::value->give(at_place(h, b.victim[900].load()));
                 },
                 0, make_pool,
                 [](survivor& s) {
                   auto p = must(raw_pool::open(s.own(), "pool"));
                   s.book().victim[900] = place_of(s.own(), p.take());
                 },
                 [](survivor& s) {
                   auto p = must(raw_pool::open(s.own(), "pool"));
                   if (p.free_count() == pool_objects - 1)
                     p.give(at_place(s.own(), s.book().victim[900].load()));
                   check_pool(s);
                 }});
  all.push_back({"pool, release",
                 nothing,
                 [](heap& h, books&) { must(raw_pool::release(h, "pool")); },
                 0,
                 make_pool,
                 {},
                 release_all});
  all.push_back({"pool and ring, release while the survivor has them open",
                 nothing,
                 release_views,
                 0,
                 open_before,
                 {},
                 check_old_views});
  all.push_back({"pool and ring, create where those lay that the survivor has open",
                 release_views,
                 make_views,
                 0,
                 open_before,
                 {},
                 check_old_views});
  all.push_back({"pool and ring, use after the survivor released them and made others",
                 [](heap& h, books& b) {
                   open_pool()(h, b);
                   kept_in_victim<raw_pool>::value->give(kept_in_victim<raw_pool>::value->take());
                   open_ring()(h, b);
                 },
                 [](heap&, books&) {
                   if (kept_in_victim<raw_pool>::value->take() != nullptr)
                     fail("an object came out of a pool that was released");
                   if (kept_in_victim<ring>::value->put(handle{50}))
                     fail("a ring that was released took a handle");
                   std::array<handle, 3> values{};
                   if (kept_in_victim<ring>::value->take_in_hand(values) != 0)
                     fail("a ring that was released gave a handle");
                 },
                 0, open_before,
                 [](survivor& s) {
                   release_views(s.own(), s.book());
                   make_views(s.own(), s.book());
                 },
                 [](survivor& s) {
                   if (must(raw_pool::open(s.own(), "pool")).free_count() != 50 ||
                       must(ring::open(s.own(), "ring")).count() != 0)
                     fail("a later pool or ring was touched");
                   check_old_views(s);
                 }});
  all.push_back({"ring, create",
                 nothing,
                 [](heap& h, books&) { must(ring::create(h, "ring", 64)); },
                 0,
                 {},
                 {},
                 release_all});
  all.push_back({"ring, put",
                 open_ring(),
                 [](heap&, books&) { kept_in_victim<ring>::value->put(handle{40}); },
                 0,
                 make_ring,
                 {},
                 check_ring(0, 1)});
  all.push_back({"ring, take",
                 open_ring(),
                 [](heap&, books&) { kept_in_victim<ring>::value->take(); },
                 0,
                 make_ring,
                 {},
                 check_ring(1)});
  all.push_back({"ring, put while somebody waits", open_ring(),
                 [](heap&, books&) { kept_in_victim<ring>::value->put(handle{40}); }, 0, make_ring,
                 [](survivor& s) {
                   // Leaves the mark.
                   must(must(ring::open(s.own(), "ring")).wait_for_handle(std::chrono::seconds(0)));
                 },
                 check_ring(0, 1)});
  all.push_back({"ring, wait and take",
                 open_ring(),
                 [](heap&, books&) {
                   must(kept_in_victim<ring>::value->wait_for_handle(std::chrono::seconds(5)));
                   must(kept_in_victim<ring>::value->take(std::chrono::seconds(5)));
                 },
                 0,
                 make_ring,
                 {},
                 check_ring(1)});
  all.push_back({"ring, wait in vain",
                 open_ring(),
                 [](heap&, books&) {
                   if (kept_in_victim<ring>::value->take(std::chrono::nanoseconds(1)))
                     fail("an empty ring gave something");
                 },
                 0,
                 [](survivor& s) { must(ring::create(s.own(), "ring", 16)); },
                 {},
                 release_all});
  all.push_back(
      {"pool, wait and take",
       open_pool(),
       [](heap&, books&) { must(kept_in_victim<raw_pool>::value->take(std::chrono::seconds(5))); },
       0,
       make_pool,
       {},
       check_pool});
  all.push_back({"pool, wait in vain",
                 open_pool(),
                 [](heap&, books&) {
                   if (kept_in_victim<raw_pool>::value->take(std::chrono::nanoseconds(1)))
                     fail("an empty pool gave something");
                 },
                 0,
                 [](survivor& s) {
                   make_pool(s);
                   must(raw_pool::open(s.own(), "pool")).take_bulk(bulk);
                 },
                 {},
                 [](survivor& s) {
                   must(raw_pool::open(s.own(), "pool")).give_bulk(bulk);
                   check_pool(s);
                 }});
  all.push_back(
      {"pool, give while somebody waits", open_pool(take_objects(1)),
       [](heap&, books&) { kept_in_victim<raw_pool>::value->give(last_taken); }, 0, make_pool,
       [](survivor& s) {
         // Leaves the mark.
         must(must(raw_pool::open(s.own(), "pool")).wait_for_object(std::chrono::seconds(0)));
       },
       check_pool});
  all.push_back({"ring, take in hand",
                 open_ring(),
                 [](heap&, books&) {
                   std::array<handle, 3> values{};
                   kept_in_victim<ring>::value->take_in_hand(values);
                 },
                 0,
                 make_ring,
                 {},
                 check_ring(0)});
  all.push_back({"ring, settle",
                 [](heap& h, books& b) {
                   open_ring()(h, b);
                   std::array<handle, 3> values{};
                   kept_in_victim<ring>::value->take_in_hand(values);
                 },
                 [](heap&, books&) { kept_in_victim<ring>::value->settle(); },
                 0,
                 make_ring,
                 {},
                 check_ring(3)});
  all.push_back({"ring, recover what the dead had in hand", open_ring(),
                 [](heap&, books&) {
                   std::array<handle, 16> values{};
                   kept_in_victim<ring>::value->recover_in_hand(values);
                 },
                 0, make_ring,
                 [](survivor&) {
                   die_after([](heap& h, books&) {
                     std::array<handle, 3> values{};
                     must(ring::open(h, "ring")).take_in_hand(values);
                   });
                 },
                 check_ring(0)});
  // ---- memory
  all.push_back({"add memory",
                 nothing,
                 [](heap& h, books&) {
                   static char* const base =
                       static_cast<char*>(::mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE,
                                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
                   must(h.add_memory({.base = base, .length_bytes = 1 << 20}));
                 },
                 0,
                 {},
                 {},
                 remove_extra_regions});
  all.push_back({"bring memory",
                 nothing,
                 [](heap& h, books&) { must(h.bring_memory({.length_bytes = 1 << 20})); },
                 0,
                 {},
                 {},
                 remove_extra_regions});
  all.push_back({"remove memory",
                 nothing,
                 [](heap& h, books&) { must(h.remove_memory(newest(h))); },
                 0,
                 bring_extra,
                 {},
                 remove_extra_regions});
  all.push_back({"drain memory out of caches",
                 [](heap& h, books& b) {
                   must(h.bring_memory({.length_bytes = 1 << 20}));
                   allocate(48, 300)(h, b);
                   free_latest(300)(h, b);
                 },
                 [](heap& h, books&) { must(h.drain_memory(newest(h), std::chrono::seconds(5))); },
                 0,
                 {},
                 {},
                 remove_extra_regions});
  all.push_back({"refused removal",
                 nothing,
                 [](heap& h, books&) {
                   if (h.remove_memory(region_id{1})) fail("a region in use was removed");
                 },
                 0,
                 settle_anew,
                 {},
                 remove_extra_regions});
  all.push_back({"attach a region", nothing,
                 [](heap& h, books&) { must(h.attach_memory(region_id{3})); }, 0});
  all.push_back({"detach a region", [](heap& h, books&) { must(h.attach_memory(region_id{2})); },
                 [](heap& h, books&) { must(h.detach_memory(region_id{2})); }, 0});
  all.push_back({"synchronize with a removal",
                 [](heap& h, books&) { must(h.attach_memory(newest(h))); },
                 [](heap& h, books&) { h.synchronize(); }, 0, bring_extra, remove_extra_regions,
                 remove_extra_regions});
  all.push_back({"lease, take and give back",
                 [](heap& h, books&) { must(h.attach_memory(region_id{2})); },
                 [](heap& h, books&) {
                   { auto held = must(h.hold(region_id{2})); }
                 },
                 0});
  all.push_back({"observe, and stop observing",
                 [](heap& h, books&) { must(h.attach_memory(region_id{2})); },
                 [](heap& h, books&) {
                   static willing who;
                   { auto seen = must(h.observe(who)); }
                 },
                 0});
  all.push_back({"bring memory an observer refuses",
                 [](heap& h, books&) {
                   static willing who;
                   kept_in_victim<observation>::value = must(h.observe(who));
                   who.refuses = true;
                 },
                 [](heap& h, books&) {
                   if (h.bring_memory({.length_bytes = 1 << 20})) fail("the veto was not heard");
                 },
                 0,
                 {},
                 {},
                 remove_extra_regions});
  // ---- heaps
  all.push_back({"create a heap",
                 nothing,
                 [](heap&, books&) { (void)must(heap::create(second_name, second_options)); },
                 0,
                 {},
                 {},
                 end_second});
  all.push_back({"open a heap that is not there",
                 nothing,
                 [](heap&, books&) { (void)must(heap::open(second_name, second_options)); },
                 0,
                 {},
                 {},
                 end_second});
  all.push_back({"open a heap that is there",
                 nothing,
                 [](heap&, books&) { (void)must(heap::open(second_name, second_options)); },
                 0,
                 [](survivor&) { (void)must(heap::create(second_name, second_options)); },
                 {},
                 end_second});
  all.push_back({"open a worthless heap",
                 nothing,
                 [](heap&, books&) {
                   heap_options worthless = second_options;
                   worthless.ephemeral = true;
                   (void)must(heap::open(second_name, worthless));
                 },
                 0,
                 [](survivor&) {
                   die_after_in(
                       [] {
                         heap_options worthless = second_options;
                         worthless.ephemeral = true;
                         return must(heap::create(second_name, worthless));
                       },
                       [](heap& h, books&) { must(h.bring_memory({.length_bytes = 1 << 20})); });
                 },
                 {},
                 end_second});
  all.push_back({"destroy a heap",
                 nothing,
                 [](heap&, books&) { must(heap::destroy(second_name)); },
                 0,
                 [](survivor&) {
                   heap second = must(heap::create(second_name, second_options));
                   must(second.bring_memory({.length_bytes = 1 << 20}));
                 },
                 {},
                 end_second});
  all.push_back({"list heaps", nothing, [](heap&, books&) { (void)must(heap::list()); }, 0});
  all.push_back({"repair a heap",
                 nothing,
                 [](heap&, books&) { must(heap::repair(second_name)); },
                 0,
                 damage_second,
                 {},
                 [](survivor& s) {
                   if (const repair_report done = must(heap::repair(second_name));
                       !done.after.holds())
                     fail("a second repair leaves " + done.after.broken.front());
                   check_second();
                   end_second(s);
                 }});
  // ---- coming and going
  all.push_back({"attach", nothing,
                 [](heap&, books&) {
                   static heap* const again = new heap(must(heap::attach(heap_name)));
                   (void)again;
                 },
                 0});
  all.push_back({"close", both(both(allocate(64, 20), allocate(300000)), free_latest(10)),
                 [](heap& h, books& b) {
                   (void)b;
                   h = heap{};
                 },
                 0});
  all.push_back({"close, nothing held", both(allocate(64, 20), free_latest(20)),
                 [](heap& h, books&) { h = heap{}; }, 0});
  all.push_back(
      {"exit of a thread", nothing, both(allocate(64, 20), free_latest(10)), 1, {}, {}, {}, true});
  all.push_back({"look at everything", allocate(64, 20),
                 [](heap& h, books&) {
                   (void)h.stats();
                   (void)h.members();
                   must(h.audit());
                 },
                 0});
  // ---- handles: last, because slabs in which somebody asked for one stay as they are then
  const auto name_all = [](survivor& s) { s.name_blocks(); };
  all.push_back({"handle_of, the first of a slab", allocate(64, 4), name_latest(), 0});
  all.push_back(
      {"handle_of, one more of a slab", both(allocate(64, 4), name_latest()), name_latest(3), 0});
  all.push_back(
      {"handle_of, the first of a slab, large blocks, and bytes inside",
       both(allocate(20000), allocate(300000)),
       [](heap& h, books& b) {
         name_latest(2)(h, b);
         must(h.resolve(h.handle_of(static_cast<char*>(at_place(h, b.victim[1].load())) + 250000)));
       },
       0});
  all.push_back({"handle_of another process's blocks", nothing,
                 [](heap& h, books& b) {
                   for (const int i : {0, 1, 6, 10})
                     (void)h.handle_of(at_place(h, b.survivor[i].load()));
                 },
                 0});
  all.push_back({"resolve another process's handles", nothing,
                 [](heap& h, books& b) {
                   for (const auto& its : b.survivors_name)
                     must(h.resolve(handle{its.load()}));
                 },
                 0, name_all});
  all.push_back(
      {"named: free, into the magazine", both(allocate(64, 4), name_latest(4)), free_latest(3)});
  all.push_back({"named: free, flush of the magazine",
                 both(allocate(64, 250), both(name_latest(250), free_latest(110))),
                 free_latest(20)});
  all.push_back({"named: free, empty slabs go",
                 both(allocate(65536, 50), both(name_latest(50), free_latest(32))),
                 free_latest(18)});
  all.push_back({"named: free, large, merging both sides",
                 [](heap& h, books& b) {
                   both(allocate(100000, 3), name_latest(3))(h, b);
                   b.victim[0] = b.victim[1].exchange(b.victim[0].load());
                 },
                 free_latest(3)});
  all.push_back({"named: reallocate, large grows in place", both(allocate(100000), name_latest()),
                 resize(100000, 200000), 2});
  all.push_back({"named: reallocate, large shrinks", both(allocate(300000), name_latest()),
                 resize(300000, 100000), 2});
  all.push_back({"named: reallocate, small to large", both(allocate(3000), name_latest()),
                 resize(3000, 200000), 2});
  all.push_back({"named: allocate where named blocks lay",
                 both(both(allocate(300000, 3), name_latest(3)), free_latest(3)),
                 both(allocate(200000, 2), allocate(5000, 4)), 1});
  all.push_back({"named: free of another process's block, small", nothing,
                 [](heap& h, books& b) {
                   for (int i = 0; i < 4; ++i)
                     drop_survivors(h, b, i);
                 },
                 1, name_all});
  all.push_back({"named: free of another process's block, large", nothing,
                 [](heap& h, books& b) { drop_survivors(h, b, 10); }, 1, name_all});
  all.push_back({"named: trim", both(both(allocate(64, 40), name_latest(40)), free_latest(20)),
                 [](heap& h, books&) { h.trim(); }});
  all.push_back({"named: drain memory out of caches",
                 [](heap& h, books& b) {
                   must(h.bring_memory({.length_bytes = 1 << 20}));
                   both(allocate(48, 300), both(name_latest(300), free_latest(300)))(h, b);
                 },
                 [](heap& h, books&) { must(h.drain_memory(newest(h), std::chrono::seconds(5))); },
                 0,
                 {},
                 {},
                 remove_extra_regions});
  all.push_back(
      {"named: close",
       both(both(both(allocate(64, 20), allocate(300000)), name_latest(21)), free_latest(10)),
       [](heap& h, books&) { h = heap{}; }, 0});
  all.push_back({"named: exit of a thread",
                 nothing,
                 both(both(allocate(64, 20), name_latest(20)), free_latest(10)),
                 1,
                 {},
                 {},
                 {},
                 true});
  const work named_objects = open_pool([](heap& h, books& b) {
    kept_in_victim<raw_pool>::value->take_bulk({bulk.data(), 60});
    for (std::size_t i = 0; i < 60; ++i)
      name_block(h, b, bulk[i]);
    // They are given back without a word.
    for (std::uint32_t i = 0; i < 60; ++i)
      b.named[i].place = 0;
  });
  all.push_back({"named: pool, handle_of the first object",
                 open_pool(take_objects(2)),
                 [](heap& h, books& b) {
                   void* const object = kept_in_victim<raw_pool>::value->take();
                   name_block(h, b, object);
                   must(h.resolve(h.handle_of(object)));
                 },
                 0,
                 make_pool,
                 {},
                 check_pool});
  all.push_back({"named: pool, give and flush",
                 named_objects,
                 [](heap&, books&) {
                   for (std::size_t i = 0; i < 60; ++i)
                     kept_in_victim<raw_pool>::value->give(bulk[i]);
                 },
                 0,
                 make_pool,
                 {},
                 check_pool});
  all.push_back({"named: pool, release",
                 both(named_objects,
                      [](heap&, books&) {
                        kept_in_victim<raw_pool>::value->give_bulk({bulk.data(), 60});
                      }),
                 [](heap& h, books&) { must(raw_pool::release(h, "pool")); },
                 0,
                 make_pool,
                 {},
                 release_all});
  all.push_back({"named: reap a dead member",
                 nothing,
                 [](heap& h, books&) {
                   for (const member_summary& m : h.members())
                     if (!m.alive) must(h.reap(m.id));
                 },
                 15,
                 {},
                 [](survivor&) {
                   die_after([](heap& h, books& b) {
                     for (const std::size_t bytes : {64u, 1000u, 20000u, 300000u})
                       allocate(bytes, 3)(h, b);
                     name_latest(12)(h, b);
                     free_latest(3)(h, b);
                   });
                 }});
  // ---- the dead
  const work much = [](heap& h, books& b) {
    for (const std::size_t bytes : {64u, 1000u, 20000u, 300000u})
      allocate(bytes, 6)(h, b);
    free_latest(9)(h, b);
    must(h.bring_memory({.length_bytes = 1 << 20}));
  };
  auto one_dies = [=](survivor&) { die_after(much); };
  all.push_back({"recover a dead member",
                 nothing,
                 [](heap& h, books&) {
                   if (h.recover() != 1) fail("nobody was dead");
                 },
                 15,
                 {},
                 one_dies,
                 remove_extra_regions});
  all.push_back({"reap a dead member",
                 nothing,
                 [](heap& h, books&) {
                   for (const member_summary& m : h.members())
                     if (!m.alive) must(h.reap(m.id));
                 },
                 15,
                 {},
                 one_dies,
                 remove_extra_regions});
  return all;
}

}  // namespace

const std::vector<operation>& every_operation() {
  static const std::vector<operation> all = make_operations();
  return all;
}

const std::vector<operation>& checked_operations() {
  static const std::vector<operation> all = {
      {"checked: first allocation", nothing, allocate(64)},
      {"checked: allocate", allocate(64, 4), allocate(64)},
      {"checked: free", allocate(64, 4), free_latest()},
      {"checked: free of another process's block", nothing,
       [](heap& h, books& b) { drop_survivors(h, b, 0); }},
      {"checked: trim", allocate(64, 20), [](heap& h, books&) { h.trim(); }},
  };
  return all;
}

}  // namespace annex::torture
