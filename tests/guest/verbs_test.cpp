// tests/guest/verbs_test.cpp - memory regions on a real verbs device: soft-RoCE, inside the guest.
#include <annex/devices/verbs.hpp>

#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "peers.hpp"
#include "queue_pair.hpp"
#include "support.hpp"

namespace annex {
namespace {

class verbs : public in_own_directory {
 protected:
  void SetUp() override {
    // Not in this process: a child that uses the device must not inherit it.
    child_process looks([] { return queue_pair().has_device() ? 0 : 1; });
    if (looks.wait_for_exit_code() != 0) GTEST_SKIP() << "no RDMA device";
  }
};

// Two ends in one process, each with its own protection domain.
struct loop {
  queue_pair asking, serving;
  loop() { EXPECT_TRUE(asking.connect(serving.self()) && serving.connect(asking.self())); }
};

TEST_F(verbs, blocks_of_every_kind_of_memory_are_written_and_read_by_their_keys) {
  loop l;
  heap h = must(heap::create("h"));
  auto here = must(verbs_memory::create(l.asking.domain())),
       there = must(verbs_memory::create(l.serving.domain()));
  auto seen_here = must(h.observe(*here)), seen_there = must(h.observe(*there));
  struct kind {
    memory_source::kind from;
    u64 bytes, page_bytes;
  };
  for (const auto& [from, bytes, page_bytes] :
       {kind{memory_source::kind::shared, 4 * MiB, 4 * KiB},
        kind{memory_source::kind::anonymous, 2 * MiB, 4 * KiB},
        kind{memory_source::kind::hugetlb, 8 * MiB, 2 * MiB}}) {
    const region_id region =
        must(h.bring_memory({.from = from, .length_bytes = bytes, .page_bytes = page_bytes}));
    EXPECT_EQ(here->registered(), 1u);
    for (const unsigned size : {64u, 1000u, 100'000u, 500'000u}) {
      auto* const a = static_cast<char*>(h.allocate(size));
      auto* const b = static_cast<char*>(h.allocate(size));
      ASSERT_TRUE(a != nullptr && b != nullptr);
      const auto from_key = here->find(a), to_key = there->find(b);
      ASSERT_TRUE(from_key && to_key);
      EXPECT_EQ(to_key->address, remote_address(h.handle_of(b), bytes));
      EXPECT_GE(to_key->contiguous_bytes, size);
      fill_with_pattern(a, size, size);
      std::memset(b, 0, size);
      EXPECT_EQ(l.asking.transfer(IBV_WR_RDMA_WRITE, from_key->address, from_key->lkey,
                                  to_key->address, to_key->rkey, size),
                IBV_WC_SUCCESS);
      EXPECT_EQ(std::memcmp(a, b, size), 0);
      fill_with_pattern(b, size, size + 1);
      EXPECT_EQ(l.asking.transfer(IBV_WR_RDMA_READ, from_key->address, from_key->lkey,
                                  to_key->address, to_key->rkey, size),
                IBV_WC_SUCCESS);
      EXPECT_EQ(std::memcmp(a, b, size), 0);
      heap::free(a);
      heap::free(b);
    }
    h.trim();
    must(h.remove_memory(region));
    EXPECT_EQ(here->registered() + there->registered(), 0u);
  }
  int elsewhere = 0;
  EXPECT_FALSE(here->find(&elsewhere));
}

TEST_F(verbs, a_region_is_cut_into_pieces_registered_by_several_threads) {
  loop l;
  heap h = must(heap::create("h"));
  std::vector<u64> told;
  verbs_options o{.piece_bytes = 256 * KiB, .threads = 3, .progress = [&](u64 done, u64 of) {
                    told.push_back(done * 1000 / of);
                  }};
  auto here = must(verbs_memory::create(l.asking.domain())),
       there = must(verbs_memory::create(l.serving.domain(), o));
  auto seen_here = must(h.observe(*here)), seen_there = must(h.observe(*there));
  must(h.bring_memory({.length_bytes = 4 * MiB}));
  EXPECT_EQ(there->registered(), 16u);
  EXPECT_EQ(told.size(), 16u);
  EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
  EXPECT_EQ(told.back(), 1000u);
  auto* const all = static_cast<char*>(h.allocate(3 * MiB));
  auto* const source = static_cast<char*>(h.allocate(8 * KiB));
  ASSERT_TRUE(all != nullptr && source != nullptr);
  const u64 begin = heap::locate(all)->offset_bytes;
  auto* const at_end = all + (align_up(begin + 1, 256 * KiB) - begin) - 4096;
  const auto from = *here->find(source), to = *there->find(at_end),
             next = *there->find(at_end + 4096);
  EXPECT_EQ(to.contiguous_bytes, 4096u);
  EXPECT_EQ(next.contiguous_bytes, 256 * KiB);
  EXPECT_NE(to.rkey, next.rkey);
  fill_with_pattern(source, 8 * KiB, 5);
  EXPECT_EQ(
      l.asking.transfer(IBV_WR_RDMA_WRITE, from.address, from.lkey, to.address, to.rkey, 4096),
      IBV_WC_SUCCESS);
  EXPECT_EQ(l.asking.transfer(IBV_WR_RDMA_WRITE, from.address + 4096, from.lkey, next.address,
                              next.rkey, 4096),
            IBV_WC_SUCCESS);
  EXPECT_EQ(std::memcmp(at_end, source, 8 * KiB), 0);
  // Over the end of its piece.
  EXPECT_EQ(
      l.asking.transfer(IBV_WR_RDMA_WRITE, from.address, from.lkey, to.address, to.rkey, 4097),
      IBV_WC_REM_ACCESS_ERR);
}

TEST_F(verbs, a_stale_key_is_refused_by_the_device) {
  loop l;
  heap h = must(heap::create("h"));
  auto here = must(verbs_memory::create(l.asking.domain())),
       there = must(verbs_memory::create(l.serving.domain()));
  auto seen_here = must(h.observe(*here)), seen_there = must(h.observe(*there));
  const mapped_memory staying(1 * MiB), going(1 * MiB);
  must(h.add_memory(staying.range()));
  const region_id gone = must(h.add_memory(going.range()));
  const auto from = *here->find(staying.data()), to = *there->find(going.data());
  fill_with_pattern(staying.data(), 4096, 1);
  ASSERT_EQ(
      l.asking.transfer(IBV_WR_RDMA_WRITE, from.address, from.lkey, to.address, to.rkey, 4096),
      IBV_WC_SUCCESS);
  must(h.remove_memory(gone));
  EXPECT_FALSE(there->find(going.data()));
  std::memset(going.data(), 0x5a, 4096);
  EXPECT_EQ(
      l.asking.transfer(IBV_WR_RDMA_WRITE, from.address, from.lkey, to.address, to.rkey, 4096),
      IBV_WC_REM_ACCESS_ERR);
  EXPECT_TRUE(std::all_of(going.data(), going.data() + 4096, [](char c) { return c == 0x5a; }));
}

TEST_F(verbs, addresses_are_what_the_program_chooses) {
  loop l;
  heap h = must(heap::create("h"));
  auto here = must(verbs_memory::create(l.asking.domain(), {.addresses = verbs_addresses::here})),
       there =
           must(verbs_memory::create(l.serving.domain(), {.addresses = verbs_addresses::iovas}));
  auto seen_here = must(h.observe(*here)), seen_there = must(h.observe(*there));
  std::vector<iova> iovas;
  for (u64 at = 0; at < 1 * MiB; at += 4096)
    iovas.push_back(iova{0x7000'0000'0000 + at});
  must(h.bring_memory({.length_bytes = 1 * MiB, .page_iovas = iovas}));
  auto* const a = static_cast<char*>(h.allocate(10'000));
  auto* const b = static_cast<char*>(h.allocate(10'000));
  const auto from = *here->find(a), to = *there->find(b);
  EXPECT_EQ(from.address, reinterpret_cast<u64>(a));
  EXPECT_EQ(to.address, static_cast<u64>(*heap::locate(b)->bus_address));
  fill_with_pattern(a, 10'000, 3);
  EXPECT_EQ(
      l.asking.transfer(IBV_WR_RDMA_WRITE, from.address, from.lkey, to.address, to.rkey, 10'000),
      IBV_WC_SUCCESS);
  EXPECT_EQ(std::memcmp(a, b, 10'000), 0);
  for (iova& bus : iovas)
    bus = iova{static_cast<u64>(bus) + 2 * MiB + (&bus - iovas.data() >= 100 ? MiB : 0)};
  const auto in_two = h.bring_memory({.length_bytes = 1 * MiB, .page_iovas = iovas});
  EXPECT_EQ(refused(in_two), errc::vetoed);
  EXPECT_NE(in_two.error().message().find("2 runs"), std::string_view::npos)
      << in_two.error().message();
  EXPECT_EQ(here->registered(), 1u);
}

TEST_F(verbs, a_veto_leaves_nothing_registered_and_a_refusal_says_why) {
  queue_pair p;
  heap h = must(heap::create("h"));
  auto memory = must(verbs_memory::create(p.domain()));
  auto seen = must(h.observe(*memory));
  {
    refuser v;
    u64 registered_then = 0;
    v.when_told = [&] { registered_then = memory->registered(); };
    auto last = must(h.observe(v));
    EXPECT_EQ(refused(h.bring_memory({.length_bytes = 1 * MiB})), errc::vetoed);
    EXPECT_EQ(registered_then, 1u);  // before the first block
    EXPECT_EQ(memory->registered(), 0u);
  }
  const mapped_memory window(1 * MiB, PROT_NONE);
  memory_range untouchable = window.range();
  untouchable.access = touch::none;
  const auto no_dma_buf = h.add_memory(untouchable);
  EXPECT_EQ(refused(no_dma_buf), errc::vetoed);
  EXPECT_NE(no_dma_buf.error().message().find("dma-buf"), std::string_view::npos)
      << no_dma_buf.error().message();
  EXPECT_EQ(refused(verbs_memory::create(nullptr)), errc::invalid_argument);
  EXPECT_EQ(refused(verbs_memory::create(p.domain(), {.piece_bytes = 5000})),
            errc::invalid_argument);
  heap other = must(heap::create("other"));
  must(other.bring_memory({.length_bytes = 1 * MiB}));
  must(h.bring_memory({.length_bytes = 1 * MiB}));
  EXPECT_EQ(refused(other.observe(*memory)), errc::vetoed);
}

TEST_F(verbs, two_processes_of_one_heap_use_handles_and_the_death_of_one_takes_its_keys_only) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  // The child serves until it is killed.
  child_process peer([&] {
    receive_from<char>(ends[1]);
    const mapped_memory in_the_way(8 * MiB);
    heap mine = must(heap::attach("h"));
    queue_pair p;
    auto memory = must(verbs_memory::create(p.domain()));
    auto seen = must(mine.observe(*memory));
    const auto h = receive_from<handle>(ends[1]);
    auto* const block = static_cast<char*>(must(mine.resolve(h)));
    const auto k = memory->find(block);
    if (!k || k->address != remote_address(h, 4 * MiB)) return 1;
    send_to(ends[1], p.self());
    send_to(ends[1], k->rkey);
    if (!p.connect(receive_from<queue_pair::address>(ends[1]))) return 2;
    send_to(ends[1], 'c');
    for (;;)
      ::pause();
  });
  heap h = must(heap::create("h"));
  loop own;
  queue_pair p;
  auto memory = must(verbs_memory::create(p.domain())),
       asking = must(verbs_memory::create(own.asking.domain())),
       serving = must(verbs_memory::create(own.serving.domain()));
  auto seen = must(h.observe(*memory)), seen_asking = must(h.observe(*asking)),
       seen_serving = must(h.observe(*serving));
  must(h.bring_memory({.length_bytes = 4 * MiB}));
  auto* const a = static_cast<char*>(h.allocate(50'000));
  auto* const b = static_cast<char*>(h.allocate(50'000));
  send_to(ends[0], 'h');
  send_to(ends[0], h.handle_of(b));
  const auto their_pair = receive_from<queue_pair::address>(ends[0]);
  const u32 their_rkey = receive_from<u32>(ends[0]);
  ASSERT_TRUE(p.connect(their_pair));
  send_to(ends[0], p.self());
  receive_from<char>(ends[0]);
  const auto k = *memory->find(a);
  fill_with_pattern(a, 50'000, 9);
  EXPECT_EQ(p.transfer(IBV_WR_RDMA_WRITE, k.address, k.lkey,
                       remote_address(h.handle_of(b), 4 * MiB), their_rkey, 50'000),
            IBV_WC_SUCCESS);
  // The same memory, written through their registration of it.
  EXPECT_EQ(std::memcmp(a, b, 50'000), 0);
  peer.kill_now();
  EXPECT_EQ(peer.wait_for_exit_code(), -SIGKILL);
  std::memset(b, 0x5a, 50'000);
  EXPECT_NE(
      p.transfer(IBV_WR_RDMA_WRITE, k.address, k.lkey, remote_address(h.handle_of(b), 4 * MiB),
                 their_rkey, 50'000, std::chrono::seconds(2)),
      IBV_WC_SUCCESS);
  EXPECT_TRUE(std::all_of(b, b + 50'000, [](char c) { return c == 0x5a; }));
  const auto from = *asking->find(a), to = *serving->find(b);
  EXPECT_EQ(
      own.asking.transfer(IBV_WR_RDMA_WRITE, from.address, from.lkey, to.address, to.rkey, 50'000),
      IBV_WC_SUCCESS);
  EXPECT_EQ(std::memcmp(a, b, 50'000), 0);
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace
}  // namespace annex
