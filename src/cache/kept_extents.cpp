// cache/kept_extents.cpp - see kept_extents.hpp.
#include "cache/kept_extents.hpp"

#include "cache/orphans.hpp"
#include "extent/large_blocks.hpp"

namespace annex {
namespace {

// A granule's word is changed as a whole: load_granule() is the other half.
bool swap_granule(granule_entry* entry, granule_entry expected, granule_entry desired) noexcept {
  u64 word = std::bit_cast<u64>(expected);
  // Relaxed: the block stays this thread's, and whoever takes its cache over comes after busy
  // (sync(busy)) or has the heap lock.
  return __atomic_compare_exchange_n(reinterpret_cast<u64*>(entry), &word,
                                     std::bit_cast<u64>(desired), false, __ATOMIC_RELAXED,
                                     __ATOMIC_RELAXED);
}
void store_granule(granule_entry* entry, granule_entry value) noexcept {
  // Relaxed: as above.
  __atomic_store_n(reinterpret_cast<u64*>(entry), std::bit_cast<u64>(value), __ATOMIC_RELAXED);
}

constexpr u64 entry_of(u32 slot, u32 granule) noexcept {
  return u64{slot} << 32 | granule;
}
constexpr u32 slot_of_entry(u64 entry) noexcept {
  return static_cast<u32>(entry >> 32);
}
constexpr u32 granule_of_entry(u64 entry) noexcept {
  return static_cast<u32>(entry);
}

u64 bytes_of(const kept_extents& kept) noexcept {
  return kept.bytes.load(std::memory_order_relaxed);
}
void count_bytes(kept_extents& kept, u64 bytes) noexcept {
  kept.bytes.store(bytes, std::memory_order_relaxed);
}

// The later ones move down one by one: each is in the list all the time.
void take_out(kept_extents& kept, u32 index, u64 bytes) noexcept {
  const u32 n = kept.count.load(std::memory_order_relaxed);
  for (u32 i = index; i + 1 < n; ++i) {
    store_word(kept.entries[i], kept.entries[i + 1]);
    compiler_fence();
  }
  kept.count.store(n - 1, std::memory_order_relaxed);
  count_bytes(kept, bytes_of(kept) - std::min(bytes_of(kept), bytes));
}

// Of a granule that the region has: its word, and what is known of its extent.
granule_entry* granule_at(const local_region& region, u32 granule) noexcept {
  return region.granules.data() + granule;
}
u64 bytes_from(const local_region& region, u32 granule) noexcept {
  return u64{length_at(region, granule)} << region.granule_shift;
}
bool is_kept_by(const thread_cache& c, const local_region& region, u32 granule) noexcept {
  if (granule >= region.granule_count) return false;
  const granule_entry g = load_granule(granule_at(region, granule));
  return g.kind == granule_kept && g.owner == c.slot;
}

bool may_be_kept(const thread_cache& c, const local_region& region, u32 granule) noexcept {
  const extent_entry& e = region.extents.data()[granule];
  // sync(published): a drain begins with the state, and holds every cache still after that.
  return e.holder == c.member && e.lead == 0 && (e.name & word_is_named) == 0 &&
         bytes_from(region, granule) <= region.region_bytes / 64 &&
         region.record->state.load(std::memory_order_acquire) == region_active;
}

}  // namespace

keeping keep_extent(thread_cache& c, local_region& region, u32 granule) noexcept {
  const busy_scope busy(c);
  if (!busy.entered()) return keeping::frozen;
  if (c.checked != 0 || granule >= region.granule_count) return keeping::no;
  const granule_entry g = load_granule(granule_at(region, granule));
  if (g.kind != granule_large || !may_be_kept(c, region, granule)) return keeping::no;
  kept_extents& kept = c.kept;
  const u64 bytes = bytes_of(kept) + bytes_from(region, granule);
  const u32 n = kept.count.load(std::memory_order_relaxed);
  if (n >= most_kept_extents || bytes > most_kept_bytes) return keeping::full;
  store_word(kept.entries[n], entry_of(region.slot, granule));
  compiler_fence();
  kept.count.store(n + 1, std::memory_order_relaxed);
  compiler_fence();  // an entry too many says nothing, an extent without its entry is lost
  if (!swap_granule(granule_at(region, granule), g,
                    granule_entry{c.slot, granule_kept, 0, 0, 0})) {  // commit
    kept.count.store(n, std::memory_order_relaxed);
    return keeping::no;
  }
  count_bytes(kept, bytes);
  return keeping::kept;
}

namespace {

bool has_right_size(const local_region& region, u32 granule, u64 size_bytes) noexcept {
  const u64 needed = (size_bytes + region.granule_mask) >> region.granule_shift;
  const u64 there = length_at(region, granule);
  const u64 offset = u64{granule} << region.granule_shift;
  return there >= needed && there - needed <= needed / 8 && offset < region.length_bytes &&
         size_bytes <= region.length_bytes - offset;
}

}  // namespace

taken_block take_kept(const segment& s, region_views& views, thread_cache& c, u64 size_bytes,
                      const kept_wish* wish) noexcept {
  const busy_scope busy(c);
  if (!busy.entered()) return {};
  kept_extents& kept = c.kept;
  bool are_others_kept = false;
  for (u32 i = kept.count.load(std::memory_order_relaxed); i-- > 0;) {
    const u64 entry = kept.entries[i];
    const u32 slot = slot_of_entry(entry), granule = granule_of_entry(entry);
    if (slot >= s.region_limit()) continue;
    local_region& region = views.at(slot);
    if (!is_usable_here(region)) continue;
    if (!is_kept_by(c, region, granule)) {
      take_out(kept, i, 0);
      continue;
    }
    are_others_kept = true;
    if (!has_right_size(region, granule, size_bytes)) continue;
    void* const block = region.base + (u64{granule} << region.granule_shift);
    if (wish != nullptr && !wish->accepts(wish->context, region, block)) continue;
    store_granule(granule_at(region, granule),
                  granule_entry{no_owner, granule_large, 0, 0, 0});  // commit
    compiler_fence();
    take_out(kept, i, bytes_from(region, granule));
    return {block, false};
  }
  return {nullptr, are_others_kept};
}

namespace {

// One transaction; then its entry goes.
void give_back_one(tenure& t, thread_cache& c, u32 index) noexcept {
  const u64 entry = c.kept.entries[index];
  const u32 slot = slot_of_entry(entry), granule = granule_of_entry(entry);
  u64 bytes = 0;
  if (slot < t.seg().region_limit() &&
      t.views().record(slot).state.load(std::memory_order_relaxed) >= region_active) {
    local_region& region = t.views().at(slot);
    if (is_kept_by(c, region, granule)) {
      bytes = bytes_from(region, granule);
      free_extent(t, region, granule);
    }
  }
  take_out(c.kept, index, bytes);
}

}  // namespace

void give_back_kept(tenure& t, thread_cache& c, u32 region_slot) noexcept {
  for (u32 i = c.kept.count.load(std::memory_order_relaxed); i-- > 0;)
    if (region_slot == any_slot || slot_of_entry(c.kept.entries[i]) == region_slot)
      give_back_one(t, c, i);
  if (c.kept.count.load(std::memory_order_relaxed) == 0) count_bytes(c.kept, 0);
}

void give_back_oldest_kept(tenure& t, thread_cache& c, u32 how_many) noexcept {
  for (; how_many != 0 && c.kept.count.load(std::memory_order_relaxed) != 0; --how_many)
    give_back_one(t, c, 0);
}

bool claim_large(transaction& t, const local_region& region, u32 granule) noexcept {
  const granule_entry seen = load_granule(region.granule_base + granule);
  return seen.kind == granule_large &&
         t.put_if(region.granules[granule], seen, granule_entry{no_owner, granule_kept, 0, 0, 0});
}

}  // namespace annex
