// tests/error_test.cpp - refusals that need a special world: no address space, no pages, stopped
// processes, forked children.
#include <fcntl.h>
#include <sys/resource.h>

#include <chrono>
#include <filesystem>

#include "another_member.hpp"
#include "support.hpp"

namespace annex {
namespace {

using namespace std::chrono_literals;
using refusals = in_own_directory;

struct stubborn : observer {
  std::string_view name() const noexcept override { return "stubborn"; }
  result<void> on_add(const region_view&) override {
    if (refuse_add) return std::unexpected(error{errc::os_failure, 0, "not mine"});
    return {};
  }
  result<void> finish_remove(const region_view&, std::chrono::steady_clock::time_point) override {
    if (refuse_finish) return std::unexpected(error{errc::deadline_passed, 0, "still busy"});
    return {};
  }
  bool refuse_add = false, refuse_finish = false;
};

TEST_F(refusals, no_address_space_is_an_os_failure) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer needs more address space than is left here";
#endif
  { heap h = must(heap::create("a")); }
  child_process child([] {
    const rlimit little{std::size_t{1} << 30, std::size_t{1} << 30};
    ::setrlimit(RLIMIT_AS, &little);
    if (refused(heap::create("b")) != errc::os_failure) return 1;
    if (refused(attach_as_another("a")) != errc::os_failure) return 2;
    return refused(heap::create_private({.metadata_limit_bytes = std::size_t{32} << 30})) ==
                   errc::os_failure
               ? 0
               : 3;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

TEST_F(refusals, no_pages_behind_a_mapping_are_found_by_prefault) {
  const int fd = ::memfd_create("huge", MFD_HUGETLB | (21u << 26));
  if (fd < 0 || ::ftruncate(fd, std::size_t{1} << 40) != 0) GTEST_SKIP() << "no hugetlb here";
  void* base = ::mmap(nullptr, std::size_t{1} << 40, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (base == MAP_FAILED) GTEST_SKIP() << "no hugetlb here";
  heap h = must(heap::create_private());
  const region_id id = must(h.add_memory(
      {.base = base, .length_bytes = std::size_t{1} << 40, .page_bytes = 2 << 20, .fd = fd}));
  EXPECT_EQ(refused(h.prefault(id)), errc::out_of_memory);
  ::munmap(base, std::size_t{1} << 40);
  ::close(fd);
}

TEST_F(refusals, what_is_not_attached_says_so) {
  heap h = heap_with(1 << 20, {}, "a");
  heap mine = must(attach_as_another("a", {.regions = attach_policy::manual}));
  EXPECT_EQ(refused(mine.prefault(region_id{1})), errc::not_attached);
  EXPECT_EQ(refused(mine.hold(region_id{1})), errc::not_attached);
  EXPECT_EQ(refused(mine.detach_memory(region_id{1})), errc::not_attached);
  must(h.reserve_zone("z", {.size_bytes = 10}));
  EXPECT_EQ(refused(mine.find_zone("z")), errc::cannot_attach);
}

TEST_F(refusals, an_observer_can_refuse_attaching_and_put_off_detaching) {
  heap h = heap_with(1 << 20, {}, "a");
  heap mine = must(attach_as_another("a", {.regions = attach_policy::manual}));
  stubborn s;
  observation o = must(mine.observe(s));
  s.refuse_add = true;
  EXPECT_EQ(refused(mine.attach_memory(region_id{1})), errc::vetoed);
  EXPECT_EQ(refused(mine.bring_memory({.length_bytes = 4096})), errc::vetoed);
  s.refuse_add = false;
  must(mine.attach_memory(region_id{1}));
  s.refuse_finish = true;
  EXPECT_EQ(refused(mine.detach_memory(region_id{1})), errc::deadline_passed);
  EXPECT_EQ(refused(mine.remove_memory(region_id{1})), errc::deadline_passed);
  EXPECT_NE(mine.allocate(100), nullptr) << "refused: it serves as before";
  s.refuse_finish = false;
  must(mine.detach_memory(region_id{1}));
}

TEST_F(refusals, observers_of_a_stopped_process_keep_a_region) {
  auto* ready = shared_words<std::atomic<int>>();
  heap h = heap_with(1 << 20, {}, "a");
  child_process child([ready] {
    stubborn s;
    heap mine = must(attach_as_another("a"));
    observation o = must(mine.observe(s));
    *ready = 1;
    for (;;)
      ::pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return *ready == 1; }));
  child.kill_now(SIGSTOP);
  ::waitpid(child.id(), nullptr, WUNTRACED);  // all of its threads have stopped
  EXPECT_EQ(refused(h.remove_memory(region_id{1})), errc::observed_elsewhere);
  EXPECT_EQ(refused(h.drain_memory(region_id{1}, 50ms)), errc::observed_elsewhere);
  EXPECT_NE(h.allocate(100), nullptr);
  child.kill_now(SIGKILL);
}

TEST_F(refusals, a_forked_child_of_a_private_heap_gets_none_of_it) {
  heap h = heap_with(1 << 20);
  stubborn s;
  child_process child([&] {
    mapped_memory m(4096);
    int wrong = 0;
    wrong += refused(h.add_memory(m.range())) != errc::forked_away;
    wrong += refused(h.remove_memory(region_id{1})) != errc::forked_away;
    wrong += refused(h.reserve_zone("z", {.size_bytes = 1})) != errc::forked_away;
    wrong += refused(h.release_zone("z")) != errc::forked_away;
    wrong += refused(h.observe(s)) != errc::forked_away;
    wrong += refused(h.hold(region_id{1})) != errc::forked_away;
    wrong += refused(h.reap(member_id{1})) != errc::forked_away;
    wrong += refused(h.attach_memory(region_id{1})) != errc::forked_away;
    wrong += refused(h.for_each_block([](const block_summary&) {})) != errc::forked_away;
    return wrong;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

TEST_F(refusals, a_file_that_may_not_be_opened_is_a_matter_of_permission) {
  if (::getuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  const std::string file = path() + "/secret";
  ::close(::open(file.c_str(), O_CREAT | O_RDWR, 0600));
  std::filesystem::permissions(path(), std::filesystem::perms::all);
  child_process child([&] {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) return 9;
    heap h = must(heap::create_private());
    return refused(h.bring_memory(
               {.from = memory_source::kind::file, .length_bytes = 4096, .path = file})) ==
                   errc::permission
               ? 0
               : 1;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

}  // namespace
}  // namespace annex
