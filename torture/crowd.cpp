// torture/crowd.cpp - see crowd.hpp.
#include "crowd.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace annex::torture {
namespace {

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "worker %d: %s\n", static_cast<int>(::getpid()), why.c_str());
  ::_exit(3);
}

std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

template <class T>
T checked(const char* doing, result<T> r) {
  if (!r) give_up(fmt::format("{}: {}", doing, r.error().message()));
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}
/// May be refused, but not for a reason that is none.
template <class T>
bool went_well(const char* doing, const result<T>& r) {
  if (!r && is_wrong(r.error())) give_up(fmt::format("{}: {}", doing, r.error().message()));
  return r.has_value();
}

// Of this thread: nanoseconds on a processor, and ready for one.
struct busy_time {
  std::uint64_t running_ns = 0, ready_ns = 0;
  std::uint64_t both() const { return running_ns + ready_ns; }
};
busy_time busy_so_far() {
  thread_local const int file = ::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  char text[128] = {};
  unsigned long running = 0, ready = 0;
  if (file < 0 || ::pread(file, text, sizeof text - 1, 0) <= 0 ||
      std::sscanf(text, "%lu %lu", &running, &ready) != 2)
    return {};
  return {running, ready};
}

class worker_process {
 public:
  worker_process(common_room& room, int worker, unsigned seed)
      : room_(room), mine_(room.hands[worker]), count_(room.count[worker]), random_(seed) {
    come_in();
  }

  void one_operation() {
    const std::uint64_t before = now_ns();
    const busy_time busy_before = busy_so_far();
    is_patient_ = false;
    work_once();
    const std::uint64_t took = now_ns() - before, busy = busy_so_far().both() - busy_before.both(),
                        asleep = took > busy ? took - busy : 0;
    if (is_patient_) return;
    raise(count_.longest_wait_ns, took);
    raise(count_.longest_asleep_ns, asleep);
    if (asleep > stall_ns) count_.stalls.fetch_add(1, std::memory_order_relaxed);
  }

 private:
  // Whoever waits for the dead or has missed its wake would sleep for ever. Others' turns come
  // first on a busy machine: under a sanitizer, with every processor wanted by eight, two seconds
  // have been seen.
  static constexpr std::uint64_t stall_ns = 15'000'000'000;
  static void raise(std::atomic<std::uint64_t>& most, std::uint64_t to) {
    if (to > most.load(std::memory_order_relaxed)) most.store(to, std::memory_order_relaxed);
  }

  void work_once() {
    switch (next(1000)) {
      case 0:
      case 1: return leave_and_come_back();
      case 2: return look_around();
      case 3:
      case 4:
      case 5: return use_thread(false);
      case 6: return use_thread(true);
      case 7:
      case 8: return use_child();
      case 9:
      case 10:
      case 11:
      case 12: return make_and_release_views();
      case 13: return reap_somebody();
      default: break;
    }
    switch (next(100)) {
      case 0:
      case 1:
      case 2: return use_zone();
      case 3:
      case 4:
      case 5:
      case 6: return use_pool();
      case 7:
      case 8:
      case 9: return use_ring();
      case 10: return come_and_go();
      case 11: return heap_.trim();
      case 12:
      case 13:
      case 14: return use_bulk();
      case 15:
      case 16:
      case 17: return resize();
      default: break;
    }
    if (next(5) < 3)
      send();
    else
      receive();
  }

  void come_in() {
    heap_ = checked("attach", heap::attach("crowd"));
    pool_ = checked("open of a pool", raw_pool::open(heap_, "pool"));
    ring_ = checked("open of a ring", ring::open(heap_, "ring"));
    std::array<handle, 64> left;
    if (ring_.recover_in_hand(left) != 0) ring_.settle();
    count_.attaches.fetch_add(1, std::memory_order_relaxed);
  }
  void leave_and_come_back() {
    if (next(3) == 0) {  // a second share of the same attachment
      heap again = checked("second attach", heap::attach("crowd"));
      heap::free(again.allocate(100));
      return;
    }
    pool_.give_bulk(objects_);
    objects_.clear();
    ring_.settle();
    pool_ = {};
    ring_ = {};
    heap_ = heap{};
    come_in();
  }
  void look_around() {
    (void)checked("list", heap::list());
    (void)heap_.members();
    heap reader = checked("attach to read", heap::attach("crowd", {.read_only = true}));
    (void)reader.stats();
  }

  // A thread that ends with a full cache; meanwhile this one works, or forks.
  void use_thread(bool fork_meanwhile) {
    count_.threads.fetch_add(1, std::memory_order_relaxed);
    std::thread other([this, seed = random_()] { use_blocks(static_cast<unsigned>(seed), 200); });
    if (fork_meanwhile)
      use_child();
    else
      use_bulk();
    other.join();
  }
  void use_blocks(unsigned seed, int times) {
    std::mt19937 random(seed);
    std::array<void*, 32> blocks{};
    for (int i = 0; i < times; ++i) {
      void*& block = blocks[random() % blocks.size()];
      heap::free(block);
      block = heap_.allocate(1 + random() % (random() % 50 == 0 ? 200000 : 3000));
    }
    for (void* block : blocks)
      heap::free(block);
  }

