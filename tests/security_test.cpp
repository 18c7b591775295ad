// tests/security_test.cpp - whose word is taken for what: records that name files, the directory,
// odd files, names of others.
//
// Those that need two users run as root only: children become others.
#include <fcntl.h>
#include <grp.h>
#include <sys/mount.h>
#include <sys/prctl.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "another_member.hpp"
#include "inside.hpp"
#include "support.hpp"

namespace annex {
namespace {

namespace fs = std::filesystem;
constexpr uid_t root = 0, owner = 62601, stranger = 62602;
constexpr gid_t team = 62600;
constexpr std::size_t region_bytes = 1 << 20;

int as_user(uid_t user, const std::function<int()>& body) {
  child_process child([&] {
    const gid_t groups[] = {team};
    if (user != root && (::setgroups(1, groups) != 0 || ::setgid(team) != 0 || ::setuid(user) != 0))
      return 99;
    ::umask(0);
    return body();
  });
  return child.wait_for_exit_code();
}

class records : public in_own_directory {
 protected:
  void SetUp() override {
    if (::getuid() != root) GTEST_SKIP() << "needs root, to be two users";
    fs::permissions(path(), fs::perms::all);
    elsewhere_ = path() + ".elsewhere";
    fs::create_directory(elsewhere_);
    fs::permissions(elsewhere_, fs::perms::all);
  }
  void TearDown() override { fs::remove_all(elsewhere_); }
  const std::string& elsewhere() const { return elsewhere_; }

