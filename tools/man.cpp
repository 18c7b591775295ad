// tools/man.cpp - man pages from the command's own definitions: annex.1 and one page per command.
#include <filesystem>
#include <fstream>
#include <memory>

#include "output.hpp"

namespace annex::tool {
namespace {

std::string roff(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '-')
      out += "\\-";
    else if (c == '\\')
      out += "\\e";
    else
      out += c;
  }
  return !out.empty() && (out[0] == '.' || out[0] == '\'') ? "\\&" + out : out;
}

std::string options_of(const std::vector<option>& options) {
  std::string text;
  for (const option& o : options) {
    if (o.is_hidden) continue;
    text += ".TP\n\\fB" + roff(written(o)) + "\\fR\n" + roff(o.help);
    if (!o.choices.empty()) text += roff(fmt::format(": {}", fmt::join(o.choices, ", ")));
    text += o.otherwise.empty() ? ".\n" : ". Otherwise " + roff(o.otherwise) + ".\n";
  }
  return text;
}

constexpr const char* footer =
    ".SH EXIT STATUS\n.TP\n0\nDone.\n.TP\n1\nRefused: the sentence on standard error names the "
    "value, the limit and the remedy.\n.TP\n2\nNot understood: a command, an option or a "
    "value is none.\n.TP\n126, 127\nOf annex\\-run(1): the program can't be executed, was not "
    "found.\n"
    ".SH JSON\nUnder \\fB\\-\\-json\\fR standard output has one JSON document, whatever happens: "
    "the answer, or an object with the member \\fIerror\\fR, which has a "
    "\\fImessage\\fR and, where there is one, the \\fIname\\fR and \\fIcode\\fR of the error. Ids, "
    "handles and addresses are text; amounts are numbers.\n"
    ".SH ENVIRONMENT\n.TP\n\\fBANNEX_DIR\\fR\nWhere heaps lie; else $XDG_RUNTIME_DIR/annex, else "
    "/dev/shm/annex\\-UID. \\fB\\-\\-dir\\fR goes before it.\n"
    ".TP\n\\fBANNEX_LOG\\fR\nFor example level:info;output:stderr.\n.TP\n\\fBNO_COLOR\\fR, "
    "\\fBTERM\\fR\nNo colours, where NO_COLOR is set or TERM is dumb; none without a terminal "
    "either.\n"
    ".TP\n\\fBCOLUMNS\\fR\nHow wide tables and maps may be; else the terminal's width, else 80.\n";

std::string page_of(const command& c, const command_line& line) {
  std::string text =
      fmt::format(".TH ANNEX\\-{} 1\n.SH NAME\nannex\\-{} \\- {}\n.SH SYNOPSIS\n\\fB{}\\fR\n",
                  roff(c.name), roff(c.name), roff(c.summary), roff(usage(c)));
  text += fmt::format(".SH DESCRIPTION\n{}.\n", roff(c.summary));
  if (!c.details.empty()) text += ".PP\n" + roff(c.details) + "\n";
  text += ".SH OPTIONS\n" + options_of(c.options) + options_of(line.global_options);
  if (!c.examples.empty()) text += ".SH EXAMPLES\n.nf\n";
  for (const std::string& example : c.examples)
    text += roff(example) + "\n";
  if (!c.examples.empty()) text += ".fi\n";
  return text + footer + ".SH SEE ALSO\nannex(1)\n";
}

std::string page_of_all(const command_line& line) {
  std::string text =
      ".TH ANNEX 1\n.SH NAME\nannex \\- named heaps over memory you bring, shared by any "
      "process\n.SH SYNOPSIS\n\\fBannex\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] ...\n.SH COMMANDS\n";
  for (const command& c : line.commands)
    if (!c.is_hidden)
      text += ".TP\n\\fBannex\\-" + roff(c.name) + "\\fR(1)\n" + roff(c.summary) + ".\n";
  return text + ".SH OPTIONS\nUnderstood before and behind every command.\n" +
         options_of(line.global_options) + footer;
}

bool write(const std::filesystem::path& file, const std::string& text) {
  std::ofstream page(file);
  page << text;
  return static_cast<bool>(page.flush());
}

}  // namespace

void add_man_command(command_line& line, session& s) {
  auto directory = std::make_shared<std::string>(".");
  command c;
  c.name = "man";
  c.summary = "Write the man pages";
  c.is_hidden = true;  // for the build
  c.text("--directory", "DIRECTORY", directory.get(), "Where to");
  c.run = [&line, &s, directory] {
    std::error_code why;
    std::filesystem::create_directories(*directory, why);
    const std::filesystem::path where = *directory;
    bool is_written = write(where / "annex.1", page_of_all(line));
    for (const command& one : line.commands)
      if (!one.is_hidden)
        is_written &= write(where / ("annex-" + one.name + ".1"), page_of(one, line));
    if (!is_written) refuse(s, "can't write the man pages to " + *directory);
  };
  line.commands.push_back(std::move(c));
}

}  // namespace annex::tool
