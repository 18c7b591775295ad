// tools/json.hpp - what is written under --json: values, lists and members in the order they were
// given.
//
//   json all = json::list();
//   all.add({{"name", "packets"}, {"regions", 1}});
//
// Only written, never read. Numbers of 64 bits that are no amount (ids, handles, addresses) are
// given as text by who fills it in (see hex()), since readers whose numbers have 53 bits would
// change them.
#pragma once
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace annex::tool {

class json {
 public:
  using member = std::pair<std::string, json>;

  json() = default;  ///< null
  json(bool value) : value_(value) {}
  json(double value) : value_(value) {}
  template <std::integral Number>
  requires(!std::same_as<Number, bool>) json(Number value) {
    if constexpr (std::is_signed_v<Number>)
      value_ = static_cast<std::int64_t>(value);
    else
      value_ = static_cast<std::uint64_t>(value);
  }
  json(std::string value) : value_(std::move(value)) {}
  json(std::string_view value) : value_(std::string(value)) {}
  json(const char* value) : value_(std::string(value)) {}
  json(std::initializer_list<member> members) : value_(std::vector<member>(members)) {}
  json(const std::vector<std::string>& texts);  ///< a list

  static json list();
  static json object();

  /// Adds to a list.
  void add(json value);
  /// Adds a member to an object.
  void set(std::string name, json value);

  /// The whole text, two blanks a step, ASCII only, so that no name moves a terminal's cursor.
  /// Bytes that are no text are \xNN.
  std::string text() const;

 private:
  struct as_tree;  ///< the library's tree, in json.cpp
  std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string,
               std::vector<json>, std::vector<member>>
      value_;
};

}  // namespace annex::tool
