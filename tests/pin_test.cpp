// tests/pin_test.cpp - pinned regions: where their pages are they stay, and physical addresses are
// true.
#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <thread>

#include "another_member.hpp"
#include "support.hpp"

namespace annex {
namespace {

class pinning : public in_own_directory {};

// The page frame behind an address, as the kernel says; 0: hidden, or not there.
u64 frame_of(const void* address) {
  const int fd = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  u64 entry = 0;
  const bool read =
      fd >= 0 &&
      ::pread(fd, &entry, sizeof entry,
              static_cast<off_t>(reinterpret_cast<u64>(address) / 4096 * 8)) == sizeof entry;
  if (fd >= 0) ::close(fd);
  return read && (entry >> 63) != 0 ? entry & ((u64{1} << 55) - 1) : 0;
}
void compact_memory() {
  std::ofstream("/proc/sys/vm/compact_memory") << 1;
}
bool frames_are_shown() {
  int here = 1;
  return frame_of(&here) != 0;
}

TEST_F(pinning, ordinary_pages_have_their_physical_addresses_as_iovas_and_stay) {
  if (!frames_are_shown()) GTEST_SKIP() << "page frames are hidden here (CAP_SYS_ADMIN)";
  heap h = must(heap::create("h"));
  for (const auto from : {memory_source::kind::shared, memory_source::kind::anonymous}) {
    u64 done = 0;
    const auto brought = h.bring_memory({.from = from,
                                         .length_bytes = 32 * MiB,
                                         .pin = true,
                                         .physical_iovas = true,
                                         .progress = [&](u64 so_far, u64) { done = so_far; }});
    if (!brought && brought.error().code == errc::not_supported)
      GTEST_SKIP() << brought.error().message();
    const region_id region = must(brought);
    EXPECT_EQ(done, 32 * MiB);
    char* base = nullptr;
    h.for_each_region([&](const region_summary& r) {
      if (r.id == region) base = static_cast<char*>(r.base);
    });
    ASSERT_NE(base, nullptr);
    auto are_true = [&] {
      u64 wrong = 0;
      for (u64 at = 0; at < 32 * MiB; at += 4096)
        wrong +=
            static_cast<u64>(*heap::locate(base + at)->bus_address) == frame_of(base + at) * 4096
                ? 0u
                : 1u;
      return wrong == 0;
    };
    EXPECT_TRUE(are_true());
    compact_memory();
    EXPECT_TRUE(are_true()) << "pages moved";
    auto* const block =
        static_cast<char*>(h.allocate({.size_bytes = 4096, .iova_contiguous = true}));
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(static_cast<u64>(*heap::locate(block)->bus_address) / 4096, frame_of(block));
    heap::free(block);
    h.trim();
    must(h.remove_memory(region));
  }
}

TEST_F(pinning, holds_as_long_as_one_member_lives) {
  if (!frames_are_shown()) GTEST_SKIP() << "page frames are hidden here (CAP_SYS_ADMIN)";
  heap h = must(heap::create("h"));
  child_process adder([] {
    heap mine = must(attach_as_another("h"));
    return mine.bring_memory({.from = memory_source::kind::shared,
                              .length_bytes = 32 * MiB,
                              .pin = true,
                              .physical_iovas = true})
               ? 0
               : 77;
  });
  if (adder.wait_for_exit_code() == 77) GTEST_SKIP() << "nothing can be pinned here";
  // The adder's pin ended with it, before this process attaches, pins, and looks where the pages
  // are. Either they are where they were, or it is refused.
  auto* const block = static_cast<char*>(h.allocate(20 * MiB));
  if (block == nullptr) {
    EXPECT_EQ(refused(h.attach_memory(region_id{1})), errc::wrong_memory);
    return;
  }
  std::memset(block, 1, 20 * MiB);
  compact_memory();
  u64 wrong = 0;
  for (u64 at = 0; at < 20 * MiB; at += 4096)
    wrong += static_cast<u64>(*heap::locate(block + at)->bus_address) == frame_of(block + at) * 4096
                 ? 0u
                 : 1u;
  EXPECT_EQ(wrong, 0u);
}

TEST_F(pinning, that_moved_while_nobody_held_it_is_found_out) {
  if (!frames_are_shown()) GTEST_SKIP() << "page frames are hidden here (CAP_SYS_ADMIN)";
  heap h = must(heap::create("h"));
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  child_process adder([&] {
    heap mine = must(attach_as_another("h"));
    if (!mine.bring_memory({.from = memory_source::kind::shared,
                            .length_bytes = 1 * MiB,
                            .pin = true,
                            .physical_iovas = true}))
      return 77;
    std::string file;
    mine.for_each_region([&](const region_summary& r) { file = r.backing; });
    if (file.empty()) return 1;
    // The same file with other pages: what moving looks like.
    const int fd = ::open(file.c_str(), O_RDWR);
    return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 * MiB) == 0 ? 0 : 2;
  });
  const int code = adder.wait_for_exit_code();
  if (code == 77) GTEST_SKIP() << "nothing can be pinned here";
  ASSERT_EQ(code, 0);
  EXPECT_EQ(refused(h.attach_memory(region_id{1})), errc::wrong_memory);
  EXPECT_EQ(h.allocate(100), nullptr);
}

// The same 256 MiB over and over, one behind the other: all the work of 64 GiB, on any machine.
class long_mapping {
 public:
  static constexpr u64 bytes = 64 * GiB, own_bytes = 256 * MiB;
  long_mapping() : fd_(::memfd_create("long", MFD_CLOEXEC)) {
    void* const space =
        ::mmap(nullptr, bytes + GiB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fd_ < 0 || space == MAP_FAILED || ::ftruncate(fd_, own_bytes) != 0) return;
    space_ = static_cast<char*>(space);
    base_ = reinterpret_cast<char*>(align_up(reinterpret_cast<u64>(space), GiB));
    for (u64 at = 0; at < bytes; at += own_bytes)
      if (::mmap(base_ + at, own_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd_, 0) ==
          MAP_FAILED)
        base_ = nullptr;
  }
  ~long_mapping() {
    if (space_ != nullptr) ::munmap(space_, bytes + GiB);
    if (fd_ >= 0) ::close(fd_);
  }
  char* base() const { return base_; }

