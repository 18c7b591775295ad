// cache/thread_cache.cpp - see thread_cache.hpp.
#include "cache/thread_cache.hpp"

#include <algorithm>

#include "base/race_checker.hpp"

namespace annex {

constinit thread_local thread_state this_thread;

thread_cache* turn_to(u32 heap_index, u64 heap_number) noexcept {
  thread_cache* const c = cache_of(heap_index);
  if (c == nullptr) return nullptr;
  this_thread.heap_number = heap_number;
  this_thread.cache = c;
  return c;
}

namespace {

u64 offset_of_slab(region_views& views, const slab_record& slab) noexcept {
  return u64{slab.granule} << views.at(slab.region).granule_shift;
}

// A slab of a partial list, if its blocks can be handed out: of this class, with free blocks, and
// inside its region. Null: the list leads to something else, and the segment is marked as damaged.
slab_record* usable_slab(const segment& s, region_views& views, chunk_ref ref,
                         u32 size_class) noexcept {
  auto* slab = s.chunk<slab_record>(ref);
  const local_region& region = views.at(slab->region);
  const u64 end =
      (u64{slab->granule} << region.granule_shift) + u64{slab->capacity} * class_bytes[size_class];
  const bool is_inside = is_usable_here(region) && end <= region.region_bytes;
  if (slab->size_class == size_class && slab->summary != 0 && slab->in_partial != 0 && is_inside)
    return slab;
  s.mark_damaged("a list of slabs with free blocks leads to something else");
  return nullptr;
}

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

// An entry of a block taken from the bitmap. The mark goes with the entry; from then on the slab
// knows of it no more.
u64 entry_of(slab_record& slab, u64 slab_offset, u32 block, u32 block_bytes) noexcept {
  const u64 entry = u64{slab.region} << region_shift | (slab_offset + u64{block} * block_bytes);
  return block >= slab.first_clean() ? entry | entry_is_clean : entry;
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

// While blocks of the magazine may be in two places (rule R2). doubles(): where to count those that
// were free already; if somebody died doing the same, they are no mistakes.
class moving_scope {
 public:
  moving_scope(magazine& m, u32* doubles) noexcept
      : magazine_(m), doubles_(m.moving == 0 ? doubles : &not_counted_) {
    store_word(m.moving, 1);
    compiler_fence();
  }
  ~moving_scope() {
    compiler_fence();
    store_word(magazine_.moving, 0);
  }
  moving_scope(const moving_scope&) = delete;
  moving_scope& operator=(const moving_scope&) = delete;
  u32* doubles() noexcept { return doubles_; }

 private:
  magazine& magazine_;
  u32 not_counted_ = 0;
  u32* doubles_;
};

}  // namespace

void start_cache(thread_cache& c, u16 slot, u32 member, bool checked) noexcept {
  c.key = slot | u32{granule_slab} << 16;
  c.busy.store(0, std::memory_order_relaxed);
  c.frozen.store(frozen_no, std::memory_order_relaxed);
  c.member = member;
  c.slot = slot;
  c.checked = checked ? 1 : 0;
  c.next_lane = 0;
  std::fill(std::begin(c.used_lanes), std::end(c.used_lanes), 0);
  std::fill(std::begin(c.lanes), std::end(c.lanes), 0);
  for (u32 i = 1; i < class_count; ++i) {
    magazine& m = c.magazines[i];
    m.count.store(0, std::memory_order_relaxed);
    m.capacity = checked ? 0 : first_capacity;
    m.block_bytes = class_bytes[i];
    m.divisor = class_divisor[i];
    m.empties = 0;
    m.partial = 0;
    m.made = 0;
    m.moving = 0;
  }
}

slab_record* slab_at(const segment& s, const local_region& region, u64 offset) noexcept {
  const u32 granule = static_cast<u32>(offset >> region.granule_shift);
  if (granule >= region.granule_count) return nullptr;
  const granule_entry g = load_granule(region.granule_base + granule);
  if ((g.kind != granule_slab && g.kind != granule_slab_held) || g.distance > granule)
    return nullptr;
  const chunk_ref ref = region.extents[granule - g.distance].record;
  return ref != 0 ? s.chunk<slab_record>(ref) : nullptr;
}

void add_partial(const segment& s, thread_cache& c, slab_record* slab) noexcept {
  chunk_ref& head = c.magazines[slab->size_class].partial;
  slab->partial_previous = 0;
  slab->partial_next = head;
  if (head != 0) s.chunk<slab_record>(head)->partial_previous = s.ref_of(slab);
  head = s.ref_of(slab);
  slab->in_partial = 1;
}

void remove_partial(const segment& s, thread_cache& c, slab_record* slab) noexcept {
  if (slab->in_partial == 0) return;
  if (slab->partial_next != 0)
    s.chunk<slab_record>(slab->partial_next)->partial_previous = slab->partial_previous;
  if (slab->partial_previous != 0)
    s.chunk<slab_record>(slab->partial_previous)->partial_next = slab->partial_next;
  else
    c.magazines[slab->size_class].partial = slab->partial_next;
  slab->in_partial = 0;
}

bool refill(const segment& s, region_views& views, thread_cache& c, u32 size_class,
            u32* doubles) noexcept {
  const u32 block_bytes = class_bytes[size_class];
  magazine& m = c.magazines[size_class];
  u64* const entries = c.entries_of(size_class);
  u32 n = m.count.load(std::memory_order_relaxed);
  if (m.capacity < largest_capacity_of(block_bytes)) m.capacity = m.capacity * 2;
  const u32 wanted = std::min(m.capacity / 2, largest_batch);
  moving_scope moving(m, doubles);
  while (n < wanted) {
    if (m.partial == 0 && (n != 0 || !collect_lanes(s, c, false, doubles) || m.partial == 0)) break;
    slab_record* slab = usable_slab(s, views, m.partial, size_class);
    if (slab == nullptr) {
      m.partial = 0;
      break;
    }
    const u64 offset = offset_of_slab(views, *slab);
    // A freezer may have collected what others freed.
    race_checker::taken_over(s.header().heap_id, m.partial);
    while (slab->summary != 0 && n < wanted) {
      const u32 w = static_cast<u32>(std::countr_zero(slab->summary)) & 63;
      const u64 word = slab->free_bits(w) & slab->valid_bits(w);
      if (word != slab->free_words()[w]) [[unlikely]]
        s.mark_damaged("a slab has free blocks without a witness");
      // Without the instruction it is slow.
      const u32 there = word == ~u64{0} ? 64 : static_cast<u32>(std::popcount(word));
      const u32 count = std::min(there, wanted - n);
      u64 left = word;
      u32 block = 0;
      // The lowest is handed out first.
      for (u64* top = entries + n + count; top != entries + n; left &= left - 1) {
        block = w * 64 + static_cast<u32>(std::countr_zero(left));
        *--top = entry_of(*slab, offset, block, block_bytes);
      }
      if (block >= slab->first_clean())
        slab->set_first_clean(block + 1);  // before anyone can have them
      n += count;
      compiler_fence();
      m.count.store(n, std::memory_order_relaxed);  // now in both: the union counts (rule R2)
      compiler_fence();
      leave_free(*slab, w, left);
      if (left == 0) slab->summary &= ~(u64{1} << w);
      if (slab->free_count == slab->capacity && m.empties > 0) --m.empties;
      slab->free_count -= count;
    }
    if (slab->summary == 0) remove_partial(s, c, slab);
  }
  return n != 0;
}

namespace {

// The lowest free block of the first slab of a partial list that is not empty, straight from its
// bitmap. ~0: the list leads to something else; the segment is marked as damaged.
u64 take_from_first(const segment& s, region_views& views, thread_cache& c,
                    u32 size_class) noexcept {
  magazine& m = c.magazines[size_class];
  slab_record* slab = usable_slab(s, views, m.partial, size_class);
  const u32 w = slab != nullptr ? static_cast<u32>(std::countr_zero(slab->summary)) & 63 : 0;
  const u64 word = slab != nullptr ? slab->free_bits(w) & slab->valid_bits(w) : 0;
  if (word == 0) {
    if (slab != nullptr) s.mark_damaged("a slab that is said to have free blocks has none");
    m.partial = 0;
    return ~u64{0};
  }
  race_checker::taken_over(s.header().heap_id, m.partial);
  const u32 bit = static_cast<u32>(std::countr_zero(word));
  if (slab->free_count == slab->capacity && m.empties > 0) --m.empties;
  const u64 entry =
      entry_of(*slab, offset_of_slab(views, *slab), w * 64 + bit, class_bytes[size_class]);
  if (w * 64 + bit >= slab->first_clean()) slab->set_first_clean(w * 64 + bit + 1);
  compiler_fence();
  const u64 left = word & ~(u64{1} << bit);
  leave_free(*slab, w, left);  // commit
  if (left == 0) slab->summary &= ~(u64{1} << w);
  --slab->free_count;
  if (slab->summary == 0) remove_partial(s, c, slab);
  return entry;
}

// Whether a slab of the class with a free block lies in the region: it is then the first of the
// list.
bool put_first_what_lies_in(const segment& s, thread_cache& c, u32 size_class,
                            u32 region_slot) noexcept {
  const chunk_ref first = c.magazines[size_class].partial;
  list_walk walk(s);
  for (chunk_ref ref = first; ref != 0 && walk.goes_on();
       ref = s.chunk<slab_record>(ref)->partial_next) {
    auto* slab = s.chunk<slab_record>(ref);
    if (slab->region != region_slot) continue;
    if (slab->size_class != size_class) {
      s.mark_damaged("a list of slabs with free blocks leads to something else");
      return false;
    }
    if (ref != first) {
      remove_partial(s, c, slab);
      add_partial(s, c, slab);
    }
    return true;
  }
  return false;
}

}  // namespace

u64 take_direct(const segment& s, region_views& views, thread_cache& c, u32 size_class,
                u32* doubles) noexcept {
  const magazine& m = c.magazines[size_class];
  if (m.partial == 0 && (!collect_lanes(s, c, false, doubles) || m.partial == 0)) return ~u64{0};
  return take_from_first(s, views, c, size_class);
}

u64 take_in_region(const segment& s, region_views& views, thread_cache& c, u32 size_class,
                   u32 region_slot, u32* doubles) noexcept {
  magazine& m = c.magazines[size_class];
  if (const u32 n = m.count.load(std::memory_order_relaxed); n != 0) {
    const u64 entry = c.entries_of(size_class)[n - 1];
    if (entry >> region_shift == region_slot && leads_somewhere(views.bases(), entry)) {
      compiler_fence();
      m.count.store(n - 1, std::memory_order_relaxed);  // commit
      return entry;
    }
  }
  bool is_there = put_first_what_lies_in(s, c, size_class, region_slot);
  if (!is_there && collect_lanes(s, c, false, doubles))
    is_there = put_first_what_lies_in(s, c, size_class, region_slot);
  return is_there ? take_from_first(s, views, c, size_class) : ~u64{0};
}

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

bool collect_lanes(const segment& s, thread_cache& c, bool all, u32* doubles) noexcept {
  thread_slot& slot = s.slot(c.slot);
  bool any = false;
  for (u32 word = 0; word < limits::lanes / 64; ++word) {
    u64 lanes = slot.hints[word].load(std::memory_order_relaxed);
    // sync(hint): after the remote bit.
    if (lanes != 0) lanes = slot.hints[word].exchange(0, std::memory_order_acq_rel);
    if (all) lanes = c.used_lanes[word];
    for (; lanes != 0; lanes &= lanes - 1) {
      const u32 lane = word * 64 + static_cast<u32>(std::countr_zero(lanes));
      list_walk walk(s);
      for (chunk_ref ref = c.lanes[lane]; ref != 0 && walk.goes_on();) {
        slab_record* slab = s.chunk<slab_record>(ref);
        ref = slab->lane_next;
        if (collect(s, slab, doubles) == 0) continue;
        any = true;
        if (slab->in_partial == 0) add_partial(s, c, slab);
        if (slab->free_count == slab->capacity) ++c.magazines[slab->size_class].empties;
      }
    }
  }
  return any;
}

}  // namespace annex
