// tests/views_test.cpp - offset_ptr, containers that two processes share, the pmr resource.
#include <list>
#include <memory_resource>
#include <string>
#include <unordered_map>
#include <vector>

#include "another_member.hpp"
#include "support.hpp"

namespace annex {
namespace {

using views = in_own_directory;

TEST_F(views, an_offset_pointer_behaves_like_a_pointer) {
  int numbers[4] = {1, 2, 3, 4};
  offset_ptr<int> p(numbers), null;
  EXPECT_FALSE(null);
  EXPECT_EQ(null, offset_ptr<int>(nullptr));
  EXPECT_EQ(*p, 1);
  EXPECT_EQ(p[2], 3);
  EXPECT_EQ(*++p, 2);
  EXPECT_EQ(*(p + 2), 4);
  offset_ptr<int> end = offset_ptr<int>(numbers) + 4;
  EXPECT_EQ(end - p, 3);
  EXPECT_LT(p, end);
  offset_ptr<const int> constant = p;
  EXPECT_EQ(*constant, 2);
  offset_ptr<void> untyped = p;
  EXPECT_EQ(untyped.get(), &numbers[1]);
  EXPECT_EQ(*offset_ptr<int>(untyped), 2);
  offset_ptr<offset_ptr<int>> itself;
  struct node {
    offset_ptr<node> next;
    int value;
  } a{}, b{};
  a.next = &b;
  b.next = &a;
  node copy = a;
  EXPECT_EQ(copy.next.get(), &b) << "a copy points to the same thing";
}

struct shared_list {
  struct node {
    offset_ptr<node> next;
    int value;
  };
  offset_ptr<node> first;
  std::vector<int, offset_allocator<int>> numbers;
  explicit shared_list(const heap& h) : numbers(offset_allocator<int>(h)) {}
};

TEST_F(views, containers_are_shared_by_processes_at_different_addresses) {
  heap h = heap_with(4 << 20, {}, "a");
  const zone z = must(h.reserve_zone("list", {.size_bytes = sizeof(shared_list)}));
  auto* list = new (z.address) shared_list(h);
  for (int i = 0; i < 1000; ++i)
    list->numbers.push_back(i);
  for (int i = 0; i < 10; ++i) {
    auto* n = new (h.allocate(sizeof(shared_list::node))) shared_list::node{};
    n->value = i;
    n->next = list->first;
    list->first = n;
  }
  child_process child([&] {
    heap mine = must(attach_as_another("a"));
    const zone here = must(mine.find_zone("list"));
    if (here.address == z.address) return 1;
    auto* ours = static_cast<shared_list*>(here.address);
    if (ours->numbers.size() != 1000 || ours->numbers[999] != 999) return 2;
    int sum = 0;
    for (auto n = ours->first; n; n = n->next)
      sum += n->value;
    if (sum != 45) return 3;
    ours->first->value = 100;
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  EXPECT_EQ(list->first->value, 100);
}

TEST_F(views, a_container_grows_in_another_process) {
  heap h = heap_with(4 << 20, {}, "a");
  const zone z = must(h.reserve_zone("list", {.size_bytes = sizeof(shared_list)}));
  auto* list = new (z.address) shared_list(h);
  h.free(h.allocate(16));
  child_process child([&] {
    // The inherited attachment ended with the fork's parent: this process attaches for itself, with
    // the first mapping gone.
    std::exchange(h, heap());
    heap mine = must(attach_as_another("a"));
    auto* ours = static_cast<shared_list*>(must(mine.find_zone("list")).address);
    for (int i = 0; i < 5000; ++i)
      ours->numbers.push_back(i);
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  ASSERT_EQ(list->numbers.size(), 5000u);
  for (int i = 0; i < 5000; ++i)
    EXPECT_EQ(list->numbers[static_cast<size_t>(i)], i);
}

TEST_F(views, standard_containers_live_in_a_heap) {
  heap h = heap_with(16 << 20), other = heap_with(1 << 20);
  heap_resource memory(h), same(h), different(other);
  EXPECT_TRUE(memory.is_equal(same));
  EXPECT_FALSE(memory.is_equal(different));
  {
    std::pmr::unordered_map<std::pmr::string, std::pmr::vector<int>> map(&memory);
    for (int i = 0; i < 2000; ++i)
      map[std::pmr::string("a key that is long enough to be allocated " + std::to_string(i),
                           &memory)]
          .assign(static_cast<size_t>(i % 50), i);
    EXPECT_EQ(map.size(), 2000u);
    EXPECT_GT(h.stats().live_blocks, 4000u);
    EXPECT_EQ(heap::locate(map.begin()->first.data())->heap, h.id());
    std::pmr::list<int> list(&memory);
    list.assign(1000, 7);
  }
  EXPECT_EQ(h.stats().live_blocks, 0u);
  std::pmr::vector<char> too_big(&different);
  EXPECT_THROW(too_big.resize(2 << 20), std::bad_alloc);
  void* aligned = memory.allocate(100, 4096);
  EXPECT_EQ(reinterpret_cast<u64>(aligned) % 4096, 0u);
  memory.deallocate(aligned, 100, 4096);
  memory.deallocate(memory.allocate(0), 0);
  expect_sound(h);
}

}  // namespace
}  // namespace annex
