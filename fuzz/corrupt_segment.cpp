// fuzz/corrupt_segment.cpp - attaching to a segment with any bytes in it, or repairing it first:
// refused, or it works; never a crash, never a hang; what a repair calls sound is attached.
//
// The input patches a good segment: {offset, value} pairs over the bytes that are in use, so that
// the damage lies where it matters. After an attach that was not refused, the heap is used, audited
// and looked at.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <annex/annex.hpp>

#include "shared/layout.hpp"

namespace {

using namespace annex;

std::string directory_made() {
  char name[] = "/dev/shm/annex-fuzz-XXXXXX";
  const char* made = ::mkdtemp(name);
  if (made == nullptr) std::abort();
  ::setenv("ANNEX_DIR", made, 1);
  ::setenv("ANNEX_LOG", "level:off", 1);
  return made;
}

struct template_segment {
  std::string directory = directory_made();
  std::vector<char> bytes;
  std::vector<std::uint32_t> used;  // offsets of 64-byte lines that are not all zero

  template_segment() {
    {
      heap h = heap::create("t", {.on_misuse = misuse_policy::refuse,
                                  .metadata_limit_bytes = 8 << 20,
                                  .member_limit = 4,
                                  .thread_limit = 8,
                                  .region_limit = 8})
                   .value();
      (void)h.bring_memory({.length_bytes = 256 << 10});
      std::vector<iova> table;
      for (std::uint64_t i = 0; i < 16; ++i)
        table.push_back(iova{(i * 2 + 1) << 12});
      memory_source scattered{.length_bytes = 64 << 10};
      scattered.page_iovas = table;
      (void)h.bring_memory(scattered);
      for (int i = 0; i < 200; ++i)
        if (void* block = h.allocate(static_cast<std::size_t>(i) * 3 + 1);
            block != nullptr && i % 3 == 0)
          heap::free(block);
      (void)h.allocate(70000);
      (void)h.reserve_zone("zone", {.size_bytes = 5000});
      (void)raw_pool::create(h, "pool", {.object_bytes = 100, .object_count = 50});
      (void)ring::create(h, "ring", 8);
    }
    const int fd = ::open((directory + "/t.annex").c_str(), O_RDONLY);
    bytes.resize(static_cast<std::size_t>(::lseek(fd, 0, SEEK_END)));
    if (::pread(fd, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
      std::abort();
    ::close(fd);
    for (std::size_t at = 0; at < bytes.size(); at += 64)
      for (std::size_t i = 0; i < 64; ++i)
        if (bytes[at + i] != 0) {
          used.push_back(static_cast<std::uint32_t>(at));
          break;
        }
  }
};

void use(heap& h) {
  void* small = h.allocate(100);
  void* large = h.allocate(80000);
  (void)h.allocate({.size_bytes = 5000, .align_bytes = 8192, .iova_contiguous = true});
  heap::free(small);
  heap::free(large);
  (void)h.reserve_zone("new", {.size_bytes = 1000});
  (void)h.find_zone("zone");
  (void)h.release_zone("zone");
  (void)h.find_zone("new");
  if (auto p = raw_pool::open(h, "pool")) {
    void* object = p->take();
    p->give(object);
    (void)p->free_count();
  }
  if (auto r = ring::open(h, "ring")) (void)r->count();
  (void)h.address_of(iova{0x3000});
  for (std::uint64_t word :
       {std::uint64_t{1} << 44, (std::uint64_t{1} << 44) + 4096, (std::uint64_t{2} << 44) + 100})
    (void)h.resolve(handle{word});
  (void)h.stats();
  (void)h.members();
  (void)h.audit();
  h.for_each_region([](const region_summary&) {});
  h.for_each_zone([](const zone_summary&) {});
  (void)h.for_each_block([](const block_summary&) {});
  h.for_each_map_piece([](const map_piece&) {});
  h.trim();
  for (const member_summary& m : h.members())
    if (!m.alive) (void)h.reap(m.id);
  (void)h.remove_memory(region_id{1});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t count) {
  static template_segment original;
  if (count < 7 || count > 7 * 64) return -1;
  const std::string path = original.directory + "/f.annex";
  std::vector<char> bytes = original.bytes;
  const bool read_only = (input[0] & 1) != 0;
  for (std::size_t at = 1; at + 6 <= count; at += 6) {
    const std::uint32_t line =
        original.used[(std::size_t{input[at]} | std::size_t{input[at + 1]} << 8) %
                      original.used.size()];
    const std::size_t offset = line + input[at + 2] % 64,
                      width = std::size_t{1} << (input[at + 3] % 4);
    std::uint64_t value = input[at + 4] | std::uint64_t{input[at + 5]} << 8;
    if ((input[at + 3] & 0x80) != 0) value = ~value;
    if ((input[at + 3] & 0x40) != 0) value <<= 20;
    if (offset + width <= bytes.size()) std::memcpy(bytes.data() + offset, &value, width);
  }
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (::write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) std::abort();
  ::close(fd);
  bool is_sound = false;
  if ((input[0] & 2) != 0)
    if (const auto repaired = heap::repair("f")) is_sound = repaired->after.holds();
  auto h = heap::attach("f", {.read_only = read_only});
  if (h)
    use(*h);
  else if (is_sound && h.error().code == errc::corrupt)
    std::abort();
  (void)heap::list();
  ::unlink(path.c_str());
  return 0;
}
