// bench/targets.hpp - what annex wants to reach, checked against what a run found.
#pragma once
#include "harness.hpp"

namespace annex::bench {

struct verdict {
  std::string row, against;
  // The figure has to be at most (at least: if more is better) this; NaN: no such demand.
  double must = 0;
  // Median of the medians of its workloads' ratios is the geometric mean; quartiles likewise.
  spread found;
  double worst = 0;  // the worst of its workloads
  std::string worst_workload;
  bool met = false;  // the mean, and every workload by itself within a tenth
};

/// Rows whose workloads were not run are left out.
std::vector<verdict> judge(const std::vector<workload_result>& results);

}  // namespace annex::bench
