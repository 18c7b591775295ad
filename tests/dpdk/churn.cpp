// tests/dpdk/churn.cpp - what DPDK's allocator costs: 64 to 1024 bytes, 4096 live, on one thread
// and on two. Prints cycles per operation (a free or an allocation). tests/dpdk/churn runs it on
// stock DPDK and under the drop-in, in turns.
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_malloc.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

namespace {

constexpr unsigned live = 4096, operations = 400'000;
std::atomic<unsigned> waiting{0};
unsigned threads = 1;

int churn(void* result) {
  std::mt19937 random(rte_lcore_id() + 1);
  std::vector<void*> blocks(live);
  std::vector<std::uint16_t> order(operations), sizes(operations);
  for (auto& o : order)
    o = static_cast<std::uint16_t>(random() % live);
  for (auto& s : sizes)
    s = static_cast<std::uint16_t>(64 + random() % 961);
  for (auto& b : blocks)
    b = rte_malloc(nullptr, 64 + random() % 961, 0);
  ++waiting;
  while (waiting.load() < threads)
    rte_pause();
  const std::uint64_t begin = rte_get_tsc_cycles();
  for (unsigned i = 0; i < operations; ++i) {
    void*& slot = blocks[order[i]];
    rte_free(slot);
    slot = rte_malloc(nullptr, sizes[i], 0);
    if (slot == nullptr) return 1;
    *static_cast<char*>(slot) = 1;
  }
  *static_cast<double*>(result) =
      static_cast<double>(rte_get_tsc_cycles() - begin) / (2.0 * operations);
  for (void* b : blocks)
    rte_free(b);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (rte_eal_init(argc, argv) < 0) return 2;
  double alone = 0;
  if (churn(&alone) != 0) return 1;
  const unsigned other = rte_get_next_lcore(rte_lcore_id(), 1, 0);
  double first = 0, second = 0;
  if (other < RTE_MAX_LCORE) {
    waiting = 0;
    threads = 2;
    rte_eal_remote_launch(churn, &second, other);
    if (churn(&first) != 0 || rte_eal_wait_lcore(other) != 0) return 1;
  }
  std::printf("cycles per operation: one thread %.1f, two threads %.1f\n", alone,
              (first + second) / 2);
  return rte_eal_cleanup();
}
