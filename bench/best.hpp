// bench/best.hpp - annex beside the best of all peers, row by row.
//
//   row    a workload that annex and somebody else have done
//   best   the peer whose gross median is the best one; annex's own variants are no peers
//   ratio  annex / best, gross, the median over the rounds; best / annex where more is better
//
// Gross: a program never sees net, and a net ratio of two small numbers says little. The judgement
// is the geometric mean over the rows of blocks, those that another than DPDK has done too. Rows of
// regions, addresses, pools, rings and zones, where DPDK is alone, are shown and listed but kept
// out of that mean: some are ten thousand times its speed and would hide every other row. The mean
// with them is beside it.
#pragma once
#include <string>
#include <vector>

#include "harness.hpp"

namespace annex::bench {

inline constexpr double listed_ratio = 1.5;  // rows above it are listed by themselves

struct best_row {
  std::string workload, unit, peer;
  double annex = 0, best = 0, ratio = 0;
  bool of_blocks = false;
};
std::vector<best_row> best_rows(const std::vector<workload_result>& results);
/// The geometric mean of the ratios; NaN where there is no row.
double mean_ratio(const std::vector<best_row>& rows, bool of_blocks_only);
/// The table, the judgement and what is above listed_ratio.
std::string best_table(const std::vector<best_row>& rows);

}  // namespace annex::bench
