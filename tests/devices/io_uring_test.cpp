// tests/devices/io_uring_test.cpp - fixed buffers, against the kernel.
#include <annex/devices/io_uring.hpp>

#include <fcntl.h>
#include <liburing.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "support.hpp"

namespace annex {
namespace {

using namespace std::chrono_literals;

class fixed : public in_own_directory {};

struct ring_of_test {
  ::io_uring ring{};
  ring_of_test() { EXPECT_EQ(::io_uring_queue_init(16, &ring, 0), 0); }
  ~ring_of_test() { ::io_uring_queue_exit(&ring); }
  ::io_uring* operator&() { return &ring; }
  int wait() {
    ::io_uring_cqe* completion = nullptr;
    if (const int why = ::io_uring_wait_cqe(&ring, &completion); why != 0) return why;
    const int done = completion->res;
    ::io_uring_cqe_seen(&ring, completion);
    return done;
  }
  int transfer(bool write, int fd, void* block, unsigned bytes, u64 offset, unsigned index) {
    ::io_uring_sqe* const entry = ::io_uring_get_sqe(&ring);
    if (write)
      ::io_uring_prep_write_fixed(entry, fd, block, bytes, offset, static_cast<int>(index));
    else
      ::io_uring_prep_read_fixed(entry, fd, block, bytes, offset, static_cast<int>(index));
    ::io_uring_submit(&ring);
    return wait();
  }
};

struct test_file {
  int fd = ::open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  ~test_file() { ::close(fd); }
};

bool has_clones() {
  auto b = must(fixed_buffers::create());
  ring_of_test r;
  const auto added = b->add_ring(r.ring);
  if (added) must(b->remove_ring(r.ring));
  return added.has_value() || added.error().code != errc::not_supported;
}

TEST_F(fixed, blocks_are_written_and_read_by_the_index_of_their_region) {
  heap h = must(heap::create("h"));
  must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 8 * MiB}));
  auto buffers = must(fixed_buffers::create());
  auto seen = must(h.observe(*buffers));
  for (const ring_mode mode : {ring_mode::cloned, ring_mode::tagged}) {
    if (mode == ring_mode::cloned && !has_clones()) continue;
    ring_of_test ring;
    must(buffers->add_ring(ring.ring, mode));
    // Known to rings that are there.
    const region_id later =
        must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 8 * MiB}));
    test_file file;
    for (unsigned i = 0; i < 40; ++i) {
      const unsigned bytes = 1 + i * 9973;
      auto* const out = static_cast<char*>(h.allocate(bytes));
      auto* const in = static_cast<char*>(h.allocate({.size_bytes = bytes, .zeroed = true}));
      ASSERT_TRUE(out != nullptr && in != nullptr);
      fill_with_pattern(out, bytes, i);
      const auto from = buffers->find(out), to = buffers->find(in);
      ASSERT_TRUE(from && to);
      EXPECT_GE(from->contiguous_bytes, bytes);
      ASSERT_EQ(ring.transfer(true, file.fd, out, bytes, 0, from->index), static_cast<int>(bytes));
      ASSERT_EQ(ring.transfer(false, file.fd, in, bytes, 0, to->index), static_cast<int>(bytes));
      EXPECT_EQ(std::memcmp(in, out, bytes), 0);
      heap::free(in);
      heap::free(out);
    }
    must(buffers->remove_ring(ring.ring));
    h.trim();
    must(h.remove_memory(later));
  }
  int elsewhere = 0;
  EXPECT_FALSE(buffers->find(&elsewhere));
}

TEST_F(fixed, a_region_is_cut_into_pieces_that_no_operation_crosses) {
  heap h = must(heap::create("h"));
  auto buffers = must(fixed_buffers::create({.slots = 8, .piece_bytes = MiB}));
  auto seen = must(h.observe(*buffers));
  ring_of_test ring;
  must(buffers->add_ring(ring.ring, ring_mode::tagged));
  must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 5 * MiB}));
  EXPECT_EQ(buffers->slots_used(), 5u);
  auto* const all = static_cast<char*>(h.allocate(5 * MiB));
  ASSERT_NE(all, nullptr);
  const auto last = buffers->find(all + 4 * MiB + 100),
             end_of_first = buffers->find(all + MiB - 4096);
  EXPECT_EQ(last->contiguous_bytes, MiB - 100);
  EXPECT_EQ(end_of_first->contiguous_bytes, 4096u);
  EXPECT_EQ(last->index, end_of_first->index + 4);
  test_file file;
  EXPECT_EQ(ring.transfer(true, file.fd, all + MiB - 4096, 4096, 0, end_of_first->index), 4096);
  EXPECT_EQ(ring.transfer(true, file.fd, all + MiB - 4096, 4097, 0, end_of_first->index), -EFAULT);
  // 4 of 3 slots.
  EXPECT_EQ(refused(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 4 * MiB})),
            errc::vetoed);
  EXPECT_EQ(buffers->slots_used(), 5u);
  must(buffers->remove_ring(ring.ring));
}

