// tools/run.cpp - annex run: starts a program on annex without changing it, and says whether a
// running one is served.
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "output.hpp"

namespace annex::tool {
namespace {

namespace fs = std::filesystem;
constexpr const char* drop_in_name = "libannex_dpdk.so";

// Where the command was built, or was installed, also when the prefix has been moved since.
std::string drop_in_path() {
  std::error_code ignored;
  const fs::path here = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  for (const fs::path& place :
       {here.parent_path(), here / ANNEX_LIBRARY_FROM_COMMAND, fs::path(ANNEX_LIBRARY_DIR)})
    if (fs::exists(place / drop_in_name, ignored))
      return fs::weakly_canonical(place / drop_in_name, ignored).string();
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
  if (!maps)
    return refuse(s, fmt::format("there is no process {}, or it may not be looked at", process));
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
  const char* const why =
      served      ? "its blocks come from annex"
      : is_loaded ? "the library is loaded, but serves nothing (yet): DPDK is not initialised, "
                    "ANNEX_DPDK is off, or the program's calls do not come to it"
      : has_dpdk
          ? "it runs DPDK without the library"
          : "the library is not loaded; a program that links DPDK statically needs libannex_dpdk.a";
  if (s.json)
    print({{"process", process},
           {"served", served},
           {"library_loaded", is_loaded},
           {"heaps", json(heaps)},
           {"why", why}});
  else
    fmt::print("Process {} is {}served: {}{}{}\n", process, served ? "" : "not ", why,
               served ? "; heaps " : "", fmt::join(heaps, ", "));
  if (!served) s.exit = exit_refused;
}

void run(session& s, const run_arguments& a) {
  if (a.served_process != 0) return tell_whether_served(s, a.served_process);
  const std::string library = drop_in_path();
  if (library.empty())
    return refuse(s, fmt::format("{} is neither beside the command nor in {}; install it",
                                 drop_in_name, ANNEX_LIBRARY_DIR));
  const char* const before = std::getenv("LD_PRELOAD");
  ::setenv("LD_PRELOAD",
           (before != nullptr && *before != '\0' ? library + ":" + before : library).c_str(), 1);
  ::setenv("ANNEX_DPDK", a.serve.c_str(), 1);
  if (!a.quiet) ::setenv("ANNEX_DPDK_SAY", "1", 1);
  if (a.has_keep) ::setenv("ANNEX_DPDK_KEEP", std::to_string(a.keep_bytes).c_str(), 1);
  // Who is this process still when its program ends, and not a child of it, says whether DPDK was
  // ever started.
  ::setenv("ANNEX_DPDK_ASKED", std::to_string(::getpid()).c_str(), 1);
  std::vector<char*> arguments;
  for (const std::string& word : a.program)
    arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  const int why = errno;
  refuse(s, fmt::format("can't start {}: {}", a.program[0], std::strerror(why)),
         why == ENOENT ? exit_not_found : exit_not_executable);
}

}  // namespace

void add_run_command(command_line& line, session& s) {
  auto a = std::make_shared<run_arguments>();
  command c;
  c.name = "run";
  c.summary = "Start an unmodified program on annex";
  c.details =
      "The program takes the place of annex: its exit status is the one there is. 127: it was not "
      "found; 126: it can't be executed. Standard error "
      "says so when the program is not linked with DPDK's shared libraries, and when its EAL did "
      "not start.";
  c.examples = {
      "annex run --dpdk -- dpdk-testpmd -l 0-1 --no-huge -m 512 --no-pci --vdev=net_null0 -- "
      "--no-mlockall --total-num-mbufs=2048 -i",
      "annex run --served 4711"};
  c.ends_at_program = true;
  c.flag("--dpdk", &a->dpdk, "A DPDK program: rte_malloc, memzones and external heaps");
  c.text("--serve", "WHAT", &a->serve, "small: blocks up to 64 KiB; internal: not external heaps")
      .choices = {"off", "small", "internal", "all"};
  c.options.back().otherwise = "all";
  c.bytes("--keep", nullptr, "Bytes of empty chunks a socket keeps").take =
      [a](const std::string& text) {
        const auto bytes = parse_bytes(text);
        if (!bytes) return fmt::format("\"{}\" is no size; write for example 1G", printable(text));
        a->keep_bytes = *bytes;
        a->has_keep = true;
        return std::string();
      };
  c.options.back().otherwise = "1G";
  c.flag("--quiet", &a->quiet, "No line when serving begins, and none when nothing was served");
  constexpr std::uint64_t most_processes = 1 << 22;
  c.number(
      "--served", "PROCESS", 1, most_processes,
      [a](std::uint64_t process) { a->served_process = static_cast<int>(process); },
      "Say whether this running process is served, by which heaps; exit 1: not");
  option program{"program", 0, "PROGRAM", "The program and its arguments",
                 [a](const std::string& word) {
                   a->program.push_back(word);
                   return std::string();
                 }};
  program.repeats = true;
  program.completes = completion::program;
  c.options.push_back(program);
  c.run = [&s, a] {
    if (a->served_process != 0 && !a->program.empty())
      return refuse_usage(s, "run", "--served looks at a process that runs; it starts none");
    if (a->served_process == 0 && !a->dpdk)
      return refuse_usage(s, "run", "say what kind of program it is: --dpdk");
    if (a->served_process == 0 && a->program.empty())
      return refuse_usage(s, "run", "a program is missing: annex run --dpdk -- PROGRAM ARGUMENTS");
    run(s, *a);
  };
  line.commands.push_back(std::move(c));
}

}  // namespace annex::tool
