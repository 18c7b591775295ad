// heap/explain.cpp - why an allocation failed: the cause, the figures, who has the memory, and what
// to do.
//
// Kept per thread; written only when an allocation fails, so its cost is the failure's.
#include <algorithm>
#include <cstring>

#include "cache/cache_rules.hpp"
#include "heap/requests.hpp"
#include "region/room.hpp"

namespace annex::detail {
namespace {

constexpr u64 shortage_bytes = 4 * KiB;  // of metadata: what an extent or a slab needs at least

thread_local explanation last;

// What the regions have for a request.
struct outlook {
  u64 longest_run_bytes = 0;  // of IOVAs
  u64 lowest_iova = ~u64{0};
  u32 unreachable = 0;  // regions that are not attached here
  bool any_iova = false, any_attached = false, any_touchable = false, any_in_phase = false;
};

// What stands in the way, most specific first.
explanation::cause find_cause(const placement& p, const heap_stats& s, const outlook& regions) {
  using cause = explanation::cause;
  if (s.region_count == 0) return cause::no_region;
  if (!regions.any_attached) return cause::not_attached;
  if (p.zeroed && !regions.any_touchable) return cause::no_cpu_access;
  if (p.iova_contiguous && !regions.any_iova) return cause::no_addresses;
  if (p.iova_contiguous && regions.lowest_iova > static_cast<u64>(p.highest_iova))
    return cause::no_addresses;
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
  const u64 align =
      p.iova_align_bytes != 0 ? std::min(p.iova_align_bytes, p.align_bytes) : p.align_bytes;
  if (map.run_count > most_runs) return true;
  for (u32 run = 0; run < map.run_count; ++run) {
    const iova_run& r = map.runs[run];
    const u64 first = reinterpret_cast<u64>(view.base) + r.offset;
    if (map.end_of(run) - r.offset >= p.size_bytes && ((first ^ r.address) & (align - 1)) == 0)
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
    if (r.iova_run_count != 0) seen.lowest_iova = std::min(seen.lowest_iova, r.lowest_iova);
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
std::string_view find_shortage(std::span<char> into, const segment& s, region_views& views,
                               const placement& p, explanation::cause why,
                               u64 largest_free_bytes) noexcept {
  const bool has_room = why == explanation::cause::no_fit && largest_free_bytes >= p.size_bytes;
  std::string_view shortage;
  if (why == explanation::cause::limit || has_room)
    shortage = metadata_shortage(into, s, shortage_bytes);
  if (!has_room) return shortage;
  for (const u32 slot : used_region_slots(s))
    if (shortage.empty()) shortage = place_shortage(into, views.at(slot), p.size_bytes);
  return shortage;
}

// What members hold. There is room for those that hold most of what is seen: whoever comes when it
// is full takes the place of the one with least.
class holder_sums {
 public:
  void add(u32 member, u64 bytes) noexcept {
    entry* least = entries_;
    for (entry& e : entries_) {
      if (e.member == member || e.bytes == 0) {
        e.member = member;
        e.bytes += bytes;
        return;
      }
      if (e.bytes < least->bytes) least = &e;
    }
    *least = {member, bytes};
  }
  void take_off(u32 member, u64 bytes) noexcept {
    for (entry& e : entries_)
      if (e.member == member) e.bytes -= std::min(e.bytes, bytes);
  }
  void sort() noexcept {
    std::sort(std::begin(entries_), std::end(entries_),
              [](const entry& a, const entry& b) { return a.bytes > b.bytes; });
  }
  struct entry {
    u32 member = 0;
    u64 bytes = 0;
  };
  const entry& operator[](std::size_t i) const noexcept { return entries_[i]; }

 private:
  entry entries_[64];
};

// Who holds most, by slab and extent, without what their caches keep; nobody is stopped for it.
void find_holders(const segment& s, region_views& views) noexcept {
  holder_sums sums;
  for_each_region_in_use(s, views, [&](const local_region& region) {
    walk_extents(region, [&](u32 granule, u32, u8 kind) {
      if (kind == granule_large)
        sums.add(region.extents[granule].holder, bytes_at(region, granule));
      slab_record* const slab = is_slab(kind) ? slab_of(s, region, granule) : nullptr;
      if (slab != nullptr)
        sums.add(slab->member, u64{live_blocks(slab)} * class_bytes[slab->size_class]);
    });
  });
  for_each_cache(s, [&](u32 member, const thread_cache& c) {
    for (u32 k = 1; k < class_count; ++k)
      sums.take_off(member, u64{kept_in(c, k)} * class_bytes[k]);
  });
  sums.sort();
  for (std::size_t i = 0; i < std::size(last.top) && sums[i].bytes != 0; ++i) {
    const u32 id = sums[i].member;
    last.top[i].who = member_id{id};
    last.top[i].bytes = sums[i].bytes;
    if (id != 0 && id <= s.member_limit())
      last.top[i].process_id = static_cast<int>(s.member(id).process_id);
  }
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
void say_addresses(explanation::cause why, const placement& p, const outlook& regions) {
  using cause = explanation::cause;
  const u64 largest_hole = last.largest_free_bytes, longest_run = regions.longest_run_bytes;
  if (why == cause::no_addresses && regions.any_iova)
    write(
        "{} bytes with IOVAs up to {:#x}: the lowest IOVA of the heap is {:#x}; add memory that "
        "the device can reach",
        p.size_bytes, static_cast<u64>(p.highest_iova), regions.lowest_iova);
  else if (p.highest_iova != no_iova)
    write(
        "{} IOVA-contiguous bytes aligned to {} with IOVAs up to {:#x}: the longest run of IOVAs "
        "has {} bytes, the largest of {} holes {}, none fits below; add memory that the device can "
        "reach, or ask for less",
        p.size_bytes, p.align_bytes, static_cast<u64>(p.highest_iova), longest_run, last.hole_count,
        largest_hole);
  else if (why == cause::no_addresses)
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
  char text[longest_shortage];
  const std::string_view shortage =
      find_shortage(text, segment_, views_, p, why, s.largest_free_bytes);
  if (!shortage.empty()) why = cause::limit;
  last.why = why;
  find_holders(segment_, views_);

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
    case cause::boundary: say_addresses(why, p, regions); break;
    default: say_no_fit(p, s.total_bytes);
  }
  return nullptr;
}

}  // namespace annex::detail
