// tools/main.cpp - the annex command: one subcommand per thing to do. Exit codes: 0 done, 1 refused, 2 not understood.
#include <algorithm>

#include "output.hpp"

int main(int argc, char** argv) {
  using namespace annex::tool;
  CLI::App app("Named heaps over memory you bring, shared by any process", "annex");
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::help);
  const annex::version v = annex::library_version();
  app.set_version_flag("--version", fmt::format("annex {}.{}.{}", v.major, v.minor, v.patch));
  session s;
  app.add_flag("--json", s.json, "Print JSON instead of text");
  add_heap_commands(app, s);
  add_memory_commands(app, s);
  add_see_commands(app, s);
  add_run_command(app, s);
  add_doctor_command(app, s);
  add_demo_command(app, s);
  add_man_command(app, s);
  for (CLI::App* command : app.get_subcommands({}))
    if (command->get_name() != "man") command->add_flag("--json", s.json, "Print JSON instead of text");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    const char* const* const unknown = std::find_if(argv + 1, argv + argc, [](const char* word) { return word[0] != '-'; });
    const auto is_meant = [&](const CLI::App* command) { return command->get_name() == *unknown; };
    const auto commands = app.get_subcommands({});
    if (unknown != argv + argc && std::none_of(commands.begin(), commands.end(), is_meant)) {
      fmt::print(stderr, "annex: \"{}\" is no subcommand; annex --help lists them.\n", *unknown);
      return exit_usage;
    }
    app.exit(e);
    return exit_usage;
  }
  return s.exit;
}