  // A child that is a member of its own, and how it ends: by itself, with blocks or without; by
  // another program; by a timer, at any instruction; long after its parent was killed, perhaps.
  void use_child() {
    collect_children();
    if (children_ >= 3) return;
    const unsigned seed = static_cast<unsigned>(random_()), way = next(6);
    const bool is_detached = next(2) == 0;
    count_.forks.fetch_add(1, std::memory_order_relaxed);
    const pid_t child = ::fork();
    if (child < 0) give_up("no fork");
    if (child == 0) be_a_child(seed, way);
    ++children_;
    if (is_detached) return;
    is_patient_ = true;
    while (children_ != 0) {
      collect_children();
      ::usleep(200);
    }
  }
  [[noreturn]] void be_a_child(unsigned seed, unsigned way) {
    if (way < 2) {
      const itimerval once{{0, 0}, {0, static_cast<suseconds_t>(1 + seed % 20000)}};
      ::setitimer(ITIMER_REAL, &once, nullptr);
    }
    if (heap_.allocate(100) == nullptr && heap::last_failure().why != explanation::cause::no_fit)
      give_up(fmt::format("a forked child got nothing: {}", heap::last_failure().message()));
    use_blocks(seed, 300);
    if (way == 1) (void)heap_.bring_memory({.length_bytes = 1 << 20});
    while (way < 2)
      use_blocks(seed, 300);  // until the timer
    if (way == 2) ::execl("/bin/true", "true", static_cast<char*>(nullptr));
    if (way == 3) {  // an attachment of its own, beside the inherited one
      heap again = checked("attach in a child", heap::attach("crowd"));
      heap::free(again.allocate(1000));
    }
    if (way == 4)
      for (int i = 0; i < 20; ++i) {
        use_blocks(seed + static_cast<unsigned>(i), 50);
        ::usleep(2000);
      }
    ::_exit(0);
  }
  void collect_children() {
    int status = 0;
    while (children_ != 0 && ::waitpid(-1, &status, WNOHANG) > 0) {
      --children_;
      if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        room_.kills_by_timer.fetch_add(1);
      else if (status != 0)
        give_up(fmt::format("a child ended with status {:#x}", status));
    }
  }

  // Under names that several make and release; who has one open meanwhile finds it gone.
  void make_and_release_views() {
    count_.views.fetch_add(1, std::memory_order_relaxed);
    const std::string name = "passing" + std::to_string(next(3));
    if (next(2) == 0) {
      auto p = raw_pool::create(heap_, name,
                                {.object_bytes = 40 + next(200),
                                 .object_count = 1 + next(60),
                                 .cache_objects = next(16)});
      if (!p) p = raw_pool::open(heap_, name);
      if (!went_well("a pool", p)) return;
      std::array<void*, 8> taken;
      for (int i = 0; i < 4; ++i)
        p->give_bulk({taken.data(), p->take_bulk(taken)});
      if (next(2) == 0) went_well("release of a pool", raw_pool::release(heap_, name));
    } else {
      auto r = ring::create(heap_, name, 8 << next(3));
      if (!r) r = ring::open(heap_, name);
      if (!went_well("a ring", r)) return;
      for (int i = 0; i < 10; ++i) {
        r->put(handle{1 + next(1000)});
        r->take();
      }
      std::array<handle, 4> items;
      r->take_in_hand(items);
      r->settle();
      if (next(2) == 0) went_well("release of a ring", ring::release(heap_, name));
    }
  }
  // What the mailbox or a hand still has is kept; the watcher may reap the same one at the same
  // time.
  void reap_somebody() {
    count_.reaps.fetch_add(1, std::memory_order_relaxed);
    for (const member_summary& m : heap_.members())
      if (!m.alive) {
        went_well("reap", heap_.reap(m.id, [&](const block_summary& b) {
          return b.kind != block_kind::pool_object &&
                         is_in_use(room_, static_cast<std::uint64_t>(b.where), -1)
                     ? reap_choice::keep
                     : reap_choice::free;
        }));
        return;
      }
  }

  std::uint32_t next(std::uint32_t below) { return static_cast<std::uint32_t>(random_() % below); }
  std::size_t some_size() {
    const auto kind = next(100);
    return sizeof(letter) + 1 +
           (kind < 70   ? next(1000)
            : kind < 93 ? next(8000)
            : kind < 97 ? next(65000)
                        : 66000 + next(400000));
  }
  letter* open(std::uint64_t block) {
    auto found = heap_.resolve(handle{block});
    return found ? static_cast<letter*>(*found) : nullptr;
  }