  // A heap with a region of shared memory, at rest.
  void make_heap(uid_t whose, unsigned mode, const char* name = "a") {
    ASSERT_EQ(as_user(whose,
                      [&] {
                        heap h = must(heap::create(name, {.file_mode = mode}));
                        must(h.bring_memory({.length_bytes = region_bytes}));
                        return 0;
                      }),
              0);
    ASSERT_EQ(::chown((path() + "/" + name + ".annex").c_str(), whose, team), 0);
  }
  std::string make_file(const std::string& where, uid_t whose, mode_t mode, gid_t group = team) {
    const int fd = ::open(where.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    EXPECT_GE(fd, 0) << where;
    EXPECT_EQ(::ftruncate(fd, region_bytes), 0);
    EXPECT_EQ(::fchown(fd, whose, group), 0);
    EXPECT_EQ(::fchmod(fd, mode), 0);
    ::close(fd);
    return where;
  }
  static void say_region_is(const std::string& file, region_backing backing,
                            const char* name = "a") {
    const opened_segment s(name);
    struct stat there {};
    ASSERT_EQ(::lstat(file.c_str(), &there), 0);
    region_record& r = s.region(1);
    r.backing = backing;
    r.device = there.st_dev;
    r.inode = there.st_ino;
    r.adder_fd_plus_1 = 0;
    std::memset(r.path, 0, sizeof r.path);
    file.copy(r.path, sizeof r.path - 1);
  }
  // What attaching the region says to this user: 0 when it is mapped.
  static int attached_by(uid_t user, bool says_so = false, bool read_only = false) {
    return as_user(user, [&] {
      heap h = must(heap::attach(
          "a",
          {.read_only = read_only, .regions = attach_policy::manual, .foreign_memory = says_so}));
      const auto r = h.attach_memory(region_id{1});
      return r ? 0 : static_cast<int>(r.error().code);
    });
  }
  static constexpr int mapped = 0, not_opened = static_cast<int>(errc::cannot_attach);
  static constexpr const char* own_name = "/a.annex.0123456789abcdef";

 private:
  std::string elsewhere_;
};

// ---- which files are mapped on a record's word --------------------------------------------------

TEST_F(records, of_ones_own_are_believed) {
  make_heap(owner, 0600);
  say_region_is(make_file(elsewhere() + "/mine", owner, 0600), backing_foreign);
  EXPECT_EQ(attached_by(owner), mapped);
  fs::remove(elsewhere() + "/mine");
  say_region_is(make_file(elsewhere() + "/device_of_root", root, 0666), backing_foreign);
  EXPECT_EQ(attached_by(owner), mapped) << "only the owner could have written it down";
}

TEST_F(records, that_others_may_write_lead_to_no_foreign_file_unless_the_user_says_so) {
  for (const unsigned mode : {0660u, 0666u}) {
    make_heap(root, mode);
    for (const mode_t file_mode : {0600u, 0666u}) {
      const std::string file = make_file(elsewhere() + "/accounts", root, file_mode);
      say_region_is(file, backing_foreign);
      EXPECT_EQ(attached_by(root), not_opened) << std::oct << mode << " " << file_mode;
      EXPECT_EQ(attached_by(root, true), mapped) << std::oct << mode << " " << file_mode;
      fs::remove(file);
    }
    ASSERT_EQ(as_user(root, [] { return heap::destroy("a") ? 0 : 1; }), 0);
  }
}

TEST_F(records, of_another_user_lead_to_his_own_files_only) {
  make_heap(owner, 0600);
  say_region_is(make_file(elsewhere() + "/his", owner, 0600), backing_foreign);
  EXPECT_EQ(attached_by(root), mapped);
  EXPECT_EQ(attached_by(root, false, true), mapped);
  say_region_is(make_file(elsewhere() + "/roots", root, 0600), backing_foreign);
  EXPECT_EQ(attached_by(root), not_opened);
  EXPECT_EQ(attached_by(root, false, true), not_opened) << "nor for reading";
  EXPECT_EQ(attached_by(root, true), mapped);
  say_region_is(make_file(elsewhere() + "/strangers", stranger, 0666), backing_foreign);
  EXPECT_EQ(attached_by(root), not_opened);
}

TEST_F(records, lead_through_no_link_and_into_no_pipe) {
  make_heap(owner, 0600);
  const std::string file = make_file(elsewhere() + "/his", owner, 0600);
  fs::create_directory_symlink(elsewhere(), path() + "/way");
  say_region_is(path() + "/way/his", backing_foreign);
  EXPECT_EQ(attached_by(root), not_opened) << "the last folder is a link";
  fs::create_symlink(file, elsewhere() + "/link");
  say_region_is(elsewhere() + "/link", backing_foreign);
  EXPECT_EQ(attached_by(root, true), not_opened) << "the file is a link";
  ASSERT_EQ(::mkfifo((elsewhere() + "/pipe").c_str(), 0666), 0);
  ASSERT_EQ(::chown((elsewhere() + "/pipe").c_str(), owner, team), 0);
  say_region_is(elsewhere() + "/pipe", backing_foreign);
  EXPECT_EQ(attached_by(root), not_opened);
  EXPECT_EQ(attached_by(root, true), not_opened) << "no kind of file that can be mapped";
}

TEST_F(records, lead_to_own_memory_that_every_writer_may_open) {
  struct look {
    unsigned heap_mode;
    uid_t whose;
    mode_t mode;
    gid_t group;
    int expected;
  };
  // Moved there by one of the group: root's private file.
  for (const look& l :
       {look{0660, root, 0600, team, not_opened}, look{0660, root, 0660, team, mapped},
        // Brought by another of the group.
        look{0660, stranger, 0660, team, mapped},
        look{0660, stranger, 0660, 1, not_opened},  // of another group
        look{0660, stranger, 0666, 1, mapped}, look{0666, root, 0660, team, not_opened},
        look{0666, stranger, 0666, 1, mapped},
        // Root alone may write the record: it is believed.
        look{0644, stranger, 0600, team, mapped}}) {
    make_heap(root, l.heap_mode);
    say_region_is(make_file(path() + own_name, l.whose, l.mode, l.group), backing_owned);
    EXPECT_EQ(attached_by(root), l.expected)
        << std::oct << l.heap_mode << " " << l.mode << std::dec << " " << l.whose << " " << l.group;
    fs::remove(path() + own_name);
    ASSERT_EQ(as_user(root, [] { return heap::destroy("a") ? 0 : 1; }), 0);
  }
  make_heap(owner, 0600);
  say_region_is(make_file(path() + own_name, root, 0600), backing_owned);
  EXPECT_EQ(attached_by(root), not_opened) << "in another user's heap";
}

TEST_F(records, lead_to_no_memory_with_a_second_name_or_another_heaps) {
  make_heap(root, 0666);
  const std::string file = make_file(elsewhere() + "/open_to_all", root, 0666);
  fs::create_hard_link(file, path() + own_name);
  say_region_is(path() + own_name, backing_owned);
  EXPECT_EQ(attached_by(root), not_opened);
  fs::remove(path() + own_name);
  for (const char* name :
       {"/b.annex.0123456789abcdef", "/a.annex.0123456789ABCDEF", "/a.annex.0123456789abcde",
        "/a.annex.0123456789abcdef0", "/aXannex.0123456789abcdef"}) {
    say_region_is(make_file(path() + name, root, 0666), backing_owned);
    EXPECT_EQ(attached_by(root), not_opened) << name;
  }
  say_region_is(make_file(elsewhere() + own_name, root, 0666), backing_owned);
  EXPECT_EQ(attached_by(root), not_opened) << "an own name elsewhere";
}

TEST_F(records, are_compared_with_what_the_file_is) {
  make_heap(owner, 0600);
  const std::string file = make_file(path() + own_name, owner, 0600);
  say_region_is(file, backing_owned);
  EXPECT_EQ(attached_by(owner), mapped);
  { opened_segment("a").region(1).inode += 1; }
  EXPECT_EQ(attached_by(owner), not_opened);
  { opened_segment("a").region(1).inode -= 1; }
  fs::resize_file(file, 0);
  EXPECT_EQ(attached_by(owner), static_cast<int>(errc::wrong_memory)) << "nothing is left of it";
  fs::resize_file(file, region_bytes);
  { opened_segment("a").region(1).fd_offset = ~u64{0} - 4095; }
  EXPECT_EQ(attached_by(owner), static_cast<int>(errc::corrupt));
  { opened_segment("a").region(1).fd_offset = 0; }
  { opened_segment("a").region(1).page_bytes = 0; }
  EXPECT_EQ(as_user(owner, [] { return refused(heap::attach("a")) == errc::corrupt ? 0 : 1; }), 0);
}

TEST_F(records, say_addresses_only_to_those_who_may_believe_them) {
  for (const auto& [mode, user, expected] :
       {std::tuple{0600u, owner, mapped}, std::tuple{0660u, owner, not_opened},
        std::tuple{0600u, root, not_opened}}) {
    void* const here =
        ::mmap(nullptr, region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_EQ(as_user(owner,
                      [&, m = mode] {
                        heap h = must(heap::create("a", {.file_mode = m}));
                        must(h.add_memory(
                            {.base = here, .length_bytes = region_bytes, .same_address = true}));
                        return 0;
                      }),
              0);
    EXPECT_EQ(attached_by(user), expected) << std::oct << mode << " " << user;
    EXPECT_EQ(attached_by(user, true), mapped);
    ASSERT_EQ(as_user(owner, [] { return heap::destroy("a") ? 0 : 1; }), 0);
    ::munmap(here, region_bytes);
  }
}

TEST_F(records, lead_to_descriptors_of_the_owners_processes_only) {
  struct look {
    unsigned mode;
    uid_t user;
    int expected;
  };
  for (const look& l : {look{0600, owner, mapped}, look{0600, root, mapped},
                        look{0666, root, not_opened}, look{0666, owner, not_opened}}) {
    auto* const ready = shared_words<std::atomic<int>>();
    child_process has_it([&, m = l.mode] {
      if (::setgid(team) != 0 || ::setuid(owner) != 0 || ::prctl(PR_SET_DUMPABLE, 1) != 0) return 1;
      const int fd = ::memfd_create("m", 0);
      if (::ftruncate(fd, region_bytes) != 0) return 1;
      heap h = must(heap::create("a", {.file_mode = m}));
      must(h.bring_memory(
          {.from = memory_source::kind::descriptor, .length_bytes = region_bytes, .fd = fd}));
      *ready = 1;
      ::pause();
      return 0;
    });
    ASSERT_TRUE(wait_until([&] { return *ready == 1; }));
    EXPECT_EQ(attached_by(l.user), l.expected) << std::oct << l.mode << " " << l.user;
    EXPECT_EQ(attached_by(l.user, true), mapped);
    if (l.mode == 0600) {  // root's own descriptor, in its record
      const int roots = ::memfd_create("roots", 0);
      ASSERT_EQ(::ftruncate(roots, region_bytes), 0);
      struct stat file {};
      ASSERT_EQ(::fstat(roots, &file), 0);
      {
        const opened_segment s("a");
        region_record& r = s.region(1);
        r.device = file.st_dev;
        r.inode = file.st_ino;
        r.adder_process = static_cast<u32>(::getpid());
        r.adder_fd_plus_1 = static_cast<u32>(roots + 1);
      }
      if (l.user == root) {
        EXPECT_EQ(attached_by(root), not_opened);
      }
      ::close(roots);
    }
    has_it.kill_now();
    has_it.wait_for_exit_code();
    fs::remove(path() + "/a.annex");
  }
}

TEST_F(records, of_a_shared_heap_serve_all_its_users) {
  // As docs/security.md says: the group first, then heaps.
  ASSERT_EQ(::chown(path().c_str(), root, team), 0);
  ASSERT_EQ(::chmod(path().c_str(), 02770), 0);
  make_heap(root, 0660);
  EXPECT_EQ(as_user(stranger,
                    [] {
                      heap h = must(heap::attach("a"));
                      must(h.bring_memory({.length_bytes = region_bytes}));
                      must(h.attach_memory(region_id{1}));
                      return 0;
                    }),
            0);
  heap h = must(heap::attach("a", {.regions = attach_policy::manual}));
  must(h.attach_memory(region_id{1}));
  must(h.attach_memory(region_id{2}));  // what another of the group brought
}

TEST_F(records, of_memory_that_root_brings_to_anothers_heap_serve_him) {
  make_heap(owner, 0600);
  {
    heap h = must(heap::attach("a"));
    must(h.bring_memory({.length_bytes = region_bytes}));
  }
  EXPECT_EQ(as_user(owner,
                    [] {
                      heap h = must(heap::attach("a", {.regions = attach_policy::manual}));
                      must(h.attach_memory(region_id{2}));
                      return 0;
                    }),
            0);
}

// ---- what is removed on a record's word ---------------------------------------------------------

TEST_F(records, remove_nothing_but_memory_of_their_own_heap) {
  make_heap(root, 0600, "b");
  std::string of_b;
  for (const auto& entry : fs::directory_iterator(path()))
    if (entry.path().filename().string().starts_with("b.annex.")) of_b = entry.path();
  fs::create_directory(path() + "/sub");
  const std::string files[] = {make_file(elsewhere() + "/precious", root, 0666),
                               make_file(elsewhere() + own_name, root, 0666),
                               make_file(path() + "/sub" + own_name, root, 0666), of_b,
                               path() + "/b.annex"};
  for (const std::string& file : files) {
    make_heap(root, 0666);
    say_region_is(file, backing_owned);
    {
      heap h = must(heap::attach("a", {.regions = attach_policy::manual}));
      must(h.remove_memory(region_id{1}));
    }
    EXPECT_TRUE(fs::exists(file)) << file << " was removed with a region";
    must(heap::destroy("a"));
    make_heap(root, 0666);
    say_region_is(file, backing_owned);
    must(heap::destroy("a"));
    EXPECT_TRUE(fs::exists(file)) << file << " was removed with a heap";
  }
  fs::create_symlink(files[0], path() + own_name);
  make_heap(root, 0666);
  say_region_is(files[0], backing_owned);
  {
    const opened_segment s("a");
    std::memset(s.region(1).path, 0, sizeof s.region(1).path);
    (path() + own_name).copy(s.region(1).path, sizeof s.region(1).path - 1);
  }
  must(heap::destroy("a"));
  EXPECT_TRUE(fs::exists(files[0]) && fs::is_symlink(path() + own_name)) << "a link was followed";
}

TEST_F(records, remove_own_memory_from_a_hugetlbfs_if_every_writer_could_have_made_it) {
  if (::mount("annex-test", elsewhere().c_str(), "hugetlbfs", 0, "mode=0777") != 0)
    GTEST_SKIP() << "needs the right to mount a hugetlbfs";
  struct look {
    unsigned heap_mode;
    mode_t mode;
    bool removed;
  };
  for (const look& l : {look{0600, 0600, true}, look{0660, 0660, true}, look{0660, 0600, false}}) {
    make_heap(root, l.heap_mode);
    const std::string file = elsewhere() + own_name;
    const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_EQ(::fchown(fd, root, team), 0);
    ASSERT_EQ(::fchmod(fd, l.mode), 0);
    ::close(fd);
    say_region_is(file, backing_owned);
    must(heap::destroy("a"));
    EXPECT_EQ(fs::exists(file), !l.removed) << std::oct << l.heap_mode << " " << l.mode;
    fs::remove(file);
  }
  ::umount(elsewhere().c_str());
}

// ---- the directory ------------------------------------------------------------------------------

class default_directory : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::getuid() != root) GTEST_SKIP() << "needs root, to be two users";
    place_ = "/dev/shm/annex-" + std::to_string(user_);
    fs::remove_all(place_);
  }
  void TearDown() override {
    if (!place_.empty()) fs::remove_all(place_);
  }
  // What making a heap, attaching and listing say there.
  int uses() const {
    return as_user(user_, [this] {
      ::unsetenv("ANNEX_DIR");
      ::unsetenv("XDG_RUNTIME_DIR");
      const auto made = heap::create("mine");
      if (made) return heap::list() && heap::attach("mine") ? 0 : 50;
      if (made.error().message().find(place_) == std::string_view::npos) return 51;
      if (heap::attach("mine") || heap::list()) return 52;
      return static_cast<int>(made.error().code);
    });
  }
  const uid_t user_ = 1'000'000 + static_cast<uid_t>(::getpid());  // tests run side by side
  std::string place_;
};

TEST_F(default_directory, is_made_for_its_user_alone) {
  EXPECT_EQ(uses(), 0);
  EXPECT_EQ(fs::status(place_).permissions(), fs::perms::owner_all);
}

TEST_F(default_directory, is_refused_when_another_was_there_first) {
  constexpr int permission = static_cast<int>(errc::permission);
  fs::create_directory(place_);
  ASSERT_EQ(::chmod(place_.c_str(), 0777), 0);
  ASSERT_EQ(::chown(place_.c_str(), stranger, team), 0);
  EXPECT_EQ(uses(), permission);
  ASSERT_EQ(::chown(place_.c_str(), user_, team), 0);
  for (const mode_t mode : {0770u, 0707u, 0777u, 01777u}) {
    ASSERT_EQ(::chmod(place_.c_str(), mode), 0);
    EXPECT_EQ(uses(), permission) << std::oct << mode;
  }
  EXPECT_TRUE(fs::is_empty(place_));
  fs::remove(place_);
  const std::string aside = place_ + ".aside";
  fs::create_directory(aside);
  ASSERT_EQ(::chown(aside.c_str(), user_, team), 0);
  fs::create_directory_symlink(aside, place_);
  EXPECT_EQ(uses(), permission) << "a link, even to a directory of one's own";
  EXPECT_TRUE(fs::is_empty(aside));
  fs::remove(place_);
  fs::remove(aside);
  std::ofstream{place_};
  EXPECT_EQ(uses(), permission) << "a file";
}

TEST_F(default_directory, below_the_run_directory_is_checked_too) {
  auto uses_below = [this](const std::string& above) {
    return as_user(user_, [&] {
      ::unsetenv("ANNEX_DIR");
      ::setenv("XDG_RUNTIME_DIR", above.c_str(), 1);
      const auto made = heap::create("mine");
      return made ? 0 : static_cast<int>(made.error().code);
    });
  };
  const std::string above = place_ + ".run";
  fs::create_directory(above);
  ASSERT_EQ(::chown(above.c_str(), user_, team), 0);
  EXPECT_EQ(uses_below(above), 0);
  EXPECT_TRUE(fs::exists(above + "/annex/mine.annex"));
  ASSERT_EQ(::chown(above.c_str(), stranger, team), 0);
  ASSERT_EQ(::chmod(above.c_str(), 0777), 0);
  EXPECT_EQ(uses_below(above), static_cast<int>(errc::permission)) << "another could swap it";
  fs::remove_all(above);
}

using directories = in_own_directory;

TEST_F(directories, that_are_relative_stay_where_they_were) {
  const std::string here = path();
  child_process child([&] {
    if (::chdir(here.c_str()) != 0) return 1;
    ::setenv("ANNEX_DIR", "heaps", 1);
    heap h = must(heap::create("a"));
    if (directory() != here + "/heaps") return 2;
    if (::chdir("/") != 0) return 3;
    must(h.bring_memory({.length_bytes = 1 << 20}));
    if (directory() != here + "/heaps" || !heap::attach("a")) return 4;
    child_process grandchild([&] {
      return directory() == here + "/heaps" && heap::attach("a") && h.allocate(100) != nullptr ? 0
                                                                                               : 1;
    });
    return grandchild.wait_for_exit_code();
  });
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  EXPECT_FALSE(fs::exists("/heaps"));
}

TEST_F(directories, that_were_replaced_get_no_memory) {
  heap h = must(heap::create("a"));
  const std::string aside = path() + ".aside";
  fs::rename(path(), aside);
  fs::create_directory(path());
  EXPECT_EQ(refused(h.bring_memory({.length_bytes = 1 << 20})), errc::os_failure);
  EXPECT_TRUE(fs::is_empty(path()));
  fs::remove(path());
  fs::rename(aside, path());
  must(h.bring_memory({.length_bytes = 1 << 20}));
}

TEST_F(directories, of_others_can_be_shared_by_name) {
  if (::getuid() != root) GTEST_SKIP() << "needs root, to be two users";
  ASSERT_EQ(::chown(path().c_str(), stranger, team), 0);
  ASSERT_EQ(::chmod(path().c_str(), 03770), 0);
  EXPECT_EQ(as_user(owner, [] { return heap::create("a", {.file_mode = 0660}) ? 0 : 1; }), 0);
  EXPECT_EQ(as_user(stranger, [] { return heap::attach("a") ? 0 : 1; }), 0);
}

// ---- looking ------------------------------------------------------------------------------------

using looking = in_own_directory;

std::map<std::string, std::string> everything_in(const std::string& place) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : fs::directory_iterator(place)) {
    std::string& text = contents[entry.path()];
    if (!entry.is_regular_file() || entry.is_symlink()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    text.assign(std::istreambuf_iterator<char>(in), {});
  }
  return contents;
}

