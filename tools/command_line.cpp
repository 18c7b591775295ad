// tools/command_line.cpp - see command_line.hpp; understand() is in command_line_reader.cpp.
#include "command_line.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include <annex/error.hpp>

namespace annex::tool {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

std::string capitals(std::string_view name) {
  std::string out(name);
  for (char& c : out)
    c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

// How many letters must be changed, added, left out or swapped to make one word of the other.
std::size_t distance(std::string_view from, std::string_view to) {
  std::vector<std::size_t> before_last, last(to.size() + 1), now(to.size() + 1);
  for (std::size_t j = 0; j <= to.size(); ++j)
    last[j] = j;
  for (std::size_t i = 1; i <= from.size(); ++i) {
    now[0] = i;
    for (std::size_t j = 1; j <= to.size(); ++j) {
      const std::size_t other_letter = from[i - 1] == to[j - 1] ? 0 : 1;
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + other_letter});
      const bool is_swapped =
          i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
      if (is_swapped) now[j] = std::min(now[j], before_last[j - 2] + 1);
    }
    before_last = last;
    last = now;
  }
  return last[to.size()];
}

void add_options(std::string& text, const std::vector<option>& options, unsigned columns) {
  constexpr unsigned indent = 24;
  for (const option& o : options) {
    if (o.is_hidden) continue;
    const std::string name = "  " + written(o);
    std::string said = o.help;
    if (!o.choices.empty() && o.choices.size() <= 6)
      said += fmt::format(" ({})", fmt::join(o.choices, ", "));
    if (!o.otherwise.empty()) said += fmt::format(" (otherwise {})", o.otherwise);
    text += name;
    if (name.size() + 2 > indent)
      text += '\n' + std::string(indent, ' ');
    else
      text += std::string(indent - name.size(), ' ');
    text += wrapped(said, columns, indent) + '\n';
  }
}

}  // namespace

option& command::flag(std::string option_name, bool* into, std::string help) {
  auto take = [into](const std::string&) {
    *into = true;
    return std::string();
  };
  return options.emplace_back(
      option{std::move(option_name), 0, {}, std::move(help), std::move(take)});
}

option& command::text(std::string option_name, std::string value, std::string* into,
                      std::string help) {
  auto take = [into](const std::string& given) {
    *into = given;
    return std::string();
  };
  return options.emplace_back(
      option{std::move(option_name), 0, std::move(value), std::move(help), std::move(take)});
}

option& command::bytes(std::string option_name, std::uint64_t* into, std::string help) {
  auto take = [into](const std::string& given) {
    const auto read = parse_bytes(given);
    if (!read)
      return fmt::format("\"{}\" is no size; write for example 4096, 64K, 256M, 1.5G",
                         printable(given));
    *into = *read;
    return std::string();
  };
  return options.emplace_back(
      option{std::move(option_name), 0, "BYTES", std::move(help), std::move(take)});
}

option& command::number(std::string option_name, std::string value, std::uint64_t low,
                        std::uint64_t high, std::function<void(std::uint64_t)> into,
                        std::string help) {
  auto take = [low, high, into = std::move(into)](const std::string& given) {
    std::uint64_t read = 0;
    const char* const end = given.data() + given.size();
    const auto [behind, why] = std::from_chars(given.data(), end, read);
    if (why != std::errc() || behind != end || read < low || read > high)
      return fmt::format("\"{}\" is no whole number from {} to {}", printable(given), low, high);
    into(read);
    return std::string();
  };
  return options.emplace_back(
      option{std::move(option_name), 0, std::move(value), std::move(help), std::move(take)});
}

option& command::heap(std::string* into) {
  option& o = text("heap", "HEAP", into, "Name of the heap, see annex ls");
  o.is_required = true;
  o.completes = completion::heap;
  return o;
}

const command* find_command(const command_line& line, std::string_view name) {
  const auto found = std::find_if(line.commands.begin(), line.commands.end(),
                                  [&](const command& c) { return c.name == name; });
  return found != line.commands.end() ? &*found : nullptr;
}

std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& names) {
  std::optional<std::string> best;
  std::size_t least = std::max<std::size_t>(1, word.size() / 3) + 1;  // one slip in three letters
  for (const std::string& name : names)
    if (const std::size_t d = distance(word, name); d < least) least = d, best = name;
  return best;
}

std::string written(const option& o) {
  if (o.has_place()) return capitals(o.value.empty() ? o.name : o.value);
  std::string text = o.letter != 0 ? fmt::format("-{}, {}", o.letter, o.name) : o.name;
  if (!o.value.empty()) text += " " + o.value;
  return text;
}

