// tools/command_line.hpp - what may be written behind "annex": commands and their options, defined
// once.
//
//   definitions ──▶ the parser          what was written → values, or one sentence that says what
//   is wrong
//               ──▶ usage and help      annex help ls
//               ──▶ man pages           man.cpp
//               ──▶ completion          completion.cpp
//
// An option takes its value through a function that answers with what is wrong with it, or with
// nothing. The answer names the value as it was written.
#pragma once
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace annex::tool {

/// What a shell may complete a value with.
enum class completion : std::uint8_t { nothing, heap, zone, file, directory, program, command };

/// One option ("--size"), or one argument that has its place ("size").
struct option {
  std::string name;
  char letter = 0;    ///< "-h": the short form, or 0
  std::string value;  ///< what it takes, in capitals; empty: a flag
  std::string help;
  std::function<std::string(const std::string&)>
      take;                 ///< called with each value, a flag with ""; says what is wrong
  std::string otherwise{};  ///< the value it has when it is not written, for the help
  std::vector<std::string> choices{};  ///< the only values there are, or empty
  completion completes = completion::nothing;
  bool is_required = false;
  bool repeats = false;  ///< an argument that takes all that follow
  bool is_hidden = false;
  bool has_place() const { return !name.starts_with("-"); }
};

/// One command: how it is called and what it does.
struct command {
  std::string name;
  std::string summary;                  ///< one line, without a full stop
  std::string details{};                ///< paragraphs for help and man page
  std::vector<std::string> examples{};  ///< "annex add packets 256M"
  std::vector<option> options{};
  std::function<void()> run{};
  bool is_hidden = false;
  bool ends_at_program = false;  ///< from the first argument on, nothing is an option of annex

  /// Adds an option and returns it, so that more can be said about it.
  option& flag(std::string option_name, bool* into, std::string help);
  option& text(std::string option_name, std::string value, std::string* into, std::string help);
  option& bytes(std::string option_name, std::uint64_t* into, std::string help);
  option& number(std::string option_name, std::string value, std::uint64_t low, std::uint64_t high,
                 std::function<void(std::uint64_t)> into, std::string help);
  option& heap(std::string* into);
};

/// The command, what it was told, and how it ends.
struct command_line {
  std::vector<command> commands;
  std::vector<option> global_options;  ///< understood before and behind every command
};

/// Something that was not understood: what was wrong, and of which command (null: none was
/// understood).
struct misunderstanding {
  std::string sentence;
  const command* of = nullptr;
};

/// What was asked for: a command, whose options have been taken.
struct understood {
  const command* of = nullptr;  ///< null: nothing but global options
};

/// Reads the words behind "annex". Takes the options' values; runs nothing.
std::optional<misunderstanding> understand(const command_line& line,
                                           const std::vector<std::string>& words,
                                           understood* asked);

const command* find_command(const command_line& line, std::string_view name);
/// The name most like this one, if any is like it.
std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& names);

/// "annex add [OPTIONS] HEAP SIZE".
std::string usage(const command& c);
/// One screen: usage, what it is for, options, examples; no line wider than `columns`.
std::string help(const command_line& line, const command& c, unsigned columns);
/// The commands by what they are for.
std::string short_help(const command_line& line, unsigned columns);
/// "-h, --help" and "--size BYTES", "HEAP".
std::string written(const option& o);
/// Words at most `columns` wide, every line but the first behind `indent` blanks.
std::string wrapped(std::string_view text, unsigned columns, unsigned indent);

/// "64M", "64MiB", "1.5G", "1e9", "256 M", "0x1000". Nothing: it is no number of bytes. What is
/// written with a point or an exponent is rounded down to whole pages of 4 KiB, from 1 MiB up.
std::optional<std::uint64_t> parse_bytes(std::string_view text);

}  // namespace annex::tool
