// tests/leaves_things.cpp - for command_test: puts blocks and named things into a heap that is
// there, and is killed or stays.
//
//   leaves_things HEAP killed     ends by SIGKILL
//   leaves_things HEAP stays      says "there" and waits for the end of its standard input
#include <annex/annex.hpp>
#include <csignal>
#include <cstdio>
#include <cstring>

int main(int, char** argv) {
  auto h = annex::heap::attach(argv[1]).value();
  for (int i = 0; i < 10; ++i)
    if (h.allocate(1000) == nullptr) return 1;
  if (h.allocate(std::size_t{2} << 20) == nullptr) return 1;
  h.reserve_zone("table", {.size_bytes = 100000}).value();
  h.reserve_zone("odd\x1b[31m", {.size_bytes = 100}).value();
  auto objects =
      annex::raw_pool::create(h, "objects", {.object_bytes = 64, .object_count = 100}).value();
  if (objects.take() == nullptr) return 1;
  auto work = annex::ring::create(h, "work", 64).value();
  if (!work.put(annex::handle{5})) return 1;
  if (std::strcmp(argv[2], "killed") == 0) std::raise(SIGKILL);
  std::puts("there");
  std::fflush(stdout);
  while (std::getchar() != EOF) {}
}
