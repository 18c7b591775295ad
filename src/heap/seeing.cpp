// heap/seeing.cpp - looking at a heap without changing it.
//
// stats(), regions, zones, map and members read the segment as it is, from any process, also
// attached read-only: a heap at work moves meanwhile, and the figures with it. for_each_block()
// holds everybody still, for exactness.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "cache/blocks.hpp"
#include "care/recovery.hpp"
#include "heap/caretaker.hpp"
#include "named/naming.hpp"
#include "named/pool_caches.hpp"
#include "named/zone_chains.hpp"
#include "platform/files.hpp"

namespace annex::detail {
namespace {}  // namespace

heap_stats caretaker::stats() noexcept {
  heap_stats out;
  const segment_header& h = segment_.header();
  u64 cached_in_magazines = 0;
  std::array<u64, class_count> cached_blocks{};
  for (u32 i = 0; i < segment_.slots_used(); ++i) {
    const thread_slot& slot = segment_.slot(i);
    if (member_of_state(slot.state.load(std::memory_order_relaxed)) == 0 || slot.cache == 0)
      continue;
    const auto* c = segment_.chunk<thread_cache>(slot.cache);
    if (c->slot != i || c->key == 0) continue;
    ++out.thread_count;
    for (u32 k = 1; k < class_count; ++k)
      cached_blocks[k] +=
          std::min(c->magazines[k].count.load(std::memory_order_relaxed), magazine_slots);
  }
  for (u32 k = 1; k < class_count; ++k)
    cached_in_magazines += cached_blocks[k] * class_bytes[k];
  u64 in_slabs = 0, slab_live = 0;
  for (const u32 slot : used_region_slots(segment_)) {
    const region_record& r = views_.record(slot);
    if (r.state.load(std::memory_order_acquire) < region_active) continue;
    ++out.region_count;
    const local_region& view = views_.at(slot);
    out.total_bytes += view.region_bytes;
    const u64 granule_bytes = u64{1} << view.granule_shift;
    walk_extents(view, [&](u32 granule, u32 length, u8 kind) {
      const u64 bytes =
          std::min(u64{length} * granule_bytes,
                   view.region_bytes - std::min(view.region_bytes, u64{granule} * granule_bytes));
      if (kind == granule_free) {
        out.free_bytes += bytes;
        ++out.hole_count;
        out.largest_free_bytes = std::max(out.largest_free_bytes, bytes);
      } else if (kind == granule_large || kind == granule_zone) {
        out.used_bytes += bytes;
        ++out.live_blocks;
      } else if (slab_record* slab = is_slab(kind) ? slab_of(segment_, view, granule) : nullptr) {
        ++out.slab_count;
        const u64 live = annex::live_blocks(slab);
        out.live_blocks += live;
        slab_live += live * class_bytes[slab->size_class];
        in_slabs += bytes;
      }
    });
  }
  u64 blocks_cached = 0;
  for (u64 n : cached_blocks)
    blocks_cached += n;
  out.live_blocks -= std::min(out.live_blocks, blocks_cached);
  const u64 live_bytes = slab_live - std::min(slab_live, cached_in_magazines);
  out.used_bytes += live_bytes;
  out.cached_bytes = in_slabs - std::min(in_slabs, live_bytes);
  out.zone_count = h.zone_count;
  for (u32 m = 1; m <= segment_.members_used(); ++m)
    out.member_count += segment_.member(m).state.load(std::memory_order_relaxed) == member_live;
  out.metadata_bytes = os::allocated_bytes(segment_.fd());
  out.misuse_count = h.misuse_count.load(std::memory_order_relaxed);
  out.lock_steals = h.lock_steals.load(std::memory_order_relaxed);
  out.recovered_threads = h.recovered_threads.load(std::memory_order_relaxed);
  return out;
}

void caretaker::for_each_region(const std::function<void(const region_summary&)>& visit) {
  std::vector<u32> slots;
  for (const u32 slot : used_region_slots(segment_))
    if (views_.record(slot).state.load(std::memory_order_acquire) >= region_active)
      slots.push_back(slot);
  std::sort(slots.begin(), slots.end(),
            [&](u32 a, u32 b) { return views_.record(a).id.value < views_.record(b).id.value; });
  for (const u32 slot : slots) {
    const local_region& view = views_.at(slot);
    const region_record& r = *view.record;
    region_summary s;
    s.id = region_id{view.id};
    s.length_bytes = view.region_bytes;
    s.page_bytes = r.page_bytes;
    s.granule_bytes = u64{1} << view.granule_shift;
    s.free_bytes = std::min(u64{r.free_granules} << view.granule_shift, view.region_bytes);
    s.largest_free_bytes =
        std::min(u64{longest_free(view)} << view.granule_shift, view.region_bytes);
    s.numa_node = r.numa_node;
    s.access = static_cast<touch>(r.access);
    s.draining = r.state.load(std::memory_order_relaxed) == region_draining;
    s.base = view.base;
    s.origin = r.adder_base;
    s.adder = member_id{r.adder};
    s.iova_runs = r.iova_run_count;
    if (const auto bus = view.iovas.at(0)) s.first_iova = iova{bus->address};
    if (r.backing != backing_none)
      s.backing = r.path[0] != '\0' ? std::string(r.path, ::strnlen(r.path, sizeof r.path))
                                    : fmt::format("descriptor {} of process {}",
                                                  r.adder_fd_plus_1 - 1, r.adder_process);
    visit(s);
  }
}

void caretaker::for_each_zone(const std::function<void(const zone_summary&)>& visit) {
  std::vector<zone_summary> found;
  std::map<std::pair<u32, u64>, bool> alive;  // makers: each is asked about once
  {
    std::optional<locked> t;
    if (!is_read_only() && member_.ensure_member()) t.emplace(heap_);
    const u32 count = segment_.header().zone_count;
    list_walk walk(segment_);
    for_each_zone_bucket(segment_, [&](chunk_ref chain) {
      for (chunk_ref ref = chain; ref != 0 && found.size() < count && walk.goes_on();
           ref = segment_.chunk<zone_record>(ref)->next) {
        const auto* z = segment_.chunk<zone_record>(ref);
        const char* kind = z->type == zone_type::pool   ? "pool"
                           : z->type == zone_type::ring ? "ring"
                                                        : "zone";
        const auto [maker, is_new] = alive.try_emplace({z->maker, z->maker_start_time});
        if (is_new) maker->second = is_maker_alive(segment_, *z, self());
        found.push_back({std::string(z->name, ::strnlen(z->name, sizeof z->name)),
                         zone_of(segment_, views_, *z).where, z->size_bytes, kind,
                         z->state.load(std::memory_order_relaxed) == zone_committed, z->generation,
                         member_id{z->maker}, static_cast<int>(z->maker_process), maker->second});
      }
    });
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  for (const zone_summary& z : found)
    visit(z);
}

result<void> caretaker::for_each_block(const std::function<void(const block_summary&)>& visit) {
  if (is_read_only())
    return refuse(errc::read_only,
                  "\"{}\" is attached read-only; listing blocks holds the heap still for a moment, "
                  "which needs a writable attach",
                  name_);
  if (!member_.ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  ANNEX_TRY(refuse_if_damaged());
  std::vector<block_summary> found;
  {
    locked t(heap_);
    frozen_caches frozen = recover_and_freeze(*t);
    std::vector<u64> cached;
    for (const thread_cache* c : frozen.caches)
      for (u32 k = 1; k < class_count; ++k)
        for (u32 i = 0; i < c->magazines[k].count.load(std::memory_order_relaxed); ++i)
          cached.push_back(c->entries_of(k)[i] & ~entry_is_clean);
    std::sort(cached.begin(), cached.end());
    for (const u32 slot : used_region_slots(segment_)) {
      if (views_.record(slot).state.load(std::memory_order_relaxed) < region_active) continue;
      const local_region& view = views_.at(slot);
      auto add = [&](block_kind kind, u64 offset, u64 bytes, u32 holder, u32 granule,
                     slab_record* slab, u32 index) {
        const live_block block{&views_.at(slot), kind, offset, bytes, granule, slab, index};
        found.push_back({kind, where_is(segment_, block),
                         view.base != nullptr ? view.base + offset : nullptr, bytes,
                         member_id{holder}});
      };
      walk_extents(view, [&](u32 granule, u32, u8 kind) {
        const extent_entry& e = view.extents[granule];
        const u64 begin = u64{granule} << view.granule_shift;
        if (kind == granule_large || kind == granule_zone) {
          const u64 offset = begin + u64{e.lead} * 64;
          add(kind == granule_large ? block_kind::large : block_kind::zone, offset,
              extents(view).end_of(granule) - offset, e.holder, granule, nullptr, 0);
          return;
        }
        slab_record* slab = is_slab(kind) ? slab_of(segment_, view, granule) : nullptr;
        if (slab == nullptr) return;
        for (u32 w = 0; w < slab->words; ++w) {
          u64 live = slab->valid_bits(w) & ~(slab->free_words()[w] | slab->remote_bits(w));
          for (; live != 0; live &= live - 1) {
            const u32 index = w * 64 + static_cast<u32>(std::countr_zero(live));
            const u64 offset = begin + u64{index} * class_bytes[slab->size_class];
            if (std::binary_search(cached.begin(), cached.end(),
                                   u64{slot} << region_shift | offset))
              continue;
            u32 holder = slab->member;
            list_walk walk(segment_);
            for (chunk_ref ref = slab->holdings; ref != 0 && walk.goes_on();
                 ref = segment_.chunk<holding_record>(ref)->next)
              if ((segment_.chunk<holding_record>(ref)->held_bits(w) >> (index % 64) & 1) != 0)
                holder = segment_.chunk<holding_record>(ref)->member;
            add(block_kind::slab_block, offset, class_bytes[slab->size_class], holder, granule,
                slab, index);
          }
        }
      });
    }
    thaw(frozen);
  }
  for (const block_summary& b : found)
    visit(b);
  return {};
}

void caretaker::for_each_map_piece(const std::function<void(const map_piece&)>& visit) {
  for (const u32 slot : used_region_slots(segment_)) {
    if (views_.record(slot).state.load(std::memory_order_acquire) < region_active) continue;
    const local_region& view = views_.at(slot);
    std::vector<map_piece> pieces;
    walk_extents(view, [&](u32 granule, u32, u8 kind) {
      map_piece p;
      p.region = region_id{view.id};
      p.offset_bytes = u64{granule} << view.granule_shift;
      p.length_bytes = extents(view).end_of(granule) - p.offset_bytes;
      p.use = kind == granule_free    ? map_use::free
              : kind == granule_large ? map_use::large
              : kind == granule_zone  ? map_use::zone
                                      : map_use::slab;
      p.holder = member_id{view.extents[granule].holder};
      if (p.use == map_use::large || p.use == map_use::zone) p.live_bytes = p.length_bytes;
      if (slab_record* slab = is_slab(kind) ? slab_of(segment_, view, granule) : nullptr) {
        p.block_bytes = class_bytes[slab->size_class];
        p.live_bytes = u64{annex::live_blocks(slab)} * p.block_bytes;
        p.cached_bytes = u64{slab->capacity} * p.block_bytes - p.live_bytes;
        p.holder = member_id{slab->member};
      }
      pieces.push_back(p);
    });
    // Blocks in magazines count as cached, not as live.
    for (u32 i = 0; i < segment_.slots_used(); ++i) {
      const thread_slot& thread = segment_.slot(i);
      if (member_of_state(thread.state.load(std::memory_order_relaxed)) == 0 || thread.cache == 0)
        continue;
      const auto* c = segment_.chunk<thread_cache>(thread.cache);
      for (u32 k = 1; k < class_count; ++k)
        for (u32 n = 0;
             n < std::min(c->magazines[k].count.load(std::memory_order_relaxed), magazine_slots);
             ++n) {
          const u64 entry = c->entries_of(k)[n], offset = entry & offset_mask;
          if (entry >> region_shift != slot) continue;
          auto piece =
              std::upper_bound(pieces.begin(), pieces.end(), offset,
                               [](u64 at, const map_piece& p) { return at < p.offset_bytes; });
          if (piece == pieces.begin()) continue;
          --piece;
          const u64 bytes = std::min<u64>(class_bytes[k], piece->live_bytes);
          piece->live_bytes -= bytes;
          piece->cached_bytes += bytes;
        }
    }
    for (const map_piece& p : pieces)
      visit(p);
  }
}

std::vector<member_summary> caretaker::members() {
  std::vector<member_summary> found;
  std::vector<u32> index(segment_.member_limit() + 1, ~u32{0});
  for (u32 id = 1; id <= segment_.members_used(); ++id) {
    const member_record& m = segment_.member(id);
    if (m.state.load(std::memory_order_acquire) == member_free) continue;
    index[id] = static_cast<u32>(found.size());
    member_summary s;
    s.id = member_id{id};
    s.process_id = static_cast<int>(m.process_id);
    s.program = std::string(m.program, ::strnlen(m.program, sizeof m.program));
    s.alive = !is_member_gone(segment_, id, self());
    s.self = id == self();
    found.push_back(std::move(s));
  }
  auto of = [&](u32 id) -> member_summary* {
    return id <= segment_.member_limit() && index[id] < found.size() ? &found[index[id]] : nullptr;
  };
  for (u32 i = 0; i < segment_.slots_used(); ++i) {
    const thread_slot& slot = segment_.slot(i);
    member_summary* m = of(member_of_state(slot.state.load(std::memory_order_relaxed)));
    if (m == nullptr || slot.cache == 0) continue;
    const auto* c = segment_.chunk<thread_cache>(slot.cache);
    if (c->slot != i || c->key == 0) continue;
    ++m->threads;
    for (u32 k = 1; k < class_count; ++k)
      m->cached_bytes +=
          u64{std::min(c->magazines[k].count.load(std::memory_order_relaxed), magazine_slots)} *
          class_bytes[k];
  }
  auto count = [&](const block_summary& b) {
    if (member_summary* m = of(static_cast<u32>(b.holder));
        m != nullptr && b.holder != member_id{0}) {
      ++m->held_blocks;
      m->held_bytes += b.size_bytes;
    }
  };
  if (!is_read_only() && member_.ensure_member()) {
    (void)for_each_block(count);
    locked t(heap_);
    for_each_pool(segment_, [&](const zone_record&, const known_pool& pool) {
      const u16* const holders = pool.holders(segment_.thread_limit());
      for (u32 i = 0; i < pool.object_count; ++i)
        // Its bytes are the pool's zone.
        if (member_summary* m = holders[i] != 0 ? of(holders[i]) : nullptr) ++m->held_blocks;
      for (u32 i = 0; i < segment_.slots_used(); ++i) {  // what its caches keep is not in its hands
        const chunk_ref ref = pool.caches()[i];
        member_summary* m =
            ref != 0 ? of(member_of_state(segment_.slot(i).state.load(std::memory_order_acquire)))
                     : nullptr;
        if (m != nullptr)
          m->held_blocks -=
              std::min<u64>(m->held_blocks,
                            segment_.chunk<pool_cache>(ref)->count.load(std::memory_order_relaxed));
      }
    });
  } else {
    // Without stopping anyone, so blocks in the middle of a move may be missed.
    for (const member_summary& seen : snapshot({.map_pieces = false}).members)
      if (member_summary* m = of(static_cast<u32>(seen.id)); m != nullptr) {
        m->held_blocks = seen.held_blocks;
        m->held_bytes = seen.held_bytes;
      }
  }
  return found;
}

}  // namespace annex::detail
