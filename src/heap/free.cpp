// heap/free.cpp - from an address back to free memory, and what to say when it is not a live block.
//
//   1 address → region → granule      three loads; nothing locked
//   2 own slab                        magazine; one store commits
//   3 another thread's or process's   one compare-and-swap of a word of the slab's remote bitmap
//                                     commits; then a hint for its owner
//   4 large block                     heap lock, one transaction
//
// Each way leads on to the next where it does not end:
//
//   free               a hit (heap/fast_path.hpp)
//   free_past_hit      known to be none; of no heap at all: the program ends
//   free_in_its_heap   this thread's cache of the block's heap takes it, unless it is another's,
//                      large, or something is wrong
//   free_past_cache    may this process free, is the region there still? Large: 4. Else:
//   free_into_slab     which block of which slab, and whose slab: one of the next two
//     free_own         this thread's: 2, once nobody holds its cache still
//     free_others      another's: 3
//
// If the process dies: before the commit the block is still live (its holder, if dead, can be
// reaped); after it, free. Between the swap and the hint the owner finds the block at its next full
// look (refill under pressure, recovery, recall). The handles of the block become stale one store
// before the commit: if the process dies in between, it is live and has none.
//
// A block freed twice
//   in a checked heap, or the last one freed, or free in its slab when a slow path frees it again
//       reported there
//   twice in a cache, or there and free in its slab
//       found when it leaves the cache: overflow, trim, recall, the thread's end, close, drain,
//       detach, release of a pool, recovery, reap
//   freed by others twice
//       the second finds the bit set; later: found when the owner collects
//   its slab went back to the region meanwhile
//       found when it leaves the cache: no slab of that cache lies there
// Who is told: out of a cache of this process, the misuse policy decides (the second free was this
// process's, or it and another both freed the block); out of another's cache, of the dead's, or
// among remote frees, it is counted (misuse_count) and said in the log, and no bystander is
// stopped. What was found under the heap lock is said once that is free. What a death leaves in two
// places (rule R2) is no mistake: magazines and slabs say that they are moving blocks just then.
#include <algorithm>
#include <cstdlib>

#include "attached/misuse.hpp"
#include "base/race_checker.hpp"
#include "cache/kept_extents.hpp"
#include "heap/fast_path.hpp"
#include "platform/report.hpp"

namespace annex::detail {

size_t requests::usable_size(const void* block) noexcept {
  local_region* region = address_index::find(block);
  if (region == nullptr || region->heap == nullptr) return 0;
  const auto live =
      find_block(region->heap->here.seg, *region,
                 static_cast<u64>(static_cast<const char*>(block) - region->base), false);
  return live ? live->size_bytes : 0;
}

// Everything but a block of this thread's own slab in the region and heap of its last free: kept
// out of the way so that the hit needs no stack. No heap, so no heap's policy: an address annex
// never handed out is always a mistake of the program.
void requests::free_past_hit(void* block) noexcept {
  if (block == nullptr || free_in_its_heap(block)) return;
  char report[256];
  stop_program(write_sentence(
      report, "annex: free of {}, which is in no region of any heap in this process\n", block));
}

bool requests::free_in_its_heap(void* block) noexcept {
  local_region* const region = region_of(block);
  if (region == nullptr || region->heap == nullptr) return false;
  this_thread.last_region = region;
  const u64 offset = static_cast<u64>(static_cast<char*>(block) - region->base);
  thread_cache* c = this_thread.heap_number == region->heap_number
                        ? this_thread.cache
                        : turn_to(region->heap_index, region->heap_number);
  if (c == nullptr || !put_cached(c, *region, offset))
    region->heap->blocks.free_past_cache(*region, block);
  return true;
}

ANNEX_NO_JUMP_MARK void requests::free(void* block) noexcept {
  if (!free_hit(block)) [[unlikely]]
    return free_past_hit(block);
}

bool requests::free_if_known(void* block) noexcept {
  return free_hit(block) || free_in_its_heap(block);
}

// Not a member: a reader, whose program is mistaken; a forked child of a private heap, whose blocks
// are the parent's, so that what its destructors free means nothing; or one that found no member
// record left.
bool requests::may_free(const void* block, const local_region* region) noexcept {
  if (member_.ensure_member()) return true;
  if (is_read_only())
    report_misuse(heap_, "free in a process that has the heap attached read-only", block, region);
  else if (!has_option(option_private))
    log(log_level::error,
        "{} of heap {} could not be freed: no member record is left for this forked child, so it "
        "stays its parent's",
        block, name_);
  return false;
}

void requests::free_past_cache(local_region& region, void* block) noexcept {
  if (!may_free(block, &region)) return;
  // sync(published): the region's number is seen with its state.
  if (const u32 state = region.record->state.load(std::memory_order_acquire);
      region.record->id.load(std::memory_order_relaxed) != region.id ||
      (state != region_active && state != region_draining))
    return report_misuse(heap_, "free of a block in a region that has been removed", block,
                         &region);
  // Said when it was found: the block stays, and repair sees to the rest.
  if (segment_.is_damaged()) return;
  const u64 offset = static_cast<u64>(static_cast<char*>(block) - region.base);
  const granule_entry g = load_granule(region.granule_base + (offset >> region.granule_shift));
  if (g.kind == granule_slab || g.kind == granule_slab_held)
    return free_into_slab(region, block, offset, g);
  if (g.kind == granule_large && (offset & region.granule_mask) == 0 &&
      keep_large(region, static_cast<u32>(offset >> region.granule_shift)))
    return;
  std::string_view wrong;
  {
    locked t(heap_);
    const auto live = find_block(segment_, region, offset, false);
    if (!live)
      wrong = "free of an address that is no live block";
    else if (live->kind == block_kind::zone)
      wrong = "free of a zone: release it by its name";
    else if (claim_large(*t, region, live->granule))
      free_extent(*t, region, live->granule);
    else
      wrong = "a block was freed twice";
  }
  if (!wrong.empty()) report_misuse(heap_, wrong, block, &region);
}

// A block of a slab on its way back.
struct leaving_block {
  local_region& region;
  slab_record* slab;
  u32 size_class, index;
  u64 offset;  // in the region
  const void* address;

