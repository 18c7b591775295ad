// examples/shared_pipeline.cpp - two processes: one makes blocks, the other uses and frees them,
// through a ring of handles.
#include <sys/wait.h>
#include <unistd.h>

#include <annex/annex.hpp>

#include <cstdio>

namespace {

constexpr int messages = 10000;

int consume() {
  auto heap = annex::heap::attach("pipeline");
  if (!heap) return 1;
  auto ring = annex::ring::open(*heap, "mail");
  long sum = 0;
  for (int i = 0; i < messages;) {
    const annex::handle h = ring->take();
    if (h == annex::null_handle) {
      ::usleep(50);
      continue;
    }
    auto* message = static_cast<int*>(heap->resolve(h).value());
    sum += *message;
    annex::heap::free(message);  // made by the other process
    ++i;
  }
  return sum == long{messages} * (messages - 1) / 2 ? 0 : 2;
}

}  // namespace

int main() {
  (void)annex::heap::destroy("pipeline");
  auto heap = annex::heap::create("pipeline");
  if (!heap || !heap->bring_memory({.length_bytes = 4 << 20})) return 1;
  auto ring = annex::ring::create(*heap, "mail", 256);
  if (!ring) return 1;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(consume());
  for (int i = 0; i < messages; ++i) {
    auto* message = static_cast<int*>(heap->allocate(sizeof(int)));
    *message = i;
    while (!ring->put(heap->handle_of(message)))
      ::usleep(50);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  const annex::heap_stats s = heap->stats();
  std::printf("%d messages, consumer's status %d, %lu blocks live\n", messages, status,
              static_cast<unsigned long>(s.live_blocks));
  if (!annex::ring::release(*heap, "mail")) return 1;
  *heap = annex::heap();
  return status == 0 && annex::heap::destroy("pipeline") ? 0 : 1;
}
