// tests/under_the_lock_test.cpp - what is asked of the operating system under a heap's lock:
// nothing that is not listed here, each with the reason.
//
// Everybody who needs the lock waits for its holder, so a call that may block there may block a
// machine. This program has the simulated platform (src/platform/simulated), which tells of each
// call; it uses everything, is refused by chance, dies under the lock and is recovered. It sees the
// calls that it makes: a path that it does not go may have another one.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <annex/pool.hpp>

#include "another_member.hpp"
#include "everything.hpp"
#include "platform/simulated/schedule.hpp"
#include "shared/heap_lock.hpp"
#include "support.hpp"

namespace annex {
namespace {

// often: each run of this test must come by it; else a thread has to be in the way just then.
enum class how_often : u8 { often, seldom };
struct allowed {
  std::string_view function;
  how_often often;
  std::string_view why;
};
using enum how_often;
constexpr allowed allowed_under_the_lock[] = {
    {"allocate_range", often, "a page of a table must be there before it is written, or it kills"},
    {"close_file", often, "of the annex directory, which was opened to remove a file there"},
    {"file_size_limit", seldom, "as file_system_of"},
    {"file_system_of", seldom, "a refusal for want of metadata says what the file system has"},
    {"fork_count", often, "a word of this process"},
    {"hold_byte", often,
     "says that we remove a heap's name; refused at once where somebody has it"},
    {"identify", often, "the program may have closed a descriptor: asked before each use"},
    {"identify_in", often, "only the file that the record names is removed"},
    {"is_byte_locked", often, "who lives is asked where nobody else can free the same record"},
    {"is_hole", seldom, "an audit of a huge region reads no page that is not there"},
    {"let_go_of_byte", often, "the byte of hold_byte"},
    {"map_own_pages", seldom,
     "for a view of a region, or a name, as malloc would (which it is for ASan)"},
    {"now_ns", often, "reads a clock"},
    {"open_place", often, "the annex directory, to remove a file of the dead there"},
    {"open_output", seldom, "the first line of the log may be one of write_output's"},
    {"page_bytes", often, "a number"},
    {"path_of", often, "what a region's record calls its file"},
    {"process_barrier", often, "rule C1: caches are held still within one holding"},
    {"process_id", often, "reads a number"},
    {"punch_hole", often, "what is given out again, or was cut and is undone, must be zeros"},
    {"remove_in", often, "a file goes before the record that names it, or nobody ever finds it"},
    {"set_length", often, "the segment grows by what the transaction takes"},
    {"unmap", seldom, "of map_own_pages"},
    {"wake_all", often, "does not wait"},
    {"write_output", often, "a line about the lock or a record; waits for whoever reads a pipe"},
    {"yield", seldom, "rule C1: waits for a thread in the middle of an operation, 20 ms at most"},
};

// Lines that are not for every day are written under it, too.
[[maybe_unused]] const int everything_is_logged =
    ::setenv("ANNEX_LOG", "level:debug;output:/dev/null", 1);

// What all processes of this test have called under a lock, and how often one has since it began to
// count. Forks have the same addresses of names.
struct seen_calls {
  std::atomic<const char*> names[256];
};
seen_calls* seen = nullptr;
std::atomic<unsigned> count_here{0}, dies_at{0};

void note(const char* function) noexcept {
  if (!has_heap_lock()) return;
  for (auto& place : seen->names) {
    const char* there = nullptr;
    if (place.compare_exchange_strong(there, function) || there == function) break;
  }
  if (++count_here == dies_at) ::kill(::getpid(), SIGKILL);
}

class under_the_lock : public in_own_directory {
 protected:
  under_the_lock() {
    seen = static_cast<seen_calls*>(::mmap(nullptr, sizeof(seen_calls), PROT_READ | PROT_WRITE,
                                           MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    os::simulated::tell_of_calls(note);
  }
  ~under_the_lock() override {
    os::simulated::tell_of_calls(nullptr);
    ::munmap(seen, sizeof *seen);
  }
};

// Regions of files that go, more blocks and objects than one slab and one chunk have, and enough
// metadata that the segment grows.
int use_much(const std::string& directory) {
  auto made = heap::create("g", {.metadata_limit_bytes = 64 << 20,
                                 .member_limit = 16,
                                 .thread_limit = 32,
                                 .region_limit = 16,
                                 .zone_limit = 4096});
  if (!made) return 1;
  heap h = std::move(*made);
  const auto brought = h.bring_memory({.length_bytes = 16 << 20});
  const auto from_file = h.bring_memory(
      {.from = memory_source::kind::file, .length_bytes = 1 << 20, .path = directory + "/memory"});
  std::vector<void*> blocks;
  for (std::size_t bytes = 16; bytes < (1 << 20); bytes += bytes / 3)
    for (int i = 0; i < 40; ++i)
      if (void* const block = h.allocate(bytes % 60000)) blocks.push_back(block);
  for (int i = 0; i < 300; ++i)
    (void)h.reserve_zone("zone" + std::to_string(i), {.size_bytes = 64});
  (void)raw_pool::create(h, "objects", {.object_bytes = 8, .object_count = 100000});
  for (void* const block : blocks)
    heap::free(block);
  for (int i = 0; i < 300; ++i)
    (void)h.release_zone("zone" + std::to_string(i));
  (void)raw_pool::release(h, "objects");
  h.trim();
  if (brought) (void)h.drain_memory(*brought, std::chrono::seconds(1));
  if (from_file) (void)h.remove_memory(*from_file);
  h = heap{};
  (void)heap::destroy("g");
  return 0;
}

// One thread's cache is held still while it is used.
void use_by_two() {
  heap h = heap_with(4 << 20);
  std::atomic<bool> is_over{false};
  std::thread other([&] {
    while (!is_over)
      heap::free(h.allocate(64));
  });
  for (int i = 0; i < 200; ++i)
    h.trim();
  for (int i = 0; i < 20; ++i)
    (void)h.audit();
  is_over = true;
  other.join();
}

// The lock is taken over from the dead, its journal undone, what it had is recovered.
void die_under_the_lock(unsigned at) {
  heap h = heap_with(1 << 20, {.on_misuse = misuse_policy::refuse, .ephemeral = true}, "d");
  child_process child([&] {
    count_here = 0;
    dies_at = at;
    const mapped_memory plain(1 << 20);
    {
      auto other = attach_as_another("d");
      if (other) {
        for (int i = 0; i < 100; ++i)
          (void)other->allocate(100);
        (void)other->reserve_zone("zone", {.size_bytes = 1000});
        (void)other->bring_memory({.length_bytes = 1 << 20});
      }
    }
    (void)use_everything(plain);
    return 0;
  });
  (void)child.wait_for_exit_code();
  h.recover();
  for (const member_summary& m : h.members())
    if (!m.alive) (void)h.reap(m.id);
  expect_sound(h);
  h = heap{};
  (void)heap::destroy("d");
  end_everything();
}

TEST_F(under_the_lock, only_what_is_listed_is_asked_of_the_system) {
  const mapped_memory plain(1 << 20);
  EXPECT_EQ(use_everything(plain), 0);
  EXPECT_EQ(use_much(path()), 0);
  use_by_two();
  for (unsigned at = 1; at < 200; at = at + 1 + at / 4)
    die_under_the_lock(at);
  for (unsigned n = 1; n < 800; n += 5)
    child_process([&] {
      os::simulated::follow({.refused_call = n});
      (void)use_everything(plain);
      os::simulated::follow({});
      end_everything();
      return 0;
    }).wait_for_exit_code();
  for (unsigned seed = 1; seed <= 20; ++seed)
    child_process([&] {
      os::simulated::follow({.seed = seed, .refused = 20'000});
      (void)use_much(path());
      os::simulated::follow({});
      (void)heap::destroy("g");
      return 0;
    }).wait_for_exit_code();

  std::vector<std::string_view> names;
  for (const auto& name : seen->names)
    if (const char* const known = name.load()) names.push_back(known);
  for (const std::string_view name : names)
    EXPECT_TRUE(std::any_of(std::begin(allowed_under_the_lock), std::end(allowed_under_the_lock),
                            [&](const allowed& a) { return a.function == name; }))
        << name << " is called under the heap lock: who waits meanwhile? Call it outside, or list "
        << "it with the reason";
  for (const allowed& a : allowed_under_the_lock)
    EXPECT_TRUE(a.often == seldom ||
                std::find(names.begin(), names.end(), a.function) != names.end())
        << a.function << " is called under the lock no more: take it off the list";
}

}  // namespace
}  // namespace annex
