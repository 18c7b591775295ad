// shared/names.cpp - see names.hpp.
#include "shared/names.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/failure.hpp"
#include "base/limits.hpp"

namespace annex::detail {

namespace {

bool is_name_character(char c) noexcept {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '.' || c == '-';
}

}  // namespace

result<void> check_heap_name(std::string_view name) {
  if (name.empty() || name.size() >= limits::name_bytes || name.front() == '.' ||
      !std::all_of(name.begin(), name.end(), is_name_character))
    return refuse(
        errc::invalid_name,
        "\"{}\" ({} bytes) is no heap name: use 1 to 31 of [A-Za-z0-9_.-], not starting with a dot",
        name.substr(0, 40), name.size());
  return {};
}

result<void> check_zone_name(std::string_view name) {
  if (name.empty() || name.size() >= limits::zone_name_bytes || name.find('\0') != name.npos)
    return refuse(errc::invalid_name, "\"{}\" ({} bytes) is no zone name: use 1 to {} bytes",
                  name.substr(0, 40), name.size(), limits::zone_name_bytes - 1);
  return {};
}

// Hidden, since it is no concern of people's; no heap's name begins with a dot.
std::string life_name(std::string_view name, u64 heap_id) {
  return fmt::format(".{}.{:016x}.alive", name, heap_id);
}

}  // namespace annex::detail