  u32 word() const noexcept { return index / 64; }
  u64 bit() const noexcept { return u64{1} << (index % 64); }
  granule_entry granule_now() const noexcept {
    return load_granule(region.granule_base + (offset >> region.granule_shift));
  }
};

namespace {

// is_others: its slab has another owner by now. frozen: somebody holds the cache still.
enum class outcome { freed, frozen, is_others, twice };

// What is to be done when a block is in its cache.
struct aftermath {
  u32 doubles = 0;               // found when the magazine overflowed
  bool is_slab_unheld = false;   // members hold no block of the slab any more
  bool has_spare_slabs = false;  // without a live block; read while nobody else held the cache
};

// Of one whose slab is the cache's: free there, freed by another, or the last one freed.
bool is_free_already(thread_cache& c, const leaving_block& b, u64 entry) noexcept {
  const u32 n = c.magazines[b.size_class].count.load(std::memory_order_relaxed);
  return (b.slab->free_words()[b.word()] & b.bit()) != 0 ||
         (b.slab->remote_bits(b.word()) & b.bit()) != 0 ||
         (n != 0 && c.entries_of(b.size_class)[n - 1] == entry);
}

// Says of the block that no member holds it. True: nor any other of the slab's.
bool drop_holder(const segment& s, const leaving_block& b) noexcept {
  if (b.slab->holdings == 0) return false;
  clear_holders(s, b.slab, b.word(), b.bit());
  u64 left = 0;
  for (u32 w = 0; w < b.slab->words && left == 0; ++w)
    left |= held_bits(s, b.slab, w);
  compiler_fence();
  return left == 0;
}

// On top; a full magazine grows first, or gives a part of itself back. The last store commits.
void put_in_magazine(const segment& s, region_views& views, thread_cache& c, u32 size_class,
                     u64 entry, u32* doubles) noexcept {
  magazine& m = c.magazines[size_class];
  if (m.count.load(std::memory_order_relaxed) >= m.capacity) {
    if (m.capacity < largest_capacity_of(class_bytes[size_class]))
      m.capacity = m.capacity * 2;
    else
      flush(s, views, c, size_class, m.capacity - std::min(m.capacity / 2, largest_batch), doubles);
  }
  if (m.count.load(std::memory_order_relaxed) == magazine_slots)
    flush(s, views, c, size_class, 0, doubles);
  const u32 top = m.count.load(std::memory_order_relaxed);
  c.entries_of(size_class)[top] = entry;
  compiler_fence();
  m.count.store(top + 1, std::memory_order_relaxed);  // commit
}

outcome put_in_cache(const segment& s, region_views& views, thread_cache& c, const leaving_block& b,
                     aftermath* left) noexcept {
  busy_scope busy(c);
  if (!busy.entered()) return outcome::frozen;
  // A freezer may have come and gone since we looked: whoever makes orphans of the slabs of a cache
  // holds it still.
  if (b.granule_now().owner != c.slot) return outcome::is_others;
  const u64 entry = u64{b.region.slot} << region_shift | b.offset;
  if (is_free_already(c, b, entry)) return outcome::twice;
  left->is_slab_unheld = drop_holder(s, b);
  forget_block(s, b.region, *b.slab, b.index);
  if (c.checked != 0)
    free_direct(s, c, b.slab, b.index);  // commit
  else
    put_in_magazine(s, views, c, b.size_class, entry, &left->doubles);
  left->has_spare_slabs = c.magazines[b.size_class].empties > 1;
  return outcome::freed;
}

// The owner of its slab finds by it that a block came back. The slab may change owners meanwhile:
// the new one is told, too.
// The owner is read relaxed: whatever it is, a slot's hints are there, and a hint may be lost.
void leave_hint(const segment& s, slab_record* slab) noexcept {
  u16 owner = std::atomic_ref(slab->owner).load(std::memory_order_relaxed);
  for (int look = 0; look < 2 && owner != no_owner && owner < s.slots_used(); ++look) {
    const u32 lane = slab->lane % limits::lanes;
    shared_word<u64>& hint = s.slot(owner).hints[lane / 64];
    const u64 lane_bit = u64{1} << (lane % 64);
    // sync(hint).
    if ((hint.load(std::memory_order_relaxed) & lane_bit) == 0)
      hint.fetch_or(lane_bit, std::memory_order_acq_rel);
    const u16 now = std::atomic_ref(slab->owner).load(std::memory_order_relaxed);
    if (now == owner) break;
    owner = now;
  }
}

}  // namespace

void requests::free_into_slab(local_region& region, void* block, u64 offset,
                              granule_entry g) noexcept {
  slab_record* slab = slab_at(segment_, region, offset);
  if (slab == nullptr)
    return report_misuse(heap_, "free of an address that is no live block", block, &region);
  const u64 in_slab = offset - (u64{slab->granule} << region.granule_shift);
  const u32 index = block_index_of(in_slab, class_reciprocal[slab->size_class]);
  if (index >= slab->capacity || u64{index} * class_bytes[slab->size_class] != in_slab)
    return report_misuse(heap_, "free of an address inside a block", block, &region);
  const leaving_block b{region, slab, slab->size_class, index, offset, block};
  thread_cache* c = cache_of(heap_.index);
  if (c == nullptr || g.owner != c->slot) return free_others(b);
  free_own(*c, b);
}

void requests::free_own(thread_cache& c, const leaving_block& b) noexcept {
  aftermath left;
  outcome got = put_in_cache(segment_, views_, c, b, &left);
  for (; got == outcome::frozen; got = put_in_cache(segment_, views_, c, b, &left))
    locked wait_for_the_freezer(heap_);
  if (got == outcome::is_others) return free_others(b);
  if (got == outcome::twice)
    return report_misuse(heap_, "a block was freed twice", b.address, &b.region);
  if (left.has_spare_slabs || left.is_slab_unheld) {
    locked t(heap_);
    // Since the block is free the slab may have been given back, and something else may lie there.
    const granule_entry now = b.granule_now();
    const bool is_still_ours = now.kind == granule_slab_held && now.owner == c.slot &&
                               slab_at(segment_, b.region, b.offset) == b.slab &&
                               b.slab->owner == c.slot;
    if (left.is_slab_unheld && is_still_ours && drop_empty_holdings(*t, b.slab))
      set_owner(*t, b.region, b.slab, b.slab->owner, false);
    t->commit();
    release_empty_slabs(*t, c, b.size_class, 1);
  }
  if (left.doubles != 0) say_doubles(heap_, {left.doubles, 0});
}

void requests::free_others(const leaving_block& b) noexcept {
  if (has_option(option_checked) &&
      (std::atomic_ref(b.slab->free_words()[b.word()]).load(std::memory_order_relaxed) & b.bit()) !=
          0)
    return report_misuse(heap_, "a block was freed twice", b.address, &b.region);
  forget_block(segment_, b.region, *b.slab, b.index);
  race_checker::passed_on(segment_.header().heap_id, segment_.ref_of(b.slab));
  const u32 before = free_remotely(*b.slab, b.index);  // commit
  if ((before >> (b.index % 32) & 1) != 0)
    return report_misuse(heap_, "a block was freed twice", b.address, &b.region);
  // Whoever set the first bit of the word has left the hint.
  if (before == 0) leave_hint(segment_, b.slab);
}

}  // namespace annex::detail
