// tools/json.cpp - see json.hpp.
#include "json.hpp"

#include <fmt/format.h>

#include <cmath>

namespace annex::tool {
namespace {

// The character at `at`, and how many bytes it has; 0: these bytes are no UTF-8.
struct character {
  std::uint32_t code = 0;
  std::size_t bytes = 0;
};

character read_character(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i]));
  };
  const std::uint32_t first = byte(at);
  if (first < 0x80) return {first, 1};
  const std::size_t bytes = first >= 0xf0 && first < 0xf5 ? 4
                            : first >= 0xe0               ? 3
                            : first >= 0xc2               ? 2
                                                          : 0;
  if (bytes == 0 || first >= 0xf5 || at + bytes > text.size()) return {};
  std::uint32_t code = first & (0x7fu >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return {};
    code = code << 6 | (byte(at + i) & 0x3f);
  }
  constexpr std::uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool is_half_of_a_pair = code >= 0xd800 && code < 0xe000;
  if (code < least[bytes] || code > 0x10ffff || is_half_of_a_pair) return {};
  return {code, bytes};
}

void write_escaped(std::string& out, std::uint32_t code) {
  switch (code) {
    case '"':
      out += "\\\"";
      return;
    case '\\':
      out += "\\\\";
      return;
    case '\n':
      out += "\\n";
      return;
    case '\r':
      out += "\\r";
      return;
    case '\t':
      out += "\\t";
      return;
    default:
      break;
  }
  if (code >= 0x20 && code < 0x7f) {
    out += static_cast<char>(code);
  } else if (code < 0x10000) {
    out += fmt::format("\\u{:04x}", code);
  } else {
    const std::uint32_t beyond = code - 0x10000;
    out += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + (beyond >> 10), 0xdc00 + (beyond & 0x3ff));
  }
}

void write_text(std::string& out, std::string_view text) {
  out += '"';
  for (std::size_t at = 0; at < text.size();) {
    const character c = read_character(text, at);
    if (c.bytes == 0)
      out += fmt::format("\\\\x{:02x}", static_cast<unsigned char>(text[at]));
    else
      write_escaped(out, c.code);
    at += c.bytes != 0 ? c.bytes : 1;
  }
  out += '"';
}

void new_line(std::string& out, unsigned depth) {
  out += '\n';
  out.append(std::size_t{depth} * 2, ' ');
}

}  // namespace

json::json(const std::vector<std::string>& texts)
    : value_(std::vector<json>(texts.begin(), texts.end())) {}

json json::list() {
  json j;
  j.value_ = std::vector<json>();
  return j;
}

json json::object() {
  json j;
  j.value_ = std::vector<member>();
  return j;
}

void json::add(json value) { std::get<std::vector<json>>(value_).push_back(std::move(value)); }

void json::set(std::string name, json value) {
  std::get<std::vector<member>>(value_).emplace_back(std::move(name), std::move(value));
}

std::string json::text() const {
  std::string out;
  write(out, 0);
  return out;
}

void json::write(std::string& out, unsigned depth) const {
  if (const auto* text = std::get_if<std::string>(&value_)) return write_text(out, *text);
  if (const auto* yes = std::get_if<bool>(&value_))
    out += *yes ? "true" : "false";
  else if (const auto* number = std::get_if<std::int64_t>(&value_))
    out += fmt::format("{}", *number);
  else if (const auto* amount = std::get_if<std::uint64_t>(&value_))
    out += fmt::format("{}", *amount);
  else if (const auto* real = std::get_if<double>(&value_))
    out += std::isfinite(*real) ? fmt::format("{}", *real) : "null";
  else if (std::holds_alternative<std::monostate>(value_))
    out += "null";
  else if (const auto* all = std::get_if<std::vector<json>>(&value_)) {
    out += '[';
    for (const json& one : *all) {
      if (&one != all->data()) out += ',';
      new_line(out, depth + 1);
      one.write(out, depth + 1);
    }
    if (!all->empty()) new_line(out, depth);
    out += ']';
  } else if (const auto* members = std::get_if<std::vector<member>>(&value_)) {
    out += '{';
    for (const member& m : *members) {
      if (&m != members->data()) out += ',';
      new_line(out, depth + 1);
      write_text(out, m.first);
      out += ": ";
      m.second.write(out, depth + 1);
    }
    if (!members->empty()) new_line(out, depth);
    out += '}';
  }
}

}  // namespace annex::tool
