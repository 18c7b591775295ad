// tests/faults_test.cpp - the operating system refuses, or a signal interrupts: the n-th system
// call fails, for every n.
//
// A call that was refused leaves nothing half done: everything can be done again at once, and at
// the end no file, no descriptor and no mapping is left. An interruption is not even seen.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "another_member.hpp"
#include "support.hpp"
#include "system_calls.hpp"

namespace annex {
namespace {

using faults_of_the_system = in_own_directory;

struct watchful : observer {
  std::string_view name() const noexcept override { return "watchful"; }
  result<void> on_add(const region_view&) override { return {}; }
  result<void> finish_remove(const region_view&, std::chrono::steady_clock::time_point) override {
    return {};
  }
};

// A sentence one can act on: without holes, with what the system said or the limit that is reached,
// and with what mends it where that is known.
void expect_sentence(std::string_view text, int os_errno,
                     std::size_t longest = sizeof(error::text) - 2) {
  const std::string said(text);
  for (const char* const hole : {" :", "::", " ;", ";;", " ,", "  ", "\"\"", "()", "(null)",
                                 "Success", "rror 0", "of ;", "{", "}"})
    EXPECT_EQ(said.find(hole), said.npos) << "\"" << hole << "\" in: " << said;
  EXPECT_GE(said.size(), 20u) << said;
  EXPECT_LE(said.size(), longest) << "cut off: " << said;
  if (said.empty()) return;
  EXPECT_EQ(std::string(" :;,").find(said.back()), std::string::npos) << "it breaks off: " << said;
  const bool has_meaning = os_errno != 0 && said.find(std::strerror(os_errno)) != said.npos;
  const bool has_figure = said.find_first_of("0123456789") != said.npos;
  EXPECT_TRUE(has_meaning || has_figure)
      << "neither what the system said (" << std::strerror(os_errno) << ") nor a limit: " << said;
  auto has_one_of = [&](std::initializer_list<const char*> words) {
    for (const char* const word : words)
      if (said.find(word) != said.npos) return true;
    return false;
  };
  EXPECT_TRUE(os_errno != EMFILE || has_one_of({"ulimit -n"})) << said;
  EXPECT_TRUE(os_errno != EFBIG || has_one_of({"ulimit -f", "choose another place"})) << said;
  EXPECT_TRUE(os_errno != ENOSPC || has_one_of({"enlarge", "free some", "choose another place"}))
      << said;
  EXPECT_TRUE(os_errno != ENOMEM || has_one_of({"free memory", "less", "ulimit"})) << said;
  EXPECT_TRUE((os_errno != EPERM && os_errno != EACCES) ||
              has_one_of({"permission", "privilege", "CAP_"}))
      << said;
}

// Something of everything. Returns how much of it was refused; each refusal has to say why.
int use_everything(const mapped_memory& plain,
                   std::chrono::milliseconds patience = std::chrono::seconds(1)) {
  int refusals = 0;
  auto check = [&](const auto& r) {
    if (r) return true;
    ++refusals;
    expect_sentence(r.error().message(), r.error().os_errno);
    EXPECT_FALSE(name_of(r.error().code).empty());
    return false;
  };
  auto made = heap::create("f", {.metadata_limit_bytes = 256 << 20,
                                 .member_limit = 16,
                                 .thread_limit = 32,
                                 .region_limit = 16,
                                 .zone_limit = 16});
  if (!check(made)) return refusals;
  heap h = std::move(*made);
  const auto brought = h.bring_memory({.length_bytes = 2 << 20});
  check(brought);
  const auto added = h.add_memory(plain.range());
  check(added);
  std::vector<void*> blocks;
  for (const std::size_t bytes : {64u, 64u, 5000u, 200000u, 30000u})
    if (void* block = h.allocate(bytes)) {
      blocks.push_back(block);
    } else {
      ++refusals;
      expect_sentence(heap::last_failure().message(), 0, sizeof(explanation::text) - 2);
    }
  heap other;
  if (auto attached = attach_as_another("f"); check(attached)) other = std::move(*attached);
  if (other) {
    if (void* block = other.allocate(3000))
      heap::free(block);
    else
      ++refusals;
  }
  check(h.reserve_zone("zone", {.size_bytes = 1000}));
  if (auto p = raw_pool::create(h, "pool", {.object_bytes = 64, .object_count = 20}); check(p)) {
    if (void* object = p->take())
      p->give(object);
    else
      ++refusals;
  }
  if (auto r = ring::create(h, "ring", 8); check(r)) {
    r->put(handle{5});
    (void)r->take();
  }
  {
    watchful who;
    auto seen = h.observe(who);
    check(seen);
  }
  check(h.audit());
  (void)h.stats();
  (void)h.members();
  (void)heap::list();
  for (void* block : blocks)
    heap::free(block);
  h.trim();
  for (const char* name : {"pool"})
    (void)raw_pool::release(h, name);
  (void)ring::release(h, "ring");
  (void)h.release_zone("zone");
  if (brought) check(h.drain_memory(*brought, patience));
  if (added) check(h.remove_memory(*added));
  h = heap{};
  other = heap{};
  check(heap::destroy("f"));
  return refusals;
}

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

// What a heap that could not be ended is ended with, when nothing fails.
void end_everything() {
  auto left = attach_as_another("f");
  if (!left) return;
  for (const member_summary& m : left->members())
    if (!m.alive) (void)left->reap(m.id);
  (void)raw_pool::release(*left, "pool");
  (void)ring::release(*left, "ring");
  (void)left->release_zone("zone");
  expect_sound(*left);
  left->trim();
  EXPECT_EQ(left->stats().live_blocks, 0u);
  *left = heap{};
  must(heap::destroy("f"), "destroy");
}

int open_descriptors() {
  int n = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    n += !entry.path().empty();
  return n;
}
int mappings_of(const std::string& directory) {
  std::ifstream maps("/proc/self/maps");
  int n = 0;
  for (std::string line; std::getline(maps, line);)
    n += line.find(directory) != line.npos;
  return n;
}

enum outcome { passed = 0, failed = 1, not_reached = 2 };

outcome with_failing_call(unsigned n, faults::kind how, bool lasting,
                          const std::string& directory) {
  const int descriptors = open_descriptors();
  const mapped_memory plain(1 << 20);
  faults::fail_call(n, how, lasting);
  // Where every wait is refused, a drain ends at its deadline.
  const int refusals =
      lasting ? use_everything(plain, std::chrono::milliseconds(100)) : use_everything(plain);
  const bool reached = faults::calls() >= n;
  const char* const call = faults::failed();
  faults::fail_call(0, how, false);
  if (how == faults::kind::interrupted && refusals != 0)
    ADD_FAILURE() << "an interruption was seen";
  end_everything();
  EXPECT_EQ(use_everything(plain), 0) << "not everything could be done again";
  EXPECT_EQ(open_descriptors(), descriptors);
  EXPECT_EQ(mappings_of(directory), 0);
  EXPECT_TRUE(std::filesystem::is_empty(directory)) << "files were left";
  if (::testing::Test::HasFailure())
    std::fprintf(stderr, "  … with %s call %u failing (%s)\n", lasting ? "every call from" : "only",
                 n, call != nullptr ? call : "none");
  return ::testing::Test::HasFailure() ? failed : reached ? passed : not_reached;
}

void fail_every_call(faults::kind how, bool lasting, const std::string& directory) {
  unsigned n = 1;
  for (;; ++n) {
    child_process child([&] { return with_failing_call(n, how, lasting, directory); });
    const int code = child.wait_for_exit_code();
    if (code == not_reached) break;
    ASSERT_EQ(code, passed) << "call " << n;
    ASSERT_LT(n, 5000u);
  }
  EXPECT_GT(n, how == faults::kind::refused ? 50u : 20u) << "the calls were not counted";
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
  fail_every_call(faults::kind::refused, false, path());
}
TEST_F(faults_of_the_system, each_interruption_goes_unseen) {
  fail_every_call(faults::kind::interrupted, false, path());
}
TEST_F(faults_of_the_system, a_machine_that_refuses_everything_from_some_moment_on_is_survived) {
  fail_every_call(faults::kind::refused, true, path());
}

}  // namespace
}  // namespace annex
