// torture/kills.cpp - eight workers in one heap, one of them killed at a random moment and
// replaced, thousands of times.
//
//   torture_kills [--seconds N] [--kills N] [--seed N]
//
// After each death the one who watches goes on at once (measured), frees what the dead had in their
// hands and nobody else has, and audits the heap while the others work. Workers fork children,
// which die at random too (crowd.hpp). Now and then everybody is killed at once: the books must
// agree with the heap exactly, then it is repaired and used again. At the end everybody is killed,
// everything reaped and drained, and the heap must be empty. No refusal may say that something is
// damaged, gone or full, and no operation may sleep for ever that was not asked to wait.
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <vector>

#include "arguments.hpp"
#include "crowd.hpp"

namespace annex::torture {
namespace {

using clock = std::chrono::steady_clock;

[[noreturn]] void fail(const std::string& what) {
  // The workers go with their parent, their children by their own timers; nobody else in this
  // process group is ours.
  std::fprintf(stderr, "\nFAILED: %s\n", what.c_str());
  std::_Exit(1);
}
template <class T>
T must(result<T> r) {
  if (!r) fail("refused: " + std::string(r.error().message()));
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

struct options {
  double seconds = 10;
  std::uint64_t kills = ~std::uint64_t{0};
  unsigned seed = 1;
};

class watcher {
 public:
  explicit watcher(const options& o) : options_(o), random_(o.seed) {
    char name[] = "/dev/shm/annex-crowd-XXXXXX";
    directory_ = ::mkdtemp(name);
    ::setenv("ANNEX_DIR", directory_.c_str(), 1);
    room_ = new (::mmap(nullptr, sizeof(common_room), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0)) common_room{};
    if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
      fail("no way to wait for the children of the dead");
    heap_ = must(heap::create(
        "crowd",
        {.metadata_limit_bytes = std::size_t{4} << 30, .member_limit = 256, .thread_limit = 512}));
    must(heap_.bring_memory({.length_bytes = 48 << 20}));
    must(heap_.bring_memory({.length_bytes = 8 << 20}));
    must(raw_pool::create(heap_, "pool",
                          {.object_bytes = 200, .object_count = 300, .cache_objects = 16}));
    must(ring::create(heap_, "ring", 64));
  }

  void run() {
    // So that its waits are the heap's, not the scheduler's; refused: only slower.
    ::setpriority(PRIO_PROCESS, 0, -15);
    for (int w = 0; w < workers; ++w)
      start(w);
    const auto begin = clock::now();
    while (kills_ < options_.kills &&
           clock::now() - begin < std::chrono::duration<double>(options_.seconds)) {
      ::usleep(static_cast<useconds_t>(random_() % 4000));
      const int w = static_cast<int>(random_() % workers);
      kill_worker(w);
      go_on_at_once();
      clear_hand(w);
      reap_the_dead();
      check();
      start(w);
      collect_orphans();
      if (kills_ >= next_quiet_) {
        kill_all();
        check_while_quiet();
        repair();
        for (int other = 0; other < workers; ++other)
          start(other);
        next_quiet_ = kills_ + 100 + random_() % 200;
      }
    }
    kill_all();
    check_while_quiet();
    const std::uint64_t steals = heap_.stats().lock_steals;
    end();
    std::uint64_t operations = 0, longest = 0, asleep = 0, stalls = 0, attaches = 0, forks = 0,
                  threads = 0, views = 0, reaps = 0;
    for (const counters& c : room_->count) {
      operations += c.operations;
      attaches += c.attaches;
      forks += c.forks;
      threads += c.threads;
      views += c.views;
      reaps += c.reaps;
      stalls += c.stalls;
      longest = std::max(longest, c.longest_wait_ns.load());
      asleep = std::max(asleep, c.longest_asleep_ns.load());
    }
    fmt::print(
        "{} kills of workers and {} of their children in {:.0f} s (seed {}), {} operations of {} "
        "workers, {} locks taken over from the dead: every audit held, the heap ended empty.\n"
        "{} attaches, {} forks, {} threads, {} pools and rings made or released, {} reaps by "
        "workers, {} repairs: no wrong refusal.\n"
        "The longest the watcher waited for an operation after a death: {:.1f} ms; the longest a "
        "worker took for an operation, scheduling included: {:.0f} ms, asleep: {:.0f} ms.\n",
        kills_, room_->kills_by_timer.load() + orphans_killed_,
        std::chrono::duration<double>(clock::now() - begin).count(), options_.seed, operations,
        workers, steals, attaches, forks, threads, views, reaps, repairs_,
        static_cast<double>(longest_wait_ns_) / 1e6, static_cast<double>(longest) / 1e6,
        static_cast<double>(asleep) / 1e6);
    if (stalls != 0)
      fail(
          fmt::format("{} operations slept for longer than 15 s (seed {})", stalls, options_.seed));
  }

 private:
  // Children of workers that are dead: they end by themselves, or by their timers.
  void collect_orphans(bool all = false) {
    int status = 0;
    pid_t who = 0;
    while ((who = ::waitpid(-1, &status, all ? 0 : WNOHANG)) > 0) {
      if (std::find(std::begin(process_), std::end(process_), who) != std::end(process_))
        fail(fmt::format("a worker ended by itself with status {:#x} (seed {}, kill {})", status,
                         options_.seed, kills_));
      if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        ++orphans_killed_;
      else if (status != 0)
        fail(fmt::format("a child of a dead worker ended with status {:#x} (seed {}, kill {})",
                         status, options_.seed, kills_));
    }
  }
  void kill_all() {
    for (int w = 0; w < workers; ++w)
      kill_worker(w);
    std::fill(std::begin(process_), std::end(process_), 0);
    collect_orphans(true);
    for (int w = 0; w < workers; ++w)
      clear_hand(w);
    reap_the_dead();
  }

  // Nobody else lives. What is live is what the mailbox has, unharmed, and what has a name.
  void check_while_quiet() {
    const audit_report report = must(heap_.audit());
    if (!report.holds())
      fail(fmt::format("with everybody dead: {} (seed {}, kill {})", report.broken.front(),
                       options_.seed, kills_));
    if (!report.exact)
      fail(fmt::format("with everybody dead a cache could not be held still (seed {}, kill {})",
                       options_.seed, kills_));
    std::uint64_t known = 0;
    for (const auto& box : room_->mail) {
      const std::uint64_t block = box.load();
      if (block == 0) continue;
      ++known;
      auto found = heap_.resolve(handle{block});
      if (!found)
        fail(fmt::format("the block {:#x} of the mailbox is lost: {} (seed {}, kill {})", block,
                         found.error().message(), options_.seed, kills_));
      const auto* l = static_cast<const letter*>(*found);
      if (l->self != block || l->stamp.load() == 0 ||
          static_cast<const unsigned char*>(*found)[l->size_bytes - 1] !=
              static_cast<unsigned char>(l->stamp.load()))
        fail(fmt::format("the block {:#x} of the mailbox was written to (seed {}, kill {})", block,
                         options_.seed, kills_));
    }
    for (const member_summary& m : heap_.members())
      if (!m.alive && m.held_blocks == 0)
        fail(fmt::format(
            "the dead member {} is still listed although it holds nothing (seed {}, kill {})",
            static_cast<unsigned>(m.id), options_.seed, kills_));
    std::uint64_t live = 0;
    must(heap_.for_each_block([&](const block_summary& b) {
      live += b.kind != block_kind::zone && b.kind != block_kind::pool_object;
    }));
    if (live != known)
      fail(fmt::format("{} blocks are live, the mailbox has {} (seed {}, kill {})", live, known,
                       options_.seed, kills_));
  }

  void repair() {
    heap_ = heap{};
    const repair_report done = must(heap::repair("crowd"));
    if (!done.after.holds())
      fail(fmt::format("after repair: {} (seed {}, kill {})", done.after.broken.front(),
                       options_.seed, kills_));
    if (!done.found.empty() || !done.changed.empty())
      fail(fmt::format("repair of a sound heap: {} (seed {}, kill {})",
                       done.found.empty() ? done.changed.front() : done.found.front(),
                       options_.seed, kills_));
    ++repairs_;
    heap_ = must(heap::attach("crowd"));
    check_while_quiet();
  }

  void start(int w) {
    const unsigned seed = static_cast<unsigned>(random_());
    process_[w] = ::fork();
    if (process_[w] == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::setpriority(PRIO_PROCESS, 0, 0);
      work(*room_, w, seed);
    }
    if (process_[w] < 0) fail("no fork");
    seen_[w] = {room_->count[w].operations, clock::now()};
  }

  void kill_worker(int w) {
    ::kill(process_[w], SIGKILL);
    int status = 0;
    ::waitpid(process_[w], &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
      fail(fmt::format("worker {} had ended by itself with status {:#x} (seed {}, kill {})", w,
                       status, options_.seed, kills_));
    ++kills_;
    for (int other = 0; other < workers; ++other)  // and nobody stands still
      if (const std::uint64_t now = room_->count[other].operations;
          now != seen_[other].first || other == w)
        seen_[other] = {now, clock::now()};
      else if (clock::now() - seen_[other].second > std::chrono::seconds(60))
        fail(fmt::format("worker {} has not done anything for a minute (seed {}, kill {})", other,
                         options_.seed, kills_));
  }

  void go_on_at_once() {
    auto timed = [&](auto what) {
      const auto before = clock::now();
      what();
      longest_wait_ns_ = std::max<std::uint64_t>(
          longest_wait_ns_, static_cast<std::uint64_t>((clock::now() - before).count()));
    };
    void* small = nullptr;
    void* large = nullptr;
    timed([&] { small = heap_.allocate(100); });
    timed([&] { large = heap_.allocate(70000); });
    timed([&] { heap::free(large); });
    timed([&] { heap::free(small); });
    timed([&] { (void)heap_.recover(); });
  }

  // What the dead worker had taken out of the mailbox, and had not come to free: nobody else will.
  // Until it is freed it stays in the hand, so that no worker reaps it meanwhile.
  void clear_hand(int w) {
    free_from(room_->hands[w], w);
    room_->hands[w].block.store(0);
  }
  void free_from(const hand& of_the_dead, int w) {
    const std::uint64_t block = of_the_dead.block.load();
    std::uint64_t stamp = of_the_dead.stamp.load();
    if (block == 0 || is_in_use(*room_, block, w)) return;
    auto found = heap_.resolve(handle{block});
    if (!found) return;
    auto* l = static_cast<letter*>(*found);
    if (stamp == 0 || !l->stamp.compare_exchange_strong(stamp, 0)) return;
    heap::free(l);
  }

  void reap_the_dead() {
    for (const member_summary& m : heap_.members())
      if (!m.alive)
        (void)heap_.reap(m.id, [&](const block_summary& b) {
          return b.kind != block_kind::pool_object &&
                         is_in_use(*room_, static_cast<std::uint64_t>(b.where), -1)
                     ? reap_choice::keep
                     : reap_choice::free;
        });
  }

  void check() {
    const audit_report report = must(heap_.audit());
    if (const std::uint64_t said = heap_.stats().misuse_count; said != 0)
      fail(fmt::format("{} blocks are said to have been freed twice; nobody did (seed {}, kill {})",
                       said, options_.seed, kills_));
    if (!report.holds())
      fail(fmt::format("{} (seed {}, kill {})", report.broken.front(), options_.seed, kills_));
  }

  void end() {
    for (auto& box : room_->mail)
      if (const std::uint64_t block = box.exchange(0))
        heap::free(must(heap_.resolve(handle{block})));
    for (const member_summary& m : heap_.members())
      if (!m.alive) (void)heap_.reap(m.id);
    check();
    must(raw_pool::release(heap_, "pool"));
    must(ring::release(heap_, "ring"));
    for (int i = 0; i < 3; ++i) {
      (void)raw_pool::release(heap_, "passing" + std::to_string(i));
      (void)ring::release(heap_, "passing" + std::to_string(i));
    }
    for (int i = 0; i < 8; ++i)
      (void)heap_.release_zone("zone" + std::to_string(i));
    std::vector<region_id> regions;
    heap_.for_each_region([&](const region_summary& r) { regions.push_back(r.id); });
    heap_.trim();
    if (const heap_stats s = heap_.stats(); s.live_blocks != 0 || s.free_bytes != s.total_bytes)
      fail(fmt::format("at the end {} blocks are live and {} of {} bytes free (seed {})",
                       s.live_blocks, s.free_bytes, s.total_bytes, options_.seed));
    for (const region_id r : regions)
      must(heap_.drain_memory(r, std::chrono::seconds(5)));
    check();
    heap_ = heap{};
    must(heap::destroy("crowd"));
    if (!std::filesystem::is_empty(directory_)) fail("files were left in " + directory_);
    std::filesystem::remove_all(directory_);
  }

  options options_;
  std::mt19937 random_;
  std::string directory_;
  common_room* room_ = nullptr;
  heap heap_;
  pid_t process_[workers] = {};
  std::pair<std::uint64_t, clock::time_point> seen_[workers] = {};
  std::uint64_t kills_ = 0, longest_wait_ns_ = 0, next_quiet_ = 50, orphans_killed_ = 0,
                repairs_ = 0;
};

}  // namespace
}  // namespace annex::torture

int main(int argc, char** argv) {
  annex::torture::options o;
  annex::torture::arguments arguments("Kills workers of one heap at random");
  arguments.seconds(&o.seconds, "Stop after so long");
  arguments.number("--kills", &o.kills, "Stop after so many deaths");
  arguments.seed(&o.seed, "Of the moments and the work");
  arguments.read(argc, argv);
  annex::torture::watcher(o).run();
}
