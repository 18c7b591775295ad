// tests/containers_test.cpp - containers of the standard library and of Boost in a heap of several
// regions, filled in one process and read in another, to which each region lies elsewhere and at
// another distance from the next.
#include <deque>
#include <iterator>
#include <new>
#include <ranges>
#include <sstream>
#include <vector>

#include "support.hpp"

#if __has_include(<boost/container/vector.hpp>) && __has_include(<boost/unordered_map.hpp>)
#define ANNEX_TEST_BOOST 1
#include <boost/circular_buffer.hpp>
#include <boost/container/deque.hpp>
#include <boost/container/flat_map.hpp>
#include <boost/container/flat_set.hpp>
#include <boost/container/list.hpp>
#include <boost/container/map.hpp>
#include <boost/container/scoped_allocator.hpp>
#include <boost/container/set.hpp>
#include <boost/container/slist.hpp>
#include <boost/container/stable_vector.hpp>
#include <boost/container/string.hpp>
#include <boost/container/vector.hpp>
#include <boost/intrusive/list.hpp>
#include <boost/multi_index/hashed_index.hpp>
#include <boost/multi_index/identity.hpp>
#include <boost/multi_index/ordered_index.hpp>
#include <boost/multi_index_container.hpp>
#include <boost/unordered_map.hpp>
#include <boost/unordered_set.hpp>
#endif

