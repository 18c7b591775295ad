// packaging/conan/test_package/user.cpp - one block of a private heap.
#include <annex/annex.hpp>

int main() {
  auto heap = annex::heap::create_private();
  if (!heap || !heap->bring_memory({.length_bytes = 16 << 20})) return 1;
  void* const block = heap->allocate(1500);
  if (block == nullptr) return 1;
  annex::heap::free(block);
}