  // The stamp goes into the hand before the block can be ours; another worker may be faster, then
  // neither is ours.
  bool take_out(std::atomic<std::uint64_t>& box, std::uint64_t expected, std::uint64_t put_in) {
    if (expected != 0) {
      const letter* l = open(expected);
      if (l == nullptr) return false;  // freed by whoever was faster
      mine_.stamp.store(l->stamp.load());
      mine_.block.store(expected);
    }
    if (box.compare_exchange_strong(expected, put_in)) return true;
    mine_.block.store(0);
    return false;
  }
  void free_taken(std::uint64_t block) {
    if (block == 0) return;
    letter* l = open(block);
    if (l == nullptr || l->self != block || l->stamp.load() == 0)
      give_up(
          fmt::format("block {:#x} came out of the mailbox, but is not what was put in", block));
    if (reinterpret_cast<const unsigned char*>(l)[l->size_bytes - 1] !=
        static_cast<unsigned char>(l->stamp.load()))
      give_up(fmt::format("the end of block {:#x} was overwritten", block));
    l->stamp.store(0);
    heap::free(l);
    mine_.block.store(0);
  }

  void send() {
    const std::size_t bytes = some_size();
    auto* l = static_cast<letter*>(heap_.allocate(bytes));
    if (l == nullptr) return receive();
    l->self = static_cast<std::uint64_t>(heap_.handle_of(l));
    l->size_bytes = bytes;
    const std::uint64_t stamp = room_.next_stamp.fetch_add(1) + 1;
    reinterpret_cast<unsigned char*>(l)[bytes - 1] = static_cast<unsigned char>(stamp);
    l->stamp.store(stamp);
    auto& box = room_.mail[next(mailboxes)];
    const std::uint64_t old = box.load();
    if (take_out(box, old, l->self)) return free_taken(old);
    l->stamp.store(0);
    heap::free(l);
  }
  void receive() {
    auto& box = room_.mail[next(mailboxes)];
    const std::uint64_t block = box.load();
    if (block != 0 && take_out(box, block, 0)) free_taken(block);
  }

  void use_zone() {
    const std::string name = "zone" + std::to_string(next(8));
    const auto reserved = heap_.reserve_zone(name, {.size_bytes = 1 + next(20000)});
    if (!went_well("a zone", reserved)) went_well("release of a zone", heap_.release_zone(name));
  }
  void use_pool() {
    if (next(2) == 0 || objects_.empty()) {
      std::array<void*, 8> taken;
      const std::size_t n = pool_.take_bulk({taken.data(), 1 + next(8)});
      objects_.insert(objects_.end(), taken.begin(),
                      taken.begin() + static_cast<std::ptrdiff_t>(n));
    } else {
      const std::size_t n = 1 + next(static_cast<std::uint32_t>(objects_.size()));
      pool_.give_bulk({objects_.data() + objects_.size() - n, n});
      objects_.resize(objects_.size() - n);
    }
  }
  void use_ring() {
    if (next(2) == 0) {
      ring_.put(handle{1 + next(1000)});
      return;
    }
    std::array<handle, 4> items;
    if (ring_.take_in_hand(items) != 0) ring_.settle();
  }
  void come_and_go() {
    std::vector<region_id> regions;
    heap_.for_each_region([&](const region_summary& r) {
      if (static_cast<unsigned>(r.id) > 2) regions.push_back(r.id);
    });
    if (regions.size() < 4)
      went_well("bring", heap_.bring_memory({.length_bytes = std::size_t{1 + next(4)} << 20}));
    else
      went_well("drain",
                heap_.drain_memory(regions[next(static_cast<std::uint32_t>(regions.size()))],
                                   std::chrono::milliseconds(next(5))));
  }
  void use_bulk() {
    std::array<void*, 40> blocks;
    const std::size_t n = heap_.allocate_bulk(16 + next(300), {blocks.data(), 1 + next(40)});
    heap::free_bulk({blocks.data(), n});
  }
  void resize() {
    void* block = heap_.allocate(some_size());
    for (int i = 0; i < 3 && block != nullptr; ++i) {
      void* moved = heap_.reallocate(block, some_size());
      if (moved == nullptr) break;
      block = moved;
    }
    heap::free(block);
  }

  common_room& room_;
  hand& mine_;
  counters& count_;
  std::mt19937 random_;
  heap heap_;
  raw_pool pool_;
  ring ring_;
  std::vector<void*> objects_;
  int children_ = 0;
  bool is_patient_ = false;  // the operation waited for what it asked for
};

}  // namespace

bool is_wrong(const error& refusal) {
  return refusal.code == errc::corrupt || refusal.code == errc::limit_reached ||
         refusal.code == errc::no_such_heap || refusal.code == errc::forked_away ||
         refusal.code == errc::incompatible_layout || refusal.code == errc::permission;
}

bool is_in_use(const common_room& room, std::uint64_t block, int except) {
  for (const auto& box : room.mail)
    if (box.load() == block) return true;
  for (int w = 0; w < workers; ++w)
    if (w != except && room.hands[w].block.load() == block) return true;
  return false;
}

void work(common_room& room, int worker, unsigned seed) {
  worker_process me(room, worker, seed);
  for (;;) {
    me.one_operation();
    room.count[worker].operations.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace annex::torture
