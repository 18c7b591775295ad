// tools/run.cpp - annex run: starts a program on annex without changing it, and says whether a running one is served.
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "output.hpp"

namespace annex::tool {
namespace {

namespace fs = std::filesystem;
constexpr const char* drop_in_name = "libannex_dpdk.so";

// Where the command was built, or was installed, also when the prefix has been moved since.
std::string drop_in_path() {
  std::error_code ignored;
  const fs::path here = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  for (const fs::path& place : {here.parent_path(), here / ANNEX_LIBRARY_FROM_COMMAND, fs::path(ANNEX_LIBRARY_DIR)})
    if (fs::exists(place / drop_in_name, ignored)) return fs::weakly_canonical(place / drop_in_name, ignored).string();
  return {};
}

struct run_arguments {
  bool dpdk = false, quiet = false;
  int served_process = 0;
  std::string serve = "all";
  std::uint64_t keep_bytes = 0;
  bool has_keep = false;
  std::vector<std::string> program;
};

void tell_whether_served(session& s, int process) {
  std::ifstream maps(fmt::format("/proc/{}/maps", process));
  if (!maps) return refuse(s, fmt::format("there is no process {}, or it may not be looked at", process));
  bool is_loaded = false, has_dpdk = false;
  for (std::string line; std::getline(maps, line);) {
    is_loaded |= line.find(drop_in_name) != line.npos;
    has_dpdk |= line.find("librte_eal.so") != line.npos;
  }
  std::vector<std::string> heaps;
  if (auto there = heap::list())
    for (const heap_summary& h : *there) {
      if (!h.name.starts_with("dpdk.")) continue;
      auto seen = heap::attach(h.name, {.read_only = true, .regions = attach_policy::manual});
      if (!seen) continue;
      for (const member_summary& m : seen->members())
        if (m.alive && m.process_id == process) heaps.push_back(h.name);
    }
  const bool served = !heaps.empty();
  const char* const why = served ? "its blocks come from annex"
                          : is_loaded ? "the library is loaded, but serves nothing (yet): DPDK is not initialised, ANNEX_DPDK is off, or the program's calls do not come to it"
                          : has_dpdk ? "it runs DPDK without the library"
                                     : "the library is not loaded; a program that links DPDK statically needs libannex_dpdk.a";
  if (s.json) print({{"process", process}, {"served", served}, {"library_loaded", is_loaded}, {"heaps", heaps}, {"why", why}});
  else fmt::print("Process {} is {}served: {}{}{}\n", process, served ? "" : "not ", why, served ? "; heaps " : "", fmt::join(heaps, ", "));
  if (!served) s.exit = exit_refused;
}

void run(session& s, const run_arguments& a) {
  if (a.served_process != 0) return tell_whether_served(s, a.served_process);
  const std::string library = drop_in_path();
  if (library.empty()) return refuse(s, fmt::format("{} is neither beside the command nor in {}; install it", drop_in_name, ANNEX_LIBRARY_DIR));
  const char* const before = std::getenv("LD_PRELOAD");
  ::setenv("LD_PRELOAD", (before != nullptr && *before != '\0' ? library + ":" + before : library).c_str(), 1);
  ::setenv("ANNEX_DPDK", a.serve.c_str(), 1);
  if (!a.quiet) ::setenv("ANNEX_DPDK_SAY", "1", 1);
  if (a.has_keep) ::setenv("ANNEX_DPDK_KEEP", std::to_string(a.keep_bytes).c_str(), 1);
  std::vector<char*> arguments;
  for (const std::string& word : a.program) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  refuse(s, fmt::format("can't start {}: {}", a.program[0], std::strerror(errno)));
}

}  // namespace

void add_run_command(CLI::App& app, session& s) {
  auto a = std::make_shared<run_arguments>();
  CLI::App* command = app.add_subcommand("run", "Start an unmodified program on annex: annex run --dpdk -- PROGRAM ARGUMENTS");
  command->add_flag("--dpdk", a->dpdk, "A DPDK program: rte_malloc, memzones and external heaps")->required();
  command->add_option("--serve", a->serve, "small: blocks up to 64 KiB; internal: not external heaps; all; off")->check(CLI::IsMember({"off", "small", "internal", "all"}))->capture_default_str();
  add_bytes(command, "--keep", &a->keep_bytes, "Bytes of empty chunks a socket keeps (1G)");
  command->add_flag("--quiet", a->quiet, "No line when serving begins");
  auto* served = command->add_option("--served", a->served_process, "Say whether this running process is served, by which heaps; exit 1: not")->check(CLI::PositiveNumber);
  auto* program = command->add_option("program", a->program, "The program and its arguments");
  program->excludes(served);
  command->prefix_command(false);
  command->callback([&s, a, command] {
    if (a->program.empty() && a->served_process == 0) throw CLI::RequiredError("program (after --) or --served");
    a->has_keep = command->count("--keep") != 0;
    run(s, *a);
  });
}

}  // namespace annex::tool
