// bench/targets.cpp - see targets.hpp.
#include "targets.hpp"

#include <algorithm>
#include <cmath>

namespace annex::bench {
namespace {

enum class kind { time, peak, value, value_per_own };
struct target {
  const char* row;
  std::vector<const char*> workloads;
  const char* peer;  // time, peak: the ratio's lower half; value: none
  double limit;
  kind what = kind::time;
  const char* of = "annex";
  bool more_is_better = false;
};

const std::vector<target>& all_targets() {
  static const std::vector<const char*> small_pairs{"pair/16", "pair/64", "pair/256", "pair/1024",
                                                    "pair/4096"};
  static const std::vector<const char*> shapes{"larson/2", "xmalloc/2", "mstress/2"};
  static const std::vector<const char*> traces{"trace/cc1plus", "trace/python", "trace/sqlite",
                                               "trace/redis"};
  static const std::vector<target> targets{
      {"pair, 16 B to 4 KiB: must", small_pairs, "mimalloc", 1.0},
      {"pair, 16 B to 4 KiB: must", small_pairs, "rte_external", 0.1},
      {"pair, 16 B to 4 KiB: goal", small_pairs, "jemalloc", 1.0},
      {"random lifetime, 64 B: must", {"random/64"}, "mimalloc", 0.6},
      {"random lifetime, 16 to 1024 B: must", {"random/16-1024"}, "mimalloc", 0.5},
      {"random lifetime, 64 B: goal", {"random/64"}, "jemalloc", 1.0},
      {"random lifetime, 16 to 1024 B: goal", {"random/16-1024"}, "jemalloc", 0.5},
      {"freed by another thread: must", {"handover/64"}, "mimalloc", 0.7},
      {"freed by another thread: goal", {"handover/64"}, "mimalloc", 0.5},
      {"freed by another process: must", {"processes/64"}, "annex-threads", 1.2},
      {"freed by another process: goal", {"processes/64"}, "annex-threads", 1.05},
      {"larson, xmalloc, mstress: must", shapes, "mimalloc", 1.0},
      {"larson, xmalloc, mstress: goal", shapes, "jemalloc", 1.0},
      {"larson, xmalloc, mstress: goal", shapes, "glibc", 1.0},
      {"pair, 64 KiB: must", {"pair/65536"}, "mimalloc-arena", 1.0},
      {"pair, 2 MiB: must", {"pair/2097152"}, "mimalloc-arena", 0.5},
      {"pair, 64 KiB: goal", {"pair/65536"}, "glibc", 1.0},
      {"pair, 2 MiB: goal", {"pair/2097152"}, "glibc", 1.0},
      {"trace replays, time: must", traces, "mimalloc", 1.0},
      {"trace replays, time: goal", traces, "jemalloc", 1.0},
      {"trace replays, time: goal", traces, "glibc", 1.0},
      {"trace replays, peak memory: must", traces, "mimalloc", 1.1, kind::peak},
      {"trace replays, peak memory: goal", traces, "mimalloc", 1.0, kind::peak},
      {"trace replays, peak memory: goal", traces, "jemalloc", 1.0, kind::peak},
      {"trace replays, peak memory: goal", traces, "glibc", 1.0, kind::peak},
      {"a million blocks of 64 B, bytes each: must", {"footprint/64"}, "", 67, kind::value},
      {"a million blocks of 64 B, bytes each: goal", {"footprint/64"}, "", 65, kind::value},
      {"locate, 10,000 regions: must", {"locate/10000"}, "rte_malloc", 0.1},
      {"locate, 10,000 regions / 1 region: must",
       {"locate/10000"},
       "locate/1",
       2.0,
       kind::value_per_own},
      {"locate, 10,000 regions, ns: goal", {"locate/10000"}, "", 3.5, kind::value},
      {"IOVA to address, a million pages: must", {"iova/address-of"}, "rte_malloc", 1e-4},
      {"add 1 GiB: must", {"add/1G-4K"}, "rte_external", 1e-3},
      {"add 1 GiB, ns: goal", {"add/1G-4K"}, "", 1e5, kind::value},
      {"hopeless IOVA-contiguous request: must", {"hopeless"}, "rte_external", 1e-3},
      {"pool, bulk of 32: must", {"pool/32"}, "rte_mempool", 1.0},
      {"pool, bulk of 32: goal", {"pool/32"}, "rte_mempool", 0.8},
      {"ring, two threads: must", {"ring/1", "ring/32"}, "rte_ring", 1.0},
      {"prefault, two threads / one: must", {"prefault/8G"}, "annex-1-thread", 1 / 1.7},
      {"99.99th percentile of an operation: must", {"tail/16-1024"}, "mimalloc", 1.0},
      {"largest free / free after comb: must",
       {"fragmentation/comb"},
       "mimalloc",
       1.0,
       kind::time,
       "annex",
       true},
      {"largest free / free after comb: must",
       {"fragmentation/comb"},
       "jemalloc",
       1.0,
       kind::time,
       "annex",
       true},
      {"largest free / free after comb: must",
       {"fragmentation/comb"},
       "rte_external",
       1.0,
       kind::time,
       "annex",
       true},
  };
  return targets;
}

}  // namespace

std::vector<verdict> judge(const std::vector<workload_result>& results) {
  auto result_of = [&](const char* name) -> const workload_result* {
    for (const auto& r : results)
      if (r.name == name) return &r;
    return nullptr;
  };
  std::vector<verdict> verdicts;
  for (const target& t : all_targets()) {
    double low = 0, median = 0, high = 0;
    int count = 0;
    verdict v{t.row, t.peer, t.limit, {}, t.more_is_better ? 1e300 : 0, {}, false};
    for (const char* name : t.workloads) {
      const workload_result* const r = result_of(name);
      if (r == nullptr) continue;
      std::vector<double> figures;
      if (t.what == kind::time) figures = r->ratios(t.of, t.peer);
      if (t.what == kind::peak) figures = r->peak_ratios(t.of, t.peer);
      if (t.what == kind::value) figures = r->net_values(t.of);
      if (t.what == kind::value_per_own)
        if (const workload_result* const base = result_of(t.peer))
          figures = {spread_of(r->net_values(t.of)).median /
                     spread_of(base->net_values(t.of)).median};
      const spread s = spread_of(figures);
      if (!std::isfinite(s.median)) continue;
      ++count;
      low += std::log(std::max(s.low, 1e-9));
      median += std::log(std::max(s.median, 1e-9));
      high += std::log(std::max(s.high, 1e-9));
      if (t.more_is_better ? s.median < v.worst : s.median > v.worst) {
        v.worst = s.median;
        v.worst_workload = name;
      }
    }
    if (count == 0) continue;
    v.found = {std::exp(low / count), std::exp(median / count), std::exp(high / count)};
    v.met = t.more_is_better ? v.found.median >= t.limit && v.worst >= 0.9 * t.limit
                             : v.found.median <= t.limit && v.worst <= 1.1 * t.limit;
    verdicts.push_back(v);
  }
  return verdicts;
}

}  // namespace annex::bench