namespace annex {
namespace {

template <class T>
using allocator = offset_allocator<T>;
using numbers = std::vector<int, allocator<int>>;

constexpr int count = 3000;

/// What is allocated by hand comes from either.
heap two_regions(std::size_t first_bytes = 4 << 20, std::size_t second_bytes = 64 << 20) {
  heap h = heap_with(first_bytes, {}, "c");
  must(h.bring_memory({.length_bytes = second_bytes}));
  return h;
}
/// Memory for an object in the region with this number.
template <class T>
void* place_in(heap& h, region_id region) {
  std::vector<void*> others;
  void* block = nullptr;
  for (;;) {
    block = h.allocate(placement{.size_bytes = std::max<std::size_t>(sizeof(T), 128 << 10)});
    if (block == nullptr || heap::locate(block)->region == region) break;
    others.push_back(block);
  }
  for (void* other : others)
    heap::free(other);
  return block;
}
std::vector<region_id> regions_of(const heap& h) {
  std::vector<region_id> all;
  h.for_each_region([&](const region_summary& r) { all.push_back(r.id); });
  return all;
}

using containers = in_own_directory;

/// Another process, which was there before the heap and has every region at another distance from
/// the next.
class reader {
 public:
  template <class Body>
  explicit reader(Body body) {
    if (::pipe(ends_) != 0) std::abort();
    child_.emplace([this, body] {
      handle where{};
      if (::read(ends_[0], &where, sizeof where) != sizeof where) return 99;
      heap h = must(heap::attach("c", {.regions = attach_policy::manual}));
      std::vector<region_id> ids;
      h.for_each_region([&](const region_summary& r) { ids.push_back(r.id); });
      for (const region_id id : ids | std::views::reverse) {
        (void)::mmap(nullptr, 5 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(h.attach_memory(id));
      }
      return body(h, must(h.resolve(where))) ? 0 : 1;
    });
  }
  int read(handle where) {
    if (::write(ends_[1], &where, sizeof where) != sizeof where) return 98;
    return child_->wait_for_exit_code();
  }

 private:
  int ends_[2];
  std::optional<child_process> child_;
};

/// Fills one in the second region, has it read and filled further by another process, and looks
/// again.
template <class Container, class Fill, class Good>
void is_shared(Fill fill, Good good) {
  reader other([=](heap&, void* where) {
    auto& c = *static_cast<Container*>(where);
    if (!good(c, 1)) return false;
    fill(c, 1);
    return good(c, 2);
  });
  heap h = two_regions();
  void* const memory = place_in<Container>(h, regions_of(h)[1]);
  auto* c = new (memory) Container(typename Container::allocator_type(h));
  fill(*c, 0);
  ASSERT_TRUE(good(*c, 1));
  EXPECT_EQ(other.read(h.handle_of(memory)), 0);
  EXPECT_TRUE(good(*c, 2));
  c->~Container();
  heap::free(memory);
  EXPECT_EQ(h.stats().live_blocks, 0u);
  expect_sound(h);
}

constexpr auto push_numbers = [](auto& c, int round) {
  for (int i = 0; i < count; ++i)
    c.insert(c.end(), round * count + i);
};
constexpr auto has_numbers = [](auto& c, int rounds) {
  long sum = 0, n = 0;
  for (int i : c)
    sum += i, ++n;
  return n == rounds * count && sum == long{rounds} * count * (rounds * count - 1) / 2;
};
constexpr auto push_pairs = [](auto& c, int round) {
  for (int i = 0; i < count; ++i)
    c[round * count + i] = i + 7;
};
constexpr auto has_pairs = [](auto& c, int rounds) {
  for (int i = 0; i < rounds * count; ++i)
    if (auto at = c.find(i); at == c.end() || at->second != i % count + 7) return false;
  return static_cast<int>(c.size()) == rounds * count;
};

#define SHARED(name, fill, good, ...)   \
  TEST_F(containers, name) {            \
    is_shared<__VA_ARGS__>(fill, good); \
  }

SHARED(a_standard_vector_is_shared, push_numbers, has_numbers, numbers)
SHARED(a_standard_deque_is_shared, push_numbers, has_numbers, std::deque<int, allocator<int>>)

#ifdef ANNEX_TEST_BOOST
namespace bc = boost::container;
using text = bc::basic_string<char, std::char_traits<char>, allocator<char>>;
template <class T>
using of_pairs = allocator<std::pair<const int, T>>;

SHARED(boosts_vector_is_shared, push_numbers, has_numbers, bc::vector<int, allocator<int>>)
SHARED(boosts_stable_vector_is_shared, push_numbers, has_numbers,
       bc::stable_vector<int, allocator<int>>)
SHARED(boosts_deque_is_shared, push_numbers, has_numbers, bc::deque<int, allocator<int>>)
SHARED(boosts_list_is_shared, push_numbers, has_numbers, bc::list<int, allocator<int>>)
SHARED(boosts_set_is_shared, push_numbers, has_numbers,
       bc::set<int, std::less<int>, allocator<int>>)
SHARED(boosts_flat_set_is_shared, push_numbers, has_numbers,
       bc::flat_set<int, std::less<int>, allocator<int>>)
SHARED(boosts_map_is_shared, push_pairs, has_pairs,
       bc::map<int, int, std::less<int>, of_pairs<int>>)
SHARED(boosts_flat_map_is_shared, push_pairs, has_pairs,
       bc::flat_map<int, int, std::less<int>, allocator<std::pair<int, int>>>)
SHARED(boosts_unordered_map_is_shared, push_pairs, has_pairs,
       boost::unordered_map<int, int, boost::hash<int>, std::equal_to<int>, of_pairs<int>>)
constexpr auto insert_numbers = [](auto& c, int round) {
  for (int i = 0; i < count; ++i)
    c.insert(round * count + i);
};
SHARED(boosts_unordered_set_is_shared, insert_numbers, has_numbers,
       boost::unordered_set<int, boost::hash<int>, std::equal_to<int>, allocator<int>>)

constexpr auto push_letters = [](auto& c, int round) {
  for (int i = 0; i < count; ++i)
    c.push_back(static_cast<char>('a' + (round * count + i) % 26));
};
constexpr auto has_letters = [](auto& c, int rounds) {
  for (int i = 0; i < rounds * count; ++i)
    if (c[static_cast<std::size_t>(i)] != 'a' + i % 26) return false;
  return static_cast<int>(c.size()) == rounds * count;
};
SHARED(boosts_string_is_shared, push_letters, has_letters, text)

using texts = bc::vector<text, bc::scoped_allocator_adaptor<allocator<text>>>;
std::string text_of(int i) {
  return std::string(static_cast<std::size_t>(i % 60), static_cast<char>('a' + i % 26)) +
         std::to_string(i);
}
constexpr auto push_texts = [](auto& c, int round) {
  for (int i = 0; i < count; ++i)
    c.emplace_back(text_of(round * count + i).c_str());
};
constexpr auto has_texts = [](auto& c, int rounds) {
  for (int i = 0; i < rounds * count; ++i)
    if (c[static_cast<std::size_t>(i)] != text_of(i).c_str()) return false;
  return static_cast<int>(c.size()) == rounds * count;
};
SHARED(strings_in_boosts_vector_are_shared, push_texts, has_texts, texts)

namespace mi = boost::multi_index;
using indexed = mi::multi_index_container<
    int,
    mi::indexed_by<mi::ordered_unique<mi::identity<int>>, mi::hashed_unique<mi::identity<int>>>,
    allocator<int>>;
SHARED(boosts_multi_index_container_is_shared, insert_numbers, has_numbers, indexed)

constexpr auto push_round = [](auto& c, int round) {
  if (c.capacity() == 0) c.set_capacity(2 * count);
  for (int i = 0; i < count; ++i)
    c.push_back(round * count + i);
};
SHARED(boosts_circular_buffer_is_shared, push_round, has_numbers,
       boost::circular_buffer<int, allocator<int>>)

TEST_F(containers, boosts_intrusive_containers_link_by_offset_pointers) {
  struct node : boost::intrusive::list_base_hook<boost::intrusive::void_pointer<offset_ptr<void>>> {
    int value = 0;
  };
  struct shared {
    boost::intrusive::list<node> list;
    node nodes[100];
  };
  reader other([](heap&, void* where) {
    int sum = 0;
    for (const node& n : static_cast<shared*>(where)->list)
      sum += n.value;
    return sum == 4950;
  });
  heap h = two_regions();
  auto* s = new (h.allocate(sizeof(shared))) shared;
  for (int i = 0; i < 100; ++i) {
    s->nodes[i].value = i;
    s->list.push_back(s->nodes[i]);
  }
  EXPECT_EQ(other.read(h.handle_of(s)), 0);
  s->list.clear();
}

TEST_F(containers, of_boost_are_copied_between_regions_and_keep_to_their_own) {
  heap h = two_regions(32 << 20, 64 << 20);
  const auto regions = regions_of(h);
  auto check = [&]<class C>(C*, auto fill, auto good) {
    try {
      void* const there = place_in<C>(h, regions[0]);
      void* const here = place_in<C>(h, regions[1]);
      auto* original = new (there) C(typename C::allocator_type(h));
      fill(*original, 0);
      auto in_first = [&](const void* p) { return heap::locate(p)->region == regions[0]; };
      auto* copy = new (here) C(*original);
      EXPECT_TRUE(good(*copy, 1));
      EXPECT_FALSE(in_first(&*copy->begin())) << "of a copy";
      copy->clear();
      *copy = *original;
      EXPECT_TRUE(good(*copy, 1));
      EXPECT_FALSE(in_first(&*copy->begin())) << "assigned";
      *copy = std::move(*original);
      EXPECT_TRUE(good(*copy, 1));
      EXPECT_FALSE(in_first(&*copy->begin())) << "move-assigned";
      copy->clear();
      fill(*copy, 0);
      C outside(*copy);
      EXPECT_TRUE(good(outside, 1));
      EXPECT_FALSE(in_first(&*outside.begin())) << "a copy on the stack: where the original's are";
      outside.swap(*copy);
      EXPECT_TRUE(good(*copy, 1));
      *copy = std::move(outside);
      EXPECT_TRUE(good(*copy, 1));
      original->~C();
      copy->~C();
      heap::free(there);
      heap::free(here);
    } catch (const std::bad_alloc&) {
      ADD_FAILURE() << __PRETTY_FUNCTION__ << heap::last_failure().message();
    }
  };
  check(static_cast<numbers*>(nullptr), push_numbers, has_numbers);
  check(static_cast<std::deque<int, allocator<int>>*>(nullptr), push_numbers, has_numbers);
  check(static_cast<bc::vector<int, allocator<int>>*>(nullptr), push_numbers, has_numbers);
  check(static_cast<bc::deque<int, allocator<int>>*>(nullptr), push_numbers, has_numbers);
  check(static_cast<bc::list<int, allocator<int>>*>(nullptr), push_numbers, has_numbers);
  check(static_cast<bc::set<int, std::less<int>, allocator<int>>*>(nullptr), push_numbers,
        has_numbers);
  check(static_cast<text*>(nullptr), push_letters, has_letters);
  check(static_cast<texts*>(nullptr), push_texts, has_texts);
  check(
      static_cast<bc::flat_map<int, int, std::less<int>, allocator<std::pair<int, int>>>*>(nullptr),
      push_pairs, has_pairs);
  check(static_cast<
            boost::unordered_map<int, int, boost::hash<int>, std::equal_to<int>, of_pairs<int>>*>(
            nullptr),
        push_pairs, has_pairs);
  EXPECT_EQ(h.stats().live_blocks, 0u);
  expect_sound(h);
}
#else
TEST_F(containers, of_boost_are_not_tried_without_boost) {
  GTEST_SKIP() << "no Boost headers: apt install libboost-dev";
}
#endif

// ---- which region -------------------------------------------------------------------------------

TEST_F(containers, a_buffer_that_the_containers_region_has_no_room_for_is_refused) {
  heap h = two_regions();
  const region_id small = regions_of(h)[0];
  auto* v = new (place_in<numbers>(h, small)) numbers(allocator<int>(h));
  EXPECT_THROW(v->resize(8 << 20), std::bad_alloc);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::one_region);
  EXPECT_NE(std::string(heap::last_failure().message())
                .find("region " + std::to_string(static_cast<u32>(small))),
            std::string::npos);
  v->resize(1000, 5);
  EXPECT_EQ(heap::locate(v->data())->region, small);
  int pushed = 0;
  try {
    for (;; ++pushed)
      v->push_back(pushed);
  } catch (const std::bad_alloc&) {
    EXPECT_GT(pushed, 100'000);
  }
  v->~vector();
  expect_sound(h);
}

TEST_F(containers, an_allocator_outside_the_heap_takes_the_region_it_is_made_with) {
  heap h = two_regions();
  for (const region_id region : regions_of(h)) {
    numbers v(100, 1, allocator<int>(h, region));
    EXPECT_EQ(heap::locate(v.data())->region, region);
    std::deque<int, allocator<int>> d(1000, 1, allocator<int>(h, v.data()));
    for (const int& i : d)
      ASSERT_EQ(heap::locate(&i)->region, region);
    EXPECT_EQ(d.get_allocator(), v.get_allocator());
  }
  numbers nowhere{allocator<int>(h)};
  EXPECT_THROW(nowhere.push_back(1), std::bad_alloc) << "two regions: which one is not said";
  EXPECT_NE(heap::last_failure().message().find("make its allocator with the region"),
            std::string_view::npos);
  numbers gone{allocator<int>(h, region_id{77})};
  EXPECT_THROW(gone.push_back(1), std::bad_alloc);
  EXPECT_EQ(h.stats().live_blocks, 0u);
}

TEST_F(containers, a_heap_of_one_region_serves_containers_outside_it) {
  heap h = heap_with(0);
  numbers v{allocator<int>(h)};
  EXPECT_THROW(v.push_back(1), std::bad_alloc) << "no memory yet";
  must(h.bring_memory({.length_bytes = 4 << 20}));
  v.push_back(1);
  must(h.bring_memory({.length_bytes = 4 << 20}));
  for (int i = 0; i < 1000; ++i)
    v.push_back(i);
  EXPECT_EQ(heap::locate(v.data())->region, regions_of(h)[0]);
  void* const memory = place_in<numbers>(h, regions_of(h)[0]);
  auto* in_heap = new (memory) numbers(std::move(v));
  EXPECT_EQ(in_heap->size(), 1001u);
  EXPECT_EQ(heap::locate(in_heap->data())->region, regions_of(h)[0]);
}

TEST_F(containers, a_region_that_is_removed_serves_no_container) {
  heap h = two_regions();
  const region_id second = regions_of(h)[1];
  numbers v{allocator<int>(h, second)};
  v.push_back(1);
  EXPECT_EQ(refused(h.remove_memory(second)), errc::blocks_live);
  v.clear();
  v.shrink_to_fit();
  must(h.remove_memory(second));
  EXPECT_THROW(v.push_back(1), std::bad_alloc);
  EXPECT_NE(heap::last_failure().message().find("has been removed"), std::string_view::npos);
}

// An id leads to a slot by the heap's own limit, and ids go on rising.
TEST_F(containers, lie_in_regions_whose_ids_are_beyond_the_limit) {
  heap h = heap_with(1 << 20, {.region_limit = 4}, "c");
  for (int i = 0; i < 20; ++i) {
    const region_id made = must(h.bring_memory({.length_bytes = 1 << 20}));
    {
      numbers v{allocator<int>(h, made)};
      for (int k = 0; k < count; ++k)
        v.push_back(k);
      EXPECT_EQ(heap::locate(v.data())->region, made) << "round " << i;
    }
    must(h.remove_memory(made));
  }
  expect_sound(h);
}

TEST_F(containers, in_memory_of_another_heap_get_nothing) {
  heap h = two_regions(), other = heap_with(1 << 20);
  auto* v = new (other.allocate(sizeof(numbers))) numbers(allocator<int>(h, regions_of(h)[0]));
  EXPECT_THROW(v->push_back(1), std::bad_alloc);
  EXPECT_NE(heap::last_failure().message().find("another heap"), std::string_view::npos);
}

TEST_F(containers, of_a_heap_that_is_attached_twice_stay_where_they_lie) {
  heap first = two_regions();
  auto second = heap::attach("c");
  if (!second) GTEST_SKIP() << "a second attachment is refused: " << second.error().message();
  void* const memory = must(second->reserve_zone("v", {.size_bytes = sizeof(numbers)})).address;
  auto* v = new (memory) numbers(allocator<int>(*second));
  v->resize(100);
  const auto distance = reinterpret_cast<char*>(v->data()) - static_cast<char*>(memory);
  EXPECT_LT(std::abs(distance), 64 << 20);
  EXPECT_EQ(heap::locate(v->data())->region, heap::locate(memory)->region);
}

TEST_F(containers, that_would_take_blocks_into_another_region_stop_the_program) {
  heap h = two_regions();
  const auto regions = regions_of(h);
  auto* there = new (place_in<numbers>(h, regions[0])) numbers(allocator<int>(h));
  auto* here = new (place_in<numbers>(h, regions[1])) numbers(allocator<int>(h));
  there->assign(10, 1);
  here->assign(20, 2);
  EXPECT_DEATH((void)new (place_in<numbers>(h, regions[1])) numbers(std::move(*there)),
               "was moved into another region");
  *here = std::move(*there);
  EXPECT_EQ(here->size(), 10u);
  EXPECT_EQ(heap::locate(here->data())->region, regions[1]);
  numbers nothing{allocator<int>(h)};
  nothing.swap(*here);
  EXPECT_TRUE(here->empty());
  EXPECT_EQ(nothing.size(), 10u);
  there->assign(10, 1);
  here->assign(20, 2);
  // They are lost.
  EXPECT_DEATH(there->swap(*here), "two containers were swapped, whose blocks lie in region");
}

// ---- what it costs ------------------------------------------------------------------------------

TEST_F(containers, small_buffers_share_slabs) {
  heap h = two_regions(32 << 20, 32 << 20);
  const region_id first = regions_of(h)[0];
  std::vector<numbers> many;
  const u64 before = h.stats().free_bytes;
  for (int i = 0; i < 1000; ++i)
    many.emplace_back(allocator<int>(h, first)).assign(10, i);
  for (const numbers& v : many)
    ASSERT_EQ(heap::locate(v.data())->region, first);
  EXPECT_LE(before - h.stats().free_bytes, u64{256} << 10) << "1000 buffers of 40 bytes";
  many.clear();
  h.trim();
  EXPECT_EQ(h.stats().live_blocks, 0u);
  EXPECT_EQ(h.stats().free_bytes, before);
  expect_sound(h);
}

TEST_F(containers, find_blocks_that_another_thread_freed_in_a_full_region) {
  heap h = two_regions(1 << 20, 32 << 20);
  const region_id first = regions_of(h)[0];
  std::vector<numbers> all;
  auto fill = [&] {
    try {
      for (;;)
        all.emplace_back(allocator<int>(h, first)).assign(200, 1);
    } catch (const std::bad_alloc&) {}
    return all.size();
  };
  const std::size_t fitted = fill();
  EXPECT_GT(fitted, 1000u);
  std::thread([&] { all.clear(); }).join();
  EXPECT_GE(fill(), fitted - 2);
  all.clear();
  expect_sound(h);
}

// ---- the pointer --------------------------------------------------------------------------------

struct base {
  virtual ~base() = default;
  int x = 1;
};
struct derived : base {
  int y = 2;
};

TEST(offset_pointer, stands_wherever_a_pointer_may) {
  using pointer = offset_ptr<int>;
  static_assert(std::random_access_iterator<pointer> &&
                std::random_access_iterator<offset_ptr<const int>>);
  static_assert(std::is_convertible_v<int*, pointer> &&
                std::is_convertible_v<std::nullptr_t, pointer>);
  static_assert(std::is_convertible_v<pointer, offset_ptr<const int>> &&
                !std::is_convertible_v<offset_ptr<const int>, pointer>);
  static_assert(std::is_convertible_v<pointer, offset_ptr<void>> &&
                !std::is_convertible_v<offset_ptr<void>, pointer>);
  static_assert(!std::is_convertible_v<pointer, bool> && std::is_constructible_v<bool, pointer>);
  static_assert(
      std::is_same_v<std::pointer_traits<pointer>::rebind<const char>, offset_ptr<const char>>);
  static_assert(std::is_same_v<std::pointer_traits<offset_ptr<void>>::rebind<int>, pointer>);
  static_assert(std::is_same_v<std::pointer_traits<pointer>::element_type, int>);
  int array[4] = {1, 2, 3, 4};
  pointer p = array, zero = 0, null = nullptr, from_zero(0);
  EXPECT_TRUE(p == array && array == p && p != nullptr && nullptr != p && zero == 0 &&
              zero == null && !from_zero);
  EXPECT_EQ(std::pointer_traits<pointer>::pointer_to(array[2]).get(), array + 2);
  EXPECT_EQ(std::to_address(p), array);
  EXPECT_EQ(*(2 + p), 3);
  EXPECT_EQ(std::hash<pointer>{}(p), std::hash<int*>{}(array));
  EXPECT_TRUE(p < p + 1 && p + 1 > array && (p <=> array) == std::strong_ordering::equal);
  p = 0;
  EXPECT_FALSE(p);
  p = array + 1;
  swap(p, null);
  EXPECT_EQ(null.get(), array + 1);
  EXPECT_EQ(p, nullptr);
}

TEST(offset_pointer, is_cast_as_a_pointer_is) {
  derived d;
  base b;
  const offset_ptr<base> p = &d, other = &b;
  EXPECT_EQ(static_pointer_cast<derived>(p)->y, 2);
  EXPECT_EQ(dynamic_pointer_cast<derived>(p).get(), &d);
  EXPECT_EQ(dynamic_pointer_cast<derived>(other), nullptr);
  const offset_ptr<const derived> constant = &d;
  EXPECT_EQ(const_pointer_cast<derived>(constant).get(), &d);
  EXPECT_EQ(static_cast<void*>(reinterpret_pointer_cast<char>(p).get()), static_cast<base*>(&d));
  EXPECT_EQ(static_cast<offset_ptr<derived>>(p).get(), &d);
}

}  // namespace
}  // namespace annex
