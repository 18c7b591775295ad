// bench/pages.cpp - memory for peers that are given some, and the pages it lies on (peers.hpp).
#include <sys/mman.h>
#include <sys/prctl.h>

#include <fstream>

#include "peers.hpp"

namespace annex::bench {
namespace {

huge_pages chosen = huge_pages::as_is;

}  // namespace

void choose_huge_pages(huge_pages choice) {
  chosen = choice;
  if (choice == huge_pages::never && ::prctl(PR_SET_THP_DISABLE, 1ul, 0, 0, 0) != 0)
    throw std::runtime_error("PR_SET_THP_DISABLE is refused: huge pages can't be chosen here");
}

std::string huge_pages_words() {
  std::string setting = "the kernel has none";
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::getline(file, setting);
  const char* const words[] = {"as everybody likes", "never", "madvised where memory is given"};
  return std::string(words[static_cast<int>(chosen)]) + "; kernel: " + setting;
}

char* ordinary_memory(std::size_t bytes, std::size_t align) {
  void* const space = ::mmap(nullptr, bytes + align, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) throw std::runtime_error("no address space");
  char* const begin =
      reinterpret_cast<char*>((reinterpret_cast<std::size_t>(space) + align - 1) / align * align);
  if (chosen == huge_pages::madvise && ::madvise(begin, bytes, MADV_HUGEPAGE) != 0)
    throw std::runtime_error("MADV_HUGEPAGE is refused");
  return begin;
}

}  // namespace annex::bench
