// heap/handles.cpp - from an address to a handle, and back, if it still names the same block.
//
//   handle_of   the byte's block → its word
//                 named already           a load                          nothing locked
//                 not yet                 one compare and swap (commit)   nothing locked
//                 no table of words yet   made in one transaction         heap lock
//   resolve     slot, number → region, offset, generation → the byte's block → its word:
//               the same generation?
//
// What is never named has a handle too, for lists (block_summary::where, and handle_of() in a
// process that may not write): of the generation that it would be named with. It resolves as long
// as a block that nobody named lies there.
//
// If the process dies: a block whose word says named and whose handle nobody saw is as good as one
// that nobody named.
#include <algorithm>

#include "heap/local_heap.hpp"

namespace annex::detail {
namespace {

// Attempts: a word that changes meanwhile belongs to a block that is being freed.
constexpr int most_names = 3;

}  // namespace

// Whether a block that nobody named is kept by a cache: its bits do not say so. everybody: of any
// thread, else of this one. A count is read relaxed: what this thread put is seen, and another's
// cache, whose owner does not wait for us, may change as soon as it was looked at.
bool addressing::is_kept(const live_block& b, const naming& n, bool everybody) noexcept {
  if (n.pool) {
    const u64 bits = std::atomic_ref(n.pool.bits()[n.object / 64]).load(std::memory_order_relaxed);
    if ((bits >> (n.object % 64) & 1) != 0) return true;
    const thread_cache* const own = cache_of(heap_.index);
    if (!everybody && own == nullptr) return false;
    const u32 first = everybody ? 0 : own->slot;
    const u32 last = everybody ? segment_.slots_used() : own->slot + 1u;
    for (u32 i = first; i < last; ++i) {
      const chunk_ref ref = n.pool.caches()[i];
      const auto* cache = ref != 0 ? segment_.find_chunk<pool_cache>(ref) : nullptr;
      if (cache == nullptr) continue;
      const u64* const entries = cache->entries;
      const u32 count = std::min(cache->count.load(std::memory_order_relaxed), pool_cache_slots);
      if (std::find(entries, entries + count, n.object * n.pool.object_bytes) != entries + count)
        return true;
    }
    return false;
  }
  if (b.slab == nullptr) return false;
  const u16 owner = std::atomic_ref(b.slab->owner).load(std::memory_order_relaxed);
  const thread_cache* c = cache_of(heap_.index);
  if (c == nullptr || c->slot != owner) {
    if (!everybody || owner == no_owner || owner >= segment_.thread_limit()) return false;
    c = segment_.find_chunk<thread_cache>(segment_.slot(owner).cache);
  }
  const u32 size_class = b.slab->size_class;
  if (c == nullptr || c->slot != owner || size_class >= class_count) return false;
  const u64* const entries = c->entries_of(size_class);
  const u32 count =
      std::min(c->magazines[size_class].count.load(std::memory_order_relaxed), magazine_slots);
  const u64 entry = u64{b.region->slot} << region_shift | b.offset_bytes;
  return std::any_of(entries, entries + count,
                     [entry](u64 kept) { return (kept & ~entry_is_clean) == entry; });
}

// The table that the word lies in. False: no metadata left, or the block has gone.
bool addressing::make_words(local_region& region, u64 offset) noexcept {
  if (!member_.ensure_member()) return false;
  locked t(heap_);
  const auto b = find_block(segment_, region, offset, true);
  if (!b) return false;
  if (b->slab != nullptr) return make_generations(*t, region, b->slab);
  const naming n = naming_of(segment_, *b, offset);
  return !n.pool || make_generations(*t, n.pool);
}

handle addressing::handle_of(const void* p) noexcept {
  local_region* const region = address_index::find(p);
  if (region == nullptr || region->heap == nullptr) return null_handle;
  // Or of another attachment of the same heap in this process: a handle means the same in both.
  if (&region->heap->here != &heap_)
    return region->heap_id == segment_.header().heap_id ? region->heap->bytes.handle_of(p)
                                                        : null_handle;
  const u64 offset = static_cast<u64>(static_cast<const char*>(p) - region->base);
  const auto b = find_block(segment_, *region, offset, true);
  if (!b) return null_handle;
  naming n = naming_of(segment_, *b, offset);
  for (int tries = 0; tries < most_names; ++tries) {
    // sync(name): the last use under the old name comes before the new one.
    const u32 seen =
        n.word != nullptr ? std::atomic_ref(*n.word).load(std::memory_order_acquire) : 0;
    const handle name =
        handle_at(*region, offset, region->generations.behind(n.first, count_in(seen)));
    if ((seen & n.marks) != n.marks) return null_handle;
    if ((seen & word_is_named) != 0 || is_read_only()) return name;
    if (n.word == nullptr) {
      if (!make_words(*region, offset)) return null_handle;
      n = naming_of(segment_, *b, offset);
      continue;
    }
    if (is_kept(*b, n, false)) return null_handle;
    u32 expected = seen;
    // sync(name): whoever resolves it sees what was written into the block before.
    if (std::atomic_ref(*n.word).compare_exchange_strong(expected, seen | word_is_named,
                                                         std::memory_order_acq_rel))
      return name;  // commit
  }
  return null_handle;
}

result<void*> addressing::resolve(handle h) {
  const u64 word = static_cast<u64>(h);
  const u32 slot = slot_of(h);
  if (h == null_handle || slot >= views_.slots())
    return refuse(errc::foreign_handle, "{:#x} is no handle of heap \"{}\"", word, name_);
  const region_record& r = views_.record(slot);
  // sync(published): what the record says is seen.
  if (r.state.load(std::memory_order_acquire) < region_active)
    return refuse(errc::stale_handle, "the region of handle {:#x} has been removed", word);
  const u32 id = r.id.load(std::memory_order_acquire);
  local_region& region = views_.at(slot);
  const generations_of_region all = region.generations;
  const u64 number = number_of(h) - all.first_number, generation = number >> all.offset_bits,
            offset = number & low_bits(all.offset_bits);
  if (number_of(h) < all.first_number || generation >= all.count)
    return refuse(errc::stale_handle, "the region of handle {:#x} has been removed", word);
  if (offset >= r.length_bytes)
    return refuse(errc::foreign_handle, "handle {:#x} points behind region {} of {} bytes", word,
                  id, r.length_bytes);
  const auto stale = [&] {
    return refuse(errc::stale_handle, "the block of handle {:#x} has been freed", word);
  };
  const auto b = find_block(segment_, region, offset, true);
  if (!b) return stale();
  const naming n = naming_of(segment_, *b, offset);
  // sync(name): what was written into the block before it got the name is seen.
  const u32 seen = n.word != nullptr ? std::atomic_ref(*n.word).load(std::memory_order_acquire) : 0;
  if ((seen & n.marks) != n.marks) return stale();
  if (all.behind(n.first, count_in(seen)) != generation) {
    if (n.zone == nullptr || count_in(*n.zone) != generation)
      return stale();  // of the pool's memory as such
  } else if ((seen & word_is_named) == 0 && is_kept(*b, n, true)) {
    return stale();
  }
  auto attached = memory_.ensure_attached(slot);
  if (!attached) return std::unexpected(attached.error());
  if ((*attached)->id != id) return stale();
  return (*attached)->base + offset;
}

}  // namespace annex::detail
