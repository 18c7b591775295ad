// shared/arena.cpp - see arena.hpp.
#include "shared/arena.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "platform/files.hpp"

namespace annex {
namespace {

constexpr u64 largest_small_bytes = 2 * KiB;
constexpr u64 page = 4 * KiB;
constexpr u64 small_run_bytes = 64 * KiB;
constexpr u64 grow_bytes = 256 * KiB;

struct free_chunk_link {
  chunk_ref next;
};

// Four sizes per doubling of pages; the class and its size.
struct large_class {
  u32 index;
  u64 bytes;
};
large_class large_class_of(u64 bytes) noexcept {
  const u64 pages = divide_up(bytes, page);
  if (pages <= 4) return {static_cast<u32>(pages - 1), pages * page};
  const u32 exponent = log2_floor(pages - 1);
  const u32 quarter = static_cast<u32>((pages - 1) >> (exponent - 2)) & 3;
  return {4 + (exponent - 2) * 4 + quarter,
          ((u64{1} << exponent) + (u64{1} << (exponent - 2)) * (quarter + 1)) * page};
}

// Cuts from the arena's end. The file only ever grows, whatever its header says of its length.
u64 cut(transaction& t, u64 bytes, backing pages) noexcept {
  const segment& s = t.seg();
  arena_lists& a = s.header().arena;
  const u64 at = __atomic_load_n(&a.top, __ATOMIC_RELAXED), most = s.mapped_bytes();
  if (at < s.geometry().arena_at || at % chunk_unit_bytes != 0) {
    s.mark_damaged("the arena's top lies outside of it");
    return 0;
  }
  if (bytes > most || spare_file_bytes > most - bytes || at > most - bytes - spare_file_bytes)
    return 0;
  const u64 end = at + bytes + spare_file_bytes;
  if (end > a.file_bytes || end > s.file_bytes(end)) {
    const u64 longer =
        std::min(align_up(std::max(end, std::min(a.file_bytes, most) + grow_bytes), page), most);
    if (longer > s.file_bytes() && os::set_length(s.fd(), longer) != 0) return 0;
    t.put(a.file_bytes, longer);
  }
  if (pages == backing::whole && !back_pages(s, at, bytes)) return 0;
  t.put(a.top, at + bytes);
  return at;
}

// The first chunk of a free list, taken off it and not yet zeroed; 0: the list is empty, or leads
// outside.
chunk_ref take_off(transaction& t, chunk_ref& head, u64 bytes) noexcept {
  const segment& s = t.seg();
  const chunk_ref ref = head;
  if (ref == 0) return 0;
  if (!s.has_chunk(ref, bytes)) {
    s.mark_damaged("a list of free metadata leads outside the arena");
    return 0;
  }
  auto* link = s.chunk<free_chunk_link>(ref);
  t.put(head, link->next);
  t.put(link->next, 0);  // the undo puts the link back even after the chunk was cleared
  return ref;
}

}  // namespace

chunk_ref allocate_chunk(transaction& t, u64 bytes, backing pages) noexcept {
  const segment& s = t.seg();
  arena_lists& a = s.header().arena;
  if (bytes <= largest_small_bytes) {
    const u32 units = static_cast<u32>(divide_up(bytes, chunk_unit_bytes));
    chunk_ref& head = a.small_free[units];
    const u64 need = units * chunk_unit_bytes;
    if (head != 0) {
      const chunk_ref ref = take_off(t, head, need);
      if (ref != 0) std::memset(s.chunk<char>(ref), 0, need);
      return ref;
    }
    // Read once: what was checked is what is used.
    u64 at = __atomic_load_n(&a.small_top, __ATOMIC_RELAXED);
    u64 end = __atomic_load_n(&a.small_end, __ATOMIC_RELAXED);
    const bool can_be = at >= s.geometry().arena_at && at <= end && end <= s.mapped_bytes() &&
                        end + spare_file_bytes <= s.file_bytes(end + spare_file_bytes);
    if (end != 0 && !can_be) {
      s.mark_damaged("the run that small chunks are cut from lies outside the arena");
      return 0;
    }
    if (end - at < need) {
      const u64 run = cut(t, small_run_bytes, backing::whole);
      if (run == 0) return 0;
      if (end > at) free_chunk(t, static_cast<chunk_ref>(at / chunk_unit_bytes), end - at);
      t.put(a.small_top, run);
      t.put(a.small_end, run + small_run_bytes);
      at = run;
      end = run + small_run_bytes;
    }
    t.put(a.small_top, at + need);
    std::memset(s.base() + at, 0, need);  // an undone transaction may have written here
    return static_cast<chunk_ref>(at / chunk_unit_bytes);
  }
  if (bytes > s.mapped_bytes()) return 0;
  const large_class size = large_class_of(bytes);
  chunk_ref& head = a.large_free[size.index];
  if (head == 0) return static_cast<chunk_ref>(cut(t, size.bytes, pages) / chunk_unit_bytes);
  const u64 at = u64{head} * chunk_unit_bytes;
  const bool is_short = size.bytes <= small_run_bytes && pages == backing::whole;
  if (is_short && s.has_chunk(head, size.bytes) && !back_pages(s, at, size.bytes)) return 0;
  const chunk_ref ref = take_off(t, head, size.bytes);
  if (ref == 0) return 0;
  if (is_short || os::punch_hole(s.fd(), at, size.bytes) != 0)
    std::memset(s.chunk<char>(ref), 0, size.bytes);
  if (is_short || pages == backing::sparse || back_pages(s, at, size.bytes)) return ref;
  free_chunk(t, ref, bytes);
  return 0;
}

void free_chunk(transaction& t, chunk_ref ref, u64 bytes) noexcept {
  if (ref == 0) return;
  const segment& s = t.seg();
  arena_lists& a = s.header().arena;
  if (!s.has_chunk(ref, bytes))
    return s.mark_damaged("metadata that is given back lies outside the arena");
  chunk_ref& head = bytes <= largest_small_bytes ? a.small_free[divide_up(bytes, chunk_unit_bytes)]
                                                 : a.large_free[large_class_of(bytes).index];
  t.put(s.chunk<free_chunk_link>(ref)->next, head);
  t.put(head, ref);
}

bool lies_in_arena(const segment& s, chunk_ref ref, u64 bytes) noexcept {
  const segment_header& h = s.header();
  const u64 at = u64{ref} * chunk_unit_bytes;
  return ref != 0 && at >= s.geometry().arena_at && bytes <= h.arena.top &&
         at <= h.arena.top - bytes;
}

u64 chunk_bytes(u64 bytes) noexcept {
  return bytes <= largest_small_bytes ? align_up(bytes, chunk_unit_bytes)
                                      : large_class_of(bytes).bytes;
}

u64 large_chunk_bytes(u32 index) noexcept {
  if (index < 4) return (index + 1) * page;
  const u32 exponent = (index - 4) / 4 + 2, quarter = (index - 4) % 4;
  return exponent < 40 ? ((u64{1} << exponent) + (u64{1} << (exponent - 2)) * (quarter + 1)) * page
                       : ~u64{0};
}

void free_space(const segment& s, u64 begin, u64 end) noexcept {
  arena_lists& a = s.header().arena;
  auto file = [&](chunk_ref& head, u64 bytes) {
    s.at<free_chunk_link>(begin)->next = head;
    head = static_cast<chunk_ref>(begin / chunk_unit_bytes);
    begin += bytes;
  };
  while (begin < end) {
    const u64 to_page = begin % page == 0 ? page : page - begin % page;
    // In pieces of a small chunk's size, up to the next page.
    if (begin % page != 0 || end - begin < page) {
      const u64 bytes = std::min({largest_small_bytes, end - begin, to_page});
      file(a.small_free[bytes / chunk_unit_bytes], bytes);
      continue;
    }
    u32 index = static_cast<u32>(std::size(a.large_free));
    while (large_chunk_bytes(index - 1) > end - begin)
      --index;
    file(a.large_free[index - 1], large_chunk_bytes(index - 1));
  }
}

}  // namespace annex