const heap_summary& named(const std::vector<heap_summary>& heaps, std::string_view name) {
  for (const heap_summary& h : heaps)
    if (h.name == name) return h;
  static const heap_summary none{.name = "none"};
  ADD_FAILURE() << name << " is not listed";
  return none;
}

TEST_F(looking, tells_of_every_odd_file_and_writes_to_none) {
  { heap good = heap_with(1 << 20, {}, "good"); }
  { heap bad = heap_with(1 << 20, {}, "damaged"); }
  { heap half = heap_with(1 << 20, {}, "half"); }
  { opened_segment("damaged").view().header().region_count = 77; }
  {
    const opened_segment s("half");
    write_journal(s.view(), {{s.view().offset_of(&s.view().header().region_count), 4, 1}});
    s.view().header().region_count = 2;
  }
  const std::string here = path() + "/";
  ASSERT_EQ(::mkfifo((here + "pipe.annex").c_str(), 0600), 0);
  fs::create_directory(here + "folder.annex");
  fs::create_symlink("good.annex", here + "link.annex");
  fs::create_symlink("nowhere", here + "dangling.annex");
  std::ofstream{here + "empty.annex"};
  std::ofstream{here + "gone.annex.0123456789abcdef"};
  std::ofstream{here + "no name.annex"};
  const auto before = everything_in(path());
  const auto heaps = must(heap::list());
  EXPECT_EQ(everything_in(path()), before) << "looking wrote something";
  EXPECT_TRUE(named(heaps, "good").problem.empty()) << named(heaps, "good").problem;
  EXPECT_EQ(named(heaps, "good").total_bytes, 1u << 20);
  EXPECT_TRUE(named(heaps, "half").problem.empty()) << named(heaps, "half").problem;
  EXPECT_EQ(named(heaps, "half").region_count, 1u)
      << "as before the change that was left half done";
  EXPECT_NE(named(heaps, "damaged").problem.find("77"), std::string::npos);
  for (const auto& [name, word] : {std::pair{"pipe", "pipe"},
                                   {"folder", "directory"},
                                   {"link", "link"},
                                   {"dangling", "link"},
                                   {"empty", "0 bytes"},
                                   {"no name", "remove"},
                                   {"gone.annex.0123456789abcdef", "gone"}})
    EXPECT_NE(named(heaps, name).problem.find(word), std::string::npos)
        << name << ": " << named(heaps, name).problem;
  for (const char* name : {"pipe", "folder", "link", "dangling"}) {
    EXPECT_EQ(refused(heap::attach(name)), errc::corrupt) << name;
    EXPECT_EQ(refused(heap::destroy(name)), errc::corrupt) << name;
    EXPECT_EQ(refused(heap::repair(name)), errc::corrupt) << name;
    const auto made = heap::create(name);
    EXPECT_EQ(refused(made), errc::name_taken) << name;
    EXPECT_NE(made.error().message().find(std::string(name) + ".annex is a"),
              std::string_view::npos)
        << made.error().message();
  }
  EXPECT_EQ(everything_in(path()), before);
}

