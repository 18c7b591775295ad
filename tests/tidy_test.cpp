// tests/tidy_test.cpp - how the tree is kept, as ordinary tests: layers, first lines, words.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
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

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    lines.push_back(line);
  return lines;
}

std::vector<fs::path> sources(std::initializer_list<const char*> folders) {
  std::vector<fs::path> found;
  for (const char* folder : folders)
    for (const auto& entry : fs::recursive_directory_iterator(root / folder))
      if (const auto extension = entry.path().extension();
          extension == ".cpp" || extension == ".hpp" || extension == ".h" || extension == ".c")
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

// A file that a comment leads to is there: its name, or the end of its path.
TEST(files, are_there_when_a_comment_names_them) {
  std::set<std::string> names;
  for (const char* folder :
       {"src", "include", "tests", "tools", "torture", "fuzz", "examples", "bench", "docs"})
    for (const auto& entry : fs::recursive_directory_iterator(root / folder))
      for (fs::path rest = fs::relative(entry.path(), root); !rest.empty();) {
        names.insert(rest.string());
        fs::path shorter;  // without the first folder
        for (auto part = std::next(rest.begin()); part != rest.end(); ++part)
          shorter /= *part;
        rest = shorter;
      }
  for (const auto& entry : fs::directory_iterator(root))
    names.insert(entry.path().filename().string());
  const std::regex comment("//.*"), file_name("[A-Za-z0-9][\\w./-]*\\.(cpp|hpp|md)\\b");
  size_t seen = 0;
  for (const fs::path& file : sources({"src"})) {
    const auto lines = lines_of(text_of(file));
    for (size_t i = 0; i < lines.size(); ++i) {
      std::smatch said;
      if (!std::regex_search(lines[i], said, comment)) continue;
      const std::string text = said.str();
      for (std::sregex_iterator n(text.begin(), text.end(), file_name), end; n != end; ++n) {
        // "…_rules.hpp" stands for several.
        if (n->position() > 0 && text[static_cast<size_t>(n->position()) - 1] == '_') continue;
        ++seen;
        EXPECT_TRUE(names.contains(n->str()))
            << fs::relative(file, root) << ":" << i + 1 << " names " << n->str();
      }
    }
  }
  EXPECT_GT(seen, 500u);
}

/// Characters, not bytes: all but the second and further bytes of a character in UTF-8.
std::ptrdiff_t width_of(const std::string& line) {
  return std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

/// The numbers of lines wider than 100 columns. Lines of a raw string are another language's.
std::vector<int> wide_lines(const std::string& text) {
  std::vector<int> found;
  std::string end_of_raw;  // what ends the raw string that we are in
  std::istringstream in(text);
  const std::regex raw("R\"([^ ()\\\\]*)\\(");
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    bool touches_raw = !end_of_raw.empty();
    for (std::size_t at = 0;;) {
      if (!end_of_raw.empty()) {
        const std::size_t end = line.find(end_of_raw, at);
        if (end == std::string::npos) break;
        at = end + end_of_raw.size();
        end_of_raw.clear();
      }
      std::smatch begins;
      if (!std::regex_search(line.cbegin() + static_cast<std::ptrdiff_t>(at), line.cend(), begins,
                             raw))
        break;
      touches_raw = true;
      end_of_raw = ")" + begins[1].str() + "\"";
      at = static_cast<std::size_t>(begins[0].second - line.cbegin());
    }
    if (!touches_raw && width_of(line) > 100) found.push_back(number);
  }
  if (!end_of_raw.empty()) found.push_back(number);  // else everything behind it would be exempt
  return found;
}

TEST(files, are_at_most_100_columns_wide) {
  for (const fs::path& file :
       sources({"src", "include", "tests", "tools", "torture", "fuzz", "examples", "bench"})) {
    const std::string name = fs::relative(file, root).string();
    for (const int line : wide_lines(text_of(file)))
      ADD_FAILURE() << name << ":" << line << " is wider than 100 columns";
  }
}

TEST(files, may_be_wide_inside_raw_strings_only) {
  const std::string wide(101, 'x'), drawn = [] {
    std::string bars;
    for (int i = 0; i < 100; ++i)
      bars += "│";
    return bars;
  }();
  EXPECT_EQ(wide_lines("// " + wide + "\n"), std::vector<int>{1});
  EXPECT_TRUE(wide_lines(drawn + "\n").empty());
  EXPECT_EQ(wide_lines("x" + drawn + "\n"), std::vector<int>{1});
  EXPECT_TRUE(wide_lines("f(R\"css(a\n" + wide + ")\"\n)css\" + R\"(" + wide + ")\");\n").empty());
  EXPECT_EQ(wide_lines("f(R\"css(a\n)css\");\n" + wide), std::vector<int>{3});
}

// A file that one sitting reads has one subject.
TEST(files, are_at_most_400_lines_long) {
  for (const fs::path& file : sources({"src"})) {
    const size_t lines = lines_of(text_of(file)).size();
    EXPECT_LE(lines, 400u) << fs::relative(file, root) << " has " << lines << " lines";
  }
}

struct function {
  std::string name;
  size_t lines;
};

/// Functions of formatted code: a definition ends where a brace stands in its first column. indent:
/// 0, or of the members of a class.
void find_functions(const std::vector<std::string>& lines, size_t from, size_t to, size_t indent,
                    std::vector<function>* found) {
  static const std::regex type("^ *(template <.*> )?(class|struct|union|enum)\\b"),
      comment("\\s*//.*$"), before_parameters("([~A-Za-z_][\\w:~]*|operator\\S+)\\(");
  for (size_t i = from; i < to; ++i) {
    const std::string& first = lines[i];
    if (first.find_first_not_of(' ') != indent || first[indent] == '#' || first[indent] == '}' ||
        first.starts_with("template") || first.compare(indent, 2, "//") == 0)
      continue;
    std::string whole, last;
    size_t opens = i;
    for (;; ++opens) {
      last = std::regex_replace(lines[opens], comment, "");
      whole += last;
      if (opens + 1 >= to || (!last.empty() && std::string_view("{};").contains(last.back())))
        break;
    }
    if (last.empty() || last.back() != '{' || whole.find("namespace") != whole.npos ||
        whole.find("extern \"C\" {") != whole.npos) {
      i = opens;
      continue;
    }
    const std::string end = std::string(indent, ' ') + "}";
    size_t closes = opens + 1;
    while (closes < to && !lines[closes].starts_with(end))
      ++closes;
    std::smatch name;
    if (std::regex_search(whole, type))
      find_functions(lines, opens + 1, closes, indent + 2, found);
    else if (std::regex_search(whole, name, before_parameters))
      found->push_back({name[1], closes - i + 1});
    i = closes;
  }
}

std::vector<function> functions_of(const std::string& text) {
  std::vector<function> found;
  const auto lines = lines_of(text);
  find_functions(lines, 0, lines.size(), 0, &found);
  return found;
}

TEST(functions, are_found_by_their_braces) {
  const auto found = functions_of(
      "namespace x {\nstruct s {\n  int get() const {\n    return 1;\n  }\n  int a = 0;\n};\n"
      "int f(int a,\n      int b) {  // why\n  if (a) {\n  }\n  return b;\n}\n"
      "constexpr int all[] = {\n    1,\n};\n\nvoid c::g() {}\nvoid c::h() {\n}\n}  // namespace "
      "x\n");
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].name, "get");
  EXPECT_EQ(found[0].lines, 3u);
  EXPECT_EQ(found[1].name, "f");
  EXPECT_EQ(found[1].lines, 6u);
  EXPECT_EQ(found[2].name, "c::h");
  EXPECT_EQ(found[2].lines, 2u);
}

