// tests/devices/cuda_test.cpp - host memory registered with CUDA and GPU memory as regions: against
// the driver where there is one, and against a stand-in everywhere.
#include <annex/devices/cuda.hpp>

#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "peers.hpp"
#include "support.hpp"

namespace annex {
namespace {

class cuda : public in_own_directory {
 protected:
  void SetUp() override {
    // In a child: what a process has begun with CUDA its children can't go on with.
    child_process looks([] {
      const auto made = cuda_host_memory::create();
      if (made) return 0;
      return made.error().code == errc::not_supported &&
                     made.error().message().find("driver") != std::string_view::npos
                 ? 77
             : made.error().message().find("no GPU") != std::string_view::npos ? 77
                                                                               : 1;
    });
    const int code = looks.wait_for_exit_code();
    if (code == 77) GTEST_SKIP() << "no GPU here";
    ASSERT_EQ(code, 0);
  }
};

std::vector<char> pattern(u64 bytes, u64 seed) {
  std::vector<char> p(bytes);
  fill_with_pattern(p.data(), bytes, seed);
  return p;
}
bool device_holds(const void* device, const std::vector<char>& wanted) {
  std::vector<char> got(wanted.size());
  must(cuda_copy(got.data(), device, got.size()));
  return got == wanted;
}

TEST(cuda_missing, is_said_with_the_remedy_and_changes_nothing) {
  const auto made = cuda_host_memory::create();
  if (made) GTEST_SKIP() << "there is a GPU";
  EXPECT_EQ(made.error().code, errc::not_supported);
  EXPECT_NE(made.error().message().find("driver"), std::string_view::npos)
      << made.error().message();
  heap h = must(heap::create_private());
  EXPECT_EQ(refused(cuda_memory::bring(h, 1 * MiB)), errc::not_supported);
  EXPECT_EQ(refused(cuda_memory::attach(h, region_id{1}, 0)), errc::not_supported);
  int a = 1, b = 2;
  EXPECT_EQ(refused(cuda_copy(&a, &b, sizeof a)), errc::not_supported);
  EXPECT_EQ(a, 1);
  EXPECT_EQ(h.stats().region_count, 0u);
}

TEST_F(cuda, host_regions_are_registered_in_chunks_by_several_threads) {
  heap h = must(heap::create("h"));
  std::vector<u64> told;
  auto host = must(cuda_host_memory::create(
      {.chunk_bytes = 1 * MiB, .threads = 3, .progress = [&](u64 done, u64) {
         told.push_back(done);
       }}));
  must(h.bring_memory({.length_bytes = 2 * MiB}));
  auto seen = must(h.observe(*host));
  EXPECT_EQ(host->registered(), 2u);
  const region_id later = must(h.bring_memory({.length_bytes = 7 * MiB}));
  EXPECT_EQ(host->registered(), 9u);
  EXPECT_EQ(told.size(), 9u);
  EXPECT_EQ(told.back(), 7 * MiB);
  auto* const all = static_cast<char*>(h.allocate(5 * MiB));
  ASSERT_NE(all, nullptr);
  const u64 begin = heap::locate(all)->offset_bytes;
  auto* const near_end = all + (align_up(begin + 1, MiB) - begin) - 100;
  EXPECT_EQ(host->find(near_end)->contiguous_bytes, 100u);
  EXPECT_EQ(host->find(near_end + 100)->contiguous_bytes, MiB);
  EXPECT_EQ(host->find(near_end)->device_address + 50, host->find(near_end + 50)->device_address);
  int elsewhere = 0;
  EXPECT_FALSE(host->find(&elsewhere));
  heap::free(all);
  h.trim();
  must(h.remove_memory(later));
  EXPECT_EQ(host->registered(), 2u);
  seen = observation();
  EXPECT_EQ(host->registered(), 0u);
}

TEST_F(cuda, a_refusal_of_any_chunk_or_observer_leaves_nothing_registered) {
  heap h = must(heap::create("h"));
  auto host = must(cuda_host_memory::create({.chunk_bytes = 1 * MiB})),
       same = must(cuda_host_memory::create({.chunk_bytes = 1 * MiB}));
  {
    auto seen = must(h.observe(*host));
    refuser v;
    auto last = must(h.observe(v));
    EXPECT_EQ(refused(h.bring_memory({.length_bytes = 4 * MiB})), errc::vetoed);
    EXPECT_EQ(host->registered(), 0u);
  }
  auto first = must(h.observe(*host));
  must(h.bring_memory({.length_bytes = 4 * MiB}));
  const auto twice = h.observe(*same);  // CUDA does not register a page twice
  EXPECT_EQ(refused(twice), errc::vetoed);
  EXPECT_NE(twice.error().message().find("already"), std::string_view::npos)
      << twice.error().message();
  EXPECT_EQ(host->registered(), 4u);
  EXPECT_EQ(same->registered(), 0u);
  EXPECT_EQ(refused(cuda_host_memory::create({.device = 99})), errc::invalid_argument);
  EXPECT_EQ(refused(cuda_host_memory::create({.device = -1})), errc::invalid_argument);
  EXPECT_EQ(refused(cuda_host_memory::create({.chunk_bytes = 5000})), errc::invalid_argument);
}

TEST_F(cuda, blocks_of_gpu_memory_are_device_pointers_that_no_cpu_touches) {
  heap h = must(heap::create("h"));
  auto host = must(cuda_host_memory::create());
  auto seen = must(h.observe(*host));  // GPU regions pass
  cuda_memory gpu = must(cuda_memory::bring(h, 5 * MiB));
  EXPECT_GE(gpu.length_bytes(), 5 * MiB);
  EXPECT_EQ(host->registered(), 0u);
  std::vector<void*> blocks;
  for (u64 i = 0; i < 40; ++i) {
    void* const block = h.allocate(64 * KiB + i * 100);
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(heap::locate(block)->region, gpu.region());
    must(cuda_copy(block, pattern(64 * KiB, i).data(), 64 * KiB));
    blocks.push_back(block);
  }
  for (u64 i = 0; i < blocks.size(); ++i)
    EXPECT_TRUE(device_holds(blocks[i], pattern(64 * KiB, i))) << i;
  EXPECT_EQ(h.allocate({.size_bytes = 1000, .zeroed = true}), nullptr);
  EXPECT_EQ(refused(gpu.remove()), errc::blocks_live);
  EXPECT_TRUE(device_holds(blocks[7], pattern(64 * KiB, 7)));  // nothing has changed
  for (void* block : blocks)
    heap::free(block);
  h.trim();
  must(gpu.remove());
  must(gpu.remove());
  EXPECT_EQ(h.stats().region_count, 0u);
  for (int i = 0; i < 20; ++i) {  // it all comes back
    cuda_memory again = must(cuda_memory::bring(h, 512 * MiB));
    EXPECT_EQ(h.stats().region_count, 1u);
  }
  EXPECT_EQ(refused(cuda_memory::bring(h, 0)), errc::bad_length);
  EXPECT_EQ(refused(cuda_memory::bring(h, 4 * TiB)), errc::out_of_memory);
  EXPECT_EQ(refused(cuda_memory::bring(h, 1 * MiB, {.device = 5'000})), errc::invalid_argument);
  EXPECT_EQ(refused(cuda_memory::attach(h, region_id{1}, -1)), errc::invalid_argument);
  EXPECT_EQ(h.stats().region_count, 0u);
}

TEST_F(cuda, another_process_attaches_by_descriptor_allocates_and_may_be_killed) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  struct shared {
    std::atomic<u64> region{0}, first{0}, second{0};
  };
  auto* const words = shared_words<shared>();
  child_process other([&] {
    const int fd = take_descriptor(ends[1]);
    heap mine = must(heap::attach("h", {.regions = attach_policy::manual}));
    const mapped_memory in_the_way(32 * MiB);
    cuda_memory gpu =
        must(cuda_memory::attach(mine, region_id{static_cast<u32>(words->region.load())}, fd));
    ::close(fd);
    if (!device_holds(must(mine.resolve(handle{words->first.load()})), pattern(100'000, 1)))
      return 1;
    void* const own = mine.allocate(100'000);
    if (own == nullptr) return 2;
    must(cuda_copy(own, pattern(100'000, 2).data(), 100'000));
    words->second = static_cast<u64>(mine.handle_of(own));
    for (;;)
      ::pause();
  });
  heap h = must(heap::create("h"));
  cuda_memory gpu = must(cuda_memory::bring(h, 8 * MiB));
  void* const first = h.allocate(100'000);
  must(cuda_copy(first, pattern(100'000, 1).data(), 100'000));
  words->first = static_cast<u64>(h.handle_of(first));
  words->region = static_cast<u32>(gpu.region());
  const int fd = must(gpu.share());
  pass_descriptor(ends[0], fd);
  ::close(fd);
  ASSERT_TRUE(wait_until([&] { return words->second.load() != 0; }));
  EXPECT_TRUE(device_holds(must(h.resolve(handle{words->second.load()})), pattern(100'000, 2)));
  other.kill_now();
  EXPECT_EQ(other.wait_for_exit_code(), -SIGKILL);
  // The dead one's block is still there.
  EXPECT_TRUE(device_holds(must(h.resolve(handle{words->second.load()})), pattern(100'000, 2)));
  h.recover();
  for (const member_summary& m : h.members())
    if (!m.alive) must(h.reap(m.id));
  heap::free(first);
  h.trim();
  expect_sound(h);
  must(gpu.remove());
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace
}  // namespace annex
