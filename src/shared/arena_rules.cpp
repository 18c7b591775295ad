// shared/arena_rules.cpp - see arena_rules.hpp.
#include "shared/arena_rules.hpp"

#include <algorithm>

#include "platform/files.hpp"
#include "platform/memory.hpp"

namespace annex::detail {
namespace {

// Each step of a list is compared with the arena before it is followed.
void check_free_list(inspection& in, chunk_ref head, u64 bytes) {
  const u64 most = in.h.arena.top / chunk_unit_bytes;
  u64 steps = 0;
  for (chunk_ref ref = head; ref != 0; ref = *in.s.chunk<chunk_ref>(ref))
    if (!in.take(ref, bytes, "free chunk") || ++steps > most)
      return in.broken("A1: the list of free chunks of {} bytes does not end", bytes);
}

void check_small_run(inspection& in) {
  const arena_lists& a = in.h.arena;
  if (a.small_top > a.small_end || a.small_end > a.top || a.small_top % chunk_unit_bytes != 0 ||
      (a.small_end != 0 && a.small_top < in.s.geometry().arena_at) || a.top % chunk_unit_bytes != 0)
    in.broken("A1: the run for small chunks [{}, {}) is not below the top {}", a.small_top,
              a.small_end, a.top);
  else if (a.small_end > a.small_top)
    in.taken.push_back({a.small_top, a.small_end, "unused run"});
}

}  // namespace

void check_arena(inspection& in) {
  const arena_lists& a = in.h.arena;
  check_small_run(in);
  for (u32 units = 1; units < std::size(a.small_free); ++units)
    check_free_list(in, a.small_free[units], units * chunk_unit_bytes);
  for (u32 i = 0; i < std::size(a.large_free); ++i)
    check_free_list(in, a.large_free[i], large_chunk_bytes(i));
  if (a.small_free[0] != 0) in.broken("A1: there is a list of empty chunks");
}

void check_tiling(inspection& in) {
  auto& taken = in.taken;
  std::sort(taken.begin(), taken.end(), [](const inspection::piece& a, const inspection::piece& b) {
    return a.begin < b.begin;
  });
  for (size_t i = 1; i < taken.size(); ++i)
    if (taken[i].begin < taken[i - 1].end)
      return in.broken("A1: bytes {} to {} belong to a {} and to a {}", taken[i].begin,
                       taken[i - 1].end, taken[i - 1].what, taken[i].what);
  // What a broken table leads to was not looked at.
  if (!in.locked || !in.holds()) return;
  u64 end = in.s.geometry().arena_at;
  for (const inspection::piece& p : taken) {
    if (p.begin != end)
      return in.broken("A2: bytes {} to {} of the metadata belong to nobody", end, p.begin);
    end = p.end;
  }
  if (end != in.h.arena.top)
    in.broken("A2: bytes {} to {} of the metadata belong to nobody", end, in.h.arena.top);
}

// When something lies behind the arena's top, it is the top that is wrong, as far as the file goes.
void find_arena_top(rebuilding& rb) {
  arena_lists& a = rb.h.arena;
  const u64 there = std::max(std::min(a.file_bytes, rb.s.file_bytes()), spare_file_bytes);
  const u64 end = align_down(there - spare_file_bytes, chunk_unit_bytes);
  const bool is_too_low =
      std::any_of(rb.found.begin(), rb.found.end(),
                  [](const std::string& sentence) { return sentence.starts_with("A1"); });
  if (is_too_low && end > a.top) rb.fix(a.top, end, "the end of the metadata");
  if (a.top % chunk_unit_bytes != 0)
    rb.fix(a.top, align_up(a.top, chunk_unit_bytes), "the end of the metadata");
}

// What nobody has is free.
void rebuild_arena(rebuilding& rb) {
  if (rb.arena_holds(rb.s)) return;
  arena_lists& a = rb.h.arena;
  rb.say("the lists of free metadata were built anew");
  std::fill(std::begin(a.small_free), std::end(a.small_free), 0);
  std::fill(std::begin(a.large_free), std::end(a.large_free), 0);
  a.small_top = a.small_end = 0;
  u64 at = rb.s.geometry().arena_at;
  for (const auto& [begin, end] : rb.taken) {
    if (begin > at) free_space(rb.s, at, begin);
    at = std::max(at, end);
  }
  if (at < a.top) free_space(rb.s, at, a.top);
}

void lengthen_behind_the_arena(const segment& s) {
  const u64 top = s.header().arena.top, there = s.file_bytes();
  if (top > there || top < s.geometry().arena_at || top + spare_file_bytes > s.mapped_bytes())
    return;
  const u64 end = align_up(top + spare_file_bytes, os::page_bytes());
  // A file that may not be longer (a full file size limit) stays as it is: chunks at its end are
  // refused then.
  if (end > there) (void)os::set_length(s.fd(), end);
}

}  // namespace annex::detail