TEST_F(fixed, after_removal_the_kernel_refuses_the_old_index) {
  heap h = must(heap::create("h"));
  auto buffers = must(fixed_buffers::create());
  auto seen = must(h.observe(*buffers));
  const region_id region =
      must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 4 * MiB}));
  for (const ring_mode mode : {ring_mode::cloned, ring_mode::tagged}) {
    if (mode == ring_mode::cloned && !has_clones()) continue;
    ring_of_test ring;
    must(buffers->add_ring(ring.ring, mode));
    const region_id going =
        must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 4 * MiB}));
    std::vector<void*> all;
    fixed_buffer used{};
    void* where = nullptr;
    for (void* block = nullptr; (block = h.allocate(100'000)) != nullptr; all.push_back(block))
      if (heap::locate(block)->region == going) where = block, used = *buffers->find(block);
    ASSERT_NE(where, nullptr);
    for (void* block : all)
      heap::free(block);
    test_file file;
    const mapped_memory same(4096);
    EXPECT_EQ(ring.transfer(true, file.fd, where, 4096, 0, used.index), 4096);
    std::thread completions;
    std::atomic<bool> stop{false};
    if (mode == ring_mode::tagged)
      completions = std::thread([&] {
        while (!stop) {
          ::io_uring_cqe* completion = nullptr;
          ::__kernel_timespec t{0, 10'000'000};
          if (::io_uring_wait_cqe_timeout(&ring, &completion, &t) != 0) continue;
          EXPECT_TRUE(buffers->complete(*completion));
          ::io_uring_cqe_seen(&ring, completion);
        }
      });
    must(h.drain_memory(going, 5s));
    stop = true;
    if (completions.joinable()) completions.join();
    EXPECT_EQ(ring.transfer(true, file.fd, where, 4096, 0, used.index), -EFAULT);
    EXPECT_EQ(buffers->slots_used(), 1u);
    must(buffers->remove_ring(ring.ring));
  }
  (void)region;
}

TEST_F(fixed, removal_waits_for_the_tag_of_an_operation_under_way) {
  heap h = must(heap::create("h"));
  auto buffers = must(fixed_buffers::create());
  auto seen = must(h.observe(*buffers));
  ring_of_test ring;
  must(buffers->add_ring(ring.ring, ring_mode::tagged));
  const region_id region =
      must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 4 * MiB}));
  void* const block = h.allocate(100'000);
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ::io_uring_sqe* const entry = ::io_uring_get_sqe(&ring);
  ::io_uring_prep_read_fixed(entry, ends[0], block, 1000, 0,
                             static_cast<int>(buffers->find(block)->index));
  entry->user_data = 7;
  ::io_uring_submit(&ring);
  heap::free(block);  // too early: the kernel is going to write there
  EXPECT_EQ(refused(h.drain_memory(region, 100ms)), errc::deadline_passed);
  EXPECT_EQ(::write(ends[1], "written", 7), 7);
  unsigned tags = 0, reads = 0;
  while (tags == 0 || reads == 0) {
    ::io_uring_cqe* completion = nullptr;
    ASSERT_EQ(::io_uring_wait_cqe(&ring, &completion), 0);
    if (buffers->complete(*completion)) {
      ++tags;
    } else if (completion->user_data == 7) {
      EXPECT_EQ(completion->res, 7);
      ++reads;
    }
    ::io_uring_cqe_seen(&ring, completion);
  }
  std::atomic<bool> stop{false};
  // Refused, the region came back with new slots: their tags come too.
  std::thread completions([&] {
    while (!stop) {
      ::io_uring_cqe* completion = nullptr;
      ::__kernel_timespec t{0, 10'000'000};
      if (::io_uring_wait_cqe_timeout(&ring, &completion, &t) != 0) continue;
      (void)buffers->complete(*completion);
      ::io_uring_cqe_seen(&ring, completion);
    }
  });
  must(h.drain_memory(region, 5s));
  stop = true;
  completions.join();
  EXPECT_EQ(buffers->slots_used(), 0u);
  ::close(ends[0]);
  ::close(ends[1]);
}

