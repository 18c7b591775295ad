// tests/untouched_test.cpp - annex never touches the memory it was given: it works where any touch
// would be a fault.
#include <algorithm>
#include <random>
#include <thread>

#include "support.hpp"

namespace annex {
namespace {

using untouched = in_own_directory;

// A region that can't be read or written, over a file in which any page that was ever touched would
// show.
struct forbidden {
  explicit forbidden(heap& h, std::size_t bytes) : size(bytes), fd(::memfd_create("forbidden", 0)) {
    EXPECT_EQ(::ftruncate(fd, static_cast<off_t>(bytes)), 0);
    base = ::mmap(nullptr, bytes, PROT_NONE, MAP_SHARED, fd, 0);
    id = must(h.add_memory({.base = base, .length_bytes = bytes, .access = touch::none}));
  }
  ~forbidden() {
    ::munmap(base, size);
    ::close(fd);
  }
  void expect_untouched() const {
    struct stat s {};
    ASSERT_EQ(::fstat(fd, &s), 0);
    EXPECT_EQ(s.st_blocks, 0) << "pages came into being: somebody touched them";
  }
  std::size_t size;
  int fd;
  void* base;
  region_id id{};
};

TEST_F(untouched, allocate_free_zones_pools_and_removal_touch_no_byte) {
  for (const bool checked : {false, true}) {
    heap h = heap_with(0, {.checked = checked});
    forbidden memory(h, 64 << 20);
    std::mt19937 random(1);
    std::vector<void*> blocks;
    for (int i = 0; i < 200000; ++i) {
      if (blocks.size() < 2000 && random() % 2 == 0) {
        const std::size_t size =
            random() % 20 == 0 ? 65537 + random() % 200000 : 1 + random() % 3000;
        if (void* block = h.allocate(size)) blocks.push_back(block);
      } else if (!blocks.empty()) {
        std::swap(blocks[random() % blocks.size()], blocks.back());
        heap::free(blocks.back());
        blocks.pop_back();
      }
    }
    std::thread([&] { heap::free_bulk(blocks); }).join();
    h.trim();
    void* aligned = h.allocate({.size_bytes = 100000, .align_bytes = 1 << 20});
    EXPECT_EQ(h.reallocate(aligned, 200000), aligned);
    heap::free(aligned);
    const zone z = must(h.reserve_zone("z", {.size_bytes = 12345}));
    EXPECT_EQ(must(h.resolve(z.where)), z.address);
    must(h.release_zone("z"));
    raw_pool pool = must(raw_pool::create(h, "p", {.object_bytes = 500, .object_count = 2000}));
    std::vector<void*> objects(2000);
    EXPECT_EQ(pool.take_bulk(objects), 2000u);
    pool.give_bulk(objects);
    must(raw_pool::release(h, "p"));
    EXPECT_EQ(heap::locate(static_cast<char*>(memory.base) + 5)->offset_bytes, 5u);
    expect_sound(h);
    h.trim();
    EXPECT_EQ(h.stats().free_bytes, 64u << 20);
    must(h.remove_memory(memory.id));
    memory.expect_untouched();
  }
}

TEST_F(untouched, memory_that_is_not_even_mapped_here_works) {
  heap h = heap_with(0);
  // An address range as a device would have it: nothing is there.
  void* hole = ::mmap(nullptr, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ::munmap(hole, 1 << 20);
  must(h.add_memory({.base = hole, .length_bytes = 1 << 20, .access = touch::none}));
  std::vector<void*> blocks;
  while (void* block = h.allocate(1000))
    blocks.push_back(block);
  EXPECT_GT(blocks.size(), 900u);
  heap::free_bulk(blocks);
  expect_sound(h);
}

TEST_F(untouched, a_heap_of_both_kinds_gives_touchable_memory_for_zeroing) {
  heap h = heap_with(0);
  forbidden memory(h, 1 << 20);
  must(h.bring_memory({.length_bytes = 1 << 20}));
  for (const std::size_t size : {std::size_t{100}, std::size_t{100000}}) {
    void* block = h.allocate({.size_bytes = size, .zeroed = true});
    ASSERT_NE(block, nullptr) << heap::last_failure().message();
    EXPECT_NE(heap::locate(block)->region, memory.id);
    heap::free(block);
  }
  memory.expect_untouched();
}

TEST_F(untouched, adding_and_removing_touch_nothing_either) {
  heap h = heap_with(0);
  const int fd = ::memfd_create("m", 0);
  ASSERT_EQ(::ftruncate(fd, 1 << 30), 0);
  void* base = ::mmap(nullptr, 1 << 30, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const region_id id = must(h.add_memory({.base = base, .length_bytes = 1 << 30, .fd = fd}));
  for (int i = 0; i < 10000; ++i)
    heap::free(h.allocate(static_cast<std::size_t>(i) + 1));
  must(h.remove_memory(id));
  struct stat s {};
  ::fstat(fd, &s);
  EXPECT_EQ(s.st_blocks, 0);
  ::munmap(base, 1 << 30);
  ::close(fd);
}

}  // namespace
}  // namespace annex
