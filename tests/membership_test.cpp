// tests/membership_test.cpp - who counts as a member, whatever is done with descriptors, locks and
// names.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "another_member.hpp"
#include "heap/local_heap.hpp"
#include "platform/processes.hpp"
#include "support.hpp"

namespace annex {
namespace {

using memberships = in_own_directory;
using std::chrono::steady_clock;

struct words {
  std::atomic<int> ready{0}, leave{0};
};

int living_in(const heap& h) {
  int living = 0;
  for (const member_summary& m : h.members())
    living += m.alive;
  return living;
}
// As another process sees it.
int living_in(const char* name) {
  child_process child([name] {
    heap mine = must(heap::attach(name));
    mine.recover();
    return living_in(mine) - 1;
  });
  return child.wait_for_exit_code();
}
std::vector<int> open_descriptors() {
  std::vector<int> all;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    all.push_back(std::atoi(entry.path().filename().c_str()));
  return all;
}

// ---- the same heap twice in a process
TEST_F(memberships, of_a_second_attach_share_the_first) {
  heap a = heap_with(8 << 20, {}, "a");
  heap b = must(heap::attach("a"));
  EXPECT_EQ(a.id(), b.id());
  EXPECT_EQ(a.members().size(), 2u) << "each counts";
  EXPECT_EQ(living_in("a"), 2);
  std::vector<handle> handles;
  for (std::size_t i = 0; i < 500; ++i)
    handles.push_back((i % 2 == 0 ? a : b).handle_of((i % 2 == 0 ? a : b).allocate(50 + i)));
  for (const handle where : handles) {
    void* const block = must(a.resolve(where));
    EXPECT_EQ(must(b.resolve(where)), block) << "one mapping";
    EXPECT_EQ(b.handle_of(block), where);
  }
  a = heap{};
  EXPECT_EQ(living_in("a"), 1) << "the process is in it still";
  EXPECT_EQ(refused(heap::destroy("a")), errc::heap_in_use);
  for (const handle where : handles)
    heap::free(must(b.resolve(where)));
  b.trim();
  EXPECT_EQ(b.stats().live_blocks, 0u);
  expect_sound(b);
  b = heap{};
  EXPECT_EQ(living_in("a"), 0);
  must(heap::destroy("a"));
}

TEST_F(memberships, of_threads_that_attach_and_close_the_same_heap_come_and_go) {
  heap h = heap_with(16 << 20, {}, "a");
  std::vector<std::thread> threads;
  for (unsigned seed = 1; seed <= 4; ++seed)
    threads.emplace_back([seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 150; ++i) {
        heap mine = must(random() % 4 == 0 ? attach_as_another("a") : heap::attach("a"));
        void* const block = mine.allocate(1 + random() % 100000);
        if (block == nullptr) ADD_FAILURE() << heap::last_failure().message();
        heap::free(block);
      }
    });
  for (std::thread& t : threads)
    t.join();
  h.recover();
  expect_alone_and_empty(h);
}

TEST_F(memberships, with_and_without_writing_are_two_attachments) {
  heap a = heap_with(8 << 20, {}, "a");
  heap reader = must(heap::attach("a", {.read_only = true})),
       another_reader = must(heap::attach("a", {.read_only = true}));
  EXPECT_EQ(a.members().size(), 1u) << "readers are no members";
  void* const block = a.allocate(100);
  std::strcpy(static_cast<char*>(block), "seen");
  EXPECT_STREQ(static_cast<const char*>(must(reader.resolve(a.handle_of(block)))), "seen");
  reader = heap{};
  EXPECT_STREQ(static_cast<const char*>(must(another_reader.resolve(a.handle_of(block)))), "seen");
  heap::free(block);
  a = heap{};
  must(heap::destroy("a"));
}

TEST_F(memberships, of_two_policies_are_refused) {
  heap a = heap_with(8 << 20, {}, "a");
  EXPECT_EQ(refused(heap::attach("a", {.regions = attach_policy::manual})), errc::already_attached);
  EXPECT_EQ(a.members().size(), 1u);
  EXPECT_NE(a.allocate(100), nullptr);
}

// ---- descriptors
TEST_F(memberships, do_not_end_with_descriptors_that_the_program_closes) {
  auto* w = shared_words<words>();
  heap h = heap_with(8 << 20, {}, "a");
  child_process child([w] {
    heap mine = must(attach_as_another("a"));
    void* const before = mine.allocate(100);
    ::close_range(3, ~0u, 0);
    // The numbers go to files of the program's.
    std::vector<int> own;
    for (int i = 0; i < 40; ++i)
      own.push_back(::open("/dev/null", O_RDWR | O_CLOEXEC));
    if (mine.allocate(200000) == nullptr) return 1;
    if (!mine.bring_memory({.length_bytes = 8 << 20})) return 2;
    heap::free(before);
    if (mine.allocate(6 << 20) == nullptr) return 3;
    mine.trim();
    if (!mine.audit()->holds()) return 4;
    w->ready = 1;
    wait_until([&] { return w->leave == 1; });
    mine = heap{};
    for (const int fd : own)  // and none of them was closed
      if (::fcntl(fd, F_GETFD) < 0) return 5;
    return 0;
  });
  EXPECT_TRUE(wait_until([&] { return w->ready == 1; }));
  EXPECT_EQ(h.recover(), 0u);
  EXPECT_EQ(living_in(h), 2);
  EXPECT_EQ(refused(heap::destroy("a")), errc::heap_in_use);
  w->leave = 1;
  EXPECT_EQ(child.wait_for_exit_code(), 0);
  h.recover();
  for (const member_summary& m : h.members())
    if (!m.alive) must(h.reap(m.id));
  EXPECT_EQ(h.stats().live_blocks, 0u);
  expect_sound(h);
}

TEST_F(memberships, close_their_descriptors_once) {
  const std::vector<int> before = open_descriptors();
  for (int i = 0; i < 20; ++i) {
    heap a = heap_with(4 << 20, {}, "a");
    heap again = must(heap::attach("a"));
    heap another = must(attach_as_another("a"));
    heap reader = must(heap::attach("a", {.read_only = true}));
    heap::free(another.allocate(100));
    another = heap{};
    again = heap{};
    reader = heap{};
    a = heap{};
    must(heap::destroy("a"));
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(memberships, do_not_outlive_their_process_in_copies_of_its_descriptors) {
  auto* w = shared_words<words>();
  heap h = heap_with(8 << 20, {}, "a");
  int pair[2];
  ASSERT_EQ(::pipe2(pair, O_CLOEXEC), 0);
  child_process child([w] {
    heap mine = must(attach_as_another("a"));
    mine.allocate(100);
    // A grandchild with copies of every descriptor, and with the mappings.
    const pid_t grandchild = ::fork();
    if (grandchild == 0) {
      for (const int fd : open_descriptors())
        (void)::fcntl(fd, F_DUPFD, 100);
      w->ready = 1;
      wait_until([&] { return w->leave == 1; });
      ::_exit(0);
    }
    ::pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return w->ready == 1; }));
  child.kill_now();
  EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
  EXPECT_TRUE(wait_until([&] { return h.recover() == 1; }));
  for (const member_summary& m : h.members())
    if (!m.self) {
      EXPECT_EQ(must(h.reap(m.id)), 1u);
    }
  EXPECT_EQ(h.members().size(), 1u);
  h = heap{};
  must(heap::destroy("a"));
  w->leave = 1;
}

// ---- readers
TEST_F(memberships, that_only_read_hinder_nobody_with_locks) {
  auto* w = shared_words<words>();
  heap h = heap_with(8 << 20, {.file_mode = 0644}, "a");
  // What a reader may open: every file of the directory that others may read.
  std::vector<int> readable;
  for (const auto& file : std::filesystem::directory_iterator(path())) {
    struct stat s {};
    ASSERT_EQ(::stat(file.path().c_str(), &s), 0);
    if ((s.st_mode & 0004) == 0) continue;
    const int fd = ::open(file.path().c_str(), O_RDONLY | O_CLOEXEC);
    struct flock whole {};
    whole.l_type = F_RDLCK;
    whole.l_whence = SEEK_SET;
    EXPECT_EQ(::fcntl(fd, F_OFD_SETLK, &whole), 0);
    readable.push_back(fd);
  }
  EXPECT_FALSE(readable.empty());
  child_process victim([w] {
    heap mine = must(attach_as_another("a"));
    mine.allocate(100);
    w->ready = 1;
    ::pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return w->ready == 1; }));
  victim.kill_now();
  victim.wait_for_exit_code();
  EXPECT_EQ(h.recover(), 1u) << "no lock of a reader makes the dead look alive";
  for (const member_summary& m : h.members())
    if (!m.self) {
      EXPECT_EQ(must(h.reap(m.id)), 1u);
    }
  heap another = must(attach_as_another("a"));
  another = heap{};
  h = heap{};
  EXPECT_TRUE(must(heap::repair("a")).after.holds());
  must(heap::destroy("a"));
  for (const int fd : readable)
    ::close(fd);
}

// ---- every record is a dead one's
TEST_F(memberships, of_the_dead_leave_room_for_the_one_who_mends) {
  for (const bool reaps : {true, false}) {
    heap_with(8 << 20, {.member_limit = 4, .thread_limit = 16}, "a") = heap{};
    for (int i = 0; i < 4; ++i) {
      child_process child([] {
        heap mine = must(heap::attach("a"));
        for (std::size_t k = 0; k < 50; ++k)
          mine.allocate(100 + k);
        ::kill(::getpid(), SIGKILL);
        return 0;
      });
      EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
    }
    EXPECT_TRUE(must(heap::repair("a")).after.holds());
    EXPECT_EQ(refused(heap::destroy("a")), errc::blocks_live) << "not for want of room";
    for (int i = 0; i < 3; ++i) {  // who mends may die too, and the next one comes
      child_process child([] {
        heap mine = must(heap::attach("a"));
        mine.recover();
        ::kill(::getpid(), SIGKILL);
        return 0;
      });
      EXPECT_EQ(child.wait_for_exit_code(), -SIGKILL);
    }
    heap mender = must(heap::attach("a"));
    EXPECT_EQ(mender.allocate(100), nullptr) << "it has no record in which it could hold anything";
    EXPECT_NE(heap::last_failure().message(), "");
    u64 freed = 0;
    if (reaps) {
      for (const member_summary& m : mender.members())
        if (!m.alive) freed += must(mender.reap(m.id));
      EXPECT_EQ(freed, 200u);
      EXPECT_EQ(mender.stats().live_blocks, 0u);
    }
    expect_sound(mender);
    mender = heap{};
    if (!reaps) {  // one at a time, each by another mender
      for (int i = 0; i < 4; ++i) {
        heap one = must(heap::attach("a"));
        for (const member_summary& m : one.members())
          if (!m.alive) {
            must(one.reap(m.id));
            break;
          }
        expect_sound(one);
      }
      heap member = must(heap::attach("a"));
      void* const block = member.allocate(100);
      EXPECT_NE(block, nullptr) << heap::last_failure().message();
      heap::free(block);
    }
    must(heap::destroy("a"));
    EXPECT_TRUE(std::filesystem::is_empty(path()));
  }
}

// ---- one name, many processes
TEST(start_time, is_the_same_for_as_long_as_a_process_lives) {
  const auto self = static_cast<u32>(::getpid());
  const u64 before = os::start_time(self);
  ASSERT_NE(before, 0u);
  const mapped_memory more(1 << 30);
  EXPECT_EQ(os::start_time(self), before);
  ::usleep(20'000);  // the clock of the kernel counts hundredths of a second
  child_process later([self, before] {
    const u64 mine = os::start_time(static_cast<u32>(::getpid()));
    return os::start_time(self) == before && mine > before && mine < before + 100 * 3600 ? 0 : 1;
  });
  EXPECT_EQ(later.wait_for_exit_code(), 0);
}

TEST_F(memberships, whose_file_of_lives_was_removed_keep_repair_out) {
  auto* const m = shared_words<words>();
  { heap h = heap_with(1 << 20, {}, "a"); }
  child_process member([m] {
    heap h = must(heap::attach("a"));
    m->ready = 1;
    while (m->leave == 0)
      ::usleep(1000);
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return m->ready == 1; }));
  for (const auto& file : std::filesystem::directory_iterator(path()))
    if (file.path().extension() == ".alive") std::filesystem::remove(file.path());
  EXPECT_EQ(refused(heap::repair("a")), errc::heap_in_use);
  m->leave = 1;
  EXPECT_EQ(member.wait_for_exit_code(), 0);
  must(heap::repair("a"));
  heap h = must(heap::attach("a"));
  expect_sound(h);
}

TEST_F(memberships, of_heaps_that_come_and_go_are_never_in_one_that_has_ended) {
  struct counts {
    std::atomic<u64> created, attached, destroyed;
    std::atomic<u64> under;
    std::atomic<int> stop;
  };
  auto* c = shared_words<counts>();
  std::vector<std::unique_ptr<child_process>> children;
  for (unsigned seed = 1; seed <= 8; ++seed)
    children.push_back(std::make_unique<child_process>([c, seed] {
      ::alarm(60);
      std::mt19937 random(seed);
      auto odd = [&](const error& e, std::initializer_list<errc> expected) {
        if (std::find(expected.begin(), expected.end(), e.code) != expected.end()) return false;
        std::fprintf(stderr, "refused: %s\n", e.text);
        return true;
      };
      auto use = [&](heap& h) {
        heap::free(h.allocate(1 + random() % 3000));
        if (random() % 4 == 0) ::usleep(static_cast<useconds_t>(random() % 300));
        // The name is this heap's as long as it is attached.
        const auto again = attach_as_another("a");
        if (!again || again->id() != h.id()) ++c->under;
      };
      while (c->stop == 0) {
        const auto what = random() % 3;
        if (what == 0) {
          auto made = heap::create("a", {.metadata_limit_bytes = 16 << 20,
                                         .member_limit = 32,
                                         .thread_limit = 64,
                                         .region_limit = 16});
          if (!made && odd(made.error(), {errc::name_taken})) return 1;
          if (!made) continue;
          ++c->created;
          if (const auto brought = made->bring_memory({.length_bytes = 1 << 20});
              !brought && odd(brought.error(), {}))
            return 2;
          use(*made);
        } else if (what == 1) {
          auto there = heap::attach("a");
          if (!there && odd(there.error(), {errc::no_such_heap})) return 3;
          if (!there) continue;
          ++c->attached;
          use(*there);
        } else {
          const auto ended = heap::destroy("a");
          if (!ended && odd(ended.error(), {errc::no_such_heap, errc::heap_in_use})) return 4;
          c->destroyed += ended.has_value();
        }
      }
      return 0;
    }));
  std::this_thread::sleep_for(std::chrono::seconds(4));
  c->stop = 1;
  for (auto& child : children)
    EXPECT_EQ(child->wait_for_exit_code(), 0);
  EXPECT_EQ(c->under, 0u) << "times somebody had a heap that was destroyed under him";
  EXPECT_GT(c->created, 0u);
  EXPECT_GT(c->attached, 0u);
  EXPECT_GT(c->destroyed, 0u);
  std::printf("%lu made, %lu attached, %lu ended\n", c->created.load(), c->attached.load(),
              c->destroyed.load());
  if (const auto ended = heap::destroy("a"); !ended) {
    EXPECT_EQ(ended.error().code, errc::no_such_heap) << ended.error().message();
  }
  std::string left;
  for (const auto& file : std::filesystem::directory_iterator(path()))
    left += file.path().filename().string() + " ";
  EXPECT_EQ(left, "");
}

}  // namespace
}  // namespace annex
