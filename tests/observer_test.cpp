// tests/observer_test.cpp - who must agree before memory is used, who is told before it goes;
// leases.
#include <algorithm>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>

#include "another_member.hpp"
#include "support.hpp"

namespace annex {
namespace {

using namespace std::chrono_literals;
using observers = in_own_directory;

struct recorder : observer {
  explicit recorder(std::string own, std::vector<std::string>* into)
      : name_(std::move(own)), log(into) {}
  std::string_view name() const noexcept override { return name_; }
  result<void> on_add(const region_view& r) override {
    note("add", r);
    if (on_add_do) on_add_do(r);
    if (refuse) return std::unexpected(error{errc::os_failure, 5, "the device is full"});
    return {};
  }
  quiesce begin_remove(const region_view& r) override {
    note("begin", r);
    return quiesce::pending;
  }
  result<void> finish_remove(const region_view& r,
                             std::chrono::steady_clock::time_point deadline) override {
    note("finish", r);
    while (busy) {
      if (std::chrono::steady_clock::now() >= deadline)
        return std::unexpected(error{errc::deadline_passed, 0, "a transfer is under way"});
      std::this_thread::sleep_for(1ms);
    }
    return {};
  }
  void note(const char* what, const region_view& r) {
    std::lock_guard guard(mutex);
    log->push_back(std::string(what) + " " + name_ + " " +
                   std::to_string(static_cast<unsigned>(r.region)));
  }
  std::string name_;
  std::vector<std::string>* log;
  bool refuse = false;
  std::atomic<bool> busy{false};
  std::function<void(const region_view&)> on_add_do;
  std::mutex mutex;
};

using lines = std::vector<std::string>;

TEST_F(observers, are_asked_in_order_and_told_in_reverse) {
  lines log;
  recorder a("a", &log), b("b", &log);
  heap h = heap_with(0);
  mapped_memory m(1 << 20);
  observation oa = must(h.observe(a)), ob = must(h.observe(b));
  const region_id id = must(h.add_memory(m.range()));
  EXPECT_EQ(log, (lines{"add a 1", "add b 1"}));
  log.clear();
  void* block = h.allocate(10);
  EXPECT_EQ(refused(h.remove_memory(id)), errc::blocks_live);
  EXPECT_TRUE(log.empty()) << "nobody is told of a removal that does not happen";
  heap::free(block);
  must(h.remove_memory(id));
  EXPECT_EQ(log, (lines{"begin b 1", "begin a 1", "finish b 1", "finish a 1"}));
}

TEST_F(observers, a_veto_undoes_the_others_in_reverse_and_nothing_is_added) {
  lines log;
  recorder a("a", &log), b("b", &log), c("c", &log);
  heap h = heap_with(0);
  mapped_memory m(1 << 20);
  observation oa = must(h.observe(a)), ob = must(h.observe(b)), oc = must(h.observe(c));
  c.refuse = true;
  const auto r = h.add_memory(m.range());
  EXPECT_EQ(refused(r), errc::vetoed);
  EXPECT_NE(r.error().message().find("\"c\""), std::string_view::npos);
  EXPECT_NE(r.error().message().find("the device is full"), std::string_view::npos);
  EXPECT_EQ(r.error().os_errno, 5);
  EXPECT_EQ(log, (lines{"add a 1", "add b 1", "add c 1", "begin b 1", "finish b 1", "begin a 1",
                        "finish a 1"}));
  EXPECT_EQ(h.stats().region_count, 0u);
  EXPECT_FALSE(heap::locate(m.data()));
  c.refuse = false;
  must(h.add_memory(m.range()));
  expect_sound(h);
}

TEST_F(observers, a_late_one_is_told_of_what_is_there_and_may_refuse_it) {
  lines log;
  recorder a("a", &log);
  heap h = heap_with(0);
  mapped_memory m(1 << 20), n(1 << 20);
  must(h.add_memory(m.range()));
  must(h.add_memory(n.range()));
  {
    observation o = must(h.observe(a));
    EXPECT_EQ(log, (lines{"add a 1", "add a 2"}));
    log.clear();
  }
  EXPECT_EQ(log, (lines{"begin a 2", "finish a 2", "begin a 1", "finish a 1"}))
      << "unsubscribing removes every region";
  log.clear();
  a.on_add_do = [&](const region_view& r) { a.refuse = r.region == region_id{2}; };
  EXPECT_EQ(refused(h.observe(a)), errc::vetoed);
  EXPECT_EQ(log, (lines{"add a 1", "add a 2", "begin a 1", "finish a 1"}));
}

TEST_F(observers, see_base_pages_descriptor_and_runs) {
  lines log;
  recorder a("a", &log);
  heap h = heap_with(0);
  observation o = must(h.observe(a));
  mapped_memory m(16384);
  const std::vector<iova> table{iova{0x1000}, iova{0x2000}, iova{0x9000}, iova{0x4000}};
  a.on_add_do = [&](const region_view& r) {
    EXPECT_EQ(r.base, m.data());
    EXPECT_EQ(r.length_bytes, 16384u);
    EXPECT_EQ(r.page_bytes, 4096u);
    EXPECT_EQ(r.fd, -1);
    ASSERT_EQ(r.runs.size(), 3u);
    EXPECT_EQ(r.runs[0].length_bytes, 8192u);
    EXPECT_EQ(r.runs[1].bus_address, iova{0x9000});
  };
  memory_range r = m.range();
  r.page_iovas = table;
  must(h.add_memory(r));
}

TEST_F(observers, may_allocate_and_look_up_in_a_callback) {
  lines log;
  recorder a("a", &log);
  heap h = heap_with(1 << 20);
  observation o = must(h.observe(a));
  int calls = 0;
  a.on_add_do = [&](const region_view& r) {
    void* block = h.allocate(100);
    void* large = h.allocate(200000);
    ASSERT_NE(block, nullptr);
    EXPECT_NE(heap::locate(block)->region, r.region)
        << "the new region is not allocated from before all have agreed";
    EXPECT_EQ(heap::locate(r.base)->region, r.region);
    must(h.reserve_zone("in callback" + std::to_string(calls), {.size_bytes = 10}));
    heap::free(block);
    heap::free(large);
    ++calls;
  };
  mapped_memory m(4 << 20);
  must(h.add_memory(m.range()));
  EXPECT_EQ(calls, 1);
}

// Each would wait for a mutex that its own thread holds.
TEST_F(observers, may_not_change_the_regions_of_the_same_heap_in_a_callback) {
  lines log;
  recorder a("a", &log), late("late", &log);
  heap h = heap_with(1 << 20, {}, "a");
  mapped_memory other(1 << 20);
  observation o = must(h.observe(a));
  int calls = 0;
  a.on_add_do = [&](const region_view& r) {
    ++calls;
    const auto is_refused = [](const char* what, const auto& outcome) {
      ASSERT_FALSE(outcome) << what;
      EXPECT_EQ(outcome.error().code, errc::invalid_argument) << what;
      for (const char* part : {"\"a\"", what, "callback", "when the callback has returned"})
        EXPECT_NE(outcome.error().message().find(part), std::string_view::npos)
            << outcome.error().message();
    };
    is_refused("adding memory", h.add_memory(other.range()));
    is_refused("bringing memory", h.bring_memory({.length_bytes = 1 << 20}));
    is_refused("removing memory", h.remove_memory(region_id{1}));
    is_refused("removing memory", h.drain_memory(region_id{1}, 1ms));
    is_refused("removing memory", h.remove_memory(r.region));
    is_refused("attaching memory", h.attach_memory(r.region));
    is_refused("attaching memory", h.attach_memory(r.region, r.base));
    is_refused("detaching memory", h.detach_memory(region_id{1}));
    is_refused("observing", h.observe(late));
  };
  must(h.bring_memory({.length_bytes = 1 << 20}));
  EXPECT_EQ(calls, 1);
  a.on_add_do = nullptr;
  must(h.remove_memory(region_id{2}));
  must(h.add_memory(other.range()));
  EXPECT_EQ(h.stats().region_count, 2u);
  expect_sound(h);
}

TEST_F(observers, may_change_the_regions_of_another_heap_in_a_callback) {
  lines log;
  recorder a("a", &log), b("b", &log);
  heap h = heap_with(0), g = heap_with(0);
  observation of_h = must(h.observe(a)), of_g = must(g.observe(b));
  a.on_add_do = [&](const region_view&) {
    const region_id there = must(g.bring_memory({.length_bytes = 1 << 20}));
    must(g.remove_memory(there));
  };
  b.on_add_do = [&](const region_view&) {
    EXPECT_EQ(refused(h.bring_memory({.length_bytes = 1 << 20})), errc::invalid_argument)
        << "h's callback is further out";
  };
  must(h.bring_memory({.length_bytes = 1 << 20}));
  EXPECT_EQ(log, (lines{"add a 1", "add b 1", "begin b 1", "finish b 1"}));
}

TEST_F(observers, may_attach_once_more_and_ask_who_lives_in_a_callback) {
  lines log;
  recorder a("a", &log);
  heap h = heap_with(1 << 20, {}, "a");
  ring r = must(ring::create(h, "r", 8));
  observation o = must(h.observe(a));
  int calls = 0;
  a.on_add_do = [&](const region_view&) {
    ++calls;
    const heap again = must(heap::attach("a"));
    EXPECT_EQ(again.id(), h.id());
    EXPECT_FALSE(r.take(50ms)) << "nobody puts anything";
    const lease l = must(h.hold(region_id{1}));
    EXPECT_TRUE(static_cast<bool>(l));
  };
  must(h.bring_memory({.length_bytes = 1 << 20}));
  EXPECT_EQ(calls, 1);
}

TEST_F(observers, stop_the_program_when_an_observation_is_ended_in_a_callback) {
  const auto end_one_inside = [] {  // all of it in the child, which is no member of ours
    lines log;
    recorder a("a", &log), b("b", &log);
    heap h = heap_with(0);
    observation of_a = must(h.observe(a)), of_b = must(h.observe(b));
    a.on_add_do = [&](const region_view&) { of_b = observation(); };
    (void)h.bring_memory({.length_bytes = 1 << 20});
  };
  EXPECT_DEATH(end_one_inside(), "inside a callback");
}

// Every region that an observation was shown has gone from it when it ends, and none came twice.
TEST_F(observers, may_come_and_go_while_others_add_and_remove_regions) {
  struct witness : observer {
    std::string_view name() const noexcept override { return "witness"; }
    result<void> on_add(const region_view& r) override {
      std::lock_guard guard(mutex);
      ++shown;
      EXPECT_TRUE(there.insert(static_cast<unsigned>(r.region)).second);
      return {};
    }
    result<void> finish_remove(const region_view& r,
                               std::chrono::steady_clock::time_point) override {
      std::lock_guard guard(mutex);
      EXPECT_EQ(there.erase(static_cast<unsigned>(r.region)), 1u);
      return {};
    }
    std::mutex mutex;
    std::set<unsigned> there;
    size_t shown = 0;
  };
  heap h = heap_with(1 << 20, {}, "a");
  heap other = must(attach_as_another("a"));
  std::atomic<bool> stop{false};
  std::atomic<int> changes{0};
  const auto change = [&](heap& here) {
    while (!stop) {
      const region_id id = must(here.bring_memory({.length_bytes = 1 << 20}));
      must(here.drain_memory(id, 30s));
      ++changes;
    }
  };
  std::thread first(change, std::ref(h)), second(change, std::ref(h)),
      third(change, std::ref(other));
  size_t shown = 0;
  for (int i = 0; i < 100 || changes < 20; ++i) {
    witness w;
    {
      const observation o = must(h.observe(w));
      std::this_thread::sleep_for(1ms);
    }
    EXPECT_TRUE(w.there.empty());
    shown += w.shown;
  }
  stop = true;
  for (std::thread* each : {&first, &second, &third})
    each->join();
  EXPECT_GT(shown, 100u) << "beside the region that is always there";
  EXPECT_EQ(h.stats().region_count, 1u);
  expect_sound(h);
}

TEST_F(observers, a_busy_device_stops_a_removal_at_its_deadline) {
  lines log;
  recorder a("a", &log);
  heap h = heap_with(0);
  mapped_memory m(1 << 20);
  observation o = must(h.observe(a));
  const region_id id = must(h.add_memory(m.range()));
  a.busy = true;
  const auto r = h.drain_memory(id, 30ms);
  EXPECT_EQ(refused(r), errc::deadline_passed);
  EXPECT_NE(r.error().message().find("a transfer is under way"), std::string_view::npos);
  void* block = h.allocate(100);
  EXPECT_NE(block, nullptr) << "it serves again";
  heap::free(block);
  std::thread device([&] {
    std::this_thread::sleep_for(20ms);
    a.busy = false;
  });
  must(h.drain_memory(id, 5s));
  device.join();
}

TEST_F(observers, a_lease_keeps_a_region) {
  heap h = heap_with(0);
  mapped_memory m(1 << 20);
  const region_id id = must(h.add_memory(m.range()));
  lease l = must(h.hold(id));
  EXPECT_TRUE(static_cast<bool>(l));
  EXPECT_EQ(refused(h.remove_memory(id)), errc::leased);
  EXPECT_EQ(refused(h.drain_memory(id, 5ms)), errc::leased);
  EXPECT_EQ(refused(h.detach_memory(id)), errc::leased);
  lease moved = std::move(l);
  EXPECT_EQ(refused(h.remove_memory(id)), errc::leased);
  moved = lease();
  must(h.remove_memory(id));
  EXPECT_EQ(refused(h.hold(id)), errc::no_such_region);
}

TEST_F(observers,
       a_lease_keeps_a_region_from_a_drain_of_another_process_that_observers_would_let_go) {
  lines log;
  recorder a("a", &log);
  heap h = heap_with(1 << 20, {}, "a");
  heap other = must(attach_as_another("a"));
  observation o = must(other.observe(a));
  lease l = must(other.hold(region_id{1}));
  EXPECT_EQ(refused(h.drain_memory(region_id{1}, 300ms)), errc::leased);
  EXPECT_EQ(refused(h.remove_memory(region_id{1})), errc::leased) << "it is still held";
  l = lease();
  must(h.drain_memory(region_id{1}, 5s));
}

TEST_F(observers, of_who_only_reads_let_go_of_a_region_that_another_process_drains) {
  auto* const stage = shared_words<std::atomic<int>>();
  heap h = heap_with(0, {}, "a");
  must(h.bring_memory({.length_bytes = 1 << 20}));
  child_process reader([stage] {
    lines log;
    recorder a("a", &log);
    heap look = must(heap::attach("a", {.read_only = true}));
    observation o = must(look.observe(a));
    *stage = 1;
    while (*stage == 1)
      ::usleep(1000);
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return *stage == 1; }));
  void* const block = h.allocate(100);
  EXPECT_EQ(refused(h.drain_memory(region_id{1}, 300ms)), errc::deadline_passed)
      << "the reader looks meanwhile";
  heap::free(block);
  must(h.drain_memory(region_id{1}, 5s));
  *stage = 2;
  EXPECT_EQ(reader.wait_for_exit_code(), 0);
}

TEST_F(observers, a_killed_process_holds_no_lease) {
  auto* held = shared_words<std::atomic<int>>();
  heap h = heap_with(1 << 20, {}, "a");
  child_process child([held] {
    heap mine = must(attach_as_another("a"));
    lease l = must(mine.hold(region_id{1}));
    *held = 1;
    ::pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return *held == 1; }));
  EXPECT_EQ(refused(h.remove_memory(region_id{1})), errc::leased);
  child.kill_now();
  child.wait_for_exit_code();
  must(h.remove_memory(region_id{1}));
}

TEST_F(observers, of_another_process_are_told_though_it_sleeps) {
  struct words {
    std::atomic<int> added{0}, removed{0}, ready{0};
  };
  auto* seen = shared_words<words>();
  heap h = heap_with(1 << 20, {}, "a");
  child_process child([seen] {
    struct counter : observer {
      explicit counter(words* w) : to(w) {}
      std::string_view name() const noexcept override { return "counter"; }
      result<void> on_add(const region_view&) override {
        ++to->added;
        return {};
      }
      result<void> finish_remove(const region_view&,
                                 std::chrono::steady_clock::time_point) override {
        ++to->removed;
        return {};
      }
      words* to;
    } c(seen);
    heap mine = must(attach_as_another("a"));
    observation o = must(mine.observe(c));
    seen->ready = 1;
    for (;;)
      ::pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return seen->ready == 1; }));
  EXPECT_EQ(seen->added, 1);
  const region_id second = must(h.bring_memory({.length_bytes = 1 << 20}));
  EXPECT_TRUE(wait_until([&] { return seen->added == 2; }));
  must(h.drain_memory(second, 5s));
  EXPECT_EQ(seen->removed, 1) << "the drain ends after the other process's observer has let go";
}

}  // namespace
}  // namespace annex
