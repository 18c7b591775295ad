// base/printable.cpp - see printable.hpp.
#include "base/printable.hpp"

#include <cstring>

namespace annex {
namespace {

struct character {
  char32_t code;
  size_t bytes;
};  // bytes 0: none begins here

// Strict: no overlong forms, no surrogates, nothing above U+10FFFF.
character first_of(std::string_view text) noexcept {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < bytes) return {0, 0};
  char32_t code = lead & (0x7fu >> bytes);
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {0, 0};
    code = code << 6 | (byte(i) & 0x3fu);
  }
  constexpr char32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code < least[bytes] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return {0, 0};
  return {code, bytes};
}

bool may_be_shown(char32_t code) noexcept {
  const bool is_control = code < 0x20 || (code >= 0x7f && code <= 0x9f);
  const bool ends_a_line = code == 0x2028 || code == 0x2029;
  const bool turns_direction = code == 0x061c || code == 0x200e || code == 0x200f ||
                               (code >= 0x202a && code <= 0x202e) ||
                               (code >= 0x2066 && code <= 0x2069);
  return !is_control && !ends_a_line && !turns_direction;
}

// Calls put(text) for each character, or for each byte that can't be shown, until it returns false.
template <class Put>
void for_each_shown(std::string_view bytes, Put put) {
  while (!bytes.empty()) {
    const character c = first_of(bytes);
    const size_t taken = c.bytes != 0 ? c.bytes : 1;
    if (c.bytes != 0 && may_be_shown(c.code)) {
      if (!put(bytes.substr(0, taken))) return;
    } else {
      for (const char raw : bytes.substr(0, taken)) {
        constexpr char digits[] = "0123456789abcdef";
        const auto value = static_cast<unsigned char>(raw);
        const char escaped[] = {'\\', 'x', digits[value >> 4], digits[value & 15]};
        if (!put({escaped, sizeof escaped})) return;
      }
    }
    bytes.remove_prefix(taken);
  }
}

}  // namespace

std::string_view write_printable(std::span<char> into, std::string_view bytes) noexcept {
  size_t n = 0;
  for_each_shown(bytes, [&](std::string_view shown) {
    if (n + shown.size() >= into.size()) return false;
    std::memcpy(into.data() + n, shown.data(), shown.size());
    n += shown.size();
    return true;
  });
  into[n] = '\0';
  return {into.data(), n};
}

}  // namespace annex