TEST_F(looking, shows_a_heap_that_a_death_left_half_changed) {
  u64 live = 0;
  {
    heap h = heap_with(1 << 20, {}, "a");
    ASSERT_NE(h.allocate(5000), nullptr);
    live = h.stats().live_blocks;
  }
  {
    const opened_segment s("a");
    write_journal(s.view(),
                  {{s.view().offset_of(&s.region(1).live_extents), 4, s.region(1).live_extents}});
    s.region(1).live_extents += 5;
  }
  const auto before = everything_in(path());
  {
    heap look = must(heap::attach("a", {.read_only = true}));
    EXPECT_EQ(look.stats().live_blocks, live);
    EXPECT_TRUE(must(look.audit()).holds());
  }
  EXPECT_EQ(everything_in(path()), before);
  heap h = must(heap::attach("a"));  // who may write completes it
  expect_sound(h);
}

TEST_F(looking, does_not_remove_what_a_destroyer_left) {
  { heap h = must(heap::create("a")); }
  { opened_segment("a").view().header().state.value = segment_destroyed; }
  const auto before = everything_in(path());
  EXPECT_EQ(refused(heap::attach("a", {.read_only = true})), errc::no_such_heap);
  EXPECT_NE(named(must(heap::list()), "a").problem.find("destroyed"), std::string::npos);
  EXPECT_EQ(everything_in(path()), before);
  must(heap::create("a"));
}

