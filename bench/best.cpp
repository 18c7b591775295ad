// bench/best.cpp - see best.hpp.
#include "best.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace annex::bench {

std::vector<best_row> best_rows(const std::vector<workload_result>& results) {
  std::vector<best_row> rows;
  for (const workload_result& r : results) {
    const bool more_is_better = r.unit.starts_with("%");
    const double annex = spread_of(r.gross_values("annex")).median;
    best_row row{r.name, r.unit, {}, annex, std::nan(""), 0, false};
    for (const peer_result& p : r.peers) {
      if (p.peer.starts_with("annex") || p.peer == "driver") continue;
      const double found = spread_of(p.values).median;
      row.of_blocks |= !p.peer.starts_with("rte_");
      if (!std::isfinite(found)) continue;
      if (std::isfinite(row.best) && (more_is_better ? found <= row.best : found >= row.best))
        continue;
      row.best = found;
      row.peer = p.peer;
    }
    if (!std::isfinite(annex) || !std::isfinite(row.best)) continue;
    row.ratio = spread_of(more_is_better ? r.gross_ratios(row.peer, "annex")
                                         : r.gross_ratios("annex", row.peer))
                    .median;
    if (std::isfinite(row.ratio) && row.ratio > 0) rows.push_back(row);
  }
  return rows;
}

double mean_ratio(const std::vector<best_row>& rows, bool of_blocks_only) {
  double sum = 0;
  int count = 0;
  for (const best_row& row : rows)
    if (row.of_blocks || !of_blocks_only) {
      sum += std::log(row.ratio);
      ++count;
    }
  return count != 0 ? std::exp(sum / count) : std::nan("");
}

std::string best_table(const std::vector<best_row>& rows) {
  if (rows.empty()) return {};
  std::string text = fmt::format("\n{:<22}{:>12}{:>12}{:>9}   {}\n", "row, gross", "annex", "best",
                                 "ratio", "whose");
  for (const best_row& row : rows)
    text += fmt::format("{:<22}{:>12.4g}{:>12.4g}{:>9.3g}   {}{}\n", row.workload, row.annex,
                        row.best, row.ratio, row.peer, row.of_blocks ? "" : ", DPDK alone");
  const double blocks = mean_ratio(rows, true);
  if (std::isfinite(blocks))
    text += fmt::format("\nannex / best of all, geometric mean over the rows of blocks: {:.3g}  {}",
                        blocks, blocks <= 1 ? "met" : "MISSED (1.0)");
  text += fmt::format("\nover all rows: {:.3g}\nabove {}:", mean_ratio(rows, false), listed_ratio);
  std::vector<best_row> listed;
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(listed),
               [](const best_row& row) { return row.ratio > listed_ratio; });
  std::sort(listed.begin(), listed.end(),
            [](const best_row& a, const best_row& b) { return a.ratio > b.ratio; });
  for (const best_row& row : listed)
    text += fmt::format(" {} {:.3g} ({})", row.workload, row.ratio, row.peer);
  return text + (listed.empty() ? " no row\n" : "\n");
}

}  // namespace annex::bench
