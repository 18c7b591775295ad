// bench/libraries.cpp - see libraries.hpp.
#include "libraries.hpp"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <functional>

namespace annex::bench {
namespace {

// dlsym also finds what the libraries below it define: malloc would always be there.
void* own_function(void* library, const char* name) {
  void* const found = ::dlsym(library, name);
  link_map* map = nullptr;
  Dl_info where{};
  if (found == nullptr || ::dlinfo(library, RTLD_DI_LINKMAP, &map) != 0) return nullptr;
  if (::dladdr(found, &where) == 0) return nullptr;
  return reinterpret_cast<ElfW(Addr)>(where.dli_fbase) == map->l_addr ? found : nullptr;
}

// Mimalloc, jemalloc and rpmalloc may be built with names of their own.
constexpr const char* names[][4] = {{"malloc", "free", "realloc", "aligned_alloc"},
                                    {"mi_malloc", "mi_free", "mi_realloc", "mi_aligned_alloc"},
                                    {"je_malloc", "je_free", "je_realloc", "je_aligned_alloc"}};

plain_calls open_library(const std::string& path) {
  void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (library == nullptr) throw std::runtime_error(::dlerror());
  for (const auto& [allocate, release, resize, align] : names) {
    void* const allocates = own_function(library, allocate);
    void* const frees = own_function(library, release);
    if (allocates == nullptr || frees == nullptr) continue;
    return {reinterpret_cast<void* (*)(std::size_t)>(allocates),
            reinterpret_cast<void (*)(void*)>(frees),
            nullptr,
            nullptr,
            reinterpret_cast<void* (*)(void*, std::size_t)>(own_function(library, resize)),
            reinterpret_cast<void* (*)(std::size_t, std::size_t)>(own_function(library, align))};
  }
  throw std::runtime_error("has no malloc and free of its own");
}

// Whether a child can do it; else why not.
std::string reason_against(const std::string& path) {
  constexpr std::size_t room = 200;
  void* const space =
      ::mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (space == MAP_FAILED) return "there is no memory to try it";
  auto* const words = static_cast<char*>(space);
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      const plain_calls calls = open_library(path);
      auto* const block = static_cast<volatile char*>(calls.allocate(64));
      if (block == nullptr) throw std::runtime_error("gives no block");
      block[63] = 1;
      calls.free(const_cast<char*>(block));
    } catch (const std::exception& e) {
      std::snprintf(words, room, "%s", e.what());
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  const std::string found = status != 0 && words[0] == 0 ? "dies of its first block" : words;
  ::munmap(space, room);
  return found;
}

std::vector<std::pair<std::string, std::string>> brought;

}  // namespace

std::optional<peer> library_peer(const std::string& name, const std::string& path,
                                 std::string* why) {
  *why = reason_against(path);
  if (!why->empty()) return std::nullopt;
  return peer{name, true, ~std::size_t{0}, [path] { return open_library(path); }};
}

void bring_library(const std::string& name_and_path) {
  const std::size_t at = name_and_path.find('=');
  if (at == std::string::npos || at == 0 || at + 1 == name_and_path.size())
    throw std::runtime_error("\"" + name_and_path + "\" is not NAME=PATH");
  brought.emplace_back(name_and_path.substr(0, at), name_and_path.substr(at + 1));
}

void bring_libraries_of(const std::string& directory) {
  if (!std::filesystem::is_directory(directory))
    throw std::runtime_error(directory + " is no directory: no peers from there");
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string file = entry.path().filename();
    const std::size_t end = file.find(".so");
    if (end == std::string::npos) continue;
    const std::string name = file.substr(0, end);
    brought.emplace_back(name.starts_with("lib") ? name.substr(3) : name, entry.path());
  }
}

const std::vector<std::pair<std::string, std::string>>& brought_libraries() {
  return brought;
}

}  // namespace annex::bench
