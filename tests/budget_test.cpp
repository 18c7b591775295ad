// tests/budget_test.cpp - the machine instructions of the fast paths, counted one by one, against
// instruction_budget.txt.
//
// A traced child executes each path between two SIGTRAPs of its own; the parent counts the steps in
// between. What the two traps and the call itself take is counted the same way and subtracted. A
// path that has become longer fails; one that has become shorter asks for a smaller budget, so that
// the file says what is true.
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>

#include <annex/pool.hpp>

#include "support.hpp"

namespace annex {
namespace {

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ == 12 && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

using budget = in_own_directory;
using route = std::function<void()>;

void trap() {
  ::raise(SIGTRAP);
}

// Steps between two traps in a child that has made the path and gone it twice.
u64 steps_of(const std::function<route()>& make) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    const route way = make();
    way();
    way();
    trap();
    way();
    trap();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
  u64 steps = 0;
  for (siginfo_t why{}; why.si_code != SI_TKILL; ++steps) {  // until the next trap
    ::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr);
    ::waitpid(child, &status, 0);
    if (!WIFSTOPPED(status)) break;
    ::ptrace(PTRACE_GETSIGINFO, child, nullptr, &why);
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  return steps;
}

std::map<std::string, u64> budgets() {
  std::map<std::string, u64> all;
  std::ifstream file(ANNEX_SOURCE_DIR "/tests/instruction_budget.txt");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    if (words >> name && name[0] != '#') words >> all[name];
  }
  return all;
}

heap& heap_of_the_child() {
  static heap only = [] {
    heap made = must(heap::create_private());
    must(made.bring_memory({.from = memory_source::kind::anonymous, .length_bytes = 64 << 20}));
    return made;
  }();
  return only;
}

route pair_of(std::size_t bytes) {
  return [&h = heap_of_the_child(), bytes] { heap::free(h.allocate(bytes)); };
}
route allocation() {
  heap& h = heap_of_the_child();
  std::vector<void*> warm(8);
  for (void*& block : warm)
    block = h.allocate(64);
  for (void* block : warm)
    heap::free(block);
  return [&h] { (void)h.allocate(64); };
}
route look_up() {
  return [block = heap_of_the_child().allocate(64)] { (void)heap::locate(block); };
}
route pool_bulk() {
  static raw_pool pool =
      must(raw_pool::create(heap_of_the_child(), "p", {.object_bytes = 64, .object_count = 1000}));
  return [] {
    void* objects[32];
    pool.take_bulk(objects);
    pool.give_bulk(objects);
  };
}

TEST_F(budget, of_the_fast_paths_is_kept) {
  const u64 empty = steps_of([]() -> route { return [] {}; });
  const std::map<std::string, u64> all = budgets();
  const std::pair<const char*, std::function<route()>> ways[] = {
      {"allocate_64", allocation},
      {"pair_64", [] { return pair_of(64); }},
      {"pair_4096", [] { return pair_of(4096); }},
      {"locate", look_up},
      {"pool_take_and_give_32", pool_bulk}};
  for (const auto& [name, make] : ways) {
    const u64 found = steps_of(make) - empty;
    const auto allowed = all.find(name);
    ASSERT_NE(allowed, all.end()) << name << " " << found
                                  << ": add it to tests/instruction_budget.txt";
    EXPECT_EQ(found, allowed->second)
        << name
        << (found > allowed->second
                ? ": it has become longer; if that is worth it, say why in the commit"
                : ": it has become shorter; lower the budget");
  }
}

#endif

}  // namespace
}  // namespace annex
