// bench/report.hpp - a run as lines, as JSON, as a page of plots.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "best.hpp"
#include "harness.hpp"
#include "targets.hpp"

namespace annex::bench {

std::string lines_of(const workload_result& r);
std::string table_of(const std::vector<verdict>& verdicts);
nlohmann::json json_of(const std::vector<workload_result>& results,
                       const std::vector<verdict>& verdicts, const std::vector<best_row>& best,
                       const std::string& machine);
std::string page_of(const std::vector<workload_result>& results,
                    const std::vector<verdict>& verdicts, const std::string& machine);
/// Processor, kernel, pages, date: what the figures depend on.
std::string machine_words();

}  // namespace annex::bench
