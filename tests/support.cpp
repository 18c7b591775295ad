// tests/support.cpp - see support.hpp.
#include "support.hpp"

#include <chrono>
#include <filesystem>
#include <thread>

namespace annex {

in_own_directory::in_own_directory() {
  char name[] = "/dev/shm/annex-test-XXXXXX";
  path_ = ::mkdtemp(name);
  ::setenv("ANNEX_DIR", path_.c_str(), 1);
}

in_own_directory::~in_own_directory() {
  std::filesystem::remove_all(path_);
}

mapped_memory::mapped_memory(std::size_t bytes, int protection) : size_(bytes) {
  // Aligned to 2 MiB, so that tests of alignment mean the same in every run.
  constexpr std::size_t alignment = 2 << 20;
  char* space = static_cast<char*>(::mmap(nullptr, bytes + alignment, protection,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (space == MAP_FAILED) std::abort();
  data_ = reinterpret_cast<char*>(align_up(reinterpret_cast<u64>(space), alignment));
  if (data_ != space) ::munmap(space, static_cast<std::size_t>(data_ - space));
  ::munmap(data_ + align_up(bytes, 4096),
           static_cast<std::size_t>(space + bytes + alignment - (data_ + align_up(bytes, 4096))));
}

mapped_memory::~mapped_memory() {
  ::munmap(data_, size_);
}

void expect_sound(const heap& h) {
  const auto report = h.audit();
  ASSERT_TRUE(report) << report.error().message();
  for (const std::string& sentence : report->broken)
    ADD_FAILURE() << sentence;
}

void expect_alone_and_empty(heap& h) {
  EXPECT_EQ(h.members().size(), 1u);
  h.trim();
  EXPECT_EQ(h.stats().live_blocks, 0u);
  expect_sound(h);
}

heap heap_with(std::size_t bytes, heap_options options, const char* name) {
  options.metadata_limit_bytes = std::size_t{4} << 30;
  heap h =
      must(name != nullptr ? heap::create(name, options) : heap::create_private(options), "create");
  if (bytes != 0) must(h.bring_memory({.length_bytes = bytes}), "bring");
  return h;
}

child_process::child_process(const std::function<int()>& body) : id_(::fork()) {
  if (id_ == 0) ::_exit(body());
}

child_process::~child_process() {
  if (!done_) {
    ::kill(id_, SIGKILL);
    ::waitpid(id_, nullptr, 0);
  }
}

int child_process::wait_for_exit_code() {
  int status = 0;
  ::waitpid(id_, &status, 0);
  done_ = true;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

void child_process::kill_now(int signal) {
  ::kill(id_, signal);
}

bool wait_until(const std::function<bool()>& done) {
  // A busy machine under a sanitizer included.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!done()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

}  // namespace annex
