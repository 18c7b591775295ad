// examples/picture.cpp - the heap that README's picture shows: three processes in one heap of 8
// MiB, the third of which is killed.
//
//   example_picture        prints "ready" and waits for its standard input to end;
//                          docs/draw-picture looks at the heap meanwhile
#include <errno.h>
#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <annex/annex.hpp>
#include <cstdio>
#include <random>
#include <vector>

#include "must.hpp"

namespace {

struct part {
  const char* program;
  std::size_t largest_bytes;
  int blocks;
  std::size_t zone_bytes;  // 0: none
};

// Blocks of random sizes, a third of them freed again; then it waits to be killed.
void work(const part& p, int ready) {
  ::program_invocation_short_name = const_cast<char*>(p.program);  // what others see as its program
  auto heap = must(annex::heap::attach("packets"));
  std::mt19937 random(static_cast<unsigned>(p.blocks));
  std::vector<void*> blocks;
  for (int i = 0; i < p.blocks; ++i)
    blocks.push_back(heap.allocate(p.largest_bytes / 8 + random() % p.largest_bytes));
  for (std::size_t i = 0; i < blocks.size(); i += 3)
    annex::heap::free(blocks[i]);
  if (p.zone_bytes != 0) must(heap.reserve_zone("flows", {.size_bytes = p.zone_bytes}));
  if (::write(ready, "", 1) == 1) ::pause();
}

}  // namespace

int main() {
  constexpr part parts[] = {
      {"receiver", 3000, 800, 0}, {"flows", 300'000, 9, 1 << 20}, {"exporter", 1500, 900, 0}};
  if (::fork() == 0) {
    auto heap = must(annex::heap::create("packets"));
    must(heap.bring_memory({.length_bytes = 8 << 20}));
    heap = annex::heap();
    ::_exit(0);
  }
  if (int status = 0; ::wait(&status) < 0 || status != 0) return 1;
  int ready[2];
  if (::pipe(ready) != 0) return 1;
  std::vector<pid_t> processes;
  for (const part& p : parts) {
    const pid_t child = ::fork();
    if (child == 0) {
      work(p, ready[1]);
      ::_exit(1);
    }
    processes.push_back(child);
    char byte;
    if (::read(ready[0], &byte, 1) != 1) return 1;
  }
  ::kill(processes.back(), SIGKILL);
  (void)::waitpid(processes.back(), nullptr, 0);
  std::puts("ready");
  std::fflush(stdout);
  while (std::getchar() != EOF) {}
  processes.pop_back();
  for (const pid_t process : processes)
    ::kill(process, SIGKILL);
}
