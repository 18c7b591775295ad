// tools/output.cpp - see output.hpp.
#include "output.hpp"

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
  else fmt::print(stderr, "annex: {}.\n", sentence);
}

void print(const nlohmann::json& j) { fmt::print("{}\n", j.dump(2)); }

std::string bytes_text(std::uint64_t bytes) {
  constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  double value = static_cast<double>(bytes);
  for (; value >= 1024 && unit + 1 < std::size(units); ++unit) value /= 1024;
  return value == static_cast<double>(static_cast<std::uint64_t>(value)) ? fmt::format("{} {}", static_cast<std::uint64_t>(value), units[unit]) : fmt::format("{:.1f} {}", value, units[unit]);
}

std::uint64_t parse_bytes(const std::string& text) {
  std::size_t digits = 0;
  std::uint64_t value = 0;
  try {
    value = std::stoull(text, &digits, 0);
  } catch (const std::exception&) {
    throw CLI::ValidationError("\"" + text + "\" is no size; write for example 4096, 64K, 256M, 1G");
  }
  std::string unit = text.substr(digits);
  if (!unit.empty() && (unit.back() == 'B' || unit.back() == 'b')) unit.pop_back();
  if (!unit.empty() && unit.back() == 'i') unit.pop_back();
  const std::string units = "KMGTP";
  if (unit.empty()) return value;
  const auto power = units.find(static_cast<char>(std::toupper(unit[0])));
  const unsigned shift = power == units.npos ? 64 : static_cast<unsigned>(power + 1) * 10;
  if (unit.size() != 1 || shift == 64 || (value << shift >> shift) != value) throw CLI::ValidationError("\"" + text + "\" is no size; write for example 4096, 64K, 256M, 1G");
  return value << shift;
}

CLI::Option* add_bytes(CLI::App* app, const std::string& name, std::uint64_t* into, const std::string& help) {
  return app->add_option_function<std::string>(name, [into](const std::string& text) { *into = parse_bytes(text); }, help)->type_name("BYTES");
}

std::string hex(std::uint64_t value) { return fmt::format("{:#x}", value); }

}  // namespace annex::tool
