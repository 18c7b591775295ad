// tests/support.hpp - what tests share: a directory of their own, memory to bring, children that
// really die.
#pragma once
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <utility>

#include <annex/annex.hpp>

#include "base/units.hpp"

namespace annex {

/// Every test gets an empty annex directory, removed afterwards.
class in_own_directory : public ::testing::Test {
 protected:
  in_own_directory();
  ~in_own_directory() override;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Anonymous memory for add_memory. Unmapped at the end.
class mapped_memory {
 public:
  explicit mapped_memory(std::size_t bytes, int protection = PROT_READ | PROT_WRITE);
  ~mapped_memory();
  mapped_memory(const mapped_memory&) = delete;
  mapped_memory& operator=(const mapped_memory&) = delete;
  char* data() const { return data_; }
  std::size_t size() const { return size_; }
  memory_range range(std::size_t page_bytes = 4096) const {
    return {.base = data_, .length_bytes = size_, .page_bytes = page_bytes};
  }

 private:
  char* data_;
  std::size_t size_;
};

/// What a result holds; a refusal fails the test with its text and ends the program.
template <class T>
T must(result<T> r, const char* what = "") {
  if (!r) {
    ADD_FAILURE() << what << " refused: " << name_of(r.error().code) << ": " << r.error().message();
    std::abort();
  }
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

/// The code of a refusal; fails when nothing was refused.
template <class T>
errc refused(const result<T>& r) {
  EXPECT_FALSE(r.has_value());
  if (r) return errc{};
  EXPECT_FALSE(r.error().message().empty());
  return r.error().code;
}

/// Every invariant holds.
void expect_sound(const heap& h);
/// Nobody else is in it, nothing is live in it, and it is sound.
void expect_alone_and_empty(heap& h);

heap heap_with(std::size_t bytes, heap_options options = {}, const char* name = nullptr);

/// Runs body in a child process; the child ends by _exit(body's value), or dies as it chooses.
class child_process {
 public:
  explicit child_process(const std::function<int()>& body);
  ~child_process();
  int wait_for_exit_code();  ///< -signal when killed
  void kill_now(int signal = SIGKILL);
  pid_t id() const { return id_; }

 private:
  pid_t id_;
  bool done_ = false;
};

/// Bytes that depend on where they are and on the seed.
inline void fill_with_pattern(char* p, u64 bytes, u64 seed) {
  for (u64 i = 0; i < bytes; ++i)
    p[i] = static_cast<char>((i * 2654435761u + seed * 977) >> 9);
}

/// An observer that refuses every region.
struct refuser : observer {
  std::function<void()> when_told;
  std::string_view name() const noexcept override { return "refuser"; }
  result<void> on_add(const region_view&) override {
    if (when_told) when_told();
    return std::unexpected(error{errc::invalid_argument, 0, "not this one"});
  }
  result<void> finish_remove(const region_view&, std::chrono::steady_clock::time_point) override {
    return {};
  }
};

/// Words that parent and children share, besides any heap.
template <class T>
T* shared_words() {
  void* p =
      ::mmap(nullptr, sizeof(T) + 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? nullptr : new (p) T{};
}

/// Waits until done() or ten seconds; false: time is up.
bool wait_until(const std::function<bool()>& done);

}  // namespace annex
