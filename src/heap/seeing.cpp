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
#include "cache/cache_rules.hpp"
#include "care/recovery.hpp"
#include "care/structures.hpp"
#include "heap/caretaker.hpp"
#include "named/naming.hpp"
#include "named/pool_caches.hpp"
#include "named/zone_chains.hpp"

namespace annex::detail {
namespace {

// ---- blocks -------------------------------------------------------------------------------------

// Live blocks, while every cache is held still.
class block_list {
 public:
  block_list(const segment& s, const frozen_caches& frozen) : segment_(s) {
    for (const thread_cache* c : frozen)
      for (u32 k = 1; k < class_count; ++k)
        for (u32 i = 0; i < c->magazines[k].count.load(std::memory_order_relaxed); ++i)
          kept_.push_back(c->entries_of(k)[i] & ~entry_is_clean);
    std::sort(kept_.begin(), kept_.end());
  }

  void add_region(local_region& region) {
    walk_extents(region, [&](u32 granule, u32, u8 kind) {
      const extent_entry& e = region.extents[granule];
      const u64 offset = (u64{granule} << region.granule_shift) + u64{e.lead} * 64;
      if (kind == granule_large || kind == granule_zone) {
        const block_kind of = kind == granule_large ? block_kind::large : block_kind::zone;
        const u64 bytes = extents(region).end_of(granule) - offset;
        add({&region, of, offset, bytes, granule, nullptr, 0}, e.holder);
        return;
      }
      slab_record* slab = is_slab(kind) ? slab_of(segment_, region, granule) : nullptr;
      if (slab != nullptr) add_slab(region, granule, slab);
    });
  }

  std::vector<block_summary> found;

 private:
  void add_slab(local_region& region, u32 granule, slab_record* slab) {
    const u64 begin = u64{granule} << region.granule_shift;
    const u64 block_bytes = class_bytes[slab->size_class];
    for (u32 w = 0; w < slab->words; ++w) {
      u64 live = slab->valid_bits(w) & ~(slab->free_words()[w] | slab->remote_bits(w));
      for (; live != 0; live &= live - 1) {
        const u32 index = w * 64 + static_cast<u32>(std::countr_zero(live));
        const u64 offset = begin + index * block_bytes;
        const u64 entry = u64{region.slot} << region_shift | offset;
        if (!std::binary_search(kept_.begin(), kept_.end(), entry))
          add({&region, block_kind::slab_block, offset, block_bytes, granule, slab, index},
              holder_of(slab, index));
      }
    }
  }

  u32 holder_of(slab_record* slab, u32 index) {
    u32 holder = slab->member;
    list_walk walk(segment_);
    for (chunk_ref ref = slab->holdings; ref != 0 && walk.goes_on();
         ref = segment_.chunk<holding_record>(ref)->next)
      if ((segment_.chunk<holding_record>(ref)->held_bits(index / 64) >> (index % 64) & 1) != 0)
        holder = segment_.chunk<holding_record>(ref)->member;
    return holder;
  }

  void add(const live_block& b, u32 holder) {
    char* const base = b.region->base;
    found.push_back({b.kind, where_is(segment_, b),
                     base != nullptr ? base + b.offset_bytes : nullptr, b.size_bytes,
                     member_id{holder}});
  }

  const segment& segment_;
  std::vector<u64> kept_;  // entries of magazines, sorted
};

// ---- members ------------------------------------------------------------------------------------

class member_list {
 public:
  member_list(const segment& s, u32 self) : segment_(s), index_(s.member_limit() + 1, ~u32{0}) {
    for (u32 id = 1; id <= s.members_used(); ++id) {
      const member_record& m = s.member(id);
      if (m.state.load(std::memory_order_acquire) == member_free) continue;  // sync(member)
      index_[id] = static_cast<u32>(found.size());
      member_summary summary;
      summary.id = member_id{id};
      summary.process_id = static_cast<int>(m.process_id);
      summary.program = std::string(m.program, ::strnlen(m.program, sizeof m.program));
      summary.alive = !is_member_gone(s, id, self);
      summary.self = id == self;
      found.push_back(std::move(summary));
    }
  }

  /// Null: none of this number is in the list.
  member_summary* of(u32 id) {
    return id < index_.size() && index_[id] < found.size() ? &found[index_[id]] : nullptr;
  }

