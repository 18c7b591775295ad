// examples/tutorial/reader.cpp - prints the words that writers sent, and frees their blocks.
#include <annex/annex.hpp>
#include <cstdio>

int main() {
  auto heap = annex::heap::attach("tutorial");
  if (!heap) return std::puts(heap.error().text), 1;
  auto mail = annex::ring::open(*heap, "mail");
  if (!mail) return std::puts(mail.error().text), 1;

  // snippet: read
  for (annex::handle name; (name = mail->take()) != annex::null_handle;) {
    const auto block = heap->resolve(name);  // the memory is mapped here now, if it was not
    if (!block) {
      // Freed meanwhile: never another's block.
      std::printf("gone: %s\n", annex::name_of(block.error().code).data());
      continue;
    }
    std::printf("read: %s\n", static_cast<const char*>(*block));
    annex::heap::free(*block);  // which the writer allocated
  }
  // end
}
