// heap/explain.cpp - why an allocation failed: the cause, the figures, who has the memory, and what
// to do.
//
// Kept per thread; written only when an allocation fails, so its cost is the failure's.
#include <algorithm>
#include <cstring>

#include "heap/requests.hpp"
#include "region/room.hpp"

namespace annex::detail {
namespace {

constexpr u64 shortage_bytes = 4 * KiB;  // of metadata: what an extent or a slab needs at least

thread_local explanation last;

// What the regions have for a request.
struct outlook {
  u64 longest_run_bytes = 0;  // of IOVAs
  u32 unreachable = 0;        // regions that are not attached here
  bool any_iova = false, any_attached = false, any_touchable = false, any_in_phase = false;
};

// What stands in the way, most specific first.
explanation::cause find_cause(const placement& p, const heap_stats& s, const outlook& regions) {
  using cause = explanation::cause;
  if (s.region_count == 0) return cause::no_region;
  if (!regions.any_attached) return cause::not_attached;
  if (p.zeroed && !regions.any_touchable) return cause::no_cpu_access;
  if (p.iova_contiguous && !regions.any_iova) return cause::no_addresses;
  if (p.iova_contiguous && regions.longest_run_bytes < p.size_bytes) return cause::contiguity;
  if (p.iova_contiguous && !regions.any_in_phase) return cause::alignment;
  if (s.largest_free_bytes < p.size_bytes) return cause::no_fit;
  if (p.iova_contiguous && p.boundary_bytes == 0) return cause::contiguity;
  if (p.boundary_bytes != 0) return cause::boundary;
  if (p.align_bytes > limits::smallest_page_bytes) return cause::alignment;
  return cause::no_fit;
}

// A run of IOVAs long enough, in which addresses and IOVAs are multiples of the alignment at once.
// Looked for among the first of many: beyond them it counts as there.
bool has_run_in_phase(const local_region& view, const placement& p) noexcept {
  constexpr u32 most_runs = 65536;
  const iova_map& map = view.iovas;
  if (map.run_count > most_runs) return true;
  for (u32 run = 0; run < map.run_count; ++run) {
    const iova_run& r = map.runs[run];
    const u64 first = reinterpret_cast<u64>(view.base) + r.offset;
    if (map.end_of(run) - r.offset >= p.size_bytes &&
        ((first ^ r.address) & (p.align_bytes - 1)) == 0)
      return true;
  }
  return false;
}

// in_phase: whether to look for a run in phase too, which takes longest.
outlook look_at_regions(const segment& s, region_views& views, const placement& p, bool in_phase) {
  outlook seen;
  for (const u32 slot : used_region_slots(s)) {
    const region_record& r = views.record(slot);
    if (r.state.load(std::memory_order_relaxed) != region_active) continue;
    seen.longest_run_bytes = std::max(seen.longest_run_bytes, r.longest_run_bytes);
    seen.any_iova |= r.iova_run_count != 0;
    const bool here = views.at(slot).base != nullptr;
    seen.any_attached |= here;
    seen.unreachable += !here;
    seen.any_in_phase |= here && in_phase && has_run_in_phase(views.at(slot), p);
    seen.any_touchable |= here && static_cast<touch>(r.access) == touch::read_write;
  }
  return seen;
}

// Room enough, and nothing against it: then it is the tables that could not be had, where one can
// see that. Empty: they are not short.
std::string find_shortage(const segment& s, region_views& views, const placement& p,
                          explanation::cause why, u64 largest_free_bytes) {
  const bool has_room = why == explanation::cause::no_fit && largest_free_bytes >= p.size_bytes;
  std::string shortage;
  if (why == explanation::cause::limit || has_room) shortage = metadata_shortage(s, shortage_bytes);
  if (!has_room) return shortage;
  for (const u32 slot : used_region_slots(s))
    if (shortage.empty()) shortage = place_shortage(views.at(slot), p.size_bytes);
  return shortage;
}

// Who holds most, by slab and extent; nobody is stopped for it.
void find_holders(caretaker& care, const segment& s) {
  care.for_each_map_piece([&](const map_piece& piece) {
    if (piece.live_bytes == 0 || piece.use == map_use::free || piece.use == map_use::zone) return;
    auto* place = std::find_if(std::begin(last.top), std::end(last.top), [&](const auto& h) {
      return h.who == piece.holder || h.bytes == 0;
    });
    if (place == std::end(last.top)) return;
    place->who = piece.holder;
    place->bytes += piece.live_bytes;
  });
  for (auto& h : last.top)
    if (const u32 id = static_cast<u32>(h.who); id != 0 && id <= s.member_limit())
      h.process_id = static_cast<int>(s.member(id).process_id);
  std::sort(std::begin(last.top), std::end(last.top),
            [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
}

// ---- the sentences ------------------------------------------------------------------------------

template <class... Args>
void write(fmt::format_string<Args...> format, Args&&... args) {
  write_sentence(last.text, format, std::forward<Args>(args)...);
}

// The heap can't be used here at all, or not so.
void say_state_of_heap(explanation::cause why, const placement& p, u32 unreachable) {
  using cause = explanation::cause;
  switch (why) {
    case cause::no_region:
      write("{} bytes: the heap has no memory; add a region", p.size_bytes);
      break;
    case cause::not_attached:
      write(
          "{} bytes: none of the heap's {} regions can be attached here; map them and call "
          "attach_memory()",
          p.size_bytes, unreachable);
      break;
    case cause::read_only:
      write("{} bytes: the heap is attached read-only; attach it writable", p.size_bytes);
      break;
    case cause::damaged:
      write(
          "{} bytes: the heap is damaged, words in its segment can't be; close it everywhere, then "
          "`annex check --repair`",
          p.size_bytes);
      break;
    case cause::forked_away:
      write("{} bytes: a private heap can't be used in a forked child; use a named heap",
            p.size_bytes);
      break;
    default: break;
  }
}

void say_limit(const placement& p, const segment& s, bool is_mender, std::string_view shortage) {
  if (is_mender)
    write(
        "{} bytes: every member record is taken, some by dead members; this process came in by "
        "the one kept for mending, which can't hold blocks: reap the dead, then attach again",
        p.size_bytes);
  else if (!shortage.empty())
    write("{} bytes: nothing is left for it or for its metadata: {}", p.size_bytes, shortage);
  else
    write(
        "{} bytes: no thread slot or metadata left (limits: {} threads, {} bytes of metadata); "
        "end idle threads or create the heap with higher limits",
        p.size_bytes, s.thread_limit() - kept_for_mending, s.mapped_bytes());
}

// No hole has addresses or IOVAs as they are asked for.
void say_addresses(explanation::cause why, const placement& p, u64 longest_run) {
  using cause = explanation::cause;
  const u64 largest_hole = last.largest_free_bytes;
  if (why == cause::no_addresses)
    write(
        "{} IOVA-contiguous bytes: no region of the heap has IOVAs; add memory with an IOVA "
        "table",
        p.size_bytes);
  else if (why == cause::contiguity)
    write(
        "{} IOVA-contiguous bytes aligned to {}: the longest run of IOVAs has {} bytes, the "
        "largest hole {}; add memory with longer runs (hugepages), or ask for less",
        p.size_bytes, p.align_bytes, longest_run, largest_hole);
  else if (why == cause::boundary)
    write(
        "{} bytes within {}: the largest of {} holes has {} bytes, none fits without crossing; "
        "ask for a larger boundary or add memory",
        p.size_bytes, p.boundary_bytes, last.hole_count, largest_hole);
  else if (p.iova_contiguous)
    write(
        "{} IOVA-contiguous bytes with an alignment of {}: in no run that is long enough (the "
        "longest has {} bytes) are address and IOVA multiples of it at once; ask for less "
        "alignment, or add memory whose IOVAs and addresses differ by a multiple of it",
        p.size_bytes, p.align_bytes, longest_run);
  else
    write(
        "{} bytes aligned to {}: the largest of {} holes has {} bytes, none at such an "
        "address; ask for less alignment or add memory",
        p.size_bytes, p.align_bytes, last.hole_count, largest_hole);
}

void say_no_fit(const placement& p, u64 total_bytes) {
  const auto& most = last.top[0];
  if (most.bytes == 0)
    write(
        "{} bytes: the largest of {} holes has {} bytes; {} of {} bytes are free, {} cached, "
        "the rest is in zones; release some or add memory",
        p.size_bytes, last.hole_count, last.largest_free_bytes, last.free_bytes, total_bytes,
        last.cached_bytes);
  else
    write(
        "{} bytes: the largest of {} holes has {} bytes; {} of {} bytes are free, {} cached; "
        "most is held by member {} (process {}): {} bytes; free some or add memory",
        p.size_bytes, last.hole_count, last.largest_free_bytes, last.free_bytes, total_bytes,
        last.cached_bytes, static_cast<u32>(most.who), most.process_id, most.bytes);
}

}  // namespace

explanation requests::last_failure() noexcept {
  return last;
}

void* requests::explain_one_region(const placement& p, std::string_view sentence) noexcept {
  last = {};
  last.requested_bytes = p.size_bytes;
  last.why = explanation::cause::one_region;
  write_sentence(last.text, "{} bytes: {}", p.size_bytes, sentence);
  return nullptr;
}

void* requests::explain(explanation::cause why, const placement& p) noexcept {
  using cause = explanation::cause;
  last = {};
  last.requested_bytes = p.size_bytes;
  const heap_stats s = care_.stats();
  last.free_bytes = s.free_bytes;
  last.largest_free_bytes = s.largest_free_bytes;
  last.hole_count = s.hole_count;
  last.cached_bytes = s.cached_bytes;
  const bool in_phase = p.iova_contiguous && why == cause::no_fit;
  const outlook regions = look_at_regions(segment_, views_, p, in_phase);
  if (why == cause::no_fit) why = find_cause(p, s, regions);
  const std::string shortage = find_shortage(segment_, views_, p, why, s.largest_free_bytes);
  if (!shortage.empty()) why = cause::limit;
  last.why = why;
  find_holders(care_, segment_);

  switch (why) {
    case cause::none: break;
    case cause::no_region:
    case cause::not_attached:
    case cause::read_only:
    case cause::damaged:
    case cause::forked_away: say_state_of_heap(why, p, regions.unreachable); break;
    case cause::limit: say_limit(p, segment_, is_mender(), shortage); break;
    case cause::bad_request:
      write(
          "{} bytes aligned to {} within {}: sizes must not be 0 or above 16 TiB, alignment and "
          "boundary powers of two, the boundary at least the size",
          p.size_bytes, p.align_bytes, p.boundary_bytes);
      break;
    case cause::no_cpu_access:
      write(
          "{} bytes: the bytes would have to be touched, but the memory allows no CPU access; "
          "don't ask for zeroing, or copy by its device",
          p.size_bytes);
      break;
    case cause::no_addresses:
    case cause::contiguity:
    case cause::alignment:
    case cause::boundary: say_addresses(why, p, regions.longest_run_bytes); break;
    default: say_no_fit(p, s.total_bytes);
  }
  return nullptr;
}

}  // namespace annex::detail