TEST_F(looking, says_what_may_not_be_read) {
  if (::getuid() != root) GTEST_SKIP() << "needs root, to be two users";
  { heap h = heap_with(1 << 20, {}, "private"); }
  { heap h = heap_with(1 << 20, {.file_mode = 0644}, "public"); }
  fs::permissions(path(), fs::perms::owner_all | fs::perms::others_read | fs::perms::others_exec);
  EXPECT_EQ(as_user(owner,
                    [&] {
                      const auto heaps = must(heap::list());
                      const bool is_told =
                          named(heaps, "private").problem.find("denied") != std::string::npos &&
                          named(heaps, "private").problem.find(path()) != std::string::npos;
                      return is_told && named(heaps, "public").problem.empty() &&
                                     named(heaps, "public").total_bytes == 1 << 20
                                 ? 0
                                 : 1;
                    }),
            0);
  fs::permissions(path(), fs::perms::owner_all | fs::perms::others_exec);
  EXPECT_EQ(as_user(owner, [] { return refused(heap::list()) == errc::permission ? 0 : 1; }), 0);
}

// ---- memory that can't be cut, and memory that was ----------------------------------------------

int descriptor_of(const std::string& name) {
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    if (fs::read_symlink(entry.path(), ignored).string().find(name) != std::string::npos)
      return std::atoi(entry.path().filename().c_str());
  }
  return -1;
}

