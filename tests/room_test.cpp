// tests/room_test.cpp - memory that is brought is there: small file systems, limits of the process,
// and what is said of them.
//
// Each place is a tmpfs of its own, mounted where the annex directory of the test lies.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "another_member.hpp"
#include "support.hpp"

namespace annex {
namespace {

constexpr heap_options small_tables{.metadata_limit_bytes = 256 << 20,
                                    .member_limit = 16,
                                    .thread_limit = 32,
                                    .region_limit = 64,
                                    .zone_limit = 64};

class room : public in_own_directory {
 protected:
  ~room() override {
    if (is_mounted_) ::umount2(path().c_str(), MNT_DETACH);
  }
  /// False: this process may not mount.
  bool mount_place(u64 bytes) {
    return is_mounted_ = ::mount("annex-room", path().c_str(), "tmpfs", 0,
                                 fmt::format("size={},mode=700", bytes).c_str()) == 0;
  }
  u64 free_there() const {
    struct statfs s {};
    return ::statfs(path().c_str(), &s) == 0 ? s.f_bavail * static_cast<u64>(s.f_bsize) : 0;
  }
  /// Takes all that is left of the place, as another program might.
  void fill_place() const {
    const int fd = ::open((path() + "/filler").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    for (u64 step = MiB; step >= 4096; step /= 2)
      while (::fallocate(fd, 0, ::lseek(fd, 0, SEEK_END), static_cast<off_t>(step)) == 0) {}
    ::close(fd);
  }

 private:
  bool is_mounted_ = false;
};

#define NEEDS_A_PLACE(bytes) \
  if (!mount_place(bytes)) GTEST_SKIP() << "needs the right to mount"

void expect_words(const error& e, std::initializer_list<std::string> words) {
  for (const std::string& word : words)
    EXPECT_NE(e.message().find(word), std::string_view::npos)
        << "no \"" << word << "\" in: " << e.message();
}

// Every byte of every block there is.
u64 write_everything(heap& h) {
  u64 written = 0;
  for (const std::size_t bytes : {MiB, 64 * KiB, u64{4096}, u64{64}})
    while (void* block = h.allocate(bytes)) {
      std::memset(block, 1, bytes);
      written += bytes;
    }
  return written;
}

TEST_F(room, more_than_the_file_system_has_is_refused_with_its_figures_and_a_remedy) {
  NEEDS_A_PLACE(64 * MiB);
  heap h = must(heap::create("a", small_tables));
  const u64 before = free_there();
  for (const bool prefault : {false, true}) {
    const auto no = h.bring_memory({.length_bytes = 256 * MiB, .prefault = prefault});
    EXPECT_EQ(refused(no), errc::out_of_memory);
    expect_words(no.error(), {std::to_string(256 * MiB), path(), std::to_string(64 * MiB),
                              std::to_string(before), "remount,size=257M", "overcommit"});
  }
  EXPECT_EQ(free_there(), before);
  EXPECT_EQ(h.stats().region_count, 0u);
  must(h.bring_memory({.length_bytes = 256 * MiB, .overcommit = true}));
}

TEST_F(room, no_write_to_a_block_kills_whatever_was_brought_before) {
  NEEDS_A_PLACE(64 * MiB);
  child_process child([&] {
    heap h = must(heap::create("a", small_tables));
    int brought = 0;
    for (const u64 bytes : {40 * MiB, 40 * MiB, 20 * MiB, 8 * MiB, 2 * MiB, MiB, 64 * KiB, 4 * KiB})
      while (h.bring_memory({.length_bytes = bytes}))
        ++brought;
    const u64 written = write_everything(h);
    expect_sound(h);
    EXPECT_GE(brought, 3);
    EXPECT_GT(written, 58 * MiB) << "what fits is served";
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

TEST_F(room, what_was_brought_stays_there_when_others_fill_the_file_system) {
  NEEDS_A_PLACE(32 * MiB);
  child_process child([&] {
    heap h = must(heap::create("a", small_tables));
    must(h.bring_memory({.length_bytes = 16 * MiB}));
    heap::free(h.allocate(64));
    fill_place();
    void* block = h.allocate(12 * MiB);
    if (block == nullptr) return 1;
    std::memset(block, 1, 12 * MiB);
    return 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

TEST_F(room, a_region_as_large_as_its_file_system_shares_it_with_the_heaps_tables) {
  NEEDS_A_PLACE(8 * MiB);
  child_process child([&] {
    heap h = must(heap::create("a", small_tables));
    must(h.bring_memory({.length_bytes = 8 * MiB}));
    EXPECT_EQ(refused(h.bring_memory({.length_bytes = 8 * MiB})), errc::out_of_memory);
    EXPECT_EQ(h.allocate(8 * MiB), nullptr) << "the tables lie there too";
    EXPECT_NE(heap::last_failure().message().find("is full"), std::string_view::npos)
        << heap::last_failure().message();
    const zone most = must(h.reserve_zone("largest", {}));
    std::memset(most.address, 1, most.size_bytes);
    EXPECT_GT(most.size_bytes, 7 * MiB);
    (void)write_everything(h);
    heap other = must(attach_as_another("a"));
    (void)write_everything(other);
    expect_sound(h);
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

// The tables of a huge region are full of holes, and reading one through a mapping takes a page.
TEST_F(room, who_only_looks_is_not_killed_where_nothing_is_left) {
  NEEDS_A_PLACE(8 * MiB);
  child_process maker([] {
    heap h = must(heap::create("a", {.metadata_limit_bytes = 1 << 30}));
    must(h.add_memory({.base = reinterpret_cast<void*>(std::uintptr_t{1} << 40),
                       .length_bytes = std::size_t{512} << 30,
                       .access = touch::none}));
    return h.allocate(std::size_t{5} << 30) != nullptr ? 0 : 1;
  });
  ASSERT_EQ(maker.wait_for_exit_code(), 0);
  fill_place();
  child_process looker([] {
    EXPECT_EQ(must(heap::list()).size(), 1u);
    expect_sound(must(heap::attach("a", {.read_only = true})));
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(looker.wait_for_exit_code(), 0);
}

TEST_F(room, growth_ends_in_a_refusal_and_not_in_a_signal) {
  NEEDS_A_PLACE(32 * MiB);
  child_process child([&] {
    heap h = must(heap::create("a", small_tables));
    std::string last;
    h.on_shortage([&](std::size_t) {
      const auto more = h.bring_memory({.length_bytes = 5 * MiB});
      if (!more) last = more.error().message();
      return more.has_value();
    });
    const u64 written = write_everything(h);
    EXPECT_GT(written, 24 * MiB);
    EXPECT_NE(last.find("do not fit"), last.npos) << last;
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

TEST_F(room, a_refused_file_is_as_it_was) {
  NEEDS_A_PLACE(16 * MiB);
  using kind = memory_source::kind;
  heap h = must(heap::create("a", small_tables));
  const std::string fresh = path() + "/fresh", old = path() + "/old";
  EXPECT_EQ(refused(h.bring_memory({.from = kind::file, .length_bytes = 64 * MiB, .path = fresh})),
            errc::out_of_memory);
  EXPECT_FALSE(std::filesystem::exists(fresh));
  const int fd = ::open(old.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  ASSERT_EQ(::ftruncate(fd, 8192), 0);
  EXPECT_EQ(refused(h.bring_memory({.from = kind::file, .length_bytes = 64 * MiB, .path = old})),
            errc::out_of_memory);
  EXPECT_EQ(std::filesystem::file_size(old), 8192u);
  ASSERT_EQ(::ftruncate(fd, 64 << 20), 0);
  EXPECT_EQ(refused(h.bring_memory({.from = kind::descriptor, .length_bytes = 64 * MiB, .fd = fd})),
            errc::out_of_memory)
      << "a descriptor of a file with holes";
  const iova twice[2] = {iova{1 << 20}, iova{1 << 20}};
  ASSERT_EQ(::ftruncate(fd, 0), 0);
  EXPECT_EQ(refused(h.bring_memory(
                {.from = kind::file, .length_bytes = 8192, .path = old, .page_iovas = twice})),
            errc::iova_overlap);
  EXPECT_EQ(std::filesystem::file_size(old), 0u) << "refused at the very end";
  must(h.bring_memory({.from = kind::file, .length_bytes = 4 * MiB, .path = old}));
  EXPECT_LE(free_there(), 12 * MiB) << "reserved";
  ::close(fd);
}

TEST_F(room, reserving_tells_its_progress_and_contradictions_are_refused) {
  heap named = must(heap::create("a", small_tables)),
       own = must(heap::create_private(small_tables));
  for (heap* h : {&named, &own}) {
    u64 last = 0, calls = 0;
    memory_source m{
        .length_bytes = 64 * MiB, .reserve = true, .progress = [&](u64 done, u64 total) {
          EXPECT_GT(done, last);
          EXPECT_EQ(total, 64 * MiB);
          last = done;
          ++calls;
        }};
    must(h->bring_memory(m));
    EXPECT_EQ(last, 64 * MiB);
    EXPECT_EQ(calls, 4u);
  }
  for (memory_source m : {memory_source{.reserve = true}, memory_source{.prefault = true},
                          memory_source{.pin = true}}) {
    m.length_bytes = MiB;
    m.overcommit = true;
    EXPECT_EQ(refused(own.bring_memory(m)), errc::invalid_argument);
  }
}

TEST_F(room, a_private_heap_is_refused_more_than_the_machine_has) {
  heap h = must(heap::create_private(small_tables));
  const auto no = h.bring_memory({.length_bytes = 8 * TiB});
  EXPECT_EQ(refused(no), errc::out_of_memory);
  expect_words(no.error(), {"available", std::to_string(8 * TiB)});
}

TEST_F(room, the_full_file_system_is_named_when_pages_are_touched) {
  NEEDS_A_PLACE(16 * MiB);
  heap h = must(heap::create("a", small_tables));
  const region_id id = must(h.bring_memory({.length_bytes = 8 * MiB, .overcommit = true}));
  fill_place();
  const auto no = h.prefault(id);
  EXPECT_EQ(refused(no), errc::out_of_memory);
  expect_words(no.error(), {"do not fit", path(), "remount,size="});
}

TEST_F(room, metadata_that_does_not_fit_names_the_file_system) {
  NEEDS_A_PLACE(2 * MiB);
  heap h = must(heap::create("a", small_tables));
  mapped_memory m(16 << 20);
  must(h.add_memory(m.range()));
  fill_place();
  const auto no = ring::create(h, "ring", 1 << 16);
  EXPECT_EQ(refused(no), errc::limit_reached);
  expect_words(no.error(), {"is full", path(), "remount,size="});
  const auto pool = raw_pool::create(h, "pool", {.object_bytes = 16, .object_count = 1 << 19});
  EXPECT_EQ(refused(pool), errc::limit_reached);
  expect_words(pool.error(), {"is full"});
}

// The process's file size limit: the kernel would end it (SIGXFSZ).
int with_file_size_limit(u64 bytes, const std::function<void()>& work) {
  const rlimit limit{bytes, RLIM_INFINITY};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  work();
  return ::testing::Test::HasFailure() ? 1 : 0;
}

TEST_F(room, the_file_size_limit_is_a_refusal_everywhere) {
  heap h = must(heap::create("a", small_tables));
  child_process nothing_can_be_made([&] {
    return with_file_size_limit(4096, [&] {
      for (const auto& no : {heap::create("b"), heap::create_private()}) {
        EXPECT_FALSE(no.has_value());
        EXPECT_EQ(no.error().os_errno, EFBIG);
        expect_words(no.error(), {"ulimit -f", "4096"});
      }
    });
  });
  EXPECT_EQ(nothing_can_be_made.wait_for_exit_code(), 0);
  child_process nothing_can_be_brought([&] {
    return with_file_size_limit(4 * MiB, [&] {
      heap mine = must(attach_as_another("a"));
      using kind = memory_source::kind;
      for (const kind from : {kind::shared, kind::file})
        for (const bool overcommit : {false, true}) {
          const auto no = mine.bring_memory({.from = from,
                                             .length_bytes = 64 * MiB,
                                             .path = from == kind::file ? path() + "/file" : "",
                                             .overcommit = overcommit});
          EXPECT_FALSE(no.has_value());
          if (no) continue;
          EXPECT_EQ(no.error().os_errno, EFBIG);
          expect_words(no.error(), {"ulimit -f", std::to_string(4 * MiB)});
        }
      must(mine.bring_memory({.length_bytes = 2 * MiB}));
    });
  });
  EXPECT_EQ(nothing_can_be_brought.wait_for_exit_code(), 0);
  child_process no_metadata_can_be_had([&] {
    heap mine = must(attach_as_another("a"));
    const u64 now = std::filesystem::file_size(path() + "/a.annex");
    return with_file_size_limit(now, [&] {
      const auto no = ring::create(mine, "ring", 1 << 20);
      EXPECT_EQ(refused(no), errc::limit_reached);
      expect_words(no.error(), {"ulimit -f", std::to_string(now)});
      while (
          mine.reserve_zone(fmt::format("zone{}", mine.stats().zone_count), {.size_bytes = 64})) {}
      (void)write_everything(mine);
      expect_sound(mine);
    });
  });
  EXPECT_EQ(no_metadata_can_be_had.wait_for_exit_code(), 0);
  (void)h.recover();
  expect_sound(h);
}

TEST_F(room, a_log_at_the_file_size_limit_ends_and_the_program_goes_on) {
  child_process child([&] {
    ::setenv("ANNEX_LOG", ("level:warn;output:" + path() + "/log").c_str(), 1);
    heap h = must(heap::create_private(
        {.on_misuse = misuse_policy::refuse, .metadata_limit_bytes = 64 << 20}));
    must(h.bring_memory({.length_bytes = MiB}));
    void* block = h.allocate(100000);
    return with_file_size_limit(200, [&] {
      heap::free(block);
      for (int i = 0; i < 50; ++i)
        heap::free(block);
      EXPECT_EQ(h.stats().misuse_count, 50u);
    });
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

// No descriptor below the limit is free.
struct no_descriptors {
  no_descriptors() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const int next = ::dup(0);
    ::close(next);
    const rlimit none{static_cast<rlim_t>(next), before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &none);
  }
  ~no_descriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  rlimit before_{};
};

TEST_F(room, without_a_descriptor_left_it_says_so_and_does_what_needs_none) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer looks at objects through a pipe";
#endif
  heap h = must(heap::create("a", small_tables));
  must(h.bring_memory({.length_bytes = MiB}));
  must(h.reserve_zone("z", {.size_bytes = 100}));
  heap late = must(attach_as_another("a", {.regions = attach_policy::automatic}));
  mapped_memory m(1 << 20), read_only(1 << 20, PROT_READ);
  const int fd = ::memfd_create("m", MFD_CLOEXEC);
  ASSERT_EQ(::ftruncate(fd, 1 << 20), 0);
  const std::string file = path() + "/file";
  {
    const no_descriptors here;
    auto says_so = [](const error& e) {
      EXPECT_EQ(e.os_errno, EMFILE);
      expect_words(e, {"ulimit -n"});
    };
    says_so(attach_as_another("a").error());
    says_so(heap::create("b").error());
    says_so(heap::create_private().error());
    says_so(h.bring_memory({.length_bytes = 4096}).error());
    says_so(
        h.bring_memory({.from = memory_source::kind::descriptor, .length_bytes = 4096, .fd = fd})
            .error());
    says_so(h.bring_memory({.from = memory_source::kind::file, .length_bytes = 4096, .path = file})
                .error());
    memory_range with_fd = m.range();
    with_fd.fd = fd;
    says_so(h.add_memory(with_fd).error());
    says_so(late.attach_memory(region_id{1}).error());
    EXPECT_EQ(refused(h.add_memory(read_only.range())), errc::not_writable)
        << "it is looked at all the same";
    must(h.add_memory(m.range()));
    void* block = h.allocate(500000);
    EXPECT_NE(block, nullptr);
    heap::free(block);
  }
  EXPECT_GE(::fcntl(fd, F_GETFD), 0) << "the program's descriptors are untouched";
  must(late.attach_memory(region_id{1}));
  expect_sound(h);
  ::close(fd);
}

TEST_F(room, hugepages_of_a_size_the_kernel_does_not_have_are_told_from_too_few) {
  heap h = must(heap::create("a", small_tables));
  using kind = memory_source::kind;
  std::size_t absent = 64 << 10;
  while (
      std::filesystem::exists(fmt::format("/sys/kernel/mm/hugepages/hugepages-{}kB", absent >> 10)))
    absent *= 2;
  const auto never =
      h.bring_memory({.from = kind::hugetlb, .length_bytes = absent, .page_bytes = absent});
  EXPECT_EQ(refused(never), errc::not_supported);
  expect_words(never.error(), {std::to_string(absent), "/sys/kernel/mm/hugepages"});
  if (!std::filesystem::exists("/sys/kernel/mm/hugepages/hugepages-2048kB")) return;
  const auto few = h.bring_memory(
      {.from = kind::hugetlb, .length_bytes = std::size_t{1} << 40, .page_bytes = 2 << 20});
  EXPECT_EQ(refused(few), errc::out_of_memory);
  expect_words(few.error(), {"524288 hugepages", "hugepages-2048kB/nr_hugepages"});
}

TEST_F(room, no_address_space_names_the_limit) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer needs more address space than is left here";
#endif
  heap h = must(heap::create("a", small_tables));
  child_process child([&] {
    const rlimit little{GiB, GiB};
    ::setrlimit(RLIMIT_AS, &little);
    const heap_options roomy{.metadata_limit_bytes = 32 * GiB};  // the default takes what there is
    EXPECT_TRUE(heap::create_private().has_value());
    for (const error& e : {heap::create("b").error(), heap::create_private(roomy).error(),
                           h.bring_memory({.length_bytes = 2 * GiB, .overcommit = true}).error()}) {
      EXPECT_EQ(e.os_errno, ENOMEM);
      expect_words(e, {"ulimit -v", std::to_string(GiB)});
    }
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
}

}  // namespace
}  // namespace annex
