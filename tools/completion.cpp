// tools/completion.cpp - completion: what a shell needs to complete annex's commands, from their
// definitions.
//
// Both scripts know the commands and their options; names of heaps and zones are asked of annex
// itself, when they are wanted.
#include <algorithm>
#include <memory>

#include "output.hpp"

namespace annex::tool {
namespace {

constexpr const char* zone_names =
    "annex zones \"$heap\" --json 2>/dev/null | sed -n 's/^ *\"name\": \"\\(.*\\)\",$/\\1/p'";

std::vector<const command*> shown_commands(const command_line& line) {
  std::vector<const command*> shown;
  for (const command& c : line.commands)
    if (!c.is_hidden) shown.push_back(&c);
  return shown;
}

std::vector<std::string> names_of(const std::vector<const command*>& commands) {
  std::vector<std::string> names;
  for (const command* c : commands)
    names.push_back(c->name);
  return names;
}

// ---- bash
// -------------------------------------------------------------------------------------------------

std::string bash_words(const option& o, const std::vector<std::string>& commands) {
  if (!o.choices.empty())
    return fmt::format("COMPREPLY=($(compgen -W '{}' -- \"$word\"))", fmt::join(o.choices, " "));
  switch (o.completes) {
    case completion::heap:
      return "COMPREPLY=($(compgen -W \"$(annex ls --names 2>/dev/null)\" -- \"$word\"))";
    case completion::zone:
      return fmt::format("COMPREPLY=($(compgen -W \"$({})\" -- \"$word\"))", zone_names);
    case completion::file: return "compopt -o filenames; COMPREPLY=($(compgen -f -- \"$word\"))";
    case completion::directory:
      return "compopt -o filenames; COMPREPLY=($(compgen -d -- \"$word\"))";
    case completion::program: return "COMPREPLY=($(compgen -c -- \"$word\"))";
    case completion::command:
      return fmt::format("COMPREPLY=($(compgen -W '{}' -- \"$word\"))", fmt::join(commands, " "));
    case completion::nothing: break;
  }
  return "COMPREPLY=()";
}

std::string bash_command(const command& c, const command_line& line,
                         const std::vector<std::string>& commands) {
  std::vector<option> all = c.options;
  all.insert(all.end(), line.global_options.begin(), line.global_options.end());
  std::vector<std::string> names;
  std::string values, places;
  unsigned place = 0;
  for (const option& o : all) {
    if (o.is_hidden) continue;
    if (o.has_place()) {
      places += fmt::format("        {}) {} ;;\n", o.repeats ? "*" : fmt::format("{}", place),
                            bash_words(o, commands));
      ++place;
      continue;
    }
    names.push_back(o.name);
    if (!o.value.empty())
      values += fmt::format("        {}) {}; return ;;\n", o.name, bash_words(o, commands));
  }
  std::string text = fmt::format("    {})\n", c.name);
  if (!values.empty()) text += fmt::format("      case $before in\n{}      esac\n", values);
  text += fmt::format(
      "      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '{}' -- \"$word\")); return; fi\n",
      fmt::join(names, " "));
  if (!places.empty()) text += fmt::format("      case $place in\n{}      esac\n", places);
  return text + "      ;;\n";
}

std::vector<std::string> options_with_values(const command_line& line) {
  std::vector<std::string> names;
  const auto add = [&](const std::vector<option>& options) {
    for (const option& o : options)
      if (!o.has_place() && !o.value.empty()) names.push_back(o.name);
  };
  add(line.global_options);
  for (const command& c : line.commands)
    add(c.options);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

std::string bash_script(const command_line& line) {
  const auto commands = shown_commands(line);
  const auto names = names_of(commands);
  std::vector<std::string> global;
  for (const option& o : line.global_options)
    global.push_back(o.name);
  std::string text = fmt::format(R"(# annex(1) completion for bash; made by annex completion bash.
_annex() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
  local called= heap= place=0 i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${{COMP_WORDS[i]}} in
      {}) i=$((i + 1)) ;;
      -*) ;;
      *)
        if [[ -z $called ]]; then called=${{COMP_WORDS[i]}}
        else
          [[ -n $heap ]] || heap=${{COMP_WORDS[i]}}
          place=$((place + 1))
        fi ;;
    esac
  done
  if [[ -z $called ]]; then
    if [[ $before == --dir ]]; then compopt -o filenames; COMPREPLY=($(compgen -d -- "$word"))
    else COMPREPLY=($(compgen -W '{} {}' -- "$word")); fi
    return
  fi
  case $called in
)",
                                 fmt::join(options_with_values(line), "|"), fmt::join(names, " "),
                                 fmt::join(global, " "));
  for (const command* c : commands)
    text += bash_command(*c, line, names);
  return text + "  esac\n}\ncomplete -F _annex annex\n";
}

