// torture/visible_test.cpp - no instruction that changes shared memory is taken for an invisible
// one.
#include "visible.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>
#include <annex/heap.hpp>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <vector>

#include "heap/local_heap.hpp"
#include "stepper.hpp"

namespace annex::torture {
namespace {

struct sight {
  std::size_t instructions = 0, visible = 0, changed = 0, missed = 0;
};

// Steps through body's operation and compares the bytes before and after every instruction.
sight look_at(const std::function<void()>& body, const char* bytes, std::size_t count) {
  stepper victim(body);
  std::vector<char> before(bytes, bytes + count);
  std::vector<bool> changed;
  const path known = victim.record([&](std::size_t step) {
    if (step == 0) return;
    changed.push_back(std::memcmp(before.data(), bytes, count) != 0);
    if (changed.back()) std::memcpy(before.data(), bytes, count);
  });
  sight seen;
  seen.instructions = known.length();
  for (std::size_t i = 0; i < changed.size(); ++i) {
    seen.visible += known.visible[i];
    seen.changed += changed[i];
    seen.missed += changed[i] && !known.visible[i];
  }
  return seen;
}

char private_bytes[4096];

TEST(visibility, tells_stores_to_shared_memory_from_stores_to_private_memory) {
  auto* shared = static_cast<char*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  auto stores_into = [](char* to) {
    return [to] {
      stepper::stop_here();
      long one = 1, i = 3;
      asm volatile(
          "movb $7, (%[to])\n\t"
          "movq %[one], 16(%[to], %[i], 8)\n\t"  // base, index, displacement
          "lock xaddq %[one], 128(%[to])\n\t"
          "lock btsq $3, 136(%[to])\n\t"
          "pcmpeqb %%xmm0, %%xmm0\n\t"
          "movups %%xmm0, 160(%[to])\n\t"  // a vector
          "pushq $5\n\t"                   // the stack is private
          "popq 200(%[to])\n\t"
          "leaq 256(%[to]), %%rdi\n\t"
          "movl $8, %%ecx\n\t"
          "movl $1, %%eax\n\t"
          "rep stosb\n\t"  // a step for each byte
          : [one] "+r"(one)
          : [to] "r"(to), [i] "r"(i)
          : "rdi", "rcx", "rax", "xmm0", "memory", "cc");
      stepper::stop_here();
    };
  };
  const sight seen = look_at(stores_into(shared), shared, 4096);
  EXPECT_EQ(seen.missed, 0u);
  EXPECT_EQ(seen.changed, 6u + 8u);
  const sight own = look_at(stores_into(private_bytes), shared, 4096);
  EXPECT_EQ(own.changed, 0u);
  EXPECT_EQ(own.visible + 14, seen.visible)
      << "the same instructions, but the stores go nowhere anybody looks";
  ::munmap(shared, 4096);
}

TEST(visibility, misses_no_store_of_an_allocation) {
  char name[] = "/dev/shm/annex-sight-XXXXXX";
  const std::string directory = ::mkdtemp(name);
  ::setenv("ANNEX_DIR", directory.c_str(), 1);
  {
    heap h = heap::create("s", {.metadata_limit_bytes = 16 << 20,
                                .member_limit = 8,
                                .thread_limit = 8,
                                .region_limit = 8,
                                .zone_limit = 8})
                 .value();
    (void)h.bring_memory({.length_bytes = 1 << 20}).value();
    const segment& s = h.internal()->here.seg;
    const sight seen = look_at(
        [&] {
          heap mine = heap::attach("s").value();
          heap::free(mine.allocate(100000));
          stepper::stop_here();
          void* small = mine.allocate(64);
          void* large = mine.allocate(100000);
          heap::free(small);
          heap::free(large);
          stepper::stop_here();
        },
        s.base(), s.header().arena.top + (64 << 10));
    EXPECT_EQ(seen.missed, 0u);
    EXPECT_GT(seen.changed, 100u);
    EXPECT_LT(seen.visible, seen.instructions / 5) << "most instructions change nothing";
  }
  (void)heap::destroy("s");
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace annex::torture
