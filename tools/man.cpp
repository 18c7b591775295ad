// tools/man.cpp - man pages from the command's own definitions: annex.1 and one page per subcommand.
#include <filesystem>
#include <fstream>

#include "output.hpp"

namespace annex::tool {
namespace {

std::string roff(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '-') out += "\\-";
    else if (c == '\\') out += "\\e";
    else out += c;
  }
  return !out.empty() && (out[0] == '.' || out[0] == '\'') ? "\\&" + out : out;
}

std::string options_of(const CLI::App& command) {
  std::string text;
  for (const CLI::Option* o : command.get_options()) {
    if (o->get_name() == "--help,-h" || o->get_name() == "-h,--help") continue;
    text += ".TP\n\\fB" + roff(o->get_positional() ? o->get_name(true) : o->get_name()) + "\\fR";
    if (o->get_expected_max() > 0 && !o->get_positional()) text += " \\fI" + roff(o->get_type_name()) + "\\fR";
    text += "\n" + roff(o->get_description()) + (o->get_required() ? " (required)." : ".") + (o->get_default_str().empty() ? "" : " Default: " + roff(o->get_default_str()) + ".") + "\n";
  }
  return text;
}

constexpr const char* footer =
    ".SH EXIT STATUS\n0 done, 1 refused (the sentence on standard error names the value, the limit and the remedy), 2 not understood.\n"
    ".SH ENVIRONMENT\n.TP\n\\fBANNEX_DIR\\fR\nWhere segments lie; else $XDG_RUNTIME_DIR/annex, else /dev/shm/annex\\-UID.\n.TP\n\\fBANNEX_LOG\\fR\nFor example level:info;output:stderr.\n";

}  // namespace

void add_man_command(CLI::App& app, session& s) {
  auto directory = std::make_shared<std::string>(".");
  CLI::App* command = app.add_subcommand("man", "Write the man pages");
  command->group("");  // for the build
  command->add_option("--directory", *directory, "Where to");
  command->callback([&app, &s, directory] {
    std::error_code why;
    std::filesystem::create_directories(*directory, why);
    std::ofstream main(*directory + "/annex.1");
    main << ".TH ANNEX 1\n.SH NAME\nannex \\- named heaps over memory you bring, shared by any process\n.SH SYNOPSIS\n\\fBannex\\fR \\fICOMMAND\\fR [\\fIoptions\\fR]\n.SH COMMANDS\n";
    for (const CLI::App* c : app.get_subcommands({})) {
      if (c->get_group().empty()) continue;
      main << ".TP\n\\fBannex\\-" << c->get_name() << "\\fR(1)\n" << roff(c->get_description()) << ".\n";
      std::ofstream page(*directory + "/annex-" + c->get_name() + ".1");
      page << ".TH ANNEX\\-" << c->get_name() << " 1\n.SH NAME\nannex\\-" << c->get_name() << " \\- " << roff(c->get_description()) << "\n.SH SYNOPSIS\n\\fBannex " << c->get_name() << "\\fR";
      for (const CLI::Option* o : c->get_options())
        if (o->get_positional()) page << " \\fI" << o->get_name(true) << "\\fR";
      page << " [\\fIoptions\\fR]\n.SH OPTIONS\n" << options_of(*c) << footer << ".SH SEE ALSO\nannex(1)\n";
      if (!page.flush()) return refuse(s, "can't write " + *directory + "/annex-" + c->get_name() + ".1");
    }
    main << ".SH OPTIONS\n" << options_of(app) << footer;
    if (!main.flush()) refuse(s, "can't write " + *directory + "/annex.1");
  });
}

}  // namespace annex::tool
