// tests/everything.cpp - see everything.hpp.
#include "everything.hpp"

#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "another_member.hpp"

namespace annex {
namespace {

struct watchful : observer {
  std::string_view name() const noexcept override { return "watchful"; }
  result<void> on_add(const region_view&) override { return {}; }
  result<void> finish_remove(const region_view&, std::chrono::steady_clock::time_point) override {
    return {};
  }
};

// A sentence one can act on: without holes, with what the system said or the limit that is reached,
// and with what mends it where that is known.
void expect_sentence(std::string_view text, int os_errno,
                     std::size_t longest = sizeof(error::text) - 2) {
  const std::string said(text);
  for (const char* const hole : {" :", "::", " ;", ";;", " ,", "  ", "\"\"", "()", "(null)",
                                 "Success", "rror 0", "of ;", "{", "}"})
    EXPECT_EQ(said.find(hole), said.npos) << "\"" << hole << "\" in: " << said;
  EXPECT_GE(said.size(), 20u) << said;
  EXPECT_LE(said.size(), longest) << "cut off: " << said;
  if (said.empty()) return;
  EXPECT_EQ(std::string(" :;,").find(said.back()), std::string::npos) << "it breaks off: " << said;
  const bool has_meaning = os_errno != 0 && said.find(std::strerror(os_errno)) != said.npos;
  const bool has_figure = said.find_first_of("0123456789") != said.npos;
  EXPECT_TRUE(has_meaning || has_figure)
      << "neither what the system said (" << std::strerror(os_errno) << ") nor a limit: " << said;
  auto has_one_of = [&](std::initializer_list<const char*> words) {
    for (const char* const word : words)
      if (said.find(word) != said.npos) return true;
    return false;
  };
  EXPECT_TRUE(os_errno != EMFILE || has_one_of({"ulimit -n"})) << said;
  EXPECT_TRUE(os_errno != EFBIG || has_one_of({"ulimit -f", "choose another place"})) << said;
  EXPECT_TRUE(os_errno != ENOSPC || has_one_of({"enlarge", "free some", "choose another place"}))
      << said;
  EXPECT_TRUE(os_errno != ENOMEM || has_one_of({"free memory", "less", "ulimit"})) << said;
  EXPECT_TRUE((os_errno != EPERM && os_errno != EACCES) ||
              has_one_of({"permission", "privilege", "CAP_"}))
      << said;
}

// A heap named "f" and what it counts as refused: each refusal has to say why.
class user {
 public:
  int use(const mapped_memory& plain, std::chrono::milliseconds patience) {
    auto made = heap::create("f", {.metadata_limit_bytes = 256 << 20,
                                   .member_limit = 16,
                                   .thread_limit = 32,
                                   .region_limit = 16,
                                   .zone_limit = 16});
    if (!check(made)) return refusals_;
    heap h = std::move(*made);
    const auto brought = h.bring_memory({.length_bytes = 2 << 20});
    check(brought);
    const auto added = h.add_memory(plain.range());
    check(added);
    const std::vector<void*> blocks = allocate_some(h);
    heap other = attach_another();
    use_names(h);
    look_at(h);
    for (void* block : blocks)
      heap::free(block);
    h.trim();
    (void)raw_pool::release(h, "pool");
    (void)ring::release(h, "ring");
    (void)h.release_zone("zone");
    if (brought) check(h.drain_memory(*brought, patience));
    if (added) check(h.remove_memory(*added));
    h = heap{};
    other = heap{};
    check(heap::destroy("f"));
    return refusals_;
  }

 private:
  template <class T>
  bool check(const result<T>& r) {
    if (r) return true;
    ++refusals_;
    expect_sentence(r.error().message(), r.error().os_errno);
    EXPECT_FALSE(name_of(r.error().code).empty());
    return false;
  }

  std::vector<void*> allocate_some(heap& h) {
    std::vector<void*> blocks;
    for (const std::size_t bytes : {64u, 64u, 5000u, 200000u, 30000u})
      if (void* block = h.allocate(bytes)) {
        blocks.push_back(block);
      } else {
        ++refusals_;
        expect_sentence(heap::last_failure().message(), 0, sizeof(explanation::text) - 2);
      }
    return blocks;
  }

  heap attach_another() {
    auto attached = attach_as_another("f");
    if (!check(attached)) return {};
    if (void* block = attached->allocate(3000))
      heap::free(block);
    else
      ++refusals_;
    return std::move(*attached);
  }

  void use_names(heap& h) {
    check(h.reserve_zone("zone", {.size_bytes = 1000}));
    if (auto p = raw_pool::create(h, "pool", {.object_bytes = 64, .object_count = 20}); check(p)) {
      if (void* object = p->take())
        p->give(object);
      else
        ++refusals_;
    }
    if (auto r = ring::create(h, "ring", 8); check(r)) {
      r->put(handle{5});
      (void)r->take();
    }
  }

  void look_at(heap& h) {
    {
      watchful who;
      const auto seen = h.observe(who);
      check(seen);
    }
    check(h.audit());
    (void)h.stats();
    (void)h.members();
    (void)heap::list();
  }

  int refusals_ = 0;
};

}  // namespace

int use_everything(const mapped_memory& plain, std::chrono::milliseconds patience) {
  return user().use(plain, patience);
}

void end_everything() {
  auto left = attach_as_another("f");
  if (!left) return;
  for (const member_summary& m : left->members())
    if (!m.alive) (void)left->reap(m.id);
  (void)raw_pool::release(*left, "pool");
  (void)ring::release(*left, "ring");
  (void)left->release_zone("zone");
  expect_sound(*left);
  left->trim();
  EXPECT_EQ(left->stats().live_blocks, 0u);
  *left = heap{};
  must(heap::destroy("f"), "destroy");
}

int open_descriptors() {
  int n = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    n += !entry.path().empty();
  return n;
}

int mappings_of(const std::string& directory) {
  std::ifstream maps("/proc/self/maps");
  int n = 0;
  for (std::string line; std::getline(maps, line);)
    n += line.find(directory) != line.npos;
  return n;
}

}  // namespace annex