// Remembers what it was told.
struct recorder : observer {
  std::vector<std::string> told;
  bool refuses = false;
  std::string_view name() const noexcept override { return "recorder"; }
  result<void> on_add(const region_view&) override {
    told.push_back("add");
    if (refuses) return std::unexpected(error{errc::invalid_argument, 0, "no"});
    return {};
  }
  quiesce begin_remove(const region_view&) override {
    told.push_back("begin");
    return quiesce::done;
  }
  result<void> finish_remove(const region_view&, std::chrono::steady_clock::time_point) override {
    told.push_back("finish");
    return {};
  }
};

TEST_F(fixed, a_veto_leaves_nothing_registered_anywhere) {
  heap h = must(heap::create("h"));
  recorder before, after;
  auto buffers = must(fixed_buffers::create());
  auto seen_before = must(h.observe(before));
  auto seen = must(h.observe(*buffers));
  auto seen_after = must(h.observe(after));
  after.refuses = true;
  EXPECT_EQ(refused(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 4 * MiB})),
            errc::vetoed);
  EXPECT_EQ(buffers->slots_used(), 0u);
  EXPECT_EQ(before.told, (std::vector<std::string>{"add", "begin", "finish"}));
  after.refuses = false;
  before.told.clear(), after.told.clear();
  // Memory the kernel can't pin: io_uring's own refusal, in time for nobody to have a block of it.
  const mapped_memory untouchable(4 * MiB, PROT_NONE);
  memory_range r = untouchable.range();
  r.access = touch::none;
  const auto none = h.add_memory(r);
  EXPECT_EQ(refused(none), errc::vetoed);
  EXPECT_NE(none.error().message().find("io_uring"), std::string_view::npos)
      << none.error().message();
  EXPECT_EQ(before.told, (std::vector<std::string>{"add", "begin", "finish"}));
  EXPECT_TRUE(after.told.empty());
  EXPECT_EQ(buffers->slots_used(), 0u);
  EXPECT_EQ(h.allocate(100), nullptr);
}

TEST_F(fixed, bad_options_and_rings_are_refused) {
  EXPECT_EQ(refused(fixed_buffers::create({.slots = 0})), errc::invalid_argument);
  EXPECT_EQ(refused(fixed_buffers::create({.slots = 16385})), errc::invalid_argument);
  EXPECT_EQ(refused(fixed_buffers::create({.piece_bytes = 2 * GiB})), errc::invalid_argument);
  EXPECT_EQ(refused(fixed_buffers::create({.piece_bytes = 5000})), errc::invalid_argument);
  EXPECT_EQ(refused(fixed_buffers::create({.tags = 1})), errc::invalid_argument);
  auto buffers = must(fixed_buffers::create());
  ring_of_test ring, other;
  must(buffers->add_ring(ring.ring, ring_mode::tagged));
  EXPECT_EQ(refused(buffers->add_ring(ring.ring, ring_mode::tagged)), errc::invalid_argument);
  EXPECT_EQ(refused(buffers->remove_ring(other.ring)), errc::invalid_argument);
  ::iovec own{&ring, 64};
  ASSERT_EQ(::io_uring_register_buffers(&other, &own, 1), 0);
  EXPECT_EQ(refused(buffers->add_ring(other.ring, ring_mode::tagged)), errc::invalid_argument);
}

TEST_F(fixed, what_a_killed_process_registered_is_gone_and_others_go_on) {
  heap h = must(heap::create("h"));
  const region_id region =
      must(h.bring_memory({.from = memory_source::kind::shared, .length_bytes = 4 * MiB}));
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  child_process other([&] {
    heap mine = must(heap::attach("h"));
    auto table = must(fixed_buffers::create());
    auto watched = must(mine.observe(*table));
    void* const block = mine.allocate(1000);
    if (block == nullptr || !table->find(block) || ::write(ready[1], "r", 1) != 1) return 1;
    ::pause();
    return 0;
  });
  auto buffers = must(fixed_buffers::create());
  auto seen = must(h.observe(*buffers));
  ring_of_test ring;
  must(buffers->add_ring(ring.ring, ring_mode::tagged));
  ::close(ready[1]);
  char c = 0;
  ASSERT_EQ(::read(ready[0], &c, 1), 1);
  other.kill_now();
  other.wait_for_exit_code();
  test_file file;
  void* const block = h.allocate(4096);
  EXPECT_EQ(ring.transfer(true, file.fd, block, 4096, 0, buffers->find(block)->index), 4096);
  heap::free(block);
  h.recover();
  size_t reaped = 0;
  for (const member_summary& m : h.members())
    if (!m.alive) reaped += must(h.reap(m.id));
  EXPECT_EQ(reaped, 1u);
  must(buffers->remove_ring(ring.ring));
  must(h.drain_memory(region, 5s));
}

}  // namespace
}  // namespace annex
