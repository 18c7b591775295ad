// tests/defect_test.cpp - the nineteen defects of DPDK's external memory: annex does it right.
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "another_member.hpp"
#include "support.hpp"

namespace annex {
namespace {

using namespace std::chrono_literals;
using defects = in_own_directory;

TEST_F(defects, b1_names_stay_unique_when_holes_appear) {
  heap a = must(heap::create("a")), c = must(heap::create("c"));
  { heap b = must(heap::create("b")); }
  must(heap::destroy("b"));
  EXPECT_EQ(refused(heap::create("c")), errc::name_taken);
}

TEST_F(defects, b2_overlap_is_refused_and_no_address_is_given_out_twice) {
  heap a = heap_with(0), b = heap_with(0);
  mapped_memory m(1 << 20);
  std::memset(m.data(), 5, m.size());
  must(a.add_memory(m.range()));
  EXPECT_EQ(refused(b.add_memory(m.range())), errc::region_overlap);
  EXPECT_EQ(
      refused(a.add_memory(
          {.base = m.data() + 4096, .length_bytes = m.size() - 4096, .contents = fill::zero})),
      errc::region_overlap);
  EXPECT_EQ(m.data()[5000], 5) << "and nothing was erased";
}

TEST_F(defects, b3_a_refused_removal_changes_nothing_and_may_be_repeated) {
  heap h = heap_with(1 << 20, {}, "a");
  heap other = must(attach_as_another("a"));
  void* block = other.allocate(100);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(refused(h.remove_memory(region_id{1})), errc::blocks_live);
    EXPECT_EQ(h.stats().total_bytes, 1u << 20);
    void* more = h.allocate(1000);
    EXPECT_NE(more, nullptr);
    heap::free(more);
  }
  heap::free(block);
  must(h.remove_memory(region_id{1}));
}

TEST_F(defects, b4_b5_a_region_is_not_torn_out_behind_the_heaps_back) {
  heap h = heap_with(0);
  mapped_memory m(1 << 20);
  const region_id id = must(h.add_memory(m.range()));
  void* block = h.allocate(100);
  must(h.detach_memory(id));  // in the process that added it
  EXPECT_FALSE(heap::locate(block)) << "looked up without a fault";
  EXPECT_EQ(h.stats().total_bytes, 1u << 20) << "it is the heap's still";
  EXPECT_EQ(refused(h.remove_memory(id)), errc::blocks_live);
  must(h.attach_memory(id, m.data()));
  EXPECT_EQ(heap::usable_size(block), 112u);
  heap::free(block);
  must(h.remove_memory(id));
}

TEST_F(defects, b6_contiguity_is_never_granted_without_iovas_and_zones_stay_in_their_heap) {
  heap h = heap_with(1 << 20);
  EXPECT_EQ(refused(h.reserve_zone("z", {.size_bytes = 8192, .iova_contiguous = true})),
            errc::out_of_memory);
  EXPECT_EQ(refused(h.reserve_zone("z", {.size_bytes = 0, .iova_contiguous = true})),
            errc::out_of_memory);
  const zone all = must(h.reserve_zone("all", {.size_bytes = 0}));
  EXPECT_EQ(heap::locate(all.address)->heap, h.id());
}

TEST_F(defects, b7_b18_page_counts_do_not_overflow) {
  heap h = must(heap::create_private());
  mapped_memory m(400 * GiB, PROT_NONE);  // 104,857,600 pages of 4 KiB
  memory_range r = m.range();
  r.access = touch::none;
  must(h.add_memory(r));
  EXPECT_EQ(h.stats().total_bytes, 400 * GiB);
  EXPECT_EQ(heap::locate(m.data() + 400 * GiB - 1)->offset_bytes, 400 * GiB - 1);
  EXPECT_EQ(h.allocate(400 * GiB), m.data());
}

TEST_F(defects, b8_zeroing_stays_inside_the_block) {
  heap h = heap_with(1 << 20);
  auto* all = static_cast<char*>(h.allocate(1 << 20));
  std::memset(all, 7, 1 << 20);
  heap::free(all);
  auto* block =
      static_cast<char*>(h.allocate({.size_bytes = 5000, .align_bytes = 8192, .zeroed = true}));
  EXPECT_EQ(block[4999], 0);
  EXPECT_EQ(all[block - all + 5000], 7);
}

TEST_F(defects,
       b9_addresses_that_wrap_are_refused_and_an_observer_can_refuse_what_its_device_cannot_reach) {
  struct mask : observer {
    std::string_view name() const noexcept override { return "32-bit device"; }
    result<void> on_add(const region_view& r) override {
      for (const auto& run : r.runs)
        if (static_cast<u64>(run.bus_address) + run.length_bytes > 4 * GiB)
          return std::unexpected(error{errc::bad_iova, 0, "above 4 GiB"});
      return {};
    }
    result<void> finish_remove(const region_view&, std::chrono::steady_clock::time_point) override {
      return {};
    }
  } device;
  heap h = heap_with(0);
  observation o = must(h.observe(device));
  mapped_memory m(4096);
  const std::vector<iova> high{iova{4 * GiB}}, none{no_iova}, low{iova{4 * GiB - 4096}};
  memory_range r = m.range();
  r.page_iovas = high;
  EXPECT_EQ(refused(h.add_memory(r)), errc::vetoed);
  r.page_iovas = none;
  EXPECT_EQ(refused(h.add_memory(r)), errc::bad_iova);
  r.page_iovas = low;
  must(h.add_memory(r));
}

TEST_F(defects, b10_reallocation_does_what_it_says) {
  heap h = heap_with(1 << 20), other = heap_with(1 << 20);
  void* p = h.allocate(100);
  EXPECT_EQ(other.reallocate(p, 100), p) << "same size: same block, whatever heap is asked";
  void* moved = other.reallocate(p, 5000);
  EXPECT_EQ(heap::locate(moved)->heap, h.id()) << "a block stays in its heap";
  EXPECT_EQ(h.reallocate(moved, 0), nullptr);
  EXPECT_EQ(h.stats().live_blocks, 0u) << "size 0 frees";
}

TEST_F(defects, b11_sizes_that_overflow_are_refused) {
  heap h = heap_with(1 << 20);
  EXPECT_EQ(h.allocate(~std::size_t{0}), nullptr);
  EXPECT_EQ(h.allocate({.size_bytes = ~std::size_t{0} - 100, .align_bytes = 4096}), nullptr);
  EXPECT_EQ(heap::last_failure().why, explanation::cause::bad_request);
  EXPECT_EQ(
      refused(raw_pool::create(h, "p", {.object_bytes = std::size_t{1} << 62, .object_count = 8})),
      errc::invalid_argument);
  expect_sound(h);
}

TEST_F(defects, b12_success_leaves_no_error_behind) {
  heap h = heap_with(1 << 20);
  EXPECT_EQ(h.allocate(2 << 20), nullptr);
  const std::string before(heap::last_failure().message());
  EXPECT_NE(h.allocate(100), nullptr);
  must(h.reserve_zone("z", {.size_bytes = 10}));
  EXPECT_EQ(heap::last_failure().message(), before) << "only a failure writes it";
}

TEST_F(defects, b13_every_region_can_be_passed_on_by_descriptor_when_it_has_one) {
  struct sharer : observer {
    std::string_view name() const noexcept override { return "sharer"; }
    result<void> on_add(const region_view& r) override {
      (r.fd >= 0 ? with : without)++;
      return {};
    }
    result<void> finish_remove(const region_view&, std::chrono::steady_clock::time_point) override {
      return {};
    }
    int with = 0, without = 0;
  } s;
  heap h = heap_with(1 << 20);
  mapped_memory m(4096);
  must(h.add_memory(m.range()));
  observation o = must(h.observe(s));
  EXPECT_EQ(s.with, 1);
  EXPECT_EQ(s.without, 1) << "one without does not spoil the others";
}

TEST_F(defects, b14_what_an_observer_sees_is_complete) {
  struct looker : observer {
    std::string_view name() const noexcept override { return "looker"; }
    result<void> on_add(const region_view& r) override {
      const auto where = heap::locate(static_cast<char*>(r.base) + 4097);
      complete = where && where->region == r.region && where->heap == r.heap &&
                 where->bus_address == iova{0x5001};
      return {};
    }
    result<void> finish_remove(const region_view&, std::chrono::steady_clock::time_point) override {
      return {};
    }
    bool complete = false;
  } l;
  heap h = heap_with(0);
  observation o = must(h.observe(l));
  mapped_memory m(8192);
  const std::vector<iova> table{iova{0x1000}, iova{0x5000}};
  memory_range r = m.range();
  r.page_iovas = table;
  must(h.add_memory(r));
  EXPECT_TRUE(l.complete);
}

TEST_F(defects, b15_numbers_from_outside_are_checked) {
  heap h = heap_with(1 << 20);
  for (const u32 id : {0u, 2u, 16384u, 16385u, ~0u}) {
    EXPECT_EQ(refused(h.remove_memory(region_id{id})), errc::no_such_region);
    EXPECT_EQ(refused(h.prefault(region_id{id})), errc::no_such_region);
    EXPECT_EQ(refused(h.hold(region_id{id})), errc::no_such_region);
    EXPECT_EQ(refused(h.detach_memory(region_id{id})), errc::no_such_region);
    EXPECT_EQ(refused(h.attach_memory(region_id{id})), errc::no_such_region);
  }
  for (const u64 word : {u64{1}, u64{5} << 44, ~u64{0}, (u64{1} << 44) + (1 << 20)}) {
    const errc code = refused(h.resolve(handle{word}));
    EXPECT_TRUE(code == errc::foreign_handle || code == errc::stale_handle);
  }
  EXPECT_EQ(refused(h.reap(member_id{~0u})), errc::invalid_argument);
}

TEST_F(defects, b16_the_very_same_range_is_refused_twice_in_a_private_heap_too) {
  heap h = heap_with(0);
  mapped_memory m(4096);
  must(h.add_memory(m.range()));
  EXPECT_EQ(refused(h.add_memory(m.range())), errc::region_overlap);
}

TEST_F(defects, b17_callbacks_look_up_and_walk_while_others_add_memory) {
  struct walker : observer {
    explicit walker(heap& of) : h(of) {}
    std::string_view name() const noexcept override { return "walker"; }
    result<void> on_add(const region_view&) override {
      for (int i = 0; i < 20; ++i) {
        h.for_each_region([](const region_summary&) {});
        h.for_each_zone([](const zone_summary&) {});
        (void)h.stats();
        heap::free(h.allocate(100));
      }
      return {};
    }
    result<void> finish_remove(const region_view&, std::chrono::steady_clock::time_point) override {
      return {};
    }
    heap& h;
  };
  heap h = heap_with(1 << 20);
  walker w(h);
  observation o = must(h.observe(w));
  mapped_memory m(200 * 8192);
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop) {
      (void)h.reserve_zone("z", {.size_bytes = 10});
      (void)h.release_zone("z");
    }
  });
  for (std::size_t i = 0; i < 200; ++i)
    must(h.add_memory({.base = m.data() + i * 8192, .length_bytes = 4096}));
  stop = true;
  other.join();
}

TEST_F(defects, b19_a_process_that_dies_in_a_walk_stops_nobody) {
  heap h = heap_with(1 << 20, {}, "a");
  void* block = h.allocate(100);
  for (int i = 0; i < 10; ++i) {
    child_process child([] {
      heap mine = must(attach_as_another("a"));
      mine.for_each_region([](const region_summary&) { ::kill(::getpid(), SIGKILL); });
      return 0;
    });
    EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
    child_process next([] {
      heap mine = must(attach_as_another("a"));
      (void)mine.for_each_block([](const block_summary&) { ::kill(::getpid(), SIGKILL); });
      return 0;
    });
    EXPECT_EQ(next.wait_for_exit_code(), -SIGKILL);
  }
  must(h.bring_memory({.length_bytes = 1 << 20}));
  heap::free(block);
  h.recover();
  EXPECT_EQ(h.members().size(), 1u);
}

}  // namespace
}  // namespace annex
