// base/error.cpp - texts and names of the error codes, from the one list in annex/errors.def.
#include <annex/error.hpp>

#include <string>
#include <vector>

#include "base/printable.hpp"

namespace annex {
namespace {

class category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "annex"; }
  std::string message(int number) const override {
    return std::string(describe(static_cast<errc>(number)));
  }
};

}  // namespace

const std::error_category& error_category() noexcept {
  static const category only;
  return only;
}

std::string_view describe(errc code) noexcept {
  switch (static_cast<int>(code)) {
    case 0: return "no error";
#define ANNEX_ERROR(number, name, text) \
  case number:                          \
    return text;
#include <annex/errors.def>
#undef ANNEX_ERROR
    default: return "not an annex error";
  }
}

std::string_view name_of(errc code) noexcept {
  switch (static_cast<int>(code)) {
    case 0: return "ok";
#define ANNEX_ERROR(number, name, text) \
  case number:                          \
    return #name;
#include <annex/errors.def>
#undef ANNEX_ERROR
    default: return "unknown";
  }
}

std::string printable(std::string_view bytes) {
  std::vector<char> text(4 * bytes.size() + 1);  // at most \xNN for each
  return std::string(write_printable(text, bytes));
}

}  // namespace annex
