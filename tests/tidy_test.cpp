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
  // What C++ itself has ends in no .h, but for the old names of the C library.
  const std::regex header("#include <([a-z0-9_/]+\\.h)>"), kernels_file("\"/(proc|sys)[/\"]"),
      instruction("__builtin_ia32|#include <\\w*intrin\\.h>");
  for (const fs::path& file : sources({"src", "include"})) {
    const std::string layer = fs::relative(file, root / "src").begin()->string();
    if (layer == "platform" || layer == "devices") continue;
    const std::string text = text_of(file);
    for (std::sregex_iterator i(text.begin(), text.end(), header), end; i != end; ++i) {
      const std::string name = (*i)[1];
      const bool is_of_c = name == "stddef.h" || name == "stdint.h" || name == "stdbool.h";
      EXPECT_TRUE(is_of_c || name.starts_with("fmt/") || name.starts_with("annex"))
          << file << " includes <" << name << ">: ask for it in src/platform";
    }
    EXPECT_FALSE(std::regex_search(text, kernels_file)) << file << " reads the kernel's files";
    EXPECT_FALSE(std::regex_search(text, instruction)) << file << ": see platform/cpu.hpp";
  }
}

// The functions of a platform are those of its headers: whoever calls one includes it.
TEST(layers, one_folder_is_the_operating_system) {
  for (const fs::path& file : sources({"src"})) {
    const std::string text = text_of(file), name = fs::relative(file, root / "src").string();
    if (name.starts_with("platform/linux/") || name.starts_with("platform/simulated/")) continue;
    EXPECT_EQ(text.find("#include \"platform/linux/"), text.npos) << file;
    EXPECT_EQ(text.find("#include \"platform/simulated/"), text.npos) << file;
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
      "#include \"(base|platform|shared|region|observer|extent|slab|cache|named|heap|views|api)/");
  for (const fs::path& file : sources({"tools", "examples"}))
    EXPECT_FALSE(std::regex_search(text_of(file), inside)) << file;
}

}  // namespace
