// region/address_index.cpp - see address_index.hpp.
#include "region/address_index.hpp"

#include <deque>
#include <map>
#include <mutex>
#include <new>

#include "base/never_destroyed.hpp"
#include "platform/own_memory.hpp"
#include "platform/waiting.hpp"

namespace annex::address_index {

constinit std::array<shared_word<u64>, u64{1} << (address_bits - root_shift)> root{};

namespace {

struct reservation {
  u64 end;
  local_region* region;
};

// A thread may look at a view that was given back meanwhile, for as long as it was stopped. So it
// lies still for a while, and is then most probably nobody's.
struct unused_region {
  local_region* region;
  u64 since_ns;
};
constexpr u64 rest_of_a_region_ns = 60'000'000'000;

struct index_state {
  std::mutex mutex;
  own_memory memory{own_pages()};
  std::pmr::map<u64, reservation> ranges{&memory};  // by base
  // The one that was given back first is used first.
  std::pmr::deque<unused_region> unused{&memory};
};

// Threads may still free blocks while the program ends.
index_state& state() noexcept {
  return never_destroyed<index_state>();
}

// In the index's own memory. Under the mutex.
template <class T>
T* make() {
  return std::pmr::polymorphic_allocator<>(&state().memory).new_object<T>();
}

// Stores value over [begin, end) in a level whose entries span 2^shift bytes; the level begins at
// level_base.
void fill_level(shared_word<u64>* entries, u32 shift, u64 level_base, u64 begin, u64 end,
                u64 value) {
  const u64 span = u64{1} << shift;
  for (u64 at = align_down(begin, span); at < end; at += span) {
    shared_word<u64>& entry = entries[(at - level_base) >> shift];
    if (at >= begin && at + span <= end &&
        (entry.load(std::memory_order_relaxed) & is_table) == 0) {
      // sync(index): the region's fields are seen by whoever finds it.
      entry.store(value, std::memory_order_release);
      continue;
    }
    u64 word = entry.load(std::memory_order_relaxed);
    if ((word & is_table) == 0) {
      // The entry was empty or not entirely ours: ranges never share a page.
      table* made = make<table>();
      word = reinterpret_cast<u64>(made) | is_table;
      // sync(index): whoever finds the table finds it empty.
      entry.store(word, std::memory_order_release);
    }
    const u64 from = at > begin ? at : begin, to = at + span < end ? at + span : end;
    fill_level(table_in(word)->entries.data(), shift - 9, at, from, to, value);
  }
}

void fill(u64 begin, u64 end, u64 value) {
  if (end > u64{1} << address_bits) return;  // found through the ordered map
  fill_level(root.data(), root_shift, 0, begin, end, value);
}

}  // namespace

local_region* find_far(const void* address) noexcept {
  const u64 at = reinterpret_cast<u64>(address);
  index_state& s = state();
  std::lock_guard guard(s.mutex);
  auto after = s.ranges.upper_bound(at);
  if (after == s.ranges.begin()) return nullptr;
  const reservation& r = std::prev(after)->second;
  return at < r.end ? r.region : nullptr;
}

result<void> reserve(const void* base, u64 length_bytes) {
  const u64 begin = reinterpret_cast<u64>(base);
  u64 end = 0;
  if (add_overflows(begin, length_bytes, &end))
    return refuse(errc::bad_length, "{} bytes from {} pass the end of the address space",
                  length_bytes, base);
  index_state& s = state();
  std::lock_guard guard(s.mutex);
  auto next = s.ranges.upper_bound(begin);
  auto clash = s.ranges.end();
  if (next != s.ranges.end() && next->first < end) clash = next;
  if (next != s.ranges.begin() && std::prev(next)->second.end > begin) clash = std::prev(next);
  if (clash != s.ranges.end())
    return refuse(errc::region_overlap,
                  "[{:#x}, {:#x}) overlaps [{:#x}, {:#x}), which is a region of a heap in this "
                  "process; remove or detach that one first",
                  begin, end, clash->first, clash->second.end);
  s.ranges.emplace(begin, reservation{end, nullptr});
  return {};
}

void enter(local_region* region) noexcept {
  index_state& s = state();
  std::lock_guard guard(s.mutex);
  const u64 begin = reinterpret_cast<u64>(region->base);
  s.ranges.at(begin).region = region;
  fill(begin, begin + region->length_bytes, reinterpret_cast<u64>(region));
}

void leave(const void* base) noexcept {
  index_state& s = state();
  std::lock_guard guard(s.mutex);
  auto found = s.ranges.find(reinterpret_cast<u64>(base));
  if (found == s.ranges.end()) return;
  if (found->second.region != nullptr) fill(found->first, found->second.end, 0);
  s.ranges.erase(found);
}

void before_fork() noexcept {
  state().mutex.lock();
}
void after_fork() noexcept {
  state().mutex.unlock();
}

local_region* make_region() {
  index_state& s = state();
  std::lock_guard guard(s.mutex);
  if (s.unused.empty() || os::now_ns() - s.unused.front().since_ns < rest_of_a_region_ns)
    return make<local_region>();
  local_region* region = s.unused.front().region;
  s.unused.pop_front();
  region->~local_region();
  return new (region) local_region;
}

void discard_region(local_region* region) noexcept {
  index_state& s = state();
  std::lock_guard guard(s.mutex);
  region->length_bytes = 0;
  s.unused.push_back({region, os::now_ns()});
}

}  // namespace annex::address_index