// ---- zsh
// -------------------------------------------------------------------------------------------------

std::string zsh_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\'')
      out += "'\\''";
    else if (c == '[' || c == ']' || c == ':' || c == '\\')
      out += std::string("\\") + c;
    else
      out += c;
  }
  return out;
}

std::string zsh_action(const option& o, const std::vector<std::string>& commands) {
  if (!o.choices.empty()) return fmt::format("({})", fmt::join(o.choices, " "));
  switch (o.completes) {
    case completion::heap: return "_annex_heaps";
    case completion::zone: return "_annex_zones";
    case completion::file: return "_files";
    case completion::directory: return "_files -/";
    case completion::program: return "_normal";
    case completion::command: return fmt::format("({})", fmt::join(commands, " "));
    case completion::nothing: break;
  }
  return " ";
}

std::string zsh_option(const option& o, const std::vector<std::string>& commands) {
  const std::string action = zsh_action(o, commands);
  if (o.has_place())
    return fmt::format("      '{}:{}:{}'", o.repeats ? "*" : "", zsh_text(written(o)), action);
  const std::string value = o.value.empty() ? "" : fmt::format(":{}:{}", zsh_text(o.value), action);
  return fmt::format("      '{}[{}]{}'", o.name, zsh_text(o.help), value);
}

std::string zsh_script(const command_line& line) {
  const auto commands = shown_commands(line);
  const auto names = names_of(commands);
  std::string text = fmt::format(R"zsh(#compdef annex
# annex(1) completion for zsh; made by annex completion zsh.
_annex_heaps() {{
  local -a heaps
  heaps=(${{(f)"$(annex ls --names 2>/dev/null)"}})
  compadd -a heaps
}}
_annex_zones() {{
  local heap=$words[2]
  local -a zones
  zones=(${{(f)"$({})"}})
  compadd -a zones
}}
_annex() {{
  local context state line
  local -a commands
  commands=(
)zsh",
                                 zone_names);
  for (const command* c : commands)
    text += fmt::format("    '{}:{}'\n", c->name, zsh_text(c->summary));
  text += "  )\n  _arguments -C \\\n";
  for (const option& o : line.global_options)
    text += zsh_option(o, names) + " \\\n";
  text +=
      "      '1:command:->command' '*::argument:->argument'\n  case $state in\n    command) "
      "_describe command commands ;;\n    argument)\n      case $words[1] in\n";
  for (const command* c : commands) {
    text += fmt::format("        {}) _arguments", c->name);
    for (const option& o : c->options)
      if (!o.is_hidden) text += " \\\n" + zsh_option(o, names);
    for (const option& o : line.global_options)
      text += " \\\n" + zsh_option(o, names);
    text += " ;;\n";
  }
  return text + "      esac ;;\n  esac\n}\n_annex \"$@\"\n";
}

}  // namespace

void add_completion_command(command_line& line, session&) {
  auto shell = std::make_shared<std::string>();
  command c;
  c.name = "completion";
  c.summary = "Print a completion script for bash or zsh";
  c.details =
      "An installed annex has put both where the shells look for them. Else: source <(annex "
      "completion bash), or write annex completion zsh to a file "
      "_annex in a directory of $fpath.";
  c.examples = {"source <(annex completion bash)"};
  option& which = c.text("shell", "SHELL", shell.get(), "bash or zsh");
  which.choices = {"bash", "zsh"};
  which.is_required = true;
  c.run = [&line, shell] {
    fmt::print("{}", *shell == "bash" ? bash_script(line) : zsh_script(line));
  };
  line.commands.push_back(std::move(c));
}

}  // namespace annex::tool
