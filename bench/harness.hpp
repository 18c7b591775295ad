// bench/harness.hpp - measurements that can be compared: every peer in a process of its own, all
// peers in turns.
//
//   workload "pair/64"
//     round 1: driver annex glibc mimalloc …
//     round 2: annex glibc mimalloc … driver
//     …
//
// A cell is one peer doing one workload. It runs in a forked child, so it meets nobody's
// left-overs, and a peer that crashes or hangs costs its own cell only. Within a round the cells
// run one after the other; each round begins with another one.
//
//   gross   what the clock says
//   net     gross less the driver's: the workload with an allocator that returns one constant
//           address and whose free returns at once
//
// The driver stores nothing and follows no pointer. A processor still does some of a workload's own
// work while it waits for an allocator, so net is what a peer adds, gross what a program sees. Both
// are shown. Ratios are formed within a round, annex / peer; their median is quoted.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace annex::bench {

/// What a cell found. peak_bytes: highest resident memory above the start, where the workload
/// measures it. huge_bytes: how much of its memory lay on huge pages when it ended; the harness
/// asks the kernel.
struct measurement {
  double value = 0, peak_bytes = 0, huge_bytes = 0;
};

struct cell {
  std::string peer;
  std::function<measurement()> run;
};

struct workload {
  std::string name, unit, about;
  std::vector<cell> cells;
  bool net = true;  // of the driver, if it has one
  int rounds = 0;   // 0: as asked for
};

struct spread {
  double low = 0, median = 0, high = 0;
};  // quartiles
spread spread_of(std::vector<double> values);

struct peer_result {
  std::string peer, failure;                // failure: why there is no value
  std::vector<double> values, peaks, huge;  // by round; NaN where the cell failed
};
struct workload_result {
  std::string name, unit, about;
  bool net = true;
  std::vector<peer_result> peers;
  const peer_result* find(const std::string& peer) const;
  /// Values as the clock said.
  std::vector<double> gross_values(const std::string& peer) const;
  /// Values with the driver's median subtracted; where there is no driver, as they are.
  std::vector<double> net_values(const std::string& peer) const;
  /// Whether net and gross differ.
  bool has_driver() const { return net && find("driver") != nullptr; }
  /// a / b, round by round, net.
  std::vector<double> ratios(const std::string& a, const std::string& b) const;
  std::vector<double> gross_ratios(const std::string& a, const std::string& b) const;
  std::vector<double> peak_ratios(const std::string& a, const std::string& b) const;
};

struct run_options {
  int rounds = 5;
  double seconds_per_cell = 120;  // then it is killed
  std::function<void(const workload_result&)> report;
};
std::vector<workload_result> run(const std::vector<workload>& workloads,
                                 const run_options& options);

// ---- for the cells ------------------------------------------------------------------------------

double wall_ns();
double thread_cpu_ns();
/// Which CPU the calling thread stays on: the n-th this process may use.
void stay_on_cpu(unsigned n);
/// Resident memory of this process: since begin_peak().
void begin_peak();
double peak_bytes();
double resident_bytes();
/// Memory of this process on transparent huge pages now, its own and shared.
double huge_bytes();

template <class T>
inline void keep(T const& value) {
  asm volatile("" : : "r,m"(value) : "memory");
}

/// Median of `repeats` timings of work(count), in ns per count, count chosen so that one timing
/// takes about `ns`.
template <class Work>
double time_per_operation(Work work, double ns = 3e7, int repeats = 3,
                          double (*clock)() = thread_cpu_ns) {
  unsigned long count = 64;
  for (;;) {
    const double begin = clock();
    work(count);
    const double took = clock() - begin;
    if (took > ns / 8 || count > 1ul << 40) {
      count =
          static_cast<unsigned long>(static_cast<double>(count) * ns / (took > 1 ? took : 1)) + 1;
      break;
    }
    count *= 4;
  }
  std::vector<double> values;
  for (int i = 0; i < repeats; ++i) {
    const double begin = clock();
    work(count);
    values.push_back((clock() - begin) / static_cast<double>(count));
  }
  return spread_of(values).median;
}

/// A stream of numbers, the same in every cell.
struct random_stream {
  unsigned long state;
  explicit random_stream(unsigned long seed) : state(seed * 0x9e3779b97f4a7c15ul + 1) {}
  unsigned long next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
  unsigned long below(unsigned long limit) {
    return static_cast<unsigned long>((static_cast<unsigned __int128>(next()) * limit) >> 64);
  }
};

}  // namespace annex::bench
