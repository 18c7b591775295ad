// torture/crowd.cpp - see crowd.hpp.
#include "crowd.hpp"

#include <annex/pool.hpp>
#include <annex/ring.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <random>
#include <utility>
#include <vector>

namespace annex::torture {
namespace {

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "worker %d: %s\n", static_cast<int>(::getpid()), why.c_str());
  ::_exit(3);
}

std::uint64_t now_ns() { return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()); }

class worker_process {
 public:
  worker_process(common_room& room, int worker, unsigned seed) : room_(room), mine_(room.hands[worker]), count_(room.count[worker]), random_(seed) {
    auto attached = heap::attach("crowd");
    if (!attached) give_up(std::string(attached.error().message()));
    heap_ = std::move(*attached);
    if (auto p = raw_pool::open(heap_, "pool")) pool_ = *p;
    if (auto r = ring::open(heap_, "ring")) ring_ = *r;
    std::array<handle, 64> left;
    if (ring_.recover_in_hand(left) != 0) ring_.settle();
  }

  void one_operation() {
    const std::uint64_t before = now_ns();
    switch (next(100)) {
      case 0: case 1: case 2: return use_zone();
      case 3: case 4: case 5: case 6: return use_pool();
      case 7: case 8: case 9: return use_ring();
      case 10: return come_and_go();
      case 11: return heap_.trim();
      case 12: case 13: case 14: return use_bulk();
      case 15: case 16: case 17: return resize();
      default: break;
    }
    if (next(5) < 3) send();
    else receive();
    const std::uint64_t took = now_ns() - before;
    if (took > count_.longest_wait_ns.load(std::memory_order_relaxed)) count_.longest_wait_ns.store(took, std::memory_order_relaxed);
  }

 private:
  std::uint32_t next(std::uint32_t below) { return static_cast<std::uint32_t>(random_() % below); }
  std::size_t some_size() {
    const auto kind = next(100);
    return sizeof(letter) + 1 + (kind < 70 ? next(1000) : kind < 93 ? next(8000) : kind < 97 ? next(65000) : 66000 + next(400000));
  }
  letter* open(std::uint64_t block) {
    auto found = heap_.resolve(handle{block});
    return found ? static_cast<letter*>(*found) : nullptr;
  }

  // The stamp goes into the hand before the block can be ours; another worker may be faster, then neither is ours.
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
    if (l == nullptr || l->self != block || l->stamp.load() == 0) give_up(fmt::format("block {:#x} came out of the mailbox, but is not what was put in", block));
    if (reinterpret_cast<const unsigned char*>(l)[l->size_bytes - 1] != static_cast<unsigned char>(l->stamp.load())) give_up(fmt::format("the end of block {:#x} was overwritten", block));
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
    if (!heap_.reserve_zone(name, {.size_bytes = 1 + next(20000)})) (void)heap_.release_zone(name);
  }
  void use_pool() {
    if (next(2) == 0 || objects_.empty()) {
      std::array<void*, 8> taken;
      const std::size_t n = pool_.take_bulk({taken.data(), 1 + next(8)});
      objects_.insert(objects_.end(), taken.begin(), taken.begin() + static_cast<std::ptrdiff_t>(n));
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
    heap_.for_each_region([&](const region_summary& r) { if (static_cast<unsigned>(r.id) > 2) regions.push_back(r.id); });
    if (regions.size() < 4) (void)heap_.bring_memory({.length_bytes = std::size_t{1 + next(4)} << 20});
    else (void)heap_.drain_memory(regions[next(static_cast<std::uint32_t>(regions.size()))], std::chrono::milliseconds(next(5)));
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
};

}  // namespace

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