std::string usage(const command& c) {
  std::string text = "annex " + c.name;
  const bool has_options = std::any_of(c.options.begin(), c.options.end(), [](const option& o) {
    return !o.has_place() && !o.is_hidden && !o.is_required;
  });
  if (has_options) text += " [OPTIONS]";
  for (const option& o : c.options)
    if (!o.has_place() && o.is_required) text += " " + written(o);
  if (c.ends_at_program) text += " --";
  for (const option& o : c.options) {
    if (!o.has_place() || o.is_hidden) continue;
    const std::string name = written(o) + (o.repeats ? "..." : "");
    text += o.is_required ? " " + name : " [" + name + "]";
  }
  return text;
}

std::string wrapped(std::string_view text, unsigned columns, unsigned indent) {
  const std::size_t width = columns > indent + 20 ? columns - indent : 20;
  std::string out;
  std::size_t used = 0;
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] == '\n' || text[at] == ' ') {
      if (text[at] == '\n') out += '\n' + std::string(indent, ' '), used = 0;
      ++at;
      continue;
    }
    const std::size_t end = std::min(text.find_first_of(" \n", at), text.size()), length = end - at;
    if (used != 0 && used + 1 + length > width) out += '\n' + std::string(indent, ' '), used = 0;
    if (used != 0) out += ' ', ++used;
    out += text.substr(at, length);
    used += length;
    at = end;
  }
  return out;
}

std::string help(const command_line& line, const command& c, unsigned columns) {
  std::string text = fmt::format("{}.\n\nUsage: {}\n", c.summary, usage(c));
  if (!c.details.empty()) text += '\n' + wrapped(c.details, columns, 0) + '\n';
  std::vector<option> places, options;
  for (const option& o : c.options)
    (o.has_place() ? places : options).push_back(o);
  if (!places.empty()) text += "\nArguments:\n";
  add_options(text, places, columns);
  text += "\nOptions:\n";
  options.insert(options.end(), line.global_options.begin(), line.global_options.end());
  add_options(text, options, columns);
  if (!c.examples.empty()) text += "\nExamples:\n";
  for (const std::string& example : c.examples)
    text += "  " + example + '\n';
  return text;
}

std::string short_help(const command_line& line, unsigned columns) {
  std::string text =
      "annex: named heaps over memory you bring, shared by any process.\n\nUsage: annex COMMAND "
      "[OPTIONS] ...\n\n";
  constexpr unsigned indent = 14;
  for (const command& c : line.commands)
    if (!c.is_hidden)
      text += fmt::format("  {:<{}}{}\n", c.name, indent - 2, wrapped(c.summary, columns, indent));
  text += "\nOptions of every command:\n";
  add_options(text, line.global_options, columns);
  text += "\nannex help COMMAND says more. Exit status: 0 done, 1 refused, 2 not understood.\n";
  return text;
}

std::optional<std::uint64_t> parse_bytes(std::string_view text) {
  const bool is_hex = text.starts_with("0x") || text.starts_with("0X");
  if (is_hex) text.remove_prefix(2);
  if (text.empty() ||
      (is_hex ? std::isxdigit(static_cast<unsigned char>(text[0])) == 0 : !is_digit(text[0])))
    return {};
  const char* const end = text.data() + text.size();
  std::uint64_t whole = 0;
  const auto [behind_whole, why_whole] = std::from_chars(text.data(), end, whole, is_hex ? 16 : 10);
  const char* behind = behind_whole;
  const bool has_fraction =
      !is_hex && behind != end && (*behind == '.' || *behind == 'e' || *behind == 'E');
  if (why_whole != std::errc() && !has_fraction) return {};
  long double value = static_cast<long double>(whole);
  if (has_fraction) {
    const auto [behind_all, why] = std::from_chars(text.data(), end, value);
    if (why != std::errc()) return {};
    behind = behind_all;
  }
  std::string unit(behind, end);
  if (unit.size() > 1 && unit.front() == ' ') unit.erase(0, 1);
  for (char& c : unit)
    c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  const std::string letters = "KMGTP";
  unsigned shift = 0;
  if (!unit.empty() && unit != "B") {
    const auto power = letters.find(unit[0]);
    const std::string rest = unit.substr(1);
    if (power == letters.npos || (!rest.empty() && rest != "B" && rest != "I" && rest != "IB"))
      return {};
    shift = static_cast<unsigned>(power + 1) * 10;
  }
  if (!has_fraction)
    return shift != 0 && whole >> (64 - shift) != 0 ? std::nullopt : std::optional(whole << shift);
  value = std::ldexp(value, static_cast<int>(shift));
  constexpr long double beyond = 18446744073709551616.0L;
  if (value >= beyond) return {};
  // Who writes 1.3G or 1e9 means about so much: whole pages of it.
  constexpr std::uint64_t page_bytes = 4096, worth_rounding = 1 << 20;
  const auto bytes = static_cast<std::uint64_t>(value);
  return bytes >= worth_rounding ? bytes / page_bytes * page_bytes : bytes;
}

}  // namespace annex::tool
