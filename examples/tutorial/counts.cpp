// examples/tutorial/counts.cpp - a std::vector that every process may use: its pointers are
// distances, its memory the heap's.
#include <annex/annex.hpp>
#include <cstdio>
#include <vector>

// snippet: vector
using numbers = std::vector<int, annex::offset_allocator<int>>;

int main() {
  auto heap = annex::heap::attach("tutorial");
  if (!heap) return std::puts(heap.error().text), 1;

  numbers* shared = nullptr;
  if (auto zone = heap->find_zone("numbers")) {  // a block with a name
    shared = static_cast<numbers*>(zone->address);
  } else {
    zone = heap->reserve_zone("numbers", {.size_bytes = sizeof(numbers)});
    if (!zone) return std::puts(zone.error().text), 1;
    shared = new (zone->address) numbers(annex::offset_allocator<int>(*heap));
  }
  shared->push_back(static_cast<int>(shared->size()) + 1);
  std::printf("%zu numbers, the last is %d\n", shared->size(), shared->back());
}
// end
