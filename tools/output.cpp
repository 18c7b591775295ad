// tools/output.cpp - see output.hpp.
#include "output.hpp"

#include <algorithm>
#include <cstdio>

namespace annex::tool {
namespace {

constexpr const char* not_understood_name = "not_understood";

void say(session& s, const json& as_json, const std::string& as_text) {
  std::fflush(stdout);
  if (s.json)
    print({{"error", as_json}});
  else
    fmt::print(stderr, "{}\n", as_text);
}

// Columns that a text takes on a terminal: its characters, not its bytes.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

}  // namespace

void refuse(session& s, const error& e) {
  s.exit = exit_refused;
  say(s, json_of(e), fmt::format("annex: {}.", e.message()));
}

void refuse(session& s, const std::string& sentence, int exit) {
  s.exit = exit;
  say(s, {{"message", sentence}}, fmt::format("annex: {}.", printable(sentence)));
}

void refuse_usage(session& s, const misunderstanding& m) {
  s.exit = exit_usage;
  const std::string more = m.of != nullptr ? "annex help " + m.of->name : "annex help";
  const std::string how = m.of != nullptr ? usage(*m.of) : "annex COMMAND [OPTIONS] ...";
  say(s, {{"name", not_understood_name}, {"message", m.sentence}, {"usage", how}, {"help", more}},
      fmt::format("annex: {}{}\nUsage: {}\n{} says more.", m.sentence,
                  m.sentence.ends_with('?') ? "" : ".", how, more));
}

void refuse_usage(session& s, const std::string& command_name, const std::string& sentence) {
  s.exit = exit_usage;
  const std::string more = "annex help " + command_name;
  say(s, {{"name", not_understood_name}, {"message", sentence}, {"help", more}},
      fmt::format("annex: {}.\n{} says more.", sentence, more));
}

void print(const json& j) {
  fmt::print("{}\n", j.text());
}

json json_of(const error& e) {
  return {{"code", static_cast<int>(e.code)},
          {"name", name_of(e.code)},
          {"message", e.message()},
          {"errno", e.os_errno}};
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  double value = static_cast<double>(bytes);
  for (; value >= 1024 && unit + 1 < std::size(units); ++unit)
    value /= 1024;
  const bool is_whole = value == static_cast<double>(static_cast<std::uint64_t>(value));
  return is_whole ? fmt::format("{} {}", static_cast<std::uint64_t>(value), units[unit])
                  : fmt::format("{:.1f} {}", value, units[unit]);
}

std::string hex(std::uint64_t value) {
  return fmt::format("{:#x}", value);
}

std::string id_text(heap_id id) {
  return fmt::format("{:016x}", static_cast<std::uint64_t>(id));
}

const char* huge_text(huge_pages huge) {
  switch (huge) {
    case huge_pages::never: return "never";
    case huge_pages::aligned: return "aligned";
    case huge_pages::always: return "always";
    default: return "automatic";
  }
}

std::string huge_state(const heap& h, const region_summary& r) {
  const auto had = h.huge_bytes(r.id);
  if (r.huge == huge_pages::automatic && (!had || *had == 0)) return {};
  return fmt::format("huge pages {}, {} now", huge_text(r.huge),
                     had ? bytes_text(*had) : "not known how many");
}

std::string counted(std::uint64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string shortened(const std::string& text, std::size_t columns) {
  if (text.size() <= columns || columns < 8) return text;
  const std::size_t front = (columns - 3) / 2;
  return text.substr(0, front) + "..." + text.substr(text.size() - (columns - 3 - front));
}

std::string table::text(std::string_view indent) const {
  std::vector<std::size_t> widths;
  for (const column& c : columns)
    widths.push_back(width_of(c.head));
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], width_of(row[i]));
  std::string out;
  const auto add_row = [&](auto cell) {
    out += indent;
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const std::string shown = cell(i);
      const std::string blanks(widths[i] - width_of(shown), ' ');
      const bool is_last = i + 1 == columns.size();
      out += columns[i].right ? blanks + shown : is_last ? shown : shown + blanks;
      out += is_last ? "\n" : "  ";
    }
  };
  add_row([&](std::size_t i) { return columns[i].head; });
  for (const auto& row : rows)
    add_row([&](std::size_t i) { return row[i]; });
  return out;
}

result<heap> look_at(session& s, const std::string& name) {
  auto opened = heap::attach(name, {.read_only = true, .regions = attach_policy::manual});
  if (!opened) refuse(s, opened.error());
  return opened;
}

}  // namespace annex::tool
