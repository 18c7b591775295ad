// tests/tidy_test.cpp - how the tree is kept, as ordinary tests: layers, first lines, words.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>

namespace {

namespace fs = std::filesystem;
const fs::path root = ANNEX_SOURCE_DIR;

std::string text_of(const fs::path& file) {
  std::ifstream in(file);
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}

std::vector<fs::path> sources(std::initializer_list<const char*> folders) {
  std::vector<fs::path> found;
  for (const char* folder : folders)
    for (const auto& entry : fs::recursive_directory_iterator(root / folder))
      if (const auto extension = entry.path().extension();
          extension == ".cpp" || extension == ".hpp" || extension == ".h")
        found.push_back(entry.path());
  return found;
}

TEST(layers, include_themselves_and_lower_ones_only) {
  std::map<std::string, int> rank;
  std::ifstream list(root / "src/LAYERS");
  for (std::string name; std::getline(list, name);)
    rank.emplace(name, static_cast<int>(rank.size()));
  ASSERT_GE(rank.size(), 11u);
  const std::regex include("#include \"([a-z]+)/");
  for (const fs::path& file : sources({"src"})) {
    const std::string layer = fs::relative(file, root / "src").begin()->string();
    ASSERT_TRUE(rank.contains(layer)) << layer << " is not in src/LAYERS";
    const std::string text = text_of(file);
    for (std::sregex_iterator i(text.begin(), text.end(), include), end; i != end; ++i)
      EXPECT_LE(rank.at((*i)[1]), rank[layer]) << file << " includes " << (*i)[1];
  }
}

TEST(layers, only_platform_and_devices_ask_the_operating_system) {
  const std::regex system("#include <(sys/|linux/|unistd|fcntl|pthread|sched|signal|dirent)");
  for (const fs::path& file : sources({"src"})) {
    const std::string layer = fs::relative(file, root / "src").begin()->string();
    // The report must work when nothing else does.
    if (layer == "platform" || layer == "devices" || file.filename() == "report.cpp") continue;
    EXPECT_FALSE(std::regex_search(text_of(file), system)) << file;
  }
}

TEST(files, begin_by_saying_what_they_are) {
  for (const fs::path& file : sources({"src", "tools", "tests", "fuzz", "examples"})) {
    const std::string first = text_of(file).substr(0, 200);
    const std::string name = fs::relative(file, root).string();
    const std::string shown = name.starts_with("src/") ? name.substr(4) : name;
    const bool by_path = first.find(shown) != std::string::npos ||
                         first.find(file.filename().string()) != std::string::npos;
    EXPECT_TRUE(by_path && first.find(" - ") != std::string::npos)
        << name << " should begin with: // " << shown << " - what it is for";
  }
}

TEST(files, have_one_subject) {
  for (const fs::path& file : sources({"src", "include", "tools"}))
    EXPECT_LT(fs::file_size(file), 60u * 1024) << file;
}

TEST(words, are_finished_and_said_in_full) {
  const std::regex unfinished("TODO|FIXME|XXX"), glossary("\\b(mgr|ptr_t|helper|util|misc)\\b");
  for (const fs::path& file : sources({"src", "include", "tools"})) {
    EXPECT_FALSE(std::regex_search(text_of(file), unfinished)) << file;
    EXPECT_FALSE(std::regex_search(fs::relative(file, root).string(), glossary)) << file;
  }
}

TEST(tools, use_the_public_headers_only) {
  const std::regex inside(
      "#include "
      "\"(base|platform|shared|region|observer|extent|slab|cache|named|care|heap|views|api)/");
  for (const fs::path& file : sources({"tools", "examples"}))
    EXPECT_FALSE(std::regex_search(text_of(file), inside)) << file;
}

}  // namespace