 private:
  int fd_;
  char *space_ = nullptr, *base_ = nullptr;
};

TEST_F(pinning, of_64_GiB_goes_in_parallel_tells_its_progress_and_lets_others_allocate) {
  heap h = must(heap::create("h"));
  must(h.bring_memory({.length_bytes = 64 * MiB}));
  const long_mapping m;
  ASSERT_NE(m.base(), nullptr);
  std::atomic<bool> over{false};
  std::atomic<u64> allocated{0};
  std::thread others([&] {
    while (!over) {
      void* const block = h.allocate(1000);
      heap::free(block);
      allocated += block != nullptr ? 1u : 0u;
    }
  });
  ASSERT_TRUE(wait_until([&] { return allocated.load() > 0; }));
  std::vector<u64> told;
  u64 total = 0, allocated_at_first = 0, allocated_at_last = 0;
  memory_range r{.base = m.base(), .length_bytes = long_mapping::bytes, .pin = true, .threads = 2};
  r.progress = [&](u64 so_far, u64 of) {
    if (told.empty()) allocated_at_first = allocated.load();
    allocated_at_last = allocated.load();
    told.push_back(so_far);
    total = of;
  };
  const auto added = h.add_memory(r);
  over = true;
  others.join();
  if (!added &&
      (added.error().code == errc::not_supported || added.error().code == errc::out_of_memory))
    GTEST_SKIP() << added.error().message();
  const region_id region = must(added);
  EXPECT_EQ(told.size(), 64u);
  EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
  EXPECT_EQ(told.back(), long_mapping::bytes);
  EXPECT_EQ(total, long_mapping::bytes);
  EXPECT_GT(allocated_at_last, allocated_at_first + 1000);
  EXPECT_EQ(h.stats().total_bytes, long_mapping::bytes + 64 * MiB);
  must(h.remove_memory(region));
}

TEST_F(pinning, is_refused_where_it_cannot_be) {
  heap h = must(heap::create("h"));
  const mapped_memory untouchable(1 * MiB, PROT_NONE);
  memory_range r = untouchable.range();
  r.access = touch::none;
  r.pin = true;
  EXPECT_EQ(refused(h.add_memory(r)), errc::no_cpu_access);
  const auto unpinned = h.bring_memory({.length_bytes = 1 * MiB, .physical_iovas = true});
  EXPECT_EQ(refused(unpinned), errc::not_supported);
  EXPECT_NE(unpinned.error().message().find("pin"), std::string_view::npos);
  child_process limited([] {
    heap mine = must(attach_as_another("h"));
    const rlimit small{256 * KiB, 256 * KiB};
    if (::setrlimit(RLIMIT_MEMLOCK, &small) != 0 || ::setuid(65534) != 0) return 77;
    const auto refusal = mine.bring_memory(
        {.from = memory_source::kind::anonymous, .length_bytes = 8 * MiB, .pin = true});
    if (refusal) return 1;
    return refusal.error().code == errc::out_of_memory &&
                   refusal.error().message().find("262144") != std::string_view::npos
               ? 0
           : refusal.error().code == errc::not_supported ? 77
                                                         : 2;
  });
  const int code = limited.wait_for_exit_code();
  EXPECT_TRUE(code == 0 || code == 77) << code;
  EXPECT_EQ(h.stats().region_count, 0u);
  must(h.bring_memory({.length_bytes = 1 * MiB}));
}

}  // namespace
}  // namespace annex
