// tools/places.cpp - see places.hpp.
#include "places.hpp"

#include <algorithm>
#include <annex/annex.hpp>
#include <cctype>
#include <filesystem>
#include <fstream>

namespace annex::tool {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> entries(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code why;
  for (auto entry = fs::directory_iterator(folder, why); !why && entry != fs::directory_iterator();
       entry.increment(why))
    found.push_back(entry->path());
  return found;
}

// The folders of segments that a process has mapped. Its folder may be hidden here by another
// mount; then it is not there.
void add_mapped(const fs::path& process, std::vector<std::string>& places) {
  std::ifstream maps(process / "maps");
  constexpr std::string_view suffix = ".annex";
  for (std::string line; std::getline(maps, line);) {
    const std::size_t path = line.find('/');
    if (path != line.npos && line.ends_with(suffix))
      places.push_back(fs::path(line.substr(path)).parent_path());
  }
}

}  // namespace

std::vector<std::string> known_places() {
  std::vector<std::string> others;
  for (const fs::path& user : entries("/run/user"))
    others.push_back(user / "annex");
  for (const fs::path& place : entries("/dev/shm"))
    if (place.filename().string().starts_with("annex-")) others.push_back(place);
  others.emplace_back("/run/annex");
  for (const fs::path& process : entries("/proc"))
    if (std::isdigit(static_cast<unsigned char>(process.filename().string()[0])) != 0)
      add_mapped(process, others);
  std::sort(others.begin(), others.end());
  others.erase(std::unique(others.begin(), others.end()), others.end());
  std::vector<std::string> places{directory()};
  for (const std::string& place : others) {
    std::error_code why;
    const bool is_gone = !fs::is_directory(place, why) && why.value() != EACCES;
    if (!is_gone && place != places.front()) places.push_back(place);
  }
  return places;
}

std::vector<std::string> other_files(const std::string& place) {
  std::vector<std::string> names;
  for (const fs::path& entry : entries(place)) {
    const std::string name = entry.filename();
    if (name.find(".annex") == name.npos && !(name.front() == '.' && name.ends_with(".alive")))
      names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace annex::tool