TEST(memory_files, of_annex_are_sealed_against_being_cut) {
  heap h = must(heap::create_private());
  must(h.bring_memory({.length_bytes = 1 << 20}));
  for (const char* name : {"memfd:annex-private", "memfd:annex-memory"}) {
    const int fd = descriptor_of(name);
    ASSERT_GE(fd, 0) << name;
    EXPECT_EQ(::ftruncate(fd, 4096), -1) << name;
    EXPECT_EQ(errno, EPERM);
    EXPECT_EQ(::fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1) << "nobody takes more away";
  }
  // The segment grows all the same.
  for (int i = 0; i < 30; ++i)
    must(h.bring_memory({.length_bytes = 64 << 20}));
  expect_sound(h);
}

using memory_that_was_cut = in_own_directory;
using bringing_by_path = in_own_directory;

TEST_F(bringing_by_path, takes_what_can_be_mapped_only) {
  heap h = must(heap::create("a"));
  EXPECT_EQ(refused(h.bring_memory({.from = memory_source::kind::hugetlb,
                                    .length_bytes = 2 << 20,
                                    .page_bytes = 2 << 20,
                                    .path = path()})),
            errc::not_supported);
  EXPECT_EQ(refused(h.bring_memory({.length_bytes = 2 << 20, .path = path()})),
            errc::invalid_argument);
  ASSERT_EQ(::mkfifo((path() + "/pipe").c_str(), 0600), 0);
  for (const auto from : {memory_source::kind::file, memory_source::kind::device})
    EXPECT_EQ(
        refused(h.bring_memory({.from = from, .length_bytes = 4096, .path = path() + "/pipe"})),
        errc::wrong_memory);
  EXPECT_EQ(refused(h.bring_memory(
                {.from = memory_source::kind::file, .length_bytes = 4096, .path = path()})),
            errc::os_failure);
}

