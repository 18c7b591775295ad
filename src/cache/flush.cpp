// cache/flush.cpp - blocks of a cache back into its slabs, declared in thread_cache.hpp: the older
// part of a magazine, those of one region, all that a thread kept that is gone.
//
//   flush    the free bits set; then the rest moved down; count = n: while it moves (moving.hpp) a
//            block is in both, and the union counts (rule R2)
//
// The caller has the right to the cache (rule C1). If the process dies here: every block is in the
// bits, in the magazine or in both, and so free; whoever comes next drops the second.
#include "cache/moving.hpp"

namespace annex {
namespace {

// Sets the bits of so many blocks that are not free yet. The caller has counted them out of every
// other place.
void set_free(const segment& s, thread_cache& c, slab_record* slab, u32 word, u64 bits,
              u32 count) noexcept {
  mark_free(*slab, word, bits);
  slab->summary |= u64{1} << word;
  slab->free_count += count;
  if (slab->in_partial == 0) add_partial(s, c, slab);
  if (slab->free_count == slab->capacity) ++c.magazines[slab->size_class].empties;
}

// Puts entries back into their slabs. Neighbours in a magazine are often neighbours in a slab: the
// slab is looked up only when an entry lies outside the last one, and the bits of one word are set
// together. To be finished before it goes.
class returner {
 public:
  returner(const segment& s, region_views& views, thread_cache& c, u32 size_class,
           u32* doubles) noexcept
      : s_(s), views_(views), cache_(c), doubles_(doubles), size_class_(size_class) {}
  void give_back(u64 entry) noexcept {
    if (entry - begin_ >= bytes_ && !find_slab(entry)) {
      ++*doubles_;
      return;
    }
    const u32 block = block_index_of(entry - begin_, reciprocal_);
    // Of a slab that was here before.
    if (u64{block} * class_bytes[size_class_] != ((entry & ~entry_is_clean) - begin_)) {
      ++*doubles_;
      return;
    }
    if (block / 64 != word_) {
      finish();
      word_ = block / 64;
    }
    const u64 bit = u64{1} << (block % 64);
    if (((slab_->free_words()[word_] | bits_) & bit) != 0) {
      ++*doubles_;
      return;
    }
    bits_ |= bit;
    ++count_;
  }
  void finish() noexcept {
    if (count_ != 0) set_free(s_, cache_, slab_, word_, bits_, count_);
    bits_ = count_ = 0;
  }

 private:
  bool find_slab(u64 entry) noexcept {
    finish();
    const local_region& region = views_.at(static_cast<u32>(entry >> region_shift));
    slab_record* const slab = slab_at(s_, region, entry & offset_mask);
    // A block that was freed twice may outlive its slab here: what lies there now is not this
    // cache's to change.
    if (slab == nullptr || slab->owner != cache_.slot || slab->size_class != size_class_)
      return false;
    slab_ = slab;
    begin_ = region.entry_base | u64{slab->granule} << region.granule_shift;
    bytes_ = u64{slab->capacity} * class_bytes[slab->size_class];
    reciprocal_ = class_reciprocal[slab->size_class];
    return entry - begin_ < bytes_;
  }
  const segment& s_;
  region_views& views_;
  thread_cache& cache_;
  u32* doubles_;
  const u32 size_class_;
  slab_record* slab_ = nullptr;
  u64 begin_ = 0, bytes_ = 0, reciprocal_ = 0, bits_ = 0;
  u32 word_ = 0, count_ = 0;
};

}  // namespace

void free_direct(const segment& s, thread_cache& c, slab_record* slab, u32 block) noexcept {
  set_free(s, c, slab, block / 64, u64{1} << (block % 64), 1);
}

void flush(const segment& s, region_views& views, thread_cache& c, u32 size_class, u32 keep,
           u32* doubles) noexcept {
  magazine& m = c.magazines[size_class];
  const u32 n = m.count.load(std::memory_order_relaxed);
  if (n == 0) store_word(m.moving, 0);
  if (n <= keep) return;
  const u32 flushed = n - keep;
  u64* const entries = c.entries_of(size_class);
  moving_scope moving(m, doubles);
  returner slabs(s, views, c, size_class, moving.doubles());
  for (u32 i = 0; i < flushed; ++i)
    slabs.give_back(entries[i]);
  slabs.finish();
  compiler_fence();  // the blocks are in both places now (rule R2)
  for (u32 i = 0; i < keep; ++i)
    store_word(entries[i], entries[flushed + i]);
  compiler_fence();
  m.count.store(keep, std::memory_order_relaxed);
}

void give_back_magazine(const segment& s, region_views& views, thread_cache& c, u32 size_class,
                        u32* doubles) noexcept {
  magazine& m = c.magazines[size_class];
  if (m.count.load(std::memory_order_relaxed) == 0) return;
  moving_scope moving(m, doubles);
  const u64* const entries = c.entries_of(size_class);
  const u32 n = m.count.load(std::memory_order_relaxed);
  for (u32 i = 0; i < n && i < magazine_slots; ++i) {
    local_region& region = views.at(static_cast<u32>(entries[i] >> region_shift));
    const u64 offset = entries[i] & offset_mask;
    slab_record* slab = slab_at(s, region, offset);
    const bool is_own = slab != nullptr && slab->owner == c.slot && slab->size_class == size_class;
    const u64 in_slab = is_own ? offset - (u64{slab->granule} << region.granule_shift) : 0;
    const u32 block = block_index_of(in_slab, class_reciprocal[size_class]);
    // Its slab has gone: freed twice.
    if (!is_own || block >= slab->capacity || u64{block} * class_bytes[size_class] != in_slab) {
      ++*moving.doubles();
      continue;
    }
    const u64 bit = u64{1} << (block % 64);
    if ((slab->free_bits(block / 64) & bit) != 0) ++*moving.doubles();
    mark_free(*slab, block / 64, bit);
  }
  compiler_fence();  // the blocks are in both places now (rule R2)
  m.count.store(0, std::memory_order_relaxed);
}

void flush_region(const segment& s, region_views& views, thread_cache& c, u32 region_slot,
                  u32* doubles) noexcept {
  for (u32 size_class = 1; size_class < class_count; ++size_class) {
    magazine& m = c.magazines[size_class];
    u64* const entries = c.entries_of(size_class);
    const u32 n = m.count.load(std::memory_order_relaxed);
    if (n == 0) continue;
    moving_scope moving(m, doubles);
    returner slabs(s, views, c, size_class, moving.doubles());
    u32 kept = 0;
    for (u32 i = 0; i < n; ++i) {
      const u64 entry = entries[i];
      if (entry >> region_shift == region_slot)
        slabs.give_back(entry);
      else
        store_word(entries[kept++], entry);
    }
    slabs.finish();
    compiler_fence();
    m.count.store(kept, std::memory_order_relaxed);
  }
}

}  // namespace annex
