// tools/output.cpp - see output.hpp.
#include "output.hpp"

#include <cctype>
#include <charconv>
#include <cstdio>

namespace annex::tool {

void refuse(session& s, const error& e) {
  s.exit = exit_refused;
  if (s.json) print({{"error", {{"code", static_cast<int>(e.code)}, {"name", name_of(e.code)}, {"message", e.message()}, {"errno", e.os_errno}}}});
  else fmt::print(stderr, "annex: {}.\n", e.message());
}

void refuse(session& s, const std::string& sentence) {
  s.exit = exit_refused;
  if (s.json) print({{"error", {{"message", sentence}}}});
  else fmt::print(stderr, "annex: {}.\n", printable(sentence));
}

namespace {

// JSON holds text only: bytes that are none are shown as \xNN. All other names stay exactly what they are.
void make_text(nlohmann::json& j) {
  if (j.is_structured())
    for (auto& inside : j) make_text(inside);
  if (!j.is_string()) return;
  try {
    (void)j.dump();
  } catch (const nlohmann::json::type_error&) {
    j = printable(j.get<std::string>());
  }
}

}  // namespace

void print(nlohmann::json j) {
  make_text(j);
  constexpr int indent = 2;
  constexpr bool ascii_only = true;  // so that no name moves a terminal's cursor
  fmt::print("{}\n", j.dump(indent, ' ', ascii_only));
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  double value = static_cast<double>(bytes);
  for (; value >= 1024 && unit + 1 < std::size(units); ++unit) value /= 1024;
  return value == static_cast<double>(static_cast<std::uint64_t>(value)) ? fmt::format("{} {}", static_cast<std::uint64_t>(value), units[unit]) : fmt::format("{:.1f} {}", value, units[unit]);
}

std::uint64_t parse_bytes(const std::string& text) {
  const auto no_size = [&] { return CLI::ValidationError("\"" + text + "\" is no size; write for example 4096, 64K, 256M, 1G"); };
  const bool is_hex = text.starts_with("0x") || text.starts_with("0X");
  const char* const begin = text.data() + (is_hex ? 2 : 0);
  const char* const end = text.data() + text.size();
  std::uint64_t value = 0;
  const auto [behind, why] = std::from_chars(begin, end, value, is_hex ? 16 : 10);  // takes no sign and no blank
  if (why != std::errc()) throw no_size();
  std::string unit(behind, end);
  if (!unit.empty() && (unit.back() == 'B' || unit.back() == 'b')) unit.pop_back();
  if (!unit.empty() && unit.back() == 'i') unit.pop_back();
  if (unit.empty()) return value;
  const std::string units = "KMGTP";
  const auto power = unit.size() == 1 ? units.find(static_cast<char>(std::toupper(static_cast<unsigned char>(unit[0])))) : units.npos;
  if (power == units.npos) throw no_size();
  const unsigned shift = static_cast<unsigned>(power + 1) * 10;
  if (value >> (64 - shift) != 0) throw no_size();
  return value << shift;
}

CLI::Option* add_bytes(CLI::App* app, const std::string& name, std::uint64_t* into, const std::string& help) {
  return app->add_option_function<std::string>(name, [into](const std::string& text) { *into = parse_bytes(text); }, help)->type_name("BYTES");
}

std::string hex(std::uint64_t value) { return fmt::format("{:#x}", value); }

}  // namespace annex::tool
