// bench/main.cpp - annex and its peers in one run.
//
// jemalloc, opened beside glibc's malloc, needs more static thread-local memory than the loader
// keeps by default; the loader is told through its environment, so the program starts itself again
// with that set.
#include <fmt/format.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>

#include "dpdk.hpp"
#include "peers.hpp"
#include "report.hpp"
#include "workloads.hpp"

namespace {

void start_with_room_for_thread_locals(char** arguments) {
  constexpr const char* name = "GLIBC_TUNABLES";
  if (std::getenv(name) != nullptr) return;
  ::setenv(name, "glibc.rtld.optional_static_tls=16384", 1);
  ::execv("/proc/self/exe", arguments);
}

}  // namespace

int main(int count, char** arguments) {
  using namespace annex::bench;
  start_with_room_for_thread_locals(arguments);
  CLI::App app{
      "Runs annex and the allocators it is judged against, in turns, and prints medians, quartiles "
      "and ratios."};
  std::string filter = ".*", peers = ".*", json_file, html_file;
  run_options options;
  bool list = false;
  huge_pages pages = huge_pages::as_is;
  const std::map<std::string, huge_pages> choices{
      {"as-is", huge_pages::as_is}, {"never", huge_pages::never}, {"madvise", huge_pages::madvise}};
  app.add_option("--filter", filter,
                 "workloads whose name contains a match of this regular expression");
  app.add_option("--peers", peers, "only these peers: a regular expression as well");
  app.add_option("--rounds", options.rounds, "how often each peer has its turn")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--huge-pages", pages,
                 "transparent huge pages: as-is, never, or madvise for memory that is given to a "
                 "peer")
      ->transform(CLI::CheckedTransformer(choices));
  app.add_option("--json", json_file,
                 "write everything there ('-': standard output, and nothing else)");
  app.add_option("--html", html_file, "write a page of plots there");
  app.add_flag("--list", list, "print the workloads and end");
  CLI11_PARSE(app, count, arguments);

  std::vector<workload> all, chosen;
  add_block_workloads(&all);
  add_thread_workloads(&all);
  add_trace_workloads(&all);
  add_object_workloads(&all);
  add_memory_workloads(&all);
  add_space_workloads(&all);
  try {
    const std::regex wanted(filter), wanted_peers(peers);
    for (workload& w : all) {
      std::erase_if(w.cells,
                    [&](const cell& c) { return !std::regex_search(c.peer, wanted_peers); });
      if (std::regex_search(w.name, wanted) && !w.cells.empty()) chosen.push_back(std::move(w));
    }
  } catch (const std::regex_error&) {
    fmt::print(stderr, "--filter \"{}\" or --peers \"{}\" is no regular expression\n", filter,
               peers);
    return 2;
  }
  if (chosen.empty()) {
    fmt::print(stderr,
               "nothing matches --filter \"{}\" and --peers \"{}\"; --list shows the workloads\n",
               filter, peers);
    return 2;
  }
  if (list) {
    for (const workload& w : chosen)
      fmt::print("{:<22}{}\n", w.name, w.about);
    return 0;
  }
  const bool quiet = json_file == "-";
  try {
    choose_huge_pages(pages);
  } catch (const std::runtime_error& refused) {
    fmt::print(stderr, "{}\n", refused.what());
    return 1;
  }
  const std::string machine = machine_words() + "; huge pages: " + huge_pages_words();
  if (!quiet) {
    fmt::print("{}; {} rounds\n", machine, options.rounds);
    if (dpdk::is_built_in())
      fmt::print(
          "DPDK runs {}\n",
          dpdk::has_hugepages()
              ? "on hugepages"
              : "with --no-huge; echo 256 > /proc/sys/vm/nr_hugepages gives it what it wants");
    for (const std::string& missing : missing_peers())
      fmt::print("not here: {}\n", missing);
    options.report = [](const workload_result& r) {
      fmt::print("{}", lines_of(r));
      std::fflush(stdout);
    };
  }
  const auto results = run(chosen, options);
  const auto verdicts = judge(results);
  if (!quiet) fmt::print("{}", table_of(verdicts));
  if (!json_file.empty()) {
    const std::string text = json_of(results, verdicts, machine).dump(1) + "\n";
    if (quiet)
      fmt::print("{}", text);
    else
      std::ofstream(json_file) << text;
  }
  if (!html_file.empty()) std::ofstream(html_file) << page_of(results, verdicts, machine);
  return 0;
}
