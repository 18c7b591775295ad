// tests/model_test.cpp - random operations against the model, audit after each thousand; the seed
// is printed.
//
// ANNEX_MODEL_OPERATIONS and ANNEX_MODEL_SEED choose; 3 million operations by default in `make
// test`.
#include <cstdlib>
#include <iostream>
#include <random>

#include "heap_model.hpp"
#include "support.hpp"

namespace annex {
namespace {

struct random_choices : choices {
  explicit random_choices(u64 seed) : state(seed) {}
  std::uint32_t next(std::uint32_t below) override {
    return static_cast<std::uint32_t>(state() % below);
  }
  bool more() override { return true; }
  std::mt19937_64 state;
};

u64 setting(const char* name, u64 otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

void run_model(u64 operations, u64 seed, heap_options options) {
  std::cout << "seed " << seed << ", " << operations << " operations\n";
  heap h = heap_with(0, options);
  mapped_memory arena(48 << 20, PROT_NONE);
  heap_model model(h, arena.data(), arena.size());
  random_choices random(seed);
  for (u64 i = 1; i <= operations; ++i) {
    const std::string wrong = model.step(random);
    ASSERT_TRUE(wrong.empty()) << "seed " << seed << ", operation " << i << ": " << wrong;
    if (i % 1000 != 0) continue;
    const std::string broken = model.check();
    ASSERT_TRUE(broken.empty()) << "seed " << seed << ", after operation " << i << ": " << broken;
  }
  EXPECT_EQ(model.finish(), "") << "seed " << seed;
}

using model = in_own_directory;

TEST_F(model, agrees_with_the_heap) {
  run_model(setting("ANNEX_MODEL_OPERATIONS", 3'000'000),
            setting("ANNEX_MODEL_SEED", std::random_device{}()), {});
}
TEST_F(model, agrees_with_a_checked_heap) {
  run_model(setting("ANNEX_MODEL_OPERATIONS", 3'000'000) / 10,
            setting("ANNEX_MODEL_SEED", std::random_device{}()), {.checked = true});
}

}  // namespace
}  // namespace annex
