// examples/tutorial/grow.cpp - what happens when there is no room: a reason, or more memory.
#include <annex/annex.hpp>
#include <cstdio>

int main() {
  auto heap = annex::heap::attach("tutorial");
  if (!heap) return std::puts(heap.error().text), 1;

  // snippet: refused
  if (heap->allocate(64 << 20) == nullptr) std::puts(annex::heap::last_failure().text);
  // end

  // snippet: grow
  heap->on_shortage([&](std::size_t size_bytes) {
    constexpr std::size_t step = 32 << 20;
    const std::size_t bytes = (size_bytes / step + 1) * step;  // whole pages, with room for more
    return heap->bring_memory({.length_bytes = bytes}).has_value();
  });
  void* block = heap->allocate(64 << 20);
  std::printf("now: %s\n", block != nullptr ? "64 MiB" : "nothing");
  annex::heap::free(block);
  // end
}