// What fits on a screen can be checked by looking at it; a longer one has steps, which have names.
TEST(functions, are_at_most_60_lines_long) {
  size_t seen = 0;
  for (const fs::path& file : sources({"src", "include"}))
    for (const function& f : functions_of(text_of(file))) {
      ++seen;
      EXPECT_LE(f.lines, 60u) << f.name << " in " << fs::relative(file, root) << " has " << f.lines
                              << " lines";
    }
  EXPECT_GT(seen, 1000u) << "or functions are written in a way that this test does not find";
}

// CONTRIBUTING.md: each acquire or release names its partner, sync(name). Whoever reads an order
// without one can't tell what would break without it.
TEST(orders, name_their_partners) {
  const std::regex order("memory_order_(acquire|release|acq_rel)"),
      name("sync\\(([a-z][a-z ]*)\\)");
  std::map<std::string, int> places;
  for (const fs::path& file : sources({"src"})) {
    const auto lines = lines_of(text_of(file));
    for (size_t i = 0; i < lines.size(); ++i) {
      for (std::sregex_iterator n(lines[i].begin(), lines[i].end(), name), end; n != end; ++n)
        ++places[(*n)[1]];
      if (!std::regex_search(lines[i], order)) continue;
      bool is_named = false;
      for (size_t above = i - std::min<size_t>(i, 4); above <= i; ++above)
        is_named |= lines[above].find("sync(") != std::string::npos;
      EXPECT_TRUE(is_named) << fs::relative(file, root) << ":" << i + 1;
    }
  }
  for (const auto& [partner, count] : places)
    EXPECT_GE(count, 2) << "sync(" << partner << ") stands in one place only: with whom?";
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
      "\"(base|platform|shared|region|observer|extent|slab|cache|named|attached|care|heap|views|"
      "api)/");
  for (const fs::path& file : sources({"tools", "examples"}))
    EXPECT_FALSE(std::regex_search(text_of(file), inside)) << file;
}

}  // namespace
