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

#include "best.hpp"
#include "dpdk.hpp"
#include "instructions.hpp"
#include "libraries.hpp"
#include "peers.hpp"
#include "report.hpp"
#include "workloads.hpp"

using namespace annex::bench;

namespace {

void start_with_room_for_thread_locals(char** arguments) {
  constexpr const char* name = "GLIBC_TUNABLES";
  if (std::getenv(name) != nullptr) return;
  ::setenv(name, "glibc.rtld.optional_static_tls=16384", 1);
  ::execv("/proc/self/exe", arguments);
}

struct wishes {
  std::string filter = ".*", peers = ".*", json_file, html_file, peer_directory = ANNEX_PEERS;
  std::vector<std::string> brought;
  int rounds = 5;
  huge_pages pages = huge_pages::as_is;
  bool list = false, instructions = false;
  bool quiet() const { return json_file == "-"; }
};

void describe(CLI::App& app, wishes* w) {
  static const std::map<std::string, huge_pages> choices{
      {"as-is", huge_pages::as_is}, {"never", huge_pages::never}, {"madvise", huge_pages::madvise}};
  app.add_option("--filter", w->filter,
                 "workloads whose name contains a match of this regular expression");
  app.add_option("--peers", w->peers, "only these peers: a regular expression as well");
  app.add_option("--rounds", w->rounds, "how often each peer has its turn")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--huge-pages", w->pages,
                 "transparent huge pages: as-is, never, or madvise for memory that is given to a "
                 "peer")
      ->transform(CLI::CheckedTransformer(choices));
  app.add_option("--peer", w->brought, "NAME=PATH: a shared library whose malloc is compared");
  app.add_option("--peers-of", w->peer_directory,
                 "the same for every shared library of a directory (ANNEX_PEERS of the build)");
  app.add_option("--json", w->json_file,
                 "write everything there ('-': standard output, and nothing else)");
  app.add_option("--html", w->html_file, "write a page of plots there");
  app.add_flag("--list", w->list, "print the workloads and end");
  app.add_flag("--instructions", w->instructions,
               "count machine instructions of a pair by single steps instead, and end");
}

// Throws std::regex_error.
std::vector<workload> chosen_of(const wishes& w) {
  std::vector<workload> all, chosen;
  add_block_workloads(&all);
  add_burst_workloads(&all);
  add_large_workloads(&all);
  add_thread_workloads(&all);
  add_process_workloads(&all);
  add_published_workloads(&all);
  add_trace_workloads(&all);
  add_object_workloads(&all);
  add_memory_workloads(&all);
  add_space_workloads(&all);
  const std::regex wanted(w.filter), wanted_peers(w.peers);
  for (workload& one : all) {
    std::erase_if(one.cells,
                  [&](const cell& c) { return !std::regex_search(c.peer, wanted_peers); });
    if (std::regex_search(one.name, wanted) && !one.cells.empty()) chosen.push_back(std::move(one));
  }
  return chosen;
}

// What the figures depend on, before the first of them.
void print_head(const wishes& w, const std::string& machine) {
  fmt::print("{}; {} rounds\n", machine, w.rounds);
  if (dpdk::is_built_in())
    fmt::print("DPDK runs {}\n",
               dpdk::has_hugepages()
                   ? "on hugepages"
                   : "with --no-huge; echo 256 > /proc/sys/vm/nr_hugepages gives it what it wants");
  for (const std::string& missing : missing_peers())
    fmt::print("not here: {}\n", missing);
}

void count_instructions(const wishes& w) {
  std::vector<peer> counted;
  for (const peer& p : all_peers())
    if (std::regex_search(p.name, std::regex(w.peers))) counted.push_back(p);
  for (const std::string& missing : missing_peers())
    fmt::print("# not here: {}\n", missing);
  fmt::print("{}", counted_instructions(counted));
}

int compare(const wishes& w, const std::vector<workload>& chosen) {
  const std::string machine = machine_words() + "; huge pages: " + huge_pages_words();
  run_options options{.rounds = w.rounds, .report = {}};
  if (!w.quiet()) {
    print_head(w, machine);
    options.report = [](const workload_result& r) {
      fmt::print("{}", lines_of(r));
      std::fflush(stdout);
    };
  }
  const auto results = run(chosen, options);
  const auto verdicts = judge(results);
  const auto best = best_rows(results);
  if (!w.quiet()) fmt::print("{}{}", table_of(verdicts), best_table(best));
  if (!w.json_file.empty()) {
    const std::string text = json_of(results, verdicts, best, machine).dump(1) + "\n";
    if (w.quiet())
      fmt::print("{}", text);
    else
      std::ofstream(w.json_file) << text;
  }
  if (!w.html_file.empty()) std::ofstream(w.html_file) << page_of(results, verdicts, machine);
  return 0;
}

int do_what_is_wished(const wishes& w) {
  choose_huge_pages(w.pages);
  for (const std::string& word : w.brought)
    bring_library(word);
  if (!w.peer_directory.empty()) bring_libraries_of(w.peer_directory);
  if (w.instructions) {
    count_instructions(w);
    return 0;
  }
  const std::vector<workload> chosen = chosen_of(w);
  if (chosen.empty()) {
    fmt::print(stderr,
               "nothing matches --filter \"{}\" and --peers \"{}\"; --list shows the workloads\n",
               w.filter, w.peers);
    return 2;
  }
  if (!w.list) return compare(w, chosen);
  for (const workload& one : chosen)
    fmt::print("{:<22}{}\n", one.name, one.about);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  start_with_room_for_thread_locals(arguments);
  CLI::App app{
      "Runs annex and the allocators it is judged against, in turns, and prints medians, quartiles "
      "and ratios."};
  wishes w;
  describe(app, &w);
  CLI11_PARSE(app, count, arguments);
  try {
    return do_what_is_wished(w);
  } catch (const std::regex_error&) {
    fmt::print(stderr, "--filter \"{}\" or --peers \"{}\" is no regular expression\n", w.filter,
               w.peers);
    return 2;
  } catch (const std::runtime_error& refused) {
    fmt::print(stderr, "{}\n", refused.what());
    return 1;
  }
}
