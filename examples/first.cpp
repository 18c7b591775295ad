// examples/first.cpp - a named heap over memory of your own: allocate, name, find, ask, take back.
#include <annex/annex.hpp>

#include <cstdio>
#include <cstring>

int main() {
  (void)annex::heap::destroy("first");  // what an earlier run may have left
  auto heap = annex::heap::create("first");
  if (!heap) return std::puts(heap.error().text), 1;

  // Memory: here annex makes some; add_memory() takes what you have mapped already.
  const auto region = heap->bring_memory({.length_bytes = 16 << 20});
  if (!region) return std::puts(region.error().text), 1;

  void* block = heap->allocate(1500);
  std::strcpy(static_cast<char*>(block), "hello");
  const annex::handle name = heap->handle_of(block);  // the same 64 bits in every process
  std::printf("%s, %zu bytes usable\n", static_cast<char*>(heap->resolve(name).value()),
              annex::heap::usable_size(block));

  if (const auto table = heap->reserve_zone("table", {.size_bytes = 65536, .zeroed = true}); !table)
    return 1;
  // Refused: says what is live, and whose it is.
  std::printf("%s\n", heap->remove_memory(*region).error().text);

  annex::heap::free(block);
  if (!heap->release_zone("table") || !heap->remove_memory(*region)) return 1;
  *heap = annex::heap();
  return annex::heap::destroy("first") ? 0 : 1;
}
