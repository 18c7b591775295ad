// examples/tutorial/writer.cpp - sends words to whoever reads: a block for each, its handle through
// a ring.
//
//   writer WORD …     sends them       writer --and-wait WORD …     and stays, until it is killed
#include <unistd.h>

#include <annex/annex.hpp>
#include <cstdio>
#include <cstring>
#include <string>

int main(int count, char** words) {
  // snippet: open
  auto heap = annex::heap::attach("tutorial");
  if (!heap) return std::puts(heap.error().text), 1;

  auto mail = annex::ring::open(*heap, "mail");                // a queue of handles
  if (!mail) mail = annex::ring::create(*heap, "mail", 1024);  // the first who comes makes it
  if (!mail) return std::puts(mail.error().text), 1;
  // end

  bool waits = false;
  for (int i = 1; i < count; ++i) {
    if (std::strcmp(words[i], "--and-wait") == 0) {
      waits = true;
      continue;
    }
    // snippet: send
    void* block = heap->allocate(std::strlen(words[i]) + 1);
    if (block == nullptr) return std::puts(annex::heap::last_failure().text), 1;
    std::strcpy(static_cast<char*>(block), words[i]);
    if (!mail->put(heap->handle_of(block))) return std::puts("the ring is full"), 1;
    // end
  }
  if (!waits) return 0;
  std::puts("waiting");
  std::fflush(stdout);
  ::pause();
}