TEST_F(memory_that_was_cut, is_found_before_it_is_touched) {
  heap h = must(heap::create("a"));
  const region_id id = must(h.bring_memory({.length_bytes = 1 << 20}));
  for (const auto& entry : fs::directory_iterator(path()))
    if (entry.path().filename().string().starts_with("a.annex."))
      fs::resize_file(entry.path(), 4096);
  EXPECT_EQ(refused(h.prefault(id)), errc::wrong_memory);
}

// ---- names of others ----------------------------------------------------------------------------

TEST(printable_text, is_text_that_moves_no_cursor) {
  const std::pair<std::string_view, const char*> looks[] = {
      {"packets", "packets"},
      {"zönę 区 🙂", "zönę 区 🙂"},
      {"a\\b \"c\"", "a\\b \"c\""},
      {"esc\x1b[31mRED\x07", "esc\\x1b[31mRED\\x07"},
      {"line\nfeed\rand\ttab\x7f", "line\\x0afeed\\x0dand\\x09tab\\x7f"},
      {"z\xff\xfe", "z\\xff\\xfe"},
      {"cut \xe2\x82", "cut \\xe2\\x82"},
      {"overlong \xc0\xaf", "overlong \\xc0\\xaf"},
      {"surrogate \xed\xa0\x80", "surrogate \\xed\\xa0\\x80"},
      {"c1 \xc2\x9b", "c1 \\xc2\\x9b"},
      {"turned \xe2\x80\xae", "turned \\xe2\\x80\\xae"},
      {"separator \xe2\x80\xa8", "separator \\xe2\\x80\\xa8"},
      {"behind \xf4\x90\x80\x80", "behind \\xf4\\x90\\x80\\x80"},
      {std::string_view("nul\0nul", 7), "nul\\x00nul"},
      {"", ""}};
  for (const auto& [bytes, shown] : looks)
    EXPECT_EQ(printable(bytes), shown);
}

TEST(printable_text, is_what_refusals_say) {
  heap h = must(heap::create_private());
  const auto none = h.find_zone("esc\x1b[31m\xff");
  EXPECT_NE(none.error().message().find("esc\\x1b[31m\\xff"), std::string_view::npos)
      << none.error().message();
}

}  // namespace
}  // namespace annex
