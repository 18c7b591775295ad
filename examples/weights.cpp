// examples/weights.cpp - a loader hands weights to servers, which map them read-only, and later
// newer ones.
//
//   loader                                        each server
//   reserve "weights" (on_commit), fill, commit
//                                                 wait for a zone newer than the last: it is full;
//                                                 answer requests out of it say that it has let go
//                                                 of it (ring "let go")
//   wait until all have; release; the next one
//
// Any of them may be killed: a zone whose loader died is never found half filled, and the next
// loader takes its place; a server that is told that the loader is gone (others_gone,
// deadline_passed) goes on with what it has.
#include <sys/wait.h>
#include <unistd.h>
#include <annex/annex.hpp>
#include <annex/ring.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "must.hpp"

namespace {

using namespace std::chrono_literals;

constexpr const char* heap_name = "example-weights";
constexpr std::size_t weights = 1 << 20;
constexpr int servers = 3, reloads = 3;

int serve(int number) {
  // Two attachments: the weights can't be written to through the first. The second is for the ring.
  auto weights_only = must(annex::heap::attach(heap_name, {.read_only = true}));
  auto heap = must(annex::heap::attach(heap_name));
  auto let_go = must(annex::ring::open(heap, "let go"));
  std::uint64_t generation = 0;
  for (int load = 0; load < reloads; ++load) {
    const annex::zone zone = must(weights_only.wait_zone("weights", 30s, generation));
    const auto* w = static_cast<const float*>(zone.address);
    if (zone.generation <= generation ||
        !std::all_of(w, w + weights, [&](float x) { return x == w[0]; }))
      return 1;
    std::printf("server %d: generation %llu, all weights are %g\n", number,
                static_cast<unsigned long long>(zone.generation), static_cast<double>(w[0]));
    generation = zone.generation;
    must(let_go.put(annex::handle{generation}, 30s));
  }
  return 0;
}

void load(annex::heap& heap, int version) {
  const annex::zone zone = must(heap.reserve_zone(
      "weights", {.size_bytes = weights * sizeof(float)}, annex::visibility::on_commit));
  auto* const w = static_cast<float*>(zone.address);
  // From a disk, say; nobody finds it meanwhile.
  std::fill(w, w + weights, static_cast<float>(version) * 1.5f);
  must(heap.commit_zone("weights", zone));
}

}  // namespace

int main() {
  bool is_new = false;
  // An earlier run may have been killed: it persists.
  auto heap = must(annex::heap::open(heap_name, {}, &is_new));
  if (heap.stats().region_count == 0) must(heap.bring_memory({.length_bytes = 64 << 20}));
  if (!is_new) {
    (void)heap.release_zone("weights");
    (void)annex::ring::release(heap, "let go");
  }
  auto let_go = must(annex::ring::create(heap, "let go", 8));
  std::fflush(stdout);
  for (int i = 1; i <= servers; ++i)
    if (::fork() == 0) {
      const int code = serve(i);
      std::fflush(stdout);
      ::_exit(code);
    }
  for (int version = 1; version <= reloads; ++version) {
    load(heap, version);
    for (int i = 0; i < servers; ++i)
      must(let_go.take(30s));
    must(heap.release_zone("weights"));  // now that nobody uses it
  }
  int failed = 0, status = 0;
  while (::wait(&status) > 0)
    failed += status != 0;
  must(annex::ring::release(heap, "let go"));
  heap = {};
  must(annex::heap::destroy(heap_name));  // or it would be there still
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
