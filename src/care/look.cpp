// care/look.cpp - memory in one look: regions, their extents and slabs, what caches keep.
// See look.hpp.
#include "care/look.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "cache/thread_cache.hpp"
#include "shared/members.hpp"

namespace annex {
namespace {

slab_seen find_slab(const segment& s, const local_region& region, u32 granule) noexcept {
  const chunk_ref ref = seen(region.extents[granule].record);
  const slab_record* const slab = ref != 0 ? s.find_chunk<slab_record>(ref) : nullptr;
  if (slab == nullptr) return {};
  const slab_seen found{slab,
                        slab->words,
                        slab->capacity,
                        slab->size_class,
                        seen(slab->member),
                        seen(slab->holdings)};
  const bool can_be = found.size_class != 0 && found.size_class < class_count &&
                      found.capacity != 0 && found.words == divide_up(found.capacity, 64) &&
                      seen(slab->region) == region.slot && seen(slab->granule) == granule;
  return can_be && s.find_chunk<slab_record>(ref, slab_record_bytes(found.words)) != nullptr
             ? found
             : slab_seen{};
}

// The thread's cache in this slot; null: it has none.
const thread_cache* find_cache(const segment& s, u32 slot) noexcept {
  const chunk_ref ref = seen(s.slot(slot).cache);
  const thread_cache* const c = ref != 0 ? s.find_chunk<thread_cache>(ref) : nullptr;
  return c != nullptr && seen(c->slot) == slot && seen(c->key) != 0 ? c : nullptr;
}

u32 count_in(const thread_cache& c, u32 size_class) noexcept {
  return std::min(c.magazines[size_class].count.load(std::memory_order_relaxed), magazine_slots);
}

}  // namespace

u64 slab_seen::live_bits(u32 w) const noexcept {
  const u64* const free_words = reinterpret_cast<const u64*>(record + 1);
  const u64* const remote_words = free_words + 2 * u64{words};
  u64 remote = 0;
  for (u32 half = 0; half < 2; ++half) {
    const u64 word = seen(remote_words[w * 2 + half]);
    if (is_remote_word(word)) remote |= (word & 0xffffffff) << (half * 32);
  }
  const u32 blocks = std::min(capacity - w * 64, 64u);
  return low_bits(blocks) & ~(seen(free_words[w]) | remote);
}

u32 slab_seen::live_blocks() const noexcept {
  u32 live = 0;
  for (u32 w = 0; w < words; ++w)
    live += static_cast<u32>(std::popcount(live_bits(w)));
  return live;
}

void look::take() {
  read_caches(&caches_before_);
  find_members();
  by_slot_.assign(segment_.region_limit(), nullptr);
  for (const u32 slot : used_region_slots(segment_))
    find_region(slot);
  std::sort(regions_.begin(), regions_.end(),
            [](const local_region* a, const local_region* b) { return a->id < b->id; });
  pieces_of_.assign(segment_.region_limit(), {0, 0});
  for (const local_region* region : regions_)
    walk(*region);
  count_caches();
  count_slabs();
  for (const local_region* region : regions_)
    sum_up(*region);
  find_zones();
  give_members();
  sum_up_heap();
}

// Blocks came or went since take() began. Not every one that came and went again.
bool look::has_moved() {
  std::vector<u64> now;
  read_caches(&now);
  if (now != caches_before_) return true;
  return std::any_of(pieces_.begin(), pieces_.end(),
                     [](const piece_seen& p) { return p.slab && p.slab.live_blocks() != p.live; });
}

// What of every thread's cache changes with each block that it takes or gets.
void look::read_caches(std::vector<u64>* digests) {
  for (u32 i = 0; i < segment_.slots_used(); ++i) {
    u64 digest = segment_.slot(i).state.load(std::memory_order_relaxed);
    if (const thread_cache* c = find_cache(segment_, i))
      for (u32 k = 1; k < class_count; ++k)
        digest = digest * 1'000'003 + count_in(*c, k);
    digests->push_back(digest);
  }
}

void look::find_region(u32 slot) {
  region_record& record = views_.record(slot);
  if (record.state.load(std::memory_order_acquire) < region_active) return;  // sync(published)
  local_region& view = own_views_.emplace_back();
  view.slot = slot;
  load_view(segment_, record, view);
  if (view.id == 0) {
    is_torn_ = true;
    return;
  }
  regions_.push_back(&view);
  by_slot_[slot] = &view;
}

void look::walk(const local_region& region) {
  const u32 first = static_cast<u32>(pieces_.size());
  for (u32 granule = 0; granule < region.granule_count;) {
    if (pieces_.size() >= options_.most_extents) {
      out_.complete = false;
      break;
    }
    const u32 length = seen(region.extents[granule].length);
    if (length == 0 || length > region.granule_count - granule) {
      is_torn_ = true;
      break;
    }
    add_piece(region, granule, length);
    granule += length;
  }
  pieces_of_[region.slot] = {first, static_cast<u32>(pieces_.size())};
}

void look::add_piece(const local_region& region, u32 granule, u32 length) {
  const u8 kind = load_granule(region.granule_base + granule).kind;
  piece_seen& p = pieces_.emplace_back();
  p.piece.region = region_id{region.id};
  p.piece.offset_bytes = u64{granule} << region.granule_shift;
  p.piece.length_bytes =
      std::min(u64{length} << region.granule_shift, region.region_bytes - p.piece.offset_bytes);
  if (kind == granule_kept) {
    p.piece.use = map_use::large;
    p.piece.cached_bytes = p.piece.length_bytes;
    p.piece.holder = member_id{seen(region.extents[granule].holder)};
  } else if (kind == granule_large || kind == granule_zone) {
    p.piece.use = kind == granule_large ? map_use::large : map_use::zone;
    p.piece.live_bytes = p.piece.length_bytes;
    p.piece.holder = member_id{seen(region.extents[granule].holder)};
    // The block's own bytes end with the extent.
    const u64 begin = u64{seen(region.extents[granule].lead)} * 64;
    hold(static_cast<u32>(p.piece.holder), 1,
         p.piece.length_bytes - std::min(begin, p.piece.length_bytes));
  } else if (kind == granule_slab || kind == granule_slab_held) {
    p.piece.use = map_use::slab;
    p.slab = find_slab(segment_, region, granule);
    if (!p.slab) {
      is_torn_ = true;
      return;
    }
    p.live = p.slab.live_blocks();
    p.piece.block_bytes = class_bytes[p.slab.size_class];
    p.piece.holder = member_id{p.slab.member};
  } else {
    p.piece.use = map_use::free;
    p.piece.holder = member_id{seen(region.extents[granule].holder)};
    is_torn_ = is_torn_ || kind != granule_free;
  }
}

piece_seen* look::piece_at(u32 slot, u64 offset) {
  if (slot >= pieces_of_.size()) return nullptr;
  const auto first = pieces_.begin() + pieces_of_[slot].first,
             last = pieces_.begin() + pieces_of_[slot].second;
  const auto behind = std::upper_bound(
      first, last, offset, [](u64 at, const piece_seen& p) { return at < p.piece.offset_bytes; });
  return behind != first ? &*(behind - 1) : nullptr;
}

// Blocks in caches are free, whatever their slab's bitmap says.
void look::count_caches() {
  for (u32 i = 0; i < segment_.slots_used(); ++i) {
    const u32 member = member_of_state(segment_.slot(i).state.load(std::memory_order_relaxed));
    const thread_cache* const c = member != 0 ? find_cache(segment_, i) : nullptr;
    if (c == nullptr) continue;
    ++out_.stats.thread_count;
    member_summary* const whose = of(member);
    if (whose != nullptr) {
      ++whose->threads;
      whose->cached_bytes += c->kept.bytes.load(std::memory_order_relaxed);
    }
    for (u32 k = 1; k < class_count; ++k) {
      const u32 count = count_in(*c, k);
      if (whose != nullptr) whose->cached_bytes += u64{count} * class_bytes[k];
      for (u32 n = 0; n < count; ++n) {
        const u64 entry = seen(c->entries_of(k)[n]);
        piece_seen* const p =
            piece_at(static_cast<u32>(entry >> region_shift), entry & offset_mask);
        if (p != nullptr && p->slab && p->slab.size_class == k && p->cached < p->live) ++p->cached;
      }
    }
  }
}

void look::count_slabs() {
  for (piece_seen& p : pieces_) {
    if (!p.slab) continue;
    const u64 block_bytes = p.piece.block_bytes;
    const u32 live = p.live - p.cached;
    p.piece.live_bytes = live * block_bytes;
    p.piece.cached_bytes = (p.slab.capacity - live) * block_bytes;
    u32 of_others = 0;
    for (chunk_ref ref = p.slab.holdings; ref != 0 && of_others < live && may_go_on();) {
      const auto* const holding =
          segment_.find_chunk<holding_record>(ref, holding_record_bytes(p.slab.words));
      if (holding == nullptr || holding->words != p.slab.words) {
        is_torn_ = true;
        break;
      }
      const u64* const bits = reinterpret_cast<const u64*>(holding + 1);
      u32 held = 0;
      for (u32 w = 0; w < p.slab.words; ++w)
        held += static_cast<u32>(
            std::popcount(seen(bits[w]) & ~seen(bits[p.slab.words + w]) & p.slab.live_bits(w)));
      held = std::min(held, live - of_others);
      hold(seen(holding->member), held, held * block_bytes);
      of_others += held;
      ref = seen(holding->next);
    }
    hold(p.slab.member, live - of_others, (live - of_others) * block_bytes);
  }
}

void look::sum_up(const local_region& region) {
  const region_record& r = *region.record;
  region_summary& s = out_.regions.emplace_back();
  s.id = region_id{region.id};
  s.length_bytes = region.region_bytes;
  s.page_bytes = seen(r.page_bytes);
  s.granule_bytes = u64{1} << region.granule_shift;
  s.numa_node = seen(r.numa_node);
  s.access = region.access;
  s.draining = r.state.load(std::memory_order_relaxed) == region_draining;
  s.huge = huge_of(region.id, seen(r.huge), seen(r.huge_check));
  const local_region* const here = views_.existing(region.slot);
  if (here != nullptr && here->id == region.id) s.base = here->base;
  s.origin = seen(r.adder_base);
  s.adder = member_id{seen(r.adder)};
  s.iova_runs = region.iovas.run_count;
  if (const auto bus = region.iovas.at(0)) s.first_iova = iova{bus->address};
  if (seen(r.backing) != backing_none) {
    char path[sizeof r.path];
    std::memcpy(path, r.path, sizeof path);
    s.backing = path[0] != '\0' ? std::string(path, ::strnlen(path, sizeof path))
                                : fmt::format("descriptor {} of process {}",
                                              seen(r.adder_fd_plus_1) - 1, seen(r.adder_process));
  }
  heap_stats& h = out_.stats;
  const auto [first, last] = pieces_of_[region.slot];
  for (u32 i = first; i < last; ++i) {
    const piece_seen& p = pieces_[i];
    if (p.piece.use == map_use::free) {
      s.free_bytes += p.piece.length_bytes;
      s.largest_free_bytes = std::max(s.largest_free_bytes, p.piece.length_bytes);
      ++h.hole_count;
    } else if (p.piece.use != map_use::slab && p.piece.cached_bytes != 0) {
      h.cached_bytes += p.piece.cached_bytes;
    } else if (p.piece.use != map_use::slab) {
      h.used_bytes += p.piece.length_bytes;
      ++h.live_blocks;
    } else if (p.slab) {
      h.used_bytes += p.piece.live_bytes;
      h.cached_bytes += p.piece.length_bytes - std::min(p.piece.live_bytes, p.piece.length_bytes);
      h.live_blocks += p.live - p.cached;
      ++h.slab_count;
    }
    if (options_.map_pieces) out_.map_pieces.push_back(p.piece);
  }
  ++h.region_count;
  h.total_bytes += s.length_bytes;
  h.free_bytes += s.free_bytes;
  h.largest_free_bytes = std::max(h.largest_free_bytes, s.largest_free_bytes);
}

}  // namespace annex
