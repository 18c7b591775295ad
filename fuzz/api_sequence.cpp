// fuzz/api_sequence.cpp - the input chooses operations of the heap model; heap and model must
// agree.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#include "heap_model.hpp"

namespace {

struct bytes_as_choices : annex::choices {
  bytes_as_choices(const std::uint8_t* begin, std::size_t count) : at(begin), end(begin + count) {}
  std::uint32_t next(std::uint32_t below) override {
    std::uint32_t value = 0;
    for (int i = 0; i < 2 && at != end; ++i)
      value = value << 8 | *at++;
    return value % below;
  }
  bool more() override { return at != end; }
  const std::uint8_t *at, *end;
};

void must_agree(const std::string& wrong) {
  if (wrong.empty()) return;
  std::fprintf(stderr, "%s\n", wrong.c_str());
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t count) {
  static char* const arena = static_cast<char*>(
      ::mmap(nullptr, 16 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  constexpr std::uint32_t regions = 64;
  if (count > 4096) return -1;
  bytes_as_choices input(bytes, count);
  const bool checked = input.next(2) != 0;
  auto h = annex::heap::create_private({.checked = checked,
                                        .metadata_limit_bytes = 64 << 20,
                                        .member_limit = 4,
                                        .thread_limit = 4,
                                        .region_limit = regions});
  if (!h) return 0;
  annex::heap_model model(*h, arena, 16 << 20, regions);
  while (input.more()) {
    must_agree(model.step(input));
    if (model.operations() % 16 == 0) must_agree(model.check());
  }
  must_agree(model.check());
  must_agree(model.finish());
  return 0;
}
