// tests/handle_test.cpp - a handle names one block, until it is freed, and nothing else for as long
// as heap.hpp says.
#include <algorithm>
#include <set>
#include <thread>

#include <annex/pool.hpp>

#include "heap/local_heap.hpp"
#include "named/pool_table.hpp"
#include "support.hpp"

namespace annex {
namespace {

using handles = in_own_directory;

bool is_stale(const heap& h, handle name) {
  const auto found = h.resolve(name);
  return !found && found.error().code == errc::stale_handle;
}

// Blocks until one lies at the place; the others are freed again. Null: it never came back.
void* allocate_at(heap& h, void* place, std::size_t bytes, int tries = 20'000) {
  std::vector<void*> others;
  void* found = nullptr;
  for (; tries != 0 && found == nullptr; --tries) {
    void* const block = h.allocate(bytes);
    if (block == nullptr) break;
    (block == place ? found : others.emplace_back(block)) = block;
  }
  for (void* block : others)
    heap::free(block);
  return found;
}

region_record& region_in(const heap& h, u32 slot) {
  const segment& s = h.internal()->here.seg;
  return s.at<region_record>(s.header().regions_at)[slot];
}

// ---- one place, again and again -----------------------------------------------------------------

TEST_F(handles, of_a_place_that_is_given_out_again_are_all_different_and_only_the_last_resolves) {
  for (const bool checked : {false, true})
    for (const std::size_t bytes : {16u, 100u, 4096u, 32u << 10, 200u << 10, 3u << 20}) {
      heap h = heap_with(16 << 20, {.checked = checked});
      void* const place = h.allocate(bytes);
      std::set<handle> past;
      for (int life = 0; life < 300; ++life) {
        void* const block = life == 0 ? place : allocate_at(h, place, bytes);
        ASSERT_EQ(block, place);
        for (const handle old : past)
          ASSERT_TRUE(is_stale(h, old)) << bytes << " bytes, life " << life;
        const handle name = h.handle_of(block);
        ASSERT_TRUE(past.insert(name).second)
            << bytes << " bytes, life " << life << ": the name came back";
        ASSERT_EQ(must(h.resolve(name)), block);
        ASSERT_EQ(h.handle_of(block), name) << "asked twice";
        heap::free(block);
        ASSERT_TRUE(is_stale(h, name)) << bytes << " bytes: freed, and kept by this thread";
      }
      h.trim();
      for (const handle old : past)
        ASSERT_TRUE(is_stale(h, old));
      expect_sound(h);
    }
}

TEST_F(handles, of_bytes_of_one_block_are_as_far_apart_as_the_bytes) {
  heap h = heap_with(16 << 20);
  for (const std::size_t bytes : {64u, 5000u, 3u << 20}) {
    auto* const block = static_cast<char*>(h.allocate(bytes));
    const u64 name = static_cast<u64>(h.handle_of(block));
    for (const std::size_t at : {std::size_t{1}, bytes / 2, bytes - 1}) {
      EXPECT_EQ(static_cast<u64>(h.handle_of(block + at)), name + at);
      EXPECT_EQ(must(h.resolve(handle{name + at})), block + at);
    }
    heap::free(block);
    for (const std::size_t at : {std::size_t{0}, bytes / 2, bytes - 1})
      EXPECT_TRUE(is_stale(h, handle{name + at}));
  }
}

TEST_F(handles, of_the_first_blocks_of_a_heap_are_slot_and_offset) {
  heap h = heap_with(4 << 20);
  auto* const block = static_cast<char*>(h.allocate(100));
  const auto where = heap::locate(block);
  EXPECT_EQ(static_cast<u64>(h.handle_of(block)), u64{1} << 44 | where->offset_bytes);
  EXPECT_EQ(remote_address(h.handle_of(block), 4 << 20), u64{1} << 44 | where->offset_bytes);
  heap::free(block);
  ASSERT_EQ(allocate_at(h, block, 100), block);
  EXPECT_NE(static_cast<u64>(h.handle_of(block)), u64{1} << 44 | where->offset_bytes);
  EXPECT_EQ(remote_address(h.handle_of(block), 4 << 20), u64{1} << 44 | where->offset_bytes)
      << "devices call it what they called it";
}

TEST_F(handles, are_stale_whatever_the_place_becomes) {
  heap h = heap_with(1 << 20);
  std::vector<handle> past;
  // Large and small blocks, zones and pools in turns, over the same bytes and across each other's
  // ends.
  const auto check = [&](const char* when) {
    for (const handle old : past)
      ASSERT_TRUE(is_stale(h, old)) << when << ": " << std::hex << static_cast<u64>(old);
  };
  for (int round = 0; round < 40; ++round) {
    const std::size_t bytes = (200u << 10) + 4096u * static_cast<unsigned>(round % 7);
    std::vector<char*> large;
    while (auto* const block = static_cast<char*>(h.allocate(bytes)))
      large.push_back(block);
    ASSERT_FALSE(large.empty());
    check("as large blocks");
    for (char* block : large)
      for (const std::size_t at : {std::size_t{0}, bytes / 3, bytes - 1})
        past.push_back(h.handle_of(block + at));
    for (char* block : large)
      heap::free(block);
    check("free again");
    std::vector<void*> small;
    while (void* const block = h.allocate(round % 2 == 0 ? 1024 : 24'000))
      small.push_back(block);
    check("as small blocks");
    for (void* block : small)
      past.push_back(h.handle_of(block));
    for (void* block : small)
      heap::free(block);
    h.trim();
    check("trimmed");
    const zone z = must(h.reserve_zone("z", {.size_bytes = 300'000}));
    check("as a zone");
    past.push_back(z.where);
    past.push_back(h.handle_of(static_cast<char*>(z.address) + 299'999));
    must(h.release_zone("z"));
    raw_pool pool = must(raw_pool::create(h, "p", {.object_bytes = 512, .object_count = 600}));
    void* objects[600];
    ASSERT_EQ(pool.take_bulk(objects), 600u);
    check("as a pool");
    for (void* object : objects)
      past.push_back(h.handle_of(object));
    pool.give_bulk(objects);
    check("given back");
    must(raw_pool::release(h, "p"));
    check("released");
    if (past.size() > 4000)
      past.erase(past.begin(), past.begin() + static_cast<std::ptrdiff_t>(past.size() - 4000));
  }
  expect_sound(h);
  EXPECT_EQ(h.stats().live_blocks, 0u);
}

TEST_F(handles, do_not_come_back_when_every_name_of_a_slab_is_used_and_the_slab_is_cut_anew) {
  heap h = heap_with(1 << 20);
  std::set<handle> seen;
  for (int round = 0; round < 50; ++round) {
    std::vector<void*> blocks;
    while (void* const block = h.allocate(4096))
      blocks.push_back(block);
    for (void* block : blocks)
      ASSERT_TRUE(seen.insert(h.handle_of(block)).second) << "round " << round;
    for (void* block : blocks)
      heap::free(block);
    h.trim();
    ASSERT_EQ(h.stats().slab_count, 0u);
  }
  expect_sound(h);
}

// ---- reallocate ---------------------------------------------------------------------------------

TEST_F(handles, stay_when_reallocate_stays_and_are_stale_when_it_moves) {
  heap h = heap_with(16 << 20);
  for (const auto& [from, to] : {std::pair<std::size_t, std::size_t>{100, 110},
                                 {100, 5000},
                                 {5000, 100},
                                 {1 << 20, 3 << 20},
                                 {3 << 20, 1 << 20},
                                 {1 << 20, 100}}) {
    void* const block = h.allocate(from);
    const handle name = h.handle_of(block);
    void* const after = h.reallocate(block, to);
    ASSERT_NE(after, nullptr);
    EXPECT_EQ(h.resolve(name).value_or(nullptr), after == block ? block : nullptr)
        << from << " to " << to;
    EXPECT_TRUE(after == block || is_stale(h, name)) << from << " to " << to;
    const handle now = h.handle_of(after);
    heap::free(after);
    EXPECT_TRUE(is_stale(h, name) && is_stale(h, now));
  }
}

TEST_F(handles, of_what_lay_behind_a_block_do_not_name_it_when_it_grows_there) {
  heap h = heap_with(16 << 20);
  for (const bool named : {false, true}) {
    auto* const first = static_cast<char*>(h.allocate(1 << 20));
    auto* const behind = static_cast<char*>(h.allocate(1 << 20));
    ASSERT_EQ(behind, first + (1 << 20));
    const handle mine = named ? h.handle_of(first) : null_handle;
    const handle old = h.handle_of(behind), middle = h.handle_of(behind + 5000);
    heap::free(behind);
    auto* const grown = static_cast<char*>(h.reallocate(first, 2 << 20));
    ASSERT_NE(grown, nullptr);
    EXPECT_TRUE(is_stale(h, old) && is_stale(h, middle)) << named;
    if (named && grown == first) {
      EXPECT_EQ(must(h.resolve(mine)), first);
    }
    if (named && grown != first) {
      EXPECT_TRUE(is_stale(h, mine));
    }
    // And the other way: what is cut off is somebody else's, and the grown block's handles do not
    // name it.
    const handle end = h.handle_of(grown + (2 << 20) - 1);
    ASSERT_EQ(h.reallocate(grown, 1 << 20), grown);
    EXPECT_TRUE(is_stale(h, end));
    void* const next = allocate_at(h, grown + (1 << 20), 1 << 20, 20);
    EXPECT_NE(next, nullptr);
    EXPECT_TRUE(is_stale(h, end));
    heap::free(next);
    heap::free(grown);
  }
  expect_sound(h);
}

// ---- who frees ----------------------------------------------------------------------------------

TEST_F(handles, are_stale_whoever_freed_the_block_and_however) {
  heap h = heap_with(8 << 20, {}, "a");
  for (const std::size_t bytes : {64u, 3000u, 300u << 10}) {
    const auto in_a_thread = [&](void* block) { std::thread([=] { heap::free(block); }).join(); };
    const auto in_a_process = [&](void* block) {
      const handle name = h.handle_of(block);
      child_process child([=] {
        heap mine = must(heap::attach("a"));
        void* const here = must(mine.resolve(name));
        heap::free(here);
        return is_stale(mine, name) ? 0 : 1;
      });
      EXPECT_EQ(child.wait_for_exit_code(), 0);
    };
    const auto in_bulk = [&](void* block) { heap::free_bulk({{block}}); };
    for (const std::function<void(void*)>& by :
         {std::function<void(void*)>(in_a_thread), std::function<void(void*)>(in_a_process),
          std::function<void(void*)>(in_bulk)}) {
      void* const block = h.allocate(bytes);
      const handle name = h.handle_of(block);
      by(block);
      EXPECT_TRUE(is_stale(h, name)) << bytes;
      h.trim();
      EXPECT_TRUE(is_stale(h, name)) << bytes;
      void* const again = allocate_at(h, block, bytes);
      EXPECT_TRUE(is_stale(h, name)) << bytes;
      if (again != nullptr) {
        EXPECT_NE(h.handle_of(again), name);
      }
      heap::free(again);
    }
  }
  expect_sound(h);
}

TEST_F(handles, that_a_thread_left_behind_are_freed_and_stale_wherever_its_slab_goes) {
  heap h = heap_with(8 << 20);
  std::vector<void*> blocks(200);
  std::vector<handle> names;
  std::thread([&] {
    for (void*& block : blocks)
      block = h.allocate(256);
    for (void* block : blocks)
      names.push_back(h.handle_of(block));
  }).join();
  for (std::size_t i = 0; i < blocks.size(); ++i)
    ASSERT_EQ(must(h.resolve(names[i])), blocks[i]) << "its slab is an orphan";
  for (std::size_t i = 0; i < 50; ++i)
    heap::free(blocks[i]);
  std::vector<void*> own;  // adopts the slab
  for (int i = 0; i < 100; ++i)
    own.push_back(h.allocate(256));
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(h.resolve(names[i]).value_or(nullptr), i < 50 ? nullptr : blocks[i]);
  }
  for (std::size_t i = 50; i < blocks.size(); ++i)
    heap::free(blocks[i]);
  for (const handle name : names)
    EXPECT_TRUE(is_stale(h, name));
  for (void* block : own)
    heap::free(block);
  expect_sound(h);
}

TEST_F(handles, of_the_dead_resolve_until_they_are_reaped) {
  heap h = heap_with(8 << 20, {}, "a");
  struct words {
    handle names[40];
  }* const w = shared_words<words>();
  child_process child([&] {
    heap mine = must(heap::attach("a"));
    for (int i = 0; i < 30; ++i)
      w->names[i] = mine.handle_of(mine.allocate(i < 20 ? 100 : 300'000));
    raw_pool pool = must(raw_pool::create(mine, "p", {.object_bytes = 64, .object_count = 100}));
    for (int i = 30; i < 40; ++i)
      w->names[i] = mine.handle_of(pool.take());
    ::kill(::getpid(), SIGKILL);
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
  h.recover();
  for (const handle name : w->names)
    EXPECT_TRUE(h.resolve(name).has_value());
  expect_sound(h);
  for (const member_summary& m : h.members()) {
    if (m.alive) continue;
    u64 shown = 0;
    must(h.reap(m.id, [&](const block_summary& b) {
      const bool is_ours =
          std::find(std::begin(w->names), std::end(w->names), b.where) != std::end(w->names);
      shown += is_ours;
      EXPECT_EQ(h.resolve(b.where).value_or(nullptr), b.address);
      return is_ours && shown % 2 == 0 ? reap_choice::keep : reap_choice::free;
    }));
    EXPECT_EQ(shown, 40u);
    int live = 0;
    for (const handle name : w->names)
      live += h.resolve(name).has_value();
    EXPECT_EQ(live, 20);
    must(h.reap(m.id));
  }
  for (const handle name : w->names)
    EXPECT_TRUE(is_stale(h, name));
  expect_sound(h);
  EXPECT_EQ(must(raw_pool::open(h, "p")).free_count(), 100u);
}

TEST_F(handles, are_the_same_in_every_process_and_survive_all_of_them) {
  handle small{}, large{}, freed{};
  {
    heap h = heap_with(8 << 20, {}, "a");
    small = h.handle_of(h.allocate(100));
    large = h.handle_of(h.allocate(1 << 20));
    void* const gone = h.allocate(100);
    freed = h.handle_of(gone);
    heap::free(gone);
    child_process child([&] {
      heap mine = must(heap::attach("a"));
      return mine.handle_of(must(mine.resolve(small))) == small &&
                     mine.handle_of(must(mine.resolve(large))) == large && is_stale(mine, freed)
                 ? 0
                 : 1;
    });
    EXPECT_EQ(child.wait_for_exit_code(), 0);
  }
  heap h = must(heap::attach("a"));
  EXPECT_EQ(h.handle_of(must(h.resolve(small))), small);
  EXPECT_EQ(h.handle_of(must(h.resolve(large))), large);
  EXPECT_TRUE(is_stale(h, freed));
  heap::free(must(h.resolve(small)));
  heap::free(must(h.resolve(large)));
  EXPECT_TRUE(is_stale(h, small) && is_stale(h, large));
  expect_sound(h);
}

// ---- pools and zones ----------------------------------------------------------------------------

TEST_F(handles, of_pool_objects_are_stale_when_they_are_given_back) {
  for (const bool checked : {false, true})
    for (const u32 bytes : {64u, 48u}) {
      heap h = heap_with(8 << 20, {.checked = checked});
      raw_pool pool = must(raw_pool::create(h, "p", {.object_bytes = bytes, .object_count = 50}));
      std::set<handle> past;
      for (int life = 0; life < 100; ++life) {
        void* objects[50];
        ASSERT_EQ(pool.take_bulk(objects), 50u);
        for (const handle old : past)
          ASSERT_TRUE(is_stale(h, old)) << life;
        std::vector<handle> names;
        for (void* object : objects)
          names.push_back(h.handle_of(object));
        for (std::size_t i = 0; i < 50; ++i) {
          ASSERT_EQ(must(h.resolve(names[i])), objects[i]);
          ASSERT_EQ(must(h.resolve(handle{static_cast<u64>(names[i]) + bytes - 1})),
                    static_cast<char*>(objects[i]) + bytes - 1);
          ASSERT_TRUE(past.insert(names[i]).second);
        }
        if (life % 2 == 0)
          pool.give_bulk(objects);
        else
          for (void* object : objects)
            pool.give(object);
        for (const handle old : names)
          ASSERT_TRUE(is_stale(h, old)) << "given back, and kept by this thread";
      }
      must(raw_pool::release(h, "p"));
      must(raw_pool::create(h, "q", {.object_bytes = bytes, .object_count = 50}));
      for (const handle old : past)
        ASSERT_TRUE(is_stale(h, old)) << "another pool lies there";
      expect_sound(h);
    }
}

TEST_F(handles, of_a_pool_are_forgotten_by_another_member_too) {
  heap h = heap_with(8 << 20, {}, "a");
  raw_pool pool = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 100}));
  void* const object = pool.take();
  const handle name = h.handle_of(object);
  child_process child([&] {
    heap mine = must(heap::attach("a"));
    raw_pool same = must(raw_pool::open(mine, "p"));
    same.give(must(mine.resolve(name)));
    return is_stale(mine, name) ? 0 : 1;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  EXPECT_TRUE(is_stale(h, name));
  EXPECT_EQ(pool.free_count(), 100u);
  expect_sound(h);
}

TEST_F(handles, of_zones_are_stale_once_they_are_released) {
  heap h = heap_with(8 << 20);
  std::set<handle> past;
  for (int life = 0; life < 100; ++life) {
    const zone z = must(h.reserve_zone("z", {.size_bytes = 100'000}));
    ASSERT_TRUE(past.insert(z.where).second);
    for (const handle old : past)
      ASSERT_TRUE(old == z.where ? h.resolve(old).value_or(nullptr) == z.address
                                 : is_stale(h, old));
    ASSERT_EQ(must(h.find_zone("z")).where, z.where);
    ASSERT_EQ(h.handle_of(z.address), z.where);
    must(h.release_zone("z"));
    ASSERT_TRUE(is_stale(h, z.where));
  }
  expect_sound(h);
}

// ---- regions ------------------------------------------------------------------------------------

TEST_F(handles, of_removed_memory_are_stale_for_ever) {
  for (const u32 limit : {1u, 2u, 5u, 8u}) {
    heap h = must(heap::create_private({.region_limit = limit}));
    const mapped_memory m(4 << 20, PROT_NONE);
    const auto add = [&](std::size_t bytes) {
      return must(h.add_memory({.base = m.data(), .length_bytes = bytes, .access = touch::none}));
    };
    std::set<u32> ids;
    std::vector<handle> past;
    for (int cycle = 0; cycle < 3000; ++cycle) {
      // Handles of one length must not be mistaken for another's.
      const std::size_t bytes = std::size_t{4096} << (cycle % 11);
      const region_id id = add(bytes);
      ASSERT_TRUE(ids.insert(static_cast<u32>(id)).second)
          << "limit " << limit << ", cycle " << cycle << ": the id came back";
      void* const block = h.allocate(bytes <= 64 << 10 ? 2048 : 100 << 10);
      ASSERT_NE(block, nullptr);
      for (const handle old : past)
        ASSERT_TRUE(is_stale(h, old)) << "limit " << limit << ", cycle " << cycle;
      const handle name = h.handle_of(block);
      ASSERT_NE(name, null_handle);
      ASSERT_EQ(must(h.resolve(name)), block);
      if (cycle < 20 || cycle % 100 == 0) past.push_back(name);
      heap::free(block);
      must(h.remove_memory(id));
    }
    for (const handle old : past)
      ASSERT_TRUE(is_stale(h, old));
    expect_sound(h);
  }
}

TEST_F(handles, of_a_slot_whose_numbers_are_used_up_are_never_given_out_again) {
  heap h = must(heap::create_private({.region_limit = 2}));
  const mapped_memory m(1 << 20, PROT_NONE);
  const memory_range range{.base = m.data(), .length_bytes = m.size(), .access = touch::none};
  // As if regions had come and gone for years: a slot past the half serves only when no other does.
  for (const u32 slot : {0u, 1u}) {
    region_in(h, slot).numbers_used =
        slot == 1 ? all_numbers - (u64{1} << 22) : all_numbers / 2 + 1;
    region_in(h, slot).numbers_used_inverted = ~region_in(h, slot).numbers_used;
  }
  const handle last = handle_from(1, all_numbers - 1);
  u32 of_slot[2] = {};
  for (int cycle = 0; cycle < 40; ++cycle) {
    const region_id id = must(h.add_memory(range));
    const u32 slot = static_cast<u32>(id) % 2;
    ++of_slot[slot];
    void* const block = h.allocate(100);
    EXPECT_EQ(slot_of(h.handle_of(block)), slot);
    EXPECT_TRUE(is_stale(h, last));
    heap::free(block);
    must(h.remove_memory(id));
  }
  EXPECT_LE(of_slot[1], 4u) << "it had four generations left for regions of 1 MiB";
  region_in(h, 0).numbers_used = all_numbers;
  const auto refusal = h.add_memory(range);
  EXPECT_EQ(refused(refusal), errc::limit_reached);
  EXPECT_NE(refusal.error().message().find("handles"), std::string_view::npos)
      << refusal.error().message();
  EXPECT_NE(refusal.error().message().find("new heap"), std::string_view::npos)
      << refusal.error().message();
}

TEST_F(handles, begin_again_after_as_many_names_as_the_header_says_and_not_before) {
  heap h = must(heap::create_private({.region_limit = 1}));
  const mapped_memory m(1 << 20, PROT_NONE);
  // Five generations left: as if the slot had had other regions for years.
  region_record& r = region_in(h, 0);
  const u64 used = all_numbers - 5 * (u64{1} << 20);
  r.numbers_used = used;
  const region_id id =
      must(h.add_memory({.base = m.data(), .length_bytes = m.size(), .access = touch::none}));
  for (const std::size_t bytes : {100u, 300u << 10}) {
    std::vector<handle> names;
    void* const place = h.allocate(bytes);
    void* block = place;
    for (int life = 0; life < 12; ++life) {
      ASSERT_EQ(block, place);
      names.push_back(h.handle_of(block));
      ASSERT_EQ(must(h.resolve(names.back())), block);
      ASSERT_GE(number_of(names.back()), used)
          << "what regions before had is never given out again";
      const std::size_t turn = 5;
      for (std::size_t back = 1; back < names.size(); ++back)
        EXPECT_EQ(names[names.size() - 1 - back] == names.back(), back % turn == 0)
            << bytes << " bytes: " << back << " names ago";
      heap::free(block);
      ASSERT_TRUE(is_stale(h, names.back()));
      block = allocate_at(h, place, bytes);
    }
    heap::free(block);
    h.trim();
  }
  expect_sound(h);
  must(h.remove_memory(id));
  EXPECT_EQ(r.numbers_used, all_numbers) << "all of them may be somewhere";
  EXPECT_EQ(
      refused(h.add_memory({.base = m.data(), .length_bytes = m.size(), .access = touch::none})),
      errc::limit_reached);
}

TEST_F(handles, are_written_in_64_bits_and_read_back) {
  for (const u32 slot : {0u, 1u, 2u, 16383u})
    for (const u64 number : {u64{0}, u64{1}, u64{12345}, (u64{1} << 44) - 1, u64{1} << 44,
                             u64{5} << 44 | 77, all_numbers - 1}) {
      const handle h = handle_from(slot, number);
      EXPECT_EQ(slot_of(h), slot);
      EXPECT_EQ(number_of(h), number);
    }
  EXPECT_EQ(static_cast<u64>(handle_from(2, 4711)), u64{2} << 44 | 4711);
  EXPECT_EQ(offset_bits_of(4096), 12u);
  EXPECT_EQ(offset_bits_of(4097), 13u);
  EXPECT_EQ(offset_bits_of(GiB), 30u);
  EXPECT_EQ(offset_bits_of(limits::largest_region_bytes), 44u);
  EXPECT_EQ(remote_address(handle_from(7, (u64{3} << 30) | 1234), GiB), u64{7} << 44 | 1234);
  EXPECT_EQ(remote_address(handle_from(7, all_numbers - 1), limits::largest_region_bytes),
            u64{7} << 44 | low_bits(44));
}

// ---- names that were not asked for --------------------------------------------------------------

TEST_F(handles, that_nobody_gave_out_are_refused) {
  heap h = heap_with(4 << 20);
  auto* const block = static_cast<char*>(h.allocate(100));
  const u64 name = static_cast<u64>(h.handle_of(block));
  for (const u64 generation : {u64{1}, u64{2}, u64{1000}})
    EXPECT_TRUE(is_stale(h, handle{name + (generation << 22)})) << generation;
  EXPECT_EQ(refused(h.resolve(null_handle)), errc::foreign_handle);
  void* const freed = h.allocate(100);
  heap::free(freed);
  EXPECT_EQ(h.handle_of(freed), null_handle) << "in this thread's cache";
  EXPECT_EQ(h.handle_of(block + (2 << 20)), null_handle) << "never allocated";
  EXPECT_EQ(h.handle_of(&h), null_handle);
}

TEST_F(handles, in_lists_are_those_that_would_be_given) {
  heap h = heap_with(8 << 20, {}, "a");
  std::vector<void*> blocks;
  for (int i = 0; i < 100; ++i)
    blocks.push_back(h.allocate(i % 10 == 0 ? 100'000 : 200));
  const handle named = h.handle_of(blocks[5]);
  std::vector<std::pair<handle, void*>> listed;
  must(h.for_each_block([&](const block_summary& b) { listed.emplace_back(b.where, b.address); }));
  ASSERT_EQ(listed.size(), 100u);
  for (const auto& [where, address] : listed) {
    EXPECT_EQ(must(h.resolve(where)), address);
    if (address == blocks[5]) {
      EXPECT_EQ(where, named);
    }
  }
  heap look = must(heap::attach("a", {.read_only = true}));
  for (const auto& [where, address] : listed) {
    EXPECT_EQ(look.handle_of(must(look.resolve(where))), where)
        << "a process that may not write gives the same";
    EXPECT_EQ(h.handle_of(address), where);
  }
  for (void* block : blocks)
    heap::free(block);
  for (const auto& [where, address] : listed)
    EXPECT_TRUE(is_stale(h, where) && is_stale(look, where));
}

TEST_F(handles, of_a_block_that_nobody_named_are_stale_while_a_cache_keeps_it) {
  heap h = heap_with(8 << 20);
  raw_pool pool = must(raw_pool::create(h, "p", {.object_bytes = 64, .object_count = 100}));
  void* const block = h.allocate(100);
  void* const object = pool.take();
  std::vector<handle> listed;
  must(h.for_each_block([&](const block_summary& b) {
    if (b.address == block) listed.push_back(b.where);
  }));
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_TRUE(h.resolve(listed[0]).has_value());
  heap::free(block);
  EXPECT_TRUE(is_stale(h, listed[0]));
  std::thread([&] { EXPECT_TRUE(is_stale(h, listed[0])) << "in another thread's cache"; }).join();
  pool.give(object);
  EXPECT_EQ(h.handle_of(object), null_handle);
}

TEST_F(handles, are_asked_for_by_many_at_once_and_all_get_the_same) {
  heap h = heap_with(8 << 20);
  for (int round = 0; round < 200; ++round) {
    std::vector<void*> blocks;
    for (int i = 0; i < 20; ++i)
      blocks.push_back(h.allocate(128));
    std::vector<std::vector<handle>> told(4);
    std::vector<std::thread> askers;
    for (auto& names : told)
      askers.emplace_back([&] {
        for (void* block : blocks)
          names.push_back(h.handle_of(block));
      });
    for (std::thread& t : askers)
      t.join();
    for (const auto& names : told)
      ASSERT_EQ(names, told[0]);
    for (std::size_t i = 0; i < blocks.size(); ++i)
      ASSERT_EQ(must(h.resolve(told[0][i])), blocks[i]);
    for (void* block : blocks)
      heap::free(block);
    for (const handle name : told[0])
      ASSERT_TRUE(is_stale(h, name));
  }
  expect_sound(h);
}

// One thread names blocks of slabs whose owners allocate and free meanwhile; the handles of one
// block go to a thread that frees it.
TEST_F(handles, are_exact_while_the_owners_of_the_slabs_are_at_work) {
  heap h = heap_with(32 << 20);
  std::atomic<bool> stop{false};
  std::vector<std::thread> owners;
  std::atomic<u64> wrong{0}, checked{0};
  for (int n = 0; n < 3; ++n)
    owners.emplace_back([&, n] {
      std::vector<std::pair<void*, handle>> mine;
      u64 random = 88172645463325252u + static_cast<u64>(n);
      std::vector<handle> gone;
      while (!stop) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        if (mine.size() < 300 && random % 2 == 0) {
          void* const block = h.allocate(64u << (random >> 8) % 4);
          mine.emplace_back(block, random % 3 == 0 ? h.handle_of(block) : null_handle);
        } else if (!mine.empty()) {
          const std::size_t at = random % mine.size();
          const auto [block, name] = mine[at];
          mine[at] = mine.back();
          mine.pop_back();
          if (name != null_handle && h.resolve(name).value_or(nullptr) != block) ++wrong;
          if (random % 5 == 0)
            std::thread([block] { heap::free(block); }).join();
          else
            heap::free(block);
          if (name != null_handle && !is_stale(h, name)) ++wrong;
          if (name != null_handle && gone.size() < 1000) gone.push_back(name);
          ++checked;
        }
        if (random % 1000 == 0)
          for (const handle name : gone)
            wrong += !is_stale(h, name);
      }
      for (const auto& [block, name] : mine)
        heap::free(block);
    });
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  stop = true;
  for (std::thread& t : owners)
    t.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(checked, 100u);
  expect_sound(h);
  EXPECT_EQ(h.stats().live_blocks, 0u);
}

TEST_F(handles, of_bytes_inside_large_blocks_are_found_at_once_and_rightly_among_many) {
  heap h = heap_with(0);
  const std::size_t block_bytes = 128 << 10, blocks = 4000;
  const mapped_memory m(blocks * block_bytes + (8 << 20), PROT_NONE);
  must(h.add_memory({.base = m.data(), .length_bytes = m.size(), .access = touch::none}));
  std::vector<char*> all;
  for (std::size_t i = 0; i < blocks; ++i)
    all.push_back(static_cast<char*>(h.allocate(block_bytes)));
  std::vector<handle> inside;
  for (char* block : all)
    inside.push_back(h.handle_of(block + block_bytes - 100));
  for (std::size_t i = 0; i < blocks; i += 2)
    heap::free(all[i]);
  for (std::size_t i = 0; i < blocks; ++i) {
    ASSERT_EQ(h.resolve(inside[i]).value_or(nullptr),
              i % 2 == 0 ? nullptr : all[i] + block_bytes - 100);
  }
  // What was cut in another way since has hints of what lay there before.
  for (std::size_t i = 1; i < blocks; i += 2)
    heap::free(all[i]);
  std::vector<char*> longer;
  while (auto* const block = static_cast<char*>(h.allocate(3 * block_bytes)))
    longer.push_back(block);
  ASSERT_GT(longer.size(), blocks / 4);
  for (char* block : longer)
    for (std::size_t at = 0; at < 3 * block_bytes; at += 40'000)
      ASSERT_EQ(must(h.resolve(h.handle_of(block + at))), block + at);
  for (const handle old : inside)
    ASSERT_TRUE(is_stale(h, old));
  expect_sound(h);
}

}  // namespace
}  // namespace annex
