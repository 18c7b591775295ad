// tests/memory_test.cpp - adding, removing, draining regions; every refusal; ways to bring memory.
#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "another_member.hpp"
#include "heap/local_heap.hpp"
#include "support.hpp"

namespace annex {
namespace {

using namespace std::chrono_literals;
using adding = in_own_directory;
using removing = in_own_directory;
using bringing = in_own_directory;

std::vector<iova> iovas_for(std::size_t pages, u64 first = 0x100000000) {
  std::vector<iova> all;
  for (std::size_t i = 0; i < pages; ++i)
    all.push_back(iova{first + i * 4096});
  return all;
}

TEST_F(adding, refuses_bad_arguments_and_changes_nothing) {
  heap h = heap_with(0);
  mapped_memory m(1 << 20);
  const memory_range good = m.range();
  auto with = [&](auto change) {
    memory_range r = good;
    change(r);
    return refused(h.add_memory(r));
  };
  EXPECT_EQ(with([](auto& r) { r.base = nullptr; }), errc::invalid_argument);
  EXPECT_EQ(with([](auto& r) { r.page_bytes = 0; }), errc::bad_page_size);
  EXPECT_EQ(with([](auto& r) { r.page_bytes = 2048; }), errc::bad_page_size);
  EXPECT_EQ(with([](auto& r) { r.page_bytes = 12288; }), errc::bad_page_size);
  EXPECT_EQ(with([](auto& r) { r.page_bytes = std::size_t{2} << 30; }), errc::bad_page_size);
  EXPECT_EQ(with([](auto& r) { r.length_bytes = 0; }), errc::bad_length);
  EXPECT_EQ(with([](auto& r) { r.length_bytes = 5000; }), errc::bad_length);
  EXPECT_EQ(with([](auto& r) { r.length_bytes = (std::size_t{16} << 40) + 4096; }),
            errc::bad_length);
  EXPECT_EQ(with([](auto& r) { r.base = static_cast<char*>(r.base) + 64; }), errc::bad_alignment);
  EXPECT_EQ(with([](auto& r) { r.access = touch::none, r.contents = fill::zero; }),
            errc::no_cpu_access);
  EXPECT_EQ(with([](auto& r) { r.fd = 9999; }), errc::invalid_argument);
  const auto few = iovas_for(255), many = iovas_for(257);
  EXPECT_EQ(with([&](auto& r) { r.page_iovas = few; }), errc::bad_iova);
  EXPECT_EQ(with([&](auto& r) { r.page_iovas = many; }), errc::bad_iova);
  auto wrapping = iovas_for(256);
  wrapping[17] = no_iova;
  EXPECT_EQ(with([&](auto& r) { r.page_iovas = wrapping; }), errc::bad_iova);
  auto odd = iovas_for(256);
  odd[3] = iova{1};
  EXPECT_EQ(with([&](auto& r) { r.page_iovas = odd; }), errc::bad_iova);
  auto twice = iovas_for(256);
  twice[200] = twice[100];
  EXPECT_EQ(with([&](auto& r) { r.page_iovas = twice; }), errc::iova_overlap);
  EXPECT_EQ(h.stats().region_count, 0u);
  expect_sound(h);
  must(h.add_memory(good));
}

TEST_F(adding, refuses_memory_that_is_not_there_or_not_writable) {
  heap h = heap_with(0);
  mapped_memory m(1 << 20), read_only(1 << 20, PROT_READ);
  ::munmap(m.data() + 8192, 4096);
  EXPECT_EQ(refused(h.add_memory(m.range())), errc::not_mapped);
  EXPECT_EQ(refused(h.add_memory(read_only.range())), errc::not_writable);
  memory_range untouchable = read_only.range();
  untouchable.access = touch::none;
  must(h.add_memory(untouchable));
}

TEST_F(adding, refuses_overlap_with_any_region_of_any_heap_here) {
  heap a = heap_with(0), b = heap_with(0);
  mapped_memory m(1 << 20);
  must(a.add_memory(m.range()));
  EXPECT_EQ(refused(a.add_memory(m.range())), errc::region_overlap);
  EXPECT_EQ(refused(b.add_memory(m.range())), errc::region_overlap);
  memory_range shifted = m.range();
  shifted.base = m.data() + 4096;
  shifted.length_bytes -= 4096;
  EXPECT_EQ(refused(b.add_memory(shifted)), errc::region_overlap);
}

TEST_F(adding, refuses_the_same_file_bytes_and_the_same_iovas_twice) {
  heap h = heap_with(0);
  const int fd = ::memfd_create("m", 0);
  ASSERT_EQ(::ftruncate(fd, 1 << 20), 0);
  char* one =
      static_cast<char*>(::mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  char* two =
      static_cast<char*>(::mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  must(h.add_memory({.base = one, .length_bytes = 1 << 20, .fd = fd}));
  EXPECT_EQ(refused(h.add_memory({.base = two, .length_bytes = 1 << 20, .fd = fd})),
            errc::region_overlap);
  mapped_memory x(1 << 20), y(1 << 20);
  const auto table = iovas_for(256), overlapping = iovas_for(256, 0x100000000 + 255 * 4096),
             next = iovas_for(256, 0x100000000 + 256 * 4096);
  memory_range rx = x.range(), ry = y.range();
  rx.page_iovas = table;
  must(h.add_memory(rx));
  ry.page_iovas = overlapping;
  EXPECT_EQ(refused(h.add_memory(ry)), errc::iova_overlap);
  ry.page_iovas = next;
  must(h.add_memory(ry));
  ::close(fd);
}

TEST_F(adding, refuses_the_wrong_numa_node) {
  heap h = heap_with(0);
  mapped_memory m(1 << 20);
  std::memset(m.data(), 1, m.size());
  memory_range r = m.range();
  r.numa_node = 63;
  EXPECT_EQ(refused(h.add_memory(r)), errc::wrong_node);
}

TEST_F(adding, keeps_contents_unless_asked_to_zero) {
  heap h = heap_with(0);
  mapped_memory kept(1 << 20), zeroed(1 << 20);
  std::memset(kept.data(), 7, kept.size());
  std::memset(zeroed.data(), 7, zeroed.size());
  must(h.add_memory(kept.range()));
  memory_range r = zeroed.range();
  r.contents = fill::zero;
  must(h.add_memory(r));
  EXPECT_TRUE(std::all_of(kept.data(), kept.data() + kept.size(), [](char c) { return c == 7; }));
  EXPECT_TRUE(
      std::all_of(zeroed.data(), zeroed.data() + zeroed.size(), [](char c) { return c == 0; }));
}

TEST_F(adding, takes_every_size_from_a_page_to_sixteen_terabytes) {
  heap h = must(heap::create_private());
#ifdef __SANITIZE_THREAD__
  constexpr u64 most = 1 * GiB;  // ThreadSanitizer's own tables
#else
  constexpr u64 most = 16 * TiB;
#endif
  for (const u64 size : {4 * KiB, 64 * KiB, 1 * MiB, 32 * MiB, 1 * GiB, 1 * TiB, 16 * TiB}) {
    if (size > most) break;
    mapped_memory m(size, PROT_NONE);
    memory_range r = m.range();
    r.access = touch::none;
    const auto began = std::chrono::steady_clock::now();
    const region_id id = must(h.add_memory(r));
    const auto took = std::chrono::steady_clock::now() - began;
    EXPECT_LT(took, 10s) << size << ": adding must not cost by the byte";
    void* block = h.allocate(size);
    EXPECT_EQ(block, m.data()) << size << heap::last_failure().message();
    heap::free(block);
    if (size > 1 * MiB) {
      void* small = h.allocate(100);
      EXPECT_NE(small, nullptr);
      heap::free(small);
    }
    must(h.remove_memory(id));
  }
  expect_sound(h);
}

TEST_F(adding, takes_every_page_size) {
  heap h = heap_with(0);
  mapped_memory m(4 * GiB, PROT_NONE);
  for (u64 page = 4 * KiB; page <= 1 * GiB; page *= 2) {
    char* base = reinterpret_cast<char*>(align_up(reinterpret_cast<u64>(m.data()), page));
    std::vector<iova> table;
    for (u64 i = 0; i < 2; ++i)
      table.push_back(iova{(16 * GiB) * (2 - i)});
    const region_id id = must(h.add_memory({.base = base,
                                            .length_bytes = 2 * page,
                                            .page_bytes = page,
                                            .page_iovas = table,
                                            .access = touch::none}));
    EXPECT_EQ(heap::locate(base + page - 1)->bus_address, iova{32 * GiB + page - 1});
    EXPECT_EQ(heap::locate(base + page)->bus_address, iova{16 * GiB});
    EXPECT_EQ(h.address_of(iova{16 * GiB + 5}), base + page + 5);
    must(h.remove_memory(id));
  }
}

TEST_F(adding, many_regions_are_found_as_one) {
  constexpr std::size_t count = 4096;
  heap h = heap_with(0);
  mapped_memory m(count * 8192);
  std::vector<region_id> ids;
  for (std::size_t i = 0; i < count; ++i) {
    const std::vector<iova> table{iova{0x1000000000 + i * 1048576}};
    ids.push_back(must(
        h.add_memory({.base = m.data() + i * 8192, .length_bytes = 4096, .page_iovas = table})));
  }
  for (std::size_t i = 0; i < count; ++i) {
    EXPECT_EQ(heap::locate(m.data() + i * 8192)->region, ids[i]);
    EXPECT_EQ(heap::locate(m.data() + i * 8192 + 4095)->region, ids[i]);
    EXPECT_FALSE(heap::locate(m.data() + i * 8192 + 4096));
    EXPECT_EQ(h.address_of(iova{0x1000000000 + i * 1048576 + 77}), m.data() + i * 8192 + 77);
    EXPECT_EQ(h.address_of(iova{0x1000000000 + i * 1048576 + 4096}), nullptr);
  }
  std::vector<void*> blocks;
  while (void* block = h.allocate(4096))
    blocks.push_back(block);
  EXPECT_EQ(blocks.size(), count);
  heap::free_bulk(blocks);
  h.trim();
  for (const region_id id : ids)
    must(h.remove_memory(id));
  expect_sound(h);
}

TEST_F(adding, gives_handles_however_often_a_slot_was_used) {
  heap h = must(heap::create("a", {.region_limit = 1}));
  mapped_memory m(64 << 10);
  region_id last{};
  for (int i = 0; i < 200; ++i) {
    const region_id r = must(h.add_memory(m.range()));
    ASSERT_GT(r, last);
    last = r;
    void* block = h.allocate(5000);
    ASSERT_EQ(must(h.resolve(h.handle_of(block))), block) << "region " << static_cast<u32>(r);
    heap::free(block);
    must(h.remove_memory(r));
  }
}

TEST_F(removing, refuses_while_a_block_is_live_and_goes_on_serving) {
  heap h = heap_with(0);
  mapped_memory m(1 << 20);
  const region_id id = must(h.add_memory(m.range()));
  void* block = h.allocate(100);
  const auto r = h.remove_memory(id);
  EXPECT_EQ(refused(r), errc::blocks_live);
  EXPECT_NE(r.error().message().find(std::to_string(::getpid())), std::string_view::npos)
      << "the error names the holder";
  void* more = h.allocate(100);
  EXPECT_NE(more, nullptr);
  heap::free(more);
  heap::free(block);
  must(h.remove_memory(id));
  EXPECT_EQ(h.allocate(100), nullptr);
  EXPECT_FALSE(heap::locate(m.data()));
  EXPECT_EQ(refused(h.remove_memory(id)), errc::no_such_region);
  EXPECT_EQ(refused(h.drain_memory(id, 1ms)), errc::no_such_region);
  EXPECT_EQ(refused(h.cancel_drain(id)), errc::no_such_region);
  const region_id again = must(h.add_memory(m.range()));
  EXPECT_NE(again, id) << "region ids are never reused";
}

TEST_F(removing, a_drain_waits_for_the_last_block_and_stops_new_ones) {
  heap h = heap_with(0);
  mapped_memory a(1 << 20), b(1 << 20);
  const region_id id = must(h.add_memory(a.range()));
  std::vector<void*> blocks;
  for (int i = 0; i < 100; ++i)
    blocks.push_back(h.allocate(1000));
  must(h.add_memory(b.range()));
  std::thread drainer([&] { must(h.drain_memory(id, 10s), "drain"); });
  bool draining = false;
  ASSERT_TRUE(wait_until([&] {
    h.for_each_region([&](const region_summary& r) { draining |= r.draining; });
    return draining;
  }));
  std::this_thread::sleep_for(20ms);
  for (int i = 0; i < 200; ++i) {
    void* elsewhere = h.allocate(1000);
    EXPECT_NE(heap::locate(elsewhere)->region, id);
  }
  heap::free_bulk(blocks);
  drainer.join();
  EXPECT_EQ(h.stats().region_count, 1u);
  expect_sound(h);
}

TEST_F(removing, a_drain_that_times_out_names_the_holder_and_changes_nothing) {
  heap h = heap_with(0);
  mapped_memory m(1 << 20);
  const region_id id = must(h.add_memory(m.range()));
  void* block = h.allocate(5000);
  const auto r = h.drain_memory(id, 20ms);
  EXPECT_EQ(refused(r), errc::deadline_passed);
  EXPECT_NE(r.error().message().find("1 blocks"), std::string_view::npos) << r.error().message();
  void* more = h.allocate(5000);
  EXPECT_NE(more, nullptr) << heap::last_failure().message();
  heap::free(more);
  heap::free(block);
  must(h.drain_memory(id, 1s));
}

TEST_F(removing, a_drain_can_be_canceled) {
  heap h = heap_with(0);
  mapped_memory m(1 << 20);
  const region_id id = must(h.add_memory(m.range()));
  void* block = h.allocate(100);
  std::thread canceler([&] {
    std::this_thread::sleep_for(30ms);
    must(h.cancel_drain(id), "cancel");
  });
  EXPECT_EQ(refused(h.drain_memory(id, 10s)), errc::canceled);
  canceler.join();
  EXPECT_NE(h.allocate(100), nullptr);
  heap::free(block);
}

TEST_F(removing, takes_back_what_other_threads_cache) {
  heap h = heap_with(0);
  mapped_memory m(4 << 20);
  const region_id id = must(h.add_memory(m.range()));
  std::atomic<bool> cached{false}, go{false};
  std::thread other([&] {
    for (std::size_t size = 16; size <= 65536; size *= 2)
      heap::free(h.allocate(size));
    cached = true;
    while (!go)
      std::this_thread::yield();
    EXPECT_EQ(h.allocate(64), nullptr) << "its cache must not hand out removed memory";
  });
  while (!cached)
    std::this_thread::yield();
  must(h.remove_memory(id));
  go = true;
  other.join();
}

TEST_F(bringing, gives_memory_of_every_kind_there_is_here) {
  heap h = heap_with(0, {}, "a");
  using kind = memory_source::kind;
  const std::string file = path() + "/backing";
  must(h.bring_memory({.from = kind::anonymous, .length_bytes = 1 << 20}));
  must(h.bring_memory({.from = kind::shared, .length_bytes = 1 << 20}));
  must(h.bring_memory({.from = kind::file, .length_bytes = 1 << 20, .path = file}));
  must(h.bring_memory(
      {.from = kind::file, .length_bytes = 1 << 20, .path = file, .offset_bytes = 1 << 20}));
  EXPECT_EQ(std::filesystem::file_size(file), 2u << 20);
  EXPECT_EQ(h.stats().region_count, 4u);
  std::vector<void*> blocks;
  while (void* block = h.allocate(1 << 20)) {
    std::memset(block, 1, 1 << 20);
    blocks.push_back(block);
  }
  EXPECT_EQ(blocks.size(), 4u);
  heap::free_bulk(blocks);
  std::vector<region_id> ids;
  h.for_each_region([&](const region_summary& r) { ids.push_back(r.id); });
  for (const region_id id : ids)
    must(h.remove_memory(id));
  EXPECT_TRUE(std::filesystem::exists(file)) << "a user's file stays";
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(path()))
    ++files;
  EXPECT_EQ(files, 3u) << "annex's own backing files go with their region: the segment, the file "
                          "of lives and the user's file are left";
}

TEST_F(bringing, takes_a_descriptor_as_it_is) {
  heap h = heap_with(0, {}, "a");
  using kind = memory_source::kind;
  const int fd = ::memfd_create("m", 0);
  ASSERT_EQ(::ftruncate(fd, 1 << 20), 0);
  ASSERT_EQ(::pwrite(fd, "kept", 4, 65536), 4);
  EXPECT_EQ(refused(h.bring_memory({.from = kind::descriptor, .length_bytes = 2 << 20, .fd = fd})),
            errc::wrong_memory);
  EXPECT_EQ(refused(h.bring_memory({.from = kind::descriptor, .length_bytes = 4096, .fd = 9999})),
            errc::os_failure);
  must(h.bring_memory({.from = kind::descriptor,
                       .length_bytes = (1 << 20) - 65536,
                       .offset_bytes = 65536,
                       .fd = fd}));
  ::close(fd);
  EXPECT_EQ(std::memcmp(h.allocate((1 << 20) - 65536), "kept", 4), 0);
}

TEST_F(bringing, refuses_what_cannot_be_had_and_says_what_to_do) {
  heap h = heap_with(0, {}, "a");
  using kind = memory_source::kind;
  EXPECT_EQ(refused(h.bring_memory({.length_bytes = 0})), errc::bad_length);
  EXPECT_EQ(refused(h.bring_memory({.length_bytes = 4097})), errc::bad_length);
  EXPECT_EQ(refused(h.bring_memory(
                {.from = kind::hugetlb, .length_bytes = 2 << 20, .page_bytes = 12345})),
            errc::bad_page_size);
  EXPECT_EQ(refused(h.bring_memory({.from = kind::file, .length_bytes = 4096})),
            errc::invalid_argument);
  EXPECT_EQ(
      refused(h.bring_memory({.from = kind::file, .length_bytes = 4096, .path = "/proc/no/such"})),
      errc::os_failure);
  EXPECT_EQ(refused(h.bring_memory({.length_bytes = 1 << 20, .physical_iovas = true})),
            errc::not_supported);
  EXPECT_EQ(refused(h.bring_memory({.length_bytes = 1 << 20, .numa_node = 60})), errc::wrong_node);
  const auto huge = h.bring_memory(
      {.from = kind::hugetlb, .length_bytes = std::size_t{1} << 44, .page_bytes = 2 << 20});
  EXPECT_EQ(refused(huge), errc::out_of_memory);
  EXPECT_NE(huge.error().message().find("nr_hugepages"), std::string_view::npos);
  for (const auto from : {kind::anonymous, kind::shared})
    // More than the machine has, all of it now: refused before anybody is killed for it.
    for (const bool pin : {false, true}) {
      const auto all =
          h.bring_memory({.from = from, .length_bytes = 1 * TiB, .prefault = true, .pin = pin});
      EXPECT_EQ(refused(all), errc::out_of_memory);
      // Of the place, or of the machine.
      const char* const figure = from == kind::shared ? "free" : "available";
      EXPECT_NE(all.error().message().find(figure), std::string_view::npos)
          << all.error().message();
    }
  EXPECT_EQ(h.stats().region_count, 0u);
}

TEST_F(bringing, prefaults_in_parallel_with_progress) {
  heap h = heap_with(0);
  u64 last = 0, calls = 0;
  const region_id id = must(h.bring_memory({.length_bytes = 64 << 20,
                                            .prefault = true,
                                            .threads = 2,
                                            .progress = [&](u64 done, u64 total) {
                                              EXPECT_EQ(total, 64u << 20);
                                              EXPECT_GT(done, 0u);
                                              last = std::max(last, done);
                                              ++calls;
                                            }}));
  EXPECT_EQ(last, 64u << 20);
  EXPECT_EQ(calls, 4u);
  unsigned char present[16384];
  void* base = nullptr;
  h.for_each_region([&](const region_summary& r) { base = r.base; });
  ASSERT_EQ(::mincore(base, 64 << 20, present), 0);
  EXPECT_TRUE(std::all_of(present, present + 16384, [](unsigned char p) { return (p & 1) != 0; }));
  must(h.prefault(id));
  EXPECT_EQ(refused(h.prefault(region_id{99})), errc::no_such_region);
  mapped_memory untouchable(1 << 20, PROT_NONE);
  memory_range r = untouchable.range();
  r.access = touch::none;
  EXPECT_EQ(refused(h.prefault(must(h.add_memory(r)))), errc::no_cpu_access);
}

TEST_F(bringing, uses_hugepages_where_there_are_any) {
  heap h = heap_with(0);
  const auto brought = h.bring_memory({.from = memory_source::kind::hugetlb,
                                       .length_bytes = 4 << 20,
                                       .page_bytes = 2 << 20,
                                       .physical_iovas = true});
  if (!brought) GTEST_SKIP() << brought.error().message();
  void* block =
      h.allocate({.size_bytes = 2 << 20, .align_bytes = 2 << 20, .iova_contiguous = true});
  EXPECT_NE(block, nullptr);
  EXPECT_TRUE(heap::locate(block)->bus_address.has_value());
}

TEST_F(adding, grows_by_itself_where_the_program_says_how) {
  heap h = must(heap::create_private());
  std::vector<std::unique_ptr<mapped_memory>> brought;
  std::vector<std::size_t> wanted;
  h.on_shortage([&](std::size_t size_bytes) {
    wanted.push_back(size_bytes);
    if (brought.size() == 2) return false;
    EXPECT_EQ(h.allocate(64 << 20), nullptr) << "no growing inside growing";
    brought.push_back(std::make_unique<mapped_memory>(4 << 20));
    return h.add_memory(brought.back()->range()).has_value();
  });
  EXPECT_NE(h.allocate(3 << 20), nullptr);
  EXPECT_NE(h.allocate(3 << 20), nullptr);
  EXPECT_EQ(h.allocate(3 << 20), nullptr);
  EXPECT_EQ(wanted, (std::vector<std::size_t>{3 << 20, 3 << 20, 3 << 20}));
  EXPECT_NE(h.allocate(100), nullptr);
  EXPECT_NE(must(h.reserve_zone("z", {.size_bytes = 1000})).address, nullptr);
  expect_sound(h);
}

TEST_F(adding, memory_at_one_address_is_attached_without_being_told) {
  mapped_memory everywhere(4 << 20);  // a child has it where the parent has it
  memory_range range = everywhere.range();
  range.same_address = true;
  child_process adder([&] {
    heap h = must(heap::create("a"));
    must(h.add_memory(range));
    return must(h.reserve_zone("z", {.size_bytes = 5000})).address == nullptr;
  });
  ASSERT_EQ(adder.wait_for_exit_code(), 0);
  child_process without_it([&] {
    // Unmapped, the segment might come to lie there.
    ::mprotect(range.base, range.length_bytes, PROT_NONE);
    heap h = must(attach_as_another("a"));
    if (h.allocate(200) != nullptr) return 1;
    return h.find_zone("z").has_value() ? 2 : 0;
  });
  EXPECT_EQ(without_it.wait_for_exit_code(), 0) << "no such memory there: refused, no fault";
  heap h = must(attach_as_another("a"));
  const void* const block = h.allocate(200);
  EXPECT_GE(block, range.base);
  EXPECT_LT(block, everywhere.data() + everywhere.size());
  EXPECT_GE(must(h.find_zone("z")).address, range.base);
  h.for_each_region([&](const region_summary& r) {
    EXPECT_EQ(r.origin, reinterpret_cast<std::uint64_t>(range.base));
    EXPECT_EQ(r.base, range.base);
  });
  expect_sound(h);
}

TEST_F(adding, ephemeral_heaps_end_with_their_members) {
  child_process maker([] {
    heap h = must(heap::create("a", {.ephemeral = true}));
    must(h.bring_memory({.length_bytes = 1 << 20}));
    (void)h.allocate(100);
    detail::locked half_done(h.internal()->here);
    half_done->put(h.internal()->here.seg.header().zone_count, 7u);
    ::_exit(0);  // without closing anything, in the middle of a transaction
    return 0;
  });
  EXPECT_EQ(maker.wait_for_exit_code(), 0);
  heap again = must(heap::create("a", {.ephemeral = true}));
  EXPECT_EQ(again.stats().region_count, 0u) << "a new one under the old name";
  EXPECT_EQ(heap::create("a", {.ephemeral = true}).error().code, errc::name_taken)
      << "its member lives";
  must(again.bring_memory({.length_bytes = 1 << 20}));
  (void)again.allocate(100);
  { heap gone = std::move(again); }
  EXPECT_TRUE(heap::destroy("a").has_value()) << "live blocks are nobody's";
}

}  // namespace
}  // namespace annex
