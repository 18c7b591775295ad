// examples/readme.cpp - what README shows first: a heap that is joined or made, memory, a block,
// its name in every process.
//
// Run it twice: the heap is still there the second time, with its memory.
// snippet: readme
#include <annex/annex.hpp>
#include <cstdio>
#include <cstring>

int main() {
  // Joins it, or makes it: heaps stay when their processes end.
  auto heap = annex::heap::open("packets");
  // A refusal says the value, the limit and the remedy.
  if (!heap) return std::puts(heap.error().text), 1;

  if (heap->stats().region_count == 0)  // or add_memory(): what you have mapped already
    if (auto region = heap->bring_memory({.length_bytes = 64 << 20}); !region)
      return std::puts(region.error().text), 1;

  void* block = heap->allocate(1500);  // nullptr: annex::heap::last_failure() says why
  if (block == nullptr) return std::puts(annex::heap::last_failure().text), 1;
  std::strcpy(static_cast<char*>(block), "hello");

  const annex::handle name = heap->handle_of(block);  // the same 64 bits in every process
  void* found = heap->resolve(name).value();          // as another process finds it
  std::printf("%s, %zu bytes\n", static_cast<char*>(found), annex::heap::usable_size(block));
  annex::heap::free(found);  // by any thread of any process
}
// end
