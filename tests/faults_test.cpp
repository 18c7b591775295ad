// tests/faults_test.cpp - the operating system refuses: the n-th call fails, for every n.
//
// A call that was refused leaves nothing half done: everything can be done again at once, and at
// the end no file, no descriptor and no mapping is left. This program has the simulated platform
// (src/platform/simulated); interruptions_test has the real one, and signals.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>

#include <filesystem>
#include <vector>

#include "everything.hpp"
#include "platform/simulated/schedule.hpp"
#include "support.hpp"

namespace annex {
namespace {

using faults_of_the_system = in_own_directory;

// A region whose tables are sparse: their pages come as blocks are cut from all over it.
int use_a_huge_region() {
  auto made = heap::create("g", {.metadata_limit_bytes = 1 << 30,
                                 .member_limit = 16,
                                 .thread_limit = 32,
                                 .region_limit = 16,
                                 .zone_limit = 16});
  if (!made) return 1;
  int refusals = 0;
  constexpr std::size_t bytes = std::size_t{512} << 30;
  auto added = made->add_memory({.base = reinterpret_cast<void*>(std::uintptr_t{1} << 40),
                                 .length_bytes = bytes,
                                 .access = touch::none});
  std::vector<void*> blocks;
  for (int i = 0; added && i < 100; ++i)
    if (void* block = made->allocate(std::size_t{5} << 30))
      blocks.push_back(block);
    else if (i < 95)
      ++refusals;
  refusals += !added;
  for (void* block : blocks)
    heap::free(block);
  if (added) must(made->remove_memory(*added), "remove");
  *made = heap{};
  must(heap::destroy("g"), "destroy");
  return refusals;
}

enum outcome { passed = 0, failed = 1, not_reached = 2 };

outcome with_failing_call(unsigned n, bool lasting, const std::string& directory) {
  const int descriptors = open_descriptors();
  const mapped_memory plain(1 << 20);
  os::simulated::follow({.refused_call = n, .lasting = lasting});
  // Where every wait is refused, a drain ends at its deadline.
  const int refusals =
      lasting ? use_everything(plain, std::chrono::milliseconds(100)) : use_everything(plain);
  const bool reached = os::simulated::calls() >= n;
  const char* const call = os::simulated::last_refused();
  const bool may_leave_files =
      os::simulated::was_refused("identify_in") || os::simulated::was_refused("remove_in");
  os::simulated::follow({});
  EXPECT_TRUE(!lasting || !reached || n > 1 || refusals != 0)
      << "all was refused, and nobody said so";
  end_everything();
  EXPECT_EQ(use_everything(plain), 0) << "not everything could be done again";
  EXPECT_EQ(open_descriptors(), descriptors);
  EXPECT_EQ(mappings_of(directory), 0);
  // A file that can't be looked at, or not be removed, stays where it is, and the log says so.
  if (may_leave_files)
    for (const auto& left : std::filesystem::directory_iterator(directory))
      std::filesystem::remove(left);
  EXPECT_TRUE(std::filesystem::is_empty(directory)) << "files were left";
  if (::testing::Test::HasFailure())
    std::fprintf(stderr, "  … with %s call %u failing (%s)\n", lasting ? "every call from" : "only",
                 n, call != nullptr ? call : "none");
  return ::testing::Test::HasFailure() ? failed : reached ? passed : not_reached;
}

void fail_every_call(bool lasting, const std::string& directory) {
  unsigned n = 1;
  for (;; ++n) {
    child_process child([&] { return with_failing_call(n, lasting, directory); });
    const int code = child.wait_for_exit_code();
    if (code == not_reached) break;
    ASSERT_EQ(code, passed) << "call " << n;
    ASSERT_LT(n, 5000u);
  }
  EXPECT_GT(n, 50u) << "the calls were not counted";
}

// The annex directory on a file system of its own that has less and less room.
TEST_F(faults_of_the_system, a_full_file_system_refuses_and_kills_nobody) {
  constexpr std::size_t room = 6 << 20, step = 48 << 10;
  if (::mount("annex-test", path().c_str(), "tmpfs", 0, fmt::format("size={}", room).c_str()) != 0)
    GTEST_SKIP() << "needs the right to mount";
  int refused_at_all = 0, passed_at_all = 0;
  for (std::size_t filled = room; filled > 0; filled -= std::min(step, filled)) {
    const std::string filler = path() + "/filler";
    child_process child([&] {
      const int fd = ::open(filler.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
      if (::fallocate(fd, 0, 0, static_cast<off_t>(filled)) != 0) return 10;
      const mapped_memory plain(1 << 20);
      const int refusals = use_everything(plain) + use_a_huge_region();
      ::unlink(filler.c_str());
      ::close(fd);
      end_everything();
      EXPECT_EQ(use_everything(plain) + use_a_huge_region(), 0);
      EXPECT_TRUE(std::filesystem::is_empty(path()));
      return ::testing::Test::HasFailure() ? 11 : refusals != 0 ? 1 : 0;
    });
    const int code = child.wait_for_exit_code();
    refused_at_all += code == 1;
    passed_at_all += code == 0;
    EXPECT_TRUE(code == 0 || code == 1) << code << " with " << room - filled << " bytes of room";
  }
  EXPECT_GT(refused_at_all, 5);
  EXPECT_GT(passed_at_all, 5);
  ::umount(path().c_str());
}

TEST_F(faults_of_the_system, each_refusal_leaves_nothing_behind) {
  fail_every_call(false, path());
}
TEST_F(faults_of_the_system, a_machine_that_refuses_everything_from_some_moment_on_is_survived) {
  fail_every_call(true, path());
}

}  // namespace
}  // namespace annex