  void count_caches() {
    for_each_cache(segment_, [&](u32 member, const thread_cache& c) {
      member_summary* const m = of(member);
      if (m == nullptr) return;
      ++m->threads;
      for (u32 k = 1; k < class_count; ++k)
        m->cached_bytes += u64{kept_in(c, k)} * class_bytes[k];
      m->cached_bytes += c.kept.bytes.load(std::memory_order_relaxed);
    });
  }

  void count_block(const block_summary& b) {
    member_summary* const m = b.holder != member_id{0} ? of(static_cast<u32>(b.holder)) : nullptr;
    if (m == nullptr) return;
    ++m->held_blocks;
    m->held_bytes += b.size_bytes;
  }

  // Its objects; their bytes are the pool's zone.
  void count_pool(const known_pool& pool) {
    const u16* const holders = pool.holders(segment_.thread_limit());
    for (u32 i = 0; i < pool.object_count; ++i)
      if (member_summary* m = holders[i] != 0 ? of(holders[i]) : nullptr) ++m->held_blocks;
    for (u32 i = 0; i < segment_.slots_used(); ++i) {  // what its caches keep is not in its hands
      const chunk_ref ref = pool.caches()[i];
      if (ref == 0) continue;
      // sync(slot): what a cache kept for whoever had the slot before has gone back.
      member_summary* const m =
          of(member_of_state(segment_.slot(i).state.load(std::memory_order_acquire)));
      const u64 kept = segment_.chunk<pool_cache>(ref)->count.load(std::memory_order_relaxed);
      if (m != nullptr) m->held_blocks -= std::min<u64>(m->held_blocks, kept);
    }
  }

  std::vector<member_summary> found;

 private:
  const segment& segment_;
  std::vector<u32> index_;  // of a member in found
};

}  // namespace

heap_stats caretaker::stats() noexcept {
  counting figures{segment_, views_, {}};
  for (const structure& s : structures())
    if (s.count != nullptr) s.count(figures);
  return figures.out;
}

void caretaker::for_each_region(const std::function<void(const region_summary&)>& visit) {
  std::vector<u32> slots;
  for (const u32 slot : used_region_slots(segment_))
    // sync(published).
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
    s.huge = huge_of(r);
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
    block_list blocks(segment_, frozen);
    for (const u32 slot : used_region_slots(segment_))
      if (views_.record(slot).state.load(std::memory_order_relaxed) >= region_active)
        blocks.add_region(views_.at(slot));
    frozen.thaw();
    found = std::move(blocks.found);
  }
  for (const block_summary& b : found)
    visit(b);
  return {};
}

void caretaker::for_each_map_piece(const std::function<void(const map_piece&)>& visit) {
  for (const u32 slot : used_region_slots(segment_)) {
    // sync(published): what the record says is seen.
    if (views_.record(slot).state.load(std::memory_order_acquire) < region_active) continue;
    const local_region& view = views_.at(slot);
    std::vector<map_piece> pieces;
    walk_extents(view, [&](u32 granule, u32, u8 kind) {
      map_piece p;
      p.region = region_id{view.id};
      p.offset_bytes = u64{granule} << view.granule_shift;
      p.length_bytes = extents(view).end_of(granule) - p.offset_bytes;
      p.use = kind == granule_free   ? map_use::free
              : is_large(kind)       ? map_use::large
              : kind == granule_zone ? map_use::zone
                                     : map_use::slab;
      p.holder = member_id{view.extents[granule].holder};
      if (p.use == map_use::large || p.use == map_use::zone)
        (kind == granule_kept ? p.cached_bytes : p.live_bytes) = p.length_bytes;
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
  member_list list(segment_, self());
  list.count_caches();
  if (!is_read_only() && member_.ensure_member()) {
    (void)for_each_block([&](const block_summary& b) { list.count_block(b); });
    locked t(heap_);
    for_each_pool(segment_,
                  [&](const zone_record&, const known_pool& pool) { list.count_pool(pool); });
  } else {
    // Without stopping anyone, so blocks in the middle of a move may be missed.
    for (const member_summary& seen : snapshot({.map_pieces = false}).members)
      if (member_summary* m = list.of(static_cast<u32>(seen.id)); m != nullptr) {
        m->held_blocks = seen.held_blocks;
        m->held_bytes = seen.held_bytes;
      }
  }
  return std::move(list.found);
}

}  // namespace annex::detail
