// tests/hand_overs.cpp - a program as others write it, without a race, in which memory goes from
// thread to thread in every way annex has. tests/checkers_test builds it with sanitizers against
// the library as it is installed, and runs it under valgrind.
//
//   hand_overs [ROUNDS]     exit 0 and one line at the end; what a checker has to say comes from
//                           the checker
#include <annex/annex.hpp>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

namespace {

using annex::heap;

constexpr std::size_t MiB = std::size_t{1} << 20;
int rounds = 500;

template <class T>
T must(annex::result<T> r) {
  if (r) return std::move(*r);
  std::printf("refused: %s\n", r.error().text);
  std::exit(1);
}
void must(annex::result<void> r) {
  if (r) return;
  std::printf("refused: %s\n", r.error().text);
  std::exit(1);
}
void* must(void* block) {
  if (block != nullptr) return block;
  const auto why = heap::last_failure();
  std::printf("no block: %s\n", why.text);
  std::exit(1);
}

void fill(void* block, std::size_t bytes) {  // where the checker sees it
  for (std::size_t i = 0; i + sizeof(long) <= bytes; i += 64)
    *reinterpret_cast<long*>(static_cast<char*>(block) + i) = static_cast<long>(i);
}

void together(int threads, const auto& work) {
  std::vector<std::thread> all;
  for (int i = 0; i < threads; ++i)
    all.emplace_back([&work, i] { work(i); });
  for (std::thread& t : all)
    t.join();
}

// Blocks by a ring, freed where they arrive: put to take, another's free to the owner's allocate.
void blocks_by_ring(heap& h) {
  auto ring = must(annex::ring::create(h, "blocks", 64));
  std::atomic<int> left{2 * rounds};
  together(4, [&](int i) {
    if (i < 2) {
      for (int k = 0; k < rounds; ++k) {
        void* const p = must(h.allocate(64 + static_cast<std::size_t>(k % 7) * 100));
        fill(p, 64);
        while (!ring.put(h.handle_of(p)))
          std::this_thread::yield();
      }
      return;
    }
    while (left.load(std::memory_order_relaxed) > 0) {
      annex::handle some[8];
      std::size_t n = 1;
      if (i == 2)
        n = ring.take(some);
      else if ((some[0] = ring.take()) == annex::null_handle)
        n = 0;
      if (n == 0) std::this_thread::yield();
      for (std::size_t k = 0; k < n; ++k) {
        void* const p = must(h.resolve(some[k]));
        fill(p, 64);
        heap::free(p);
        left.fetch_sub(1, std::memory_order_relaxed);
      }
    }
  });
  must(annex::ring::release(h, "blocks"));
}

// Buffers that go round: back by a second ring, and taken in hand.
void buffers_go_round(heap& h) {
  auto there = must(annex::ring::create(h, "there", 8)),
       back = must(annex::ring::create(h, "back", 8));
  std::vector<long> buffers(8);
  for (std::uint64_t i = 0; i < 8; ++i)
    (void)back.put(annex::handle{i + 1});
  together(2, [&](int i) {
    annex::ring from = i == 0 ? back : there, to = i == 0 ? there : back;
    for (int k = 0; k < rounds;) {
      annex::handle one[1];
      if (from.take_in_hand(one) == 0) {
        std::this_thread::yield();
        continue;
      }
      buffers[static_cast<std::size_t>(one[0]) - 1] += 1;
      while (!to.put(one[0]))
        std::this_thread::yield();
      from.settle();
      ++k;
    }
  });
  must(annex::ring::release(h, "there"));
  must(annex::ring::release(h, "back"));
}

// Threads that end leave slabs with free blocks behind; others go on with them. Some are recalled
// from living threads.
void slabs_change_hands(heap& h) {
  for (int round = 0; round < rounds / 50 + 2; ++round) {
    std::atomic<bool> go_on{true};
    together(4, [&](int i) {
      std::vector<void*> mine;
      for (int k = 0; k < 300; ++k) {
        mine.push_back(must(h.allocate(512)));
        fill(mine.back(), 512);
      }
      for (std::size_t k = 0; k < mine.size(); ++k)
        if (i != 1 || k % 2 == 0) heap::free(mine[k]);
      if (i == 3) {
        h.trim();
        go_on.store(false, std::memory_order_relaxed);
      }
      while (i == 0 && go_on.load(std::memory_order_relaxed)) {  // hits, while others recall
        void* const p = must(h.allocate(512));
        fill(p, 512);
        heap::free(p);
      }
      for (std::size_t k = 1; i == 1 && k < mine.size(); k += 2)
        heap::free(mine[k]);
    });
  }
}

// More than there is, so that what others keep is recalled: from one's hits to another's, and
// nothing else in between.
void shortage(heap& h) {
  std::atomic<int> turn{0};
  together(2, [&](int i) {
    for (int k = 0; k < 6; ++k) {
      if (k % 2 == i) {
        // Orders nothing.
        while (turn.load(std::memory_order_relaxed) != k)
          std::this_thread::yield();
        std::vector<void*> some;
        while (void* p = h.allocate(i == 0 ? 4096 : 1024)) {
          fill(p, 1024);
          some.push_back(p);
        }
        for (void* p : some)
          heap::free(p);
        for (int hit = 0; hit < 8; ++hit) {  // no lock is taken from here on
          some[0] = must(h.allocate(i == 0 ? 4096 : 1024));
          fill(some[0], 1024);
          heap::free(some[0]);
        }
        turn.store(k + 1, std::memory_order_relaxed);
      }
    }
  });
}

void objects_of_a_pool(heap& h) {
  auto pool = must(annex::raw_pool::create(
      h, "objects", {.object_bytes = 128, .object_count = 256, .cache_objects = 32}));
  together(4, [&](int i) {
    for (int k = 0; k < rounds; ++k) {
      void* some[24];
      const std::size_t n = i % 2 == 0                           ? pool.take_bulk(some)
                            : (some[0] = pool.take()) != nullptr ? 1
                                                                 : 0;
      for (std::size_t j = 0; j < n; ++j)
        fill(some[j], 128);
      pool.give_bulk({some, n});
    }
  });
  must(annex::raw_pool::release(h, "objects"));
}

// Large blocks, zones, zeroed and reallocated ones: by the heap lock.
void large_ones(heap& h) {
  together(3, [&](int i) {
    const std::string name = "zone" + std::to_string(i);
    for (int k = 0; k < rounds / 10 + 5; ++k) {
      void* p = must(h.allocate(300'000 + static_cast<std::size_t>(k) * 1000));
      fill(p, 300'000);
      p = must(h.reallocate(p, 700'000));
      fill(p, 700'000);
      void* const zeroed = must(h.allocate(annex::placement{.size_bytes = 2000, .zeroed = true}));
      fill(zeroed, 2000);
      const auto zone = must(h.reserve_zone(name, {.size_bytes = 100'000}));
      fill(zone.address, 100'000);
      must(h.release_zone(name));
      heap::free(zeroed);
      heap::free(p);
    }
  });
}

// Memory of the program's own, which it goes on using once it is removed.
void memory_comes_and_goes(heap& h) {
  void* const own = std::aligned_alloc(4096, 4 * MiB);
  for (int k = 0; k < 3; ++k) {
    fill(own, 4 * MiB);
    const auto region = must(h.add_memory({.base = own, .length_bytes = 4 * MiB}));
    together(2, [&](int) {
      std::vector<void*> some;
      for (int n = 0; n < 200; ++n) {
        some.push_back(must(h.allocate(8000)));
        fill(some.back(), 8000);
      }
      for (void* p : some)
        heap::free(p);
    });
    must(h.drain_memory(region, std::chrono::seconds(20)));
  }
  std::free(own);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) rounds = std::atoi(argv[1]);
  {
    heap h = must(heap::create_private());
    must(h.bring_memory({.length_bytes = 32 * MiB}));
    blocks_by_ring(h);
    buffers_go_round(h);
    slabs_change_hands(h);
    objects_of_a_pool(h);
    large_ones(h);
    memory_comes_and_goes(h);
  }
  {
    heap h = must(heap::create_private());
    must(h.bring_memory({.length_bytes = 2 * MiB}));
    shortage(h);
    if (h.stats().live_blocks != 0) return std::puts("blocks are left"), 1;
  }
  std::puts("handed over");
}
