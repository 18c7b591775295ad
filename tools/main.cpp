// tools/main.cpp - the annex command: reads what was written, runs the command that was meant.
// Exit codes: 0 done, 1 refused, 2 not understood; annex run: 126 and 127, as a shell has them.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "output.hpp"
#include "terminal.hpp"

namespace {

using namespace annex::tool;

void add_global_options(command_line& line, session& s) {
  command global;
  global.flag("--json", &s.json, "Print JSON instead of text");
  option& place = global.text("--dir", "DIRECTORY", &s.directory,
                              "Where the heaps lie, instead of $ANNEX_DIR or the usual place");
  place.completes = completion::directory;
  global.flag("--help", &s.wants_help, "Say how it is used").letter = 'h';
  global.flag("--version", &s.wants_version, "Print the version");
  line.global_options = std::move(global.options);
}

void print_version(const session& s) {
  const annex::version v = annex::library_version();
  const std::string text = fmt::format("{}.{}.{}", v.major, v.minor, v.patch);
  if (s.json)
    print({{"version", text}});
  else
    fmt::print("annex {}\n", text);
}

void add_help_commands(command_line& line, session& s) {
  static std::string of;
  command help_command;
  help_command.name = "help";
  help_command.summary = "Say how a command is used";
  option& which =
      help_command.text("command", "COMMAND", &of, "The command; without one, all of them");
  which.completes = completion::command;
  help_command.run = [&line, &s] {
    if (of.empty()) return fmt::print("{}", short_help(line, output_columns()));
    if (const command* c = find_command(line, of))
      return fmt::print("{}", help(line, *c, output_columns()));
    std::vector<std::string> names;
    for (const command& c : line.commands)
      if (!c.is_hidden) names.push_back(c.name);
    const auto meant = nearest(of, names);
    refuse_usage(s, {fmt::format("\"{}\" is no annex command; {}", annex::printable(of),
                                 meant ? fmt::format("do you mean \"{}\"?", *meant)
                                       : "annex help lists them"),
                     nullptr});
  };
  line.commands.push_back(std::move(help_command));
  command version_command;
  version_command.name = "version";
  version_command.summary = "Print the version";
  version_command.run = [&s] { print_version(s); };
  line.commands.push_back(std::move(version_command));
}

}  // namespace

int main(int argc, char** argv) {
  session s;
  command_line line;
  add_global_options(line, s);
  add_heap_commands(line, s);
  add_memory_commands(line, s);
  add_list_commands(line, s);
  add_see_commands(line, s);
  add_block_commands(line, s);
  add_name_commands(line, s);
  add_reap_command(line, s);
  add_destroy_command(line, s);
  add_run_command(line, s);
  add_doctor_command(line, s);
  add_demo_command(line, s);
  add_completion_command(line, s);
  add_man_command(line, s);
  add_help_commands(line, s);

  const std::vector<std::string> words(argv + 1, argv + argc);
  understood asked;
  const auto wrong = understand(line, words, &asked);
  if (wrong) {
    // Also when it stands behind what was not understood.
    s.json |= std::find(words.begin(), words.end(), "--json") != words.end();
    refuse_usage(s, *wrong);
    return s.exit;
  }
  if (s.wants_version) {
    print_version(s);
  } else if (asked.of == nullptr) {
    fmt::print("{}", short_help(line, output_columns()));
  } else if (s.wants_help) {
    fmt::print("{}", help(line, *asked.of, output_columns()));
  } else {
    if (!s.directory.empty()) ::setenv("ANNEX_DIR", s.directory.c_str(), 1);
    asked.of->run();
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    fmt::print(stderr, "annex: the answer can't be written.\n");
    return exit_refused;
  }
  return s.exit;
}
