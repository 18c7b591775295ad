// tests/attach_test.cpp - joining a heap: by hand, read-only, from other addresses, from damaged or
// foreign segments.
#include <fcntl.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "another_member.hpp"
#include "heap/local_heap.hpp"
#include "inside.hpp"
#include "shared/layout.hpp"
#include "support.hpp"

namespace annex {
namespace {

using attaching = in_own_directory;

TEST_F(attaching, plain_memory_is_attached_by_hand) {
  const int fd = ::memfd_create("m", 0);
  ASSERT_EQ(::ftruncate(fd, 1 << 20), 0);
  void* one = ::mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  heap h = must(heap::create("a"));
  // Annex does not know the descriptor.
  const region_id id = must(h.add_memory({.base = one, .length_bytes = 1 << 20}));
  void* block = h.allocate(100);
  std::strcpy(static_cast<char*>(block), "across");
  const handle where = h.handle_of(block);
  child_process child([&] {
    heap mine = must(attach_as_another("a"));
    if (mine.allocate(100) != nullptr) return 1;  // never a block of memory that is not here
    if (heap::last_failure().why != explanation::cause::not_attached) return 2;
    if (refused(mine.resolve(where)) != errc::cannot_attach) return 3;
    if (refused(mine.attach_memory(id)) != errc::cannot_attach) return 4;
    void* two =
        ::mmap(nullptr, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    two = ::mmap(static_cast<char*>(two) + 4096, 1 << 20, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_FIXED, fd, 0);
    if (refused(mine.attach_memory(id, nullptr)) != errc::invalid_argument) return 5;
    if (refused(mine.attach_memory(id, static_cast<char*>(two) + 8)) != errc::bad_alignment)
      return 6;
    if (refused(mine.attach_memory(region_id{9}, two)) != errc::no_such_region) return 7;
    // The inherited heap has it there.
    if (refused(mine.attach_memory(id, one)) != errc::region_overlap) return 8;
    must(mine.attach_memory(id, two));
    if (refused(mine.attach_memory(id, two)) != errc::already_attached) return 9;
    if (std::strcmp(static_cast<char*>(must(mine.resolve(where))), "across") != 0) return 10;
    if (mine.allocate(100) == nullptr) return 11;
    must(mine.detach_memory(id));
    if (mine.allocate(100) != nullptr) return 12;
    if (refused(mine.detach_memory(id)) != errc::not_attached) return 13;
    if (refused(mine.detach_memory(region_id{9})) != errc::no_such_region) return 14;
    ::munmap(static_cast<char*>(two) + 4096, 4096);
    if (refused(mine.attach_memory(id, two)) != errc::not_mapped) return 15;
    ::mmap(static_cast<char*>(two) + 4096, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 4096);
    if (refused(mine.attach_memory(id, two)) != errc::not_writable) return 16;
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  expect_sound(h);
  ::close(fd);
}

TEST_F(attaching, memory_with_a_descriptor_is_attached_by_itself) {
  const int fd = ::memfd_create("m", 0);
  ASSERT_EQ(::ftruncate(fd, 1 << 20), 0);
  void* one = ::mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  heap h = must(heap::create("a"));
  must(h.add_memory({.base = one, .length_bytes = 1 << 20, .fd = fd}));
  ::close(fd);  // annex keeps a duplicate
  void* block = h.allocate(100);
  std::strcpy(static_cast<char*>(block), "across");
  const handle where = h.handle_of(block);
  child_process child([&] {
    heap mine = must(attach_as_another("a"));
    return std::strcmp(static_cast<char*>(must(mine.resolve(where))), "across");
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

TEST_F(attaching, manual_means_that_nothing_is_mapped_unasked) {
  heap h = heap_with(1 << 20, {}, "a");
  void* block = h.allocate(100);
  heap mine = must(attach_as_another("a", {.regions = attach_policy::manual}));
  EXPECT_EQ(mine.allocate(100), nullptr);
  EXPECT_EQ(refused(mine.resolve(h.handle_of(block))), errc::not_attached);
  must(mine.attach_memory(region_id{1}));
  EXPECT_NE(mine.allocate(100), nullptr);
  EXPECT_TRUE(mine.resolve(h.handle_of(block)).has_value());
}

TEST_F(attaching, a_file_that_was_cut_short_is_refused_not_mapped) {
  heap h = must(heap::create("a"));
  const std::string file = path() + "/backing";
  must(h.bring_memory({.from = memory_source::kind::file, .length_bytes = 1 << 20, .path = file}));
  std::filesystem::resize_file(file, 4096);
  heap mine = must(attach_as_another("a"));
  EXPECT_EQ(refused(mine.attach_memory(region_id{1})), errc::wrong_memory);
  std::filesystem::remove(file);
  std::ofstream(file) << "another file";
  heap third = must(attach_as_another("a", {.regions = attach_policy::manual}));
  const auto r = third.attach_memory(region_id{1});
  EXPECT_TRUE(refused(r) == errc::cannot_attach || r.error().code == errc::wrong_memory);
}

// Behind its tables a segment has spare bytes, so that nothing read at their end leaves the file.
// Whoever cuts the file there takes no truth away, but a repair has to give the bytes back.
TEST_F(attaching, a_segment_cut_within_its_spare_bytes_is_whole_after_a_repair) {
  u64 top = 0;
  {
    heap h = heap_with(1 << 20, {}, "a");
    must(h.reserve_zone("z", {.size_bytes = 5000}));
    top = h.internal()->here.seg.header().arena.top;
  }
  const std::string file = path() + "/a.annex";
  ASSERT_GT(std::filesystem::file_size(file), top + 4096);
  std::filesystem::resize_file(file, top + 4096);
  const repair_report done = must(heap::repair("a"));
  for (const std::string& sentence : done.after.broken)
    ADD_FAILURE() << "still " << sentence;
  EXPECT_GE(std::filesystem::file_size(file), top + spare_file_bytes);
  heap h = must(attach_as_another("a"));
  EXPECT_TRUE(h.find_zone("z").has_value());
  for (int i = 0; i < 1000; ++i)
    ASSERT_NE(h.allocate(1 + static_cast<std::size_t>(i)), nullptr);
  expect_sound(h);
}

TEST_F(attaching, read_only_sees_everything_and_changes_nothing) {
  heap h = heap_with(1 << 20, {}, "a");
  auto* block = static_cast<char*>(h.allocate(100));
  std::strcpy(block, "seen");
  must(h.reserve_zone("z", {.size_bytes = 10}));
  heap look = must(attach_as_another("a", {.read_only = true}));
  EXPECT_EQ(look.stats().live_blocks, 2u);
  EXPECT_STREQ(static_cast<char*>(must(look.resolve(h.handle_of(block)))), "seen");
  EXPECT_NE(must(look.find_zone("z")).address, nullptr);
  EXPECT_TRUE(must(look.audit()).holds());
  EXPECT_EQ(look.members().size(), 1u) << "who only looks is no member";
  EXPECT_EQ(look.allocate(10), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::read_only);
  EXPECT_EQ(look.allocate(100000), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::read_only);
  mapped_memory m(4096);
  EXPECT_EQ(refused(look.add_memory(m.range())), errc::read_only);
  EXPECT_EQ(refused(look.bring_memory({.length_bytes = 4096})), errc::read_only);
  EXPECT_EQ(refused(look.remove_memory(region_id{1})), errc::read_only);
  EXPECT_EQ(refused(look.drain_memory(region_id{1}, std::chrono::seconds(1))), errc::read_only);
  EXPECT_EQ(refused(look.cancel_drain(region_id{1})), errc::read_only);
  EXPECT_EQ(refused(look.reserve_zone("y", {.size_bytes = 1})), errc::read_only);
  EXPECT_EQ(refused(look.release_zone("z")), errc::read_only);
  EXPECT_EQ(refused(look.for_each_block([](const block_summary&) {})), errc::read_only);
  EXPECT_EQ(refused(look.reap(member_id{1})), errc::read_only);
  EXPECT_EQ(refused(look.hold(region_id{1})), errc::read_only);
  EXPECT_EQ(refused(raw_pool::open(look, "z")), errc::read_only);
  EXPECT_EQ(refused(raw_pool::create(look, "p", {.object_bytes = 8, .object_count = 8})),
            errc::read_only);
  EXPECT_EQ(refused(ring::create(look, "r", 8)), errc::read_only);
  EXPECT_EQ(refused(ring::open(look, "r")), errc::read_only);
  EXPECT_EQ(refused(ring::release(look, "r")), errc::read_only);
  EXPECT_EQ(look.recover(), 0u);
  EXPECT_DEATH(static_cast<char*>(must(look.find_zone("z")).address)[0] = 1, "")
      << "enforced by the mapping";
}

TEST_F(attaching, foreign_and_newer_segments_are_refused) {
  { heap h = must(heap::create("a")); }
  const std::string file = path() + "/a.annex";
  auto change = [&](std::size_t offset, auto value) {
    const int fd = ::open(file.c_str(), O_RDWR);
    EXPECT_EQ(::pwrite(fd, &value, sizeof value, static_cast<off_t>(offset)),
              static_cast<ssize_t>(sizeof value));
    ::close(fd);
  };
  change(offsetof(segment_header, layout_major), layout_major + 1);
  const auto newer = attach_as_another("a");
  EXPECT_EQ(refused(newer), errc::incompatible_layout);
  EXPECT_NE(newer.error().message().find(std::to_string(layout_major) + ".0"),
            std::string_view::npos)
      << newer.error().message();
  change(offsetof(segment_header, layout_major), layout_major);
  change(offsetof(segment_header, layout_minor), u32{7});
  EXPECT_EQ(refused(attach_as_another("a")), errc::corrupt) << "its seal says another";
  {
    const opened_segment s("a");
    change(offsetof(segment_header, seal), seal_of_header(s.view().header()));
  }
  must(attach_as_another("a"));  // newer minor versions add only
  change(offsetof(segment_header, layout_hash), u64{1});
  EXPECT_EQ(refused(attach_as_another("a")), errc::incompatible_layout);
  EXPECT_EQ(refused(heap::destroy("a")), errc::incompatible_layout);
  change(0, u64{0});
  EXPECT_EQ(refused(attach_as_another("a")), errc::corrupt);
  EXPECT_EQ(refused(heap::destroy("a")), errc::corrupt);
  std::ofstream(path() + "/short.annex") << "short";
  EXPECT_EQ(refused(attach_as_another("short")), errc::corrupt);
}

TEST_F(attaching, damage_is_found_and_named) {
  { heap h = heap_with(1 << 20, {}, "a"); }
  const int fd = ::open((path() + "/a.annex").c_str(), O_RDWR);
  const u32 wrong = 12345;
  ASSERT_EQ(::pwrite(fd, &wrong, sizeof wrong, offsetof(segment_header, region_count)), 4);
  ::close(fd);
  const auto r = attach_as_another("a");
  EXPECT_EQ(refused(r), errc::corrupt);
  EXPECT_NE(r.error().message().find("12345"), std::string_view::npos) << r.error().message();
}

TEST_F(attaching, permissions_are_the_files) {
  if (::getuid() == 0) {
    { heap h = must(heap::create("a")); }
    std::filesystem::permissions(path(), std::filesystem::perms::all);
    child_process child([] {
      if (::setgid(65534) != 0 || ::setuid(65534) != 0) return 9;
      return refused(attach_as_another("a")) == errc::permission &&
                     refused(attach_as_another("a", {.read_only = true})) == errc::permission &&
                     refused(heap::destroy("a")) == errc::permission
                 ? 0
                 : 1;
    });
    EXPECT_EQ(child.wait_for_exit_code(), 0);
  }
  std::filesystem::create_directory(path() + "/locked");
  ::setenv("ANNEX_DIR", (path() + "/locked").c_str(), 1);
  std::filesystem::permissions(path() + "/locked", std::filesystem::perms::none);
  child_process child([] {
    if (::getuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) return 9;
    return refused(heap::create("a")) == errc::permission ? 0 : 1;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

}  // namespace
}  // namespace annex
