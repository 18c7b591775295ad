// bench/trace_recorder.cpp - LD_PRELOAD: writes down what a program asks of its allocator
// (trace.hpp has the format).
//
//   ANNEX_TRACE=/tmp/trace.%p LD_PRELOAD=libannex_trace_recorder.so PROGRAM …
//   zstd -19 --rm /tmp/trace.*
//
// %p is the process number. ANNEX_TRACE_EVENTS: stop after so many (4,000,000). A forked child
// records nothing; a program it executes records under its own number. glibc does the work; a lock
// keeps the order of events.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstdint>

#include "trace.hpp"

extern "C" {
void* __libc_malloc(size_t);
void __libc_free(void*);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
}

namespace {

using annex::bench::trace_kind;

constexpr std::uint64_t table_places = 1 << 23;  // open addressing; room for 6 million live blocks
constexpr std::uintptr_t gone = 1;
struct place {
  std::uintptr_t block;
  std::uint64_t number;
};

std::atomic_flag locked = ATOMIC_FLAG_INIT;
place* table = nullptr;
int file = -1;
pid_t recorded_process = 0;
std::uint64_t allocations = 0, events = 0, most_events = 4'000'000;
unsigned char buffer[1 << 16];
std::size_t buffered = 0;
bool tried = false;

void write_out() {
  for (std::size_t at = 0; at < buffered;) {
    const ssize_t n = ::write(file, buffer + at, buffered - at);
    if (n <= 0) break;
    at += static_cast<std::size_t>(n);
  }
  buffered = 0;
}

void put(std::uint64_t value) {
  if (buffered + 10 > sizeof buffer) write_out();
  for (; value >= 0x80; value >>= 7)
    buffer[buffered++] = static_cast<unsigned char>(value | 0x80);
  buffer[buffered++] = static_cast<unsigned char>(value);
}

bool start() {
  if (tried) return file >= 0 && events < most_events && recorded_process == ::getpid();
  tried = true;
  const char* const pattern = ::getenv("ANNEX_TRACE");
  if (pattern == nullptr) return false;
  char path[512];
  const char* const mark = ::strstr(pattern, "%p");
  if (mark == nullptr)
    ::snprintf(path, sizeof path, "%s", pattern);
  else
    ::snprintf(path, sizeof path, "%.*s%d%s", static_cast<int>(mark - pattern), pattern, ::getpid(),
               mark + 2);
  if (const char* limit = ::getenv("ANNEX_TRACE_EVENTS"))
    most_events = ::strtoull(limit, nullptr, 10);
  void* const space = ::mmap(nullptr, table_places * sizeof(place), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) return false;
  table = static_cast<place*>(space);
  file = ::open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  recorded_process = ::getpid();
  ::memcpy(buffer, annex::bench::trace_magic, sizeof annex::bench::trace_magic - 1);
  buffered = sizeof annex::bench::trace_magic - 1;
  return file >= 0;
}

place* find(std::uintptr_t block, bool empty) {
  std::uint64_t at = (block >> 4) * 0x9e3779b97f4a7c15ull >> 41;
  for (;; at = (at + 1) % table_places) {
    if (table[at].block == block) return &table[at];
    if (empty && table[at].block == gone) return &table[at];
    if (table[at].block == 0) return empty ? &table[at] : nullptr;
  }
}

struct recording {
  bool on;
  recording() {
    while (locked.test_and_set(std::memory_order_acquire))
      ::usleep(0);
    on = start();
  }
  ~recording() { locked.clear(std::memory_order_release); }
  recording(const recording&) = delete;
  recording& operator=(const recording&) = delete;

  void made(void* block, std::size_t bytes, std::size_t align) {
    if (!on || block == nullptr) return;
    *find(reinterpret_cast<std::uintptr_t>(block), true) = {reinterpret_cast<std::uintptr_t>(block),
                                                            allocations++};
    ++events;
    const bool plain = align <= 16;
    put(std::uint64_t{bytes} << 2 |
        static_cast<std::uint64_t>(plain ? trace_kind::allocate : trace_kind::aligned));
    if (!plain) put(static_cast<std::uint64_t>(std::countr_zero(align)));
  }
  void freed(void* block) {
    if (!on || block == nullptr) return;
    place* const p = find(reinterpret_cast<std::uintptr_t>(block), false);
    if (p == nullptr) return;
    put((allocations - p->number) << 2 | static_cast<std::uint64_t>(trace_kind::free));
    p->block = gone;
    ++events;
  }
  void resized(void* before, void* after, std::size_t bytes) {
    if (!on || after == nullptr) return;
    place* const p = find(reinterpret_cast<std::uintptr_t>(before), false);
    if (p == nullptr) return made(after, bytes, 16);
    const std::uint64_t number = p->number;
    p->block = gone;
    *find(reinterpret_cast<std::uintptr_t>(after), true) = {reinterpret_cast<std::uintptr_t>(after),
                                                            number};
    put((allocations - number) << 2 | static_cast<std::uint64_t>(trace_kind::resize));
    put(bytes);
    ++events;
  }
};

[[gnu::destructor]] void finish() {
  if (file >= 0 && recorded_process == ::getpid()) write_out();
}

}  // namespace

extern "C" {

void* malloc(size_t bytes) {
  recording r;
  void* const block = __libc_malloc(bytes);
  r.made(block, bytes, 16);
  return block;
}
void free(void* block) {
  recording r;
  r.freed(block);
  __libc_free(block);
}
void* calloc(size_t count, size_t bytes) {
  recording r;
  void* const block = __libc_calloc(count, bytes);
  r.made(block, count * bytes, 16);
  return block;
}
void* realloc(void* before, size_t bytes) {
  recording r;
  if (before == nullptr) {
    void* const block = __libc_malloc(bytes);
    r.made(block, bytes, 16);
    return block;
  }
  if (bytes == 0) r.freed(before);
  void* const after = __libc_realloc(before, bytes);
  if (bytes != 0) r.resized(before, after, bytes);
  return after;
}
void* memalign(size_t align, size_t bytes) {
  recording r;
  void* const block = __libc_memalign(align, bytes);
  r.made(block, bytes, align);
  return block;
}
void* aligned_alloc(size_t align, size_t bytes) {
  return memalign(align, bytes);
}
int posix_memalign(void** block, size_t align, size_t bytes) {
  *block = memalign(align, bytes);
  return *block != nullptr ? 0 : ENOMEM;
}
void* valloc(size_t bytes) {
  return memalign(4096, bytes);
}
// A program linked with another malloc must not ask that one about our blocks.
size_t malloc_usable_size(void* block) {
  static const auto of_glibc = reinterpret_cast<size_t (*)(void*)>(
      ::dlsym(::dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD), "malloc_usable_size"));
  return of_glibc(block);
}
}
