// tests/hardening_test.cpp - what was built, as its ELF headers tell: nobody writes where the
// program's tables are.
//
// ANNEX_BUILT: the libraries and the command of this build, with ':' between.
#include <elf.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>

#include "support.hpp"

namespace annex {
namespace {

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    defined(__OPTIMIZE__)

class elf_file {
 public:
  explicit elf_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    EXPECT_GE(bytes_.size(), sizeof(Elf64_Ehdr)) << path;
    EXPECT_EQ(bytes_.substr(0, SELFMAG), ELFMAG) << path;
  }
  const Elf64_Ehdr& header() const { return *at<Elf64_Ehdr>(0); }
  std::span<const Elf64_Phdr> segments() const {
    return {at<Elf64_Phdr>(header().e_phoff), header().e_phnum};
  }
  std::span<const Elf64_Shdr> sections() const {
    return {at<Elf64_Shdr>(header().e_shoff), header().e_shnum};
  }
  const Elf64_Phdr* segment(u32 type) const {
    const auto all = segments();
    const auto found = std::ranges::find(all, type, &Elf64_Phdr::p_type);
    return found != all.end() ? &*found : nullptr;
  }
  const Elf64_Shdr* section(u32 type) const {
    const auto all = sections();
    const auto found = std::ranges::find(all, type, &Elf64_Shdr::sh_type);
    return found != all.end() ? &*found : nullptr;
  }
  u64 dynamic(i64 tag, u64 otherwise = 0) const {
    const Elf64_Phdr* const table = segment(PT_DYNAMIC);
    if (table == nullptr) return otherwise;
    for (const Elf64_Dyn& entry :
         std::span(at<Elf64_Dyn>(table->p_offset), table->p_filesz / sizeof(Elf64_Dyn)))
      if (entry.d_tag == tag) return entry.d_un.d_val;
    return otherwise;
  }
  std::span<const Elf64_Sym> symbols() const {
    const Elf64_Shdr* const table = section(SHT_DYNSYM);
    return {at<Elf64_Sym>(table->sh_offset), table->sh_size / sizeof(Elf64_Sym)};
  }
  std::string_view name_of(const Elf64_Sym& symbol) const {
    return at<char>(sections()[section(SHT_DYNSYM)->sh_link].sh_offset + symbol.st_name);
  }
  bool needs(std::string_view part_of_name) const {
    return std::ranges::any_of(symbols(), [&](const Elf64_Sym& s) {
      return s.st_shndx == SHN_UNDEF && name_of(s).find(part_of_name) != std::string_view::npos;
    });
  }
  /// The bytes that are loaded at this address.
  std::string_view code_at(u64 address, u64 count) const {
    for (const Elf64_Phdr& s : segments())
      if (s.p_type == PT_LOAD && address - s.p_vaddr < s.p_filesz)
        return std::string_view(bytes_).substr(address - s.p_vaddr + s.p_offset, count);
    return {};
  }

 private:
  template <class T>
  const T* at(u64 offset) const {
    return reinterpret_cast<const T*>(bytes_.data() + offset);
  }
  std::string bytes_;
};

std::vector<std::string> built() {
  std::vector<std::string> all;
  std::istringstream list(ANNEX_BUILT);
  for (std::string path; std::getline(list, path, ':');)
    all.push_back(path);
  return all;
}

TEST(hardening, every_file_lies_at_any_address_and_the_command_says_so) {
  for (const std::string& path : built()) {
    const elf_file file(path);
    EXPECT_EQ(file.header().e_type, ET_DYN) << path;
    EXPECT_EQ(file.dynamic(DT_TEXTREL, 1), 1u) << path << ": code is changed when it is loaded";
    EXPECT_EQ(file.dynamic(DT_FLAGS) & DF_TEXTREL, 0u) << path;
    EXPECT_EQ((file.dynamic(DT_FLAGS_1) & DF_1_PIE) != 0, file.segment(PT_INTERP) != nullptr)
        << path;
  }
}

TEST(hardening, tables_are_read_only_once_a_file_is_loaded) {
  for (const std::string& path : built()) {
    const elf_file file(path);
    EXPECT_NE(file.segment(PT_GNU_RELRO), nullptr) << path;
    EXPECT_TRUE((file.dynamic(DT_FLAGS) & DF_BIND_NOW) != 0 ||
                (file.dynamic(DT_FLAGS_1) & DF_1_NOW) != 0)
        << path << ": calls are bound later, so the table stays writable";
  }
}

TEST(hardening, nothing_is_writable_and_executable) {
  for (const std::string& path : built()) {
    const elf_file file(path);
    ASSERT_NE(file.segment(PT_GNU_STACK), nullptr) << path;
    EXPECT_EQ(file.segment(PT_GNU_STACK)->p_flags & PF_X, 0u) << path << ": the stack";
    for (const Elf64_Phdr& s : file.segments()) {
      if (s.p_type == PT_LOAD) {
        EXPECT_NE(s.p_flags & (PF_W | PF_X), u32{PF_W | PF_X}) << path;
      }
    }
    EXPECT_EQ(file.dynamic(DT_RPATH, ~u64{0}), ~u64{0})
        << path << ": libraries come from a place that goes before LD_LIBRARY_PATH";
  }
}

TEST(hardening, stacks_and_copies_are_checked) {
  for (const std::string& path : built())
    EXPECT_TRUE(elf_file(path).needs("__stack_chk_fail")) << path;
  // All are compiled alike. In one of them the compiler can't tell the length of some copy: a
  // library whose copies are all seen to fit needs no check.
  const auto has_checked_copy = [](const std::string& path) {
    const elf_file file(path);
    return std::ranges::any_of(file.symbols(), [&](const Elf64_Sym& s) {
      return file.name_of(s).starts_with("__") && file.name_of(s).ends_with("_chk");
    });
  };
  EXPECT_TRUE(std::ranges::any_of(built(), has_checked_copy)) << "no copy is checked";
}

#if defined(__CET__) && (__CET__ & 1) != 0
TEST(hardening, every_function_that_the_libraries_show_may_be_jumped_to) {
  for (const std::string& path : built()) {
    const elf_file file(path);
    if (file.segment(PT_INTERP) != nullptr) continue;
    u32 count = 0;
    for (const Elf64_Sym& s : file.symbols()) {
      if (ELF64_ST_TYPE(s.st_info) != STT_FUNC || s.st_shndx == SHN_UNDEF || s.st_size == 0)
        continue;
      EXPECT_EQ(file.code_at(s.st_value, 4), "\xf3\x0f\x1e\xfa") << path << " " << file.name_of(s);
      ++count;
    }
    EXPECT_GT(count, 0u) << path;
  }
}
#endif

#endif

}  // namespace
}  // namespace annex
