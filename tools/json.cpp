// tools/json.cpp - see json.hpp: nlohmann's library writes the text. It takes seconds to compile,
// so no other file of the command includes it.
#include "json.hpp"

#include <annex/error.hpp>
#include <nlohmann/json.hpp>

namespace annex::tool {
namespace {

// JSON has no place for bytes that are no UTF-8, and the library throws when it meets them.
std::string as_utf8(const std::string& bytes) {
  try {
    static_cast<void>(nlohmann::json(bytes).dump());
    return bytes;
  } catch (const nlohmann::json::type_error&) {
    return printable(bytes);
  }
}

}  // namespace

struct json::as_tree {
  using tree = nlohmann::ordered_json;

  tree operator()(std::monostate) const { return nullptr; }
  tree operator()(const std::string& bytes) const { return as_utf8(bytes); }
  tree operator()(const std::vector<json>& all) const {
    tree list = tree::array();
    for (const json& one : all)
      list.push_back(std::visit(*this, one.value_));
    return list;
  }
  tree operator()(const std::vector<member>& members) const {
    tree object = tree::object();
    for (const auto& [name, value] : members)
      object[as_utf8(name)] = std::visit(*this, value.value_);
    return object;
  }
  tree operator()(auto number_or_truth) const { return number_or_truth; }
};

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

void json::add(json value) {
  std::get<std::vector<json>>(value_).push_back(std::move(value));
}

void json::set(std::string name, json value) {
  std::get<std::vector<member>>(value_).emplace_back(std::move(name), std::move(value));
}

std::string json::text() const {
  return std::visit(as_tree(), value_).dump(2, ' ', true);
}

}  // namespace annex::tool
