// tools/command_line_reader.cpp - understand(): CLI11 reads the words, what is said about them is
// ours.
//
//   definitions ──▶ CLI::App, a subcommand for each command ──▶ the values of each definition ──▶
//   its take()
//
// CLI11 takes seconds to compile, so no other file of the command includes it. Its exceptions end
// here.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <annex/error.hpp>
#include <map>

#include "command_line.hpp"

namespace annex::tool {
namespace {

constexpr int any_number =
    1 << 28;  // of words; of what CLI11 calls unlimited a command can have but one
constexpr const char* others = "OTHERS";  // the words of a command that have no place

bool is_flag(const option& o) {
  return !o.has_place() && o.value.empty();
}

// CLI11 takes the next word as the value of "--dir=", splits "[a,b]", and ends a command at "++". A
// NUL, which no word has, keeps it from that.
std::string closed(const std::string& word) {
  const bool is_special = word.ends_with('=') || word.ends_with(']') || word == "++";
  return is_special ? word + '\0' : word;
}
std::string opened(const std::string& word) {
  return word.substr(0, word.find('\0'));
}

std::string what_is_wrong(const option& o, const std::string& value) {
  if (is_flag(o) && value != "true") return fmt::format("{} takes no value", o.name);
  if (!o.choices.empty() &&
      std::find(o.choices.begin(), o.choices.end(), value) == o.choices.end()) {
    const auto meant = nearest(value, o.choices);
    return fmt::format("{} is \"{}\"; it is one of {}{}", written(o), printable(value),
                       fmt::join(o.choices, ", "),
                       meant ? fmt::format(": do you mean {}?", *meant) : "");
  }
  const std::string wrong = o.take(is_flag(o) ? "" : value);
  return wrong.empty() ? wrong : fmt::format("{}: {}", written(o), wrong);
}

class reader {
 public:
  explicit reader(const command_line& line) : line_(line) {
    app_.set_help_flag();
    app_.allow_extras()->fallthrough()->require_subcommand(0, 1);
    add(app_, line.global_options);
    for (const command& c : line.commands) {
      CLI::App& app = *app_.add_subcommand(c.name)->positionals_at_end(c.ends_at_program);
      add(app, c.options);
      app.add_option(others)
          ->expected(any_number)
          ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    }
  }

  std::optional<misunderstanding> read(const std::vector<std::string>& words, understood* asked) {
    std::vector<std::string> backwards;
    std::transform(words.rbegin(), words.rend(), std::back_inserter(backwards), closed);
    bool lacks_value = false;  // the last word
    try {
      app_.parse(std::move(backwards));
    } catch (const CLI::ArgumentMismatch&) {
      lacks_value = true;
    }
    const auto& all = line_.commands;
    const auto meant = std::find_if(all.begin(), all.end(),
                                    [&](const command& c) { return app_.got_subcommand(c.name); });
    if (meant != all.end()) asked->of = &*meant;
    if (asked->of != nullptr)
      for (const option& o : asked->of->options)
        options_.push_back(&o);
    for (const option& o : line_.global_options)
      options_.push_back(&o);
    std::string wrong = lacks_value ? without_value(words.back()) : not_known(asked->of);
    if (wrong.empty()) wrong = take_all();
    return wrong.empty() ? std::nullopt
                         : std::optional(misunderstanding{std::move(wrong), asked->of});
  }

 private:
  void add(CLI::App& app, const std::vector<option>& options) {
    for (const option& o : options) {
      const std::string name = o.has_place()   ? written(o)
                               : o.letter != 0 ? fmt::format("-{},{}", o.letter, o.name)
                                               : o.name;
      CLI::Option* const added = is_flag(o) ? app.add_flag(name) : app.add_option(name);
      added->multi_option_policy(
          CLI::MultiOptionPolicy::TakeAll);  // one too many is refused by take_all()
      if (o.repeats) added->expected(any_number);
      read_[&o] = added;
    }
  }

  std::string without_value(const std::string& name) const {
    const auto is_meant = [&](const option* o) { return read_.at(o)->check_name(name); };
    const auto o = std::find_if(options_.begin(), options_.end(), is_meant);
    return fmt::format("{} needs a value: {}", name, written(**o));
  }

  std::string not_known(const command* c) const {
    for (const std::string& word : app_.remaining(true)) {
      if (word == "--") continue;
      if (word.starts_with('-')) return unknown_option(c, word);
      return c != nullptr ? unexpected(*c, word) : unknown_command(word);
    }
    if (c != nullptr)
      for (const std::string& word : app_.get_subcommand(c->name)->get_option(others)->results())
        return unexpected(*c, word);
    return {};
  }

  static std::string unexpected(const command& c, const std::string& word) {
    return fmt::format("annex {} does not expect \"{}\"", c.name, printable(opened(word)));
  }

  std::string unknown_option(const command* c, const std::string& word) const {
    const std::string name = word.substr(0, word.find('='));
    std::vector<std::string> known;
    for (const option* o : options_)
      if (!o->has_place() && !o->is_hidden) known.push_back(o->name);
    const auto meant = nearest(name, known);
    return fmt::format("annex{} has no option {}{}", c != nullptr ? " " + c->name : "",
                       printable(name), meant ? fmt::format("; do you mean {}?", *meant) : "");
  }

  std::string unknown_command(const std::string& word) const {
    std::vector<std::string> known;
    for (const command& c : line_.commands)
      if (!c.is_hidden) known.push_back(c.name);
    const auto meant = nearest(word, known);
    return fmt::format(
        "\"{}\" is no annex command; {}", printable(opened(word)),
        meant ? fmt::format("do you mean \"{}\"?", *meant) : "annex help lists them");
  }

  std::string take_all() const {
    bool asks_for_help = false;
    for (const option* o : options_) {
      const std::vector<std::string>& values = read_.at(o)->results();
      if (values.size() > 1 && !o->repeats && !o->value.empty())
        return fmt::format("{} is given twice", written(*o));
      for (const std::string& value : values)
        if (std::string wrong = what_is_wrong(*o, opened(value)); !wrong.empty()) return wrong;
      asks_for_help |= o->name == "--help" && !values.empty();
    }
    for (const option* o : options_)
      if (o->is_required && !asks_for_help && read_.at(o)->count() == 0)
        return fmt::format("{} is missing", written(*o));
    return {};
  }

  const command_line& line_;
  CLI::App app_;
  std::map<const option*, CLI::Option*> read_;
  std::vector<const option*>
      options_;  // those there are where the words end: of the command, and of all commands
};

}  // namespace

std::optional<misunderstanding> understand(const command_line& line,
                                           const std::vector<std::string>& words,
                                           understood* asked) {
  try {
    return reader(line).read(words, asked);
  } catch (const CLI::Error& why) {
    return misunderstanding{printable(why.what())};
  }
}

}  // namespace annex::tool
