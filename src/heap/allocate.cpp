// heap/allocate.cpp - from a size to a block.
//
//   1 magazine        a block this thread has                     nothing locked; one store commits
//   2 own slabs       refill the magazine; collect remote frees   nothing locked (busy is set)
//   3 orphan or new   adopt a slab without owner, or cut one      heap lock, one transaction
//   4 more room       attach regions, recover the dead, recall    heap lock, several transactions
//   5 explain         why not, who has it, what to do
//
// If the process dies: in 1 and 2 the block is free or the dead process's, never both; in 3
// the transaction is undone, or the slab is the dead thread's and recovery finds it in its lane; in
// 4 every step is a transaction of its own.
#include <algorithm>
#include <cstring>
#include <utility>

#include "attached/misuse.hpp"
#include "heap/local_heap.hpp"
#include "heap/placing.hpp"
#include "heap/registry.hpp"

namespace annex::detail {
namespace {

// A shortage inside on_shortage()'s function is not one to grow for.
thread_local bool is_growing = false;
struct growing_scope {
  growing_scope() noexcept { is_growing = true; }
  ~growing_scope() { is_growing = false; }
};

}  // namespace

thread_cache* requests::make_cache() noexcept {
  if (!member_.ensure_member() || is_mender()) return nullptr;
  registry::give_back_late_caches();
  const u16 slot = claim_thread_slot(segment_, self());
  if (slot == no_owner) return nullptr;
  thread_slot& mine = segment_.slot(slot);
  {
    locked t(heap_);
    if (mine.cache == 0) {
      const chunk_ref ref = allocate_chunk(*t, sizeof(thread_cache));
      if (ref != 0) t->put(mine.cache, ref);
    }
    if (mine.cache != 0) {
      start_cache(*segment_.chunk<thread_cache>(mine.cache), slot, self(),
                  has_option(option_checked));
      t->put(segment_.member(self()).threads, segment_.member(self()).threads + 1);
    }
  }
  if (mine.cache == 0) {
    // sync(slot): we are done with it.
    mine.state.store(mine.state.load(std::memory_order_relaxed) >> 16 << 16,
                     std::memory_order_release);
    note_free_slot(segment_, slot);
    return nullptr;
  }
  auto* c = segment_.chunk<thread_cache>(mine.cache);
  registry::remember_cache(heap_.index, c);
  return c;
}

void* requests::take_block(thread_cache& c, u32 size_class, bool* clean) noexcept {
  u32 doubles = 0;  // of blocks that others freed
  void* const block = take_block(c, size_class, clean, &doubles);
  if (doubles != 0) say_doubles(heap_, {0, doubles});
  return block;
}

void* requests::take_block(thread_cache& c, u32 size_class, bool* clean, u32* doubles) noexcept {
  for (;;) {
    {
      busy_scope busy(c);
      if (busy.entered()) {
        magazine& m = c.magazines[size_class];
        u64 entry = 0;
        if (c.checked != 0) {
          entry = take_direct(segment_, views_, c, size_class, doubles);
          if (entry == ~u64{0}) return nullptr;
        } else {
          if (m.count.load(std::memory_order_relaxed) == 0 &&
              !refill(segment_, views_, c, size_class, doubles))
            return nullptr;
          const u32 n = m.count.load(std::memory_order_relaxed);
          entry = m.entries[n - 1];
          compiler_fence();
          m.count.store(n - 1, std::memory_order_relaxed);  // commit
        }
        if (!leads_somewhere(views_.bases(), entry)) {
          m.count.store(0, std::memory_order_relaxed);
          segment_.mark_damaged("a thread's cache keeps an address that is in no region");
          return nullptr;
        }
        *clean = (entry & entry_is_clean) != 0;
        return block_of(views_.bases(), entry);
      }
    }
    locked wait_for_the_freezer(heap_);
  }
}

bool requests::add_slab(thread_cache& c, u32 size_class, u32 only_slot) noexcept {
  locked t(heap_);
  segment_header& h = segment_.header();
  slab_record* slab = adopt(*t, size_class, c, only_slot);
  for (u32 word = 0, words = region_words(h), first = h.region_hint / 64;
       word < words && slab == nullptr; ++word) {
    const u32 at = (first + word) % words;
    for (u64 bits = h.free_regions[at]; bits != 0 && slab == nullptr; bits &= bits - 1) {
      const u32 slot = at * 64 + static_cast<u32>(std::countr_zero(bits));
      if (slot >= segment_.region_limit()) break;
      if (only_slot != any_slot && slot != only_slot) continue;
      local_region& view = views_.at(slot);
      if (!is_usable_here(view)) continue;
      magazine& m = c.magazines[size_class];
      slab = make_slab(*t, view, size_class,
                       slab_bytes_of(size_class, view.granule_mask + 1, view.length_bytes, m.made),
                       c.slot, self());
      if (slab != nullptr) {
        ++m.made;
        slab->lane = static_cast<u16>(c.next_lane % limits::lanes);
        t->put(h.region_hint, slot);
      }
    }
  }
  if (slab == nullptr) return false;
  mark_lane(c, slab->lane);
  link_slab(*t, &c.lanes[slab->lane], slab);
  t->commit();
  ++c.next_lane;
  add_partial(segment_, c, slab);
  if (slab->free_count == slab->capacity) ++c.magazines[size_class].empties;
  return true;
}

// One step further each time it is called for a request, beginning with stage 0. False: nothing is
// left to try.
bool requests::make_room(u32& stage, const placement& p, u64 size_bytes) noexcept {
  // What was grown may go to others: again, not for ever.
  constexpr u32 growing = 1, recalling = growing + 8, given_up = recalling + 1;
  if (is_inside_callback()) stage = std::max(stage, recalling);
  if (stage == 0) {
    stage = growing;
    if (memory_.attach_more() || care_.recover() != 0) return true;
  }
  if (stage < recalling) {
    ++stage;
    if (grow_ && !is_growing) {
      const growing_scope here;
      if (grow_(size_bytes)) return true;
    }
    stage = recalling;
  }
  if (stage == given_up) return false;
  stage = given_up;
  // Recalling every cache is worth it only if the request could be met by an empty heap.
  for (const u32 slot : used_region_slots(segment_)) {
    const region_record& r = views_.record(slot);
    if (r.state.load(std::memory_order_relaxed) != region_active || r.length_bytes < size_bytes)
      continue;
    if (p.iova_contiguous && r.longest_run_bytes < size_bytes) continue;
    care_.trim_all(true);
    return true;
  }
  return false;
}

// The same for a request that has to be met in one region: it is not grown, and others are not
// attached.
bool requests::make_room_in(u32& stage, u32 slot, u64 size_bytes) noexcept {
  if (is_inside_callback()) return false;
  if (stage == 0) {
    stage = 1;
    if (care_.recover() != 0) return true;
  }
  if (stage == 2) return false;
  stage = 2;
  if (views_.record(slot).length_bytes < size_bytes) return false;
  care_.trim_all(true);
  return true;
}

void* requests::allocate_class(u32 size_class, const placement& p, bool* clean) noexcept {
  thread_cache* c = cache_of(heap_.index);
  if (c == nullptr) c = make_cache();
  if (c == nullptr)
    return explain(is_read_only() ? explanation::cause::read_only
                   : heap_.forked ? explanation::cause::forked_away
                                  : explanation::cause::limit,
                   p);
  if (memory_.has_news()) memory_.synchronize();
  for (u32 stage = 0;;) {
    if (segment_.is_damaged()) return explain(explanation::cause::damaged, p);
    do {
      if (void* block = take_block(*c, size_class, clean)) return block;
    } while (add_slab(*c, size_class) && !segment_.is_damaged());
    if (segment_.is_damaged()) return explain(explanation::cause::damaged, p);
    if (!make_room(stage, p, class_bytes[size_class])) break;
  }
  // A larger block that is free serves better than none.
  for (u32 larger = size_class + 1;
       larger < class_count && class_bytes[larger] <= 4 * class_bytes[size_class]; ++larger)
    if (void* block = take_block(*c, larger, clean)) {
      if (const local_region* region = address_index::find(block);
          region != nullptr && is_as_asked(p, *region, block))
        return block;
      free(block);
    }
  return explain(explanation::cause::no_fit, p);
}

std::optional<extent_place> requests::find_extent(tenure& t, const placement& p, extent_request& q,
                                                  local_region** where, u32 only_slot) noexcept {
  segment_header& h = segment_.header();
  for (const bool on_node : {true, false}) {
    if (on_node && p.numa_node == any_node) continue;
    for (u32 word = 0, words = region_words(h), first = h.region_hint / 64; word < words; ++word) {
      const u32 at = (first + word) % words;
      for (u64 bits = h.free_regions[at]; bits != 0; bits &= bits - 1) {
        const u32 slot = at * 64 + static_cast<u32>(std::countr_zero(bits));
        if (slot >= segment_.region_limit()) break;
        if (only_slot != any_slot && slot != only_slot) continue;
        local_region& view = views_.at(slot);
        if (!is_usable_here(view) || (on_node && view.record->numa_node != p.numa_node)) continue;
        if (p.zeroed && view.access == touch::none) continue;
        if (const auto place = extents(view).allocate(t, q)) {
          t.put(h.region_hint, slot);
          *where = &view;
          return place;
        }
      }
    }
  }
  return {};
}

void* requests::allocate_extent(const placement& p, u64 size_bytes, u64* dirty_bytes,
                                u32 only_slot) noexcept {
  thread_cache* c = cache_of(heap_.index);
  if (c == nullptr) c = make_cache();
  if (!member_.ensure_member() || is_read_only())
    return explain(is_read_only() ? explanation::cause::read_only : explanation::cause::forked_away,
                   p);
  if (is_mender()) return explain(explanation::cause::limit, p);
  if (memory_.has_news()) memory_.synchronize();
  for (u32 stage = 0;;) {
    if (segment_.is_damaged()) return explain(explanation::cause::damaged, p);
    {
      locked t(heap_);
      extent_request q = request_for(p, size_bytes, granule_large, static_cast<u16>(self()));
      local_region* view = nullptr;
      if (const auto place = find_extent(*t, p, q, &view, only_slot)) {
        t->put(segment_.member(self()).extents_held, segment_.member(self()).extents_held + 1);
        if (c != nullptr) {  // until the caller has it, it is nobody's: recovery frees it
          t->put(segment_.slot(c->slot).inflight_granule, place->granule);
          t->put(segment_.slot(c->slot).inflight_region_1, view->slot + 1);
          t->put(segment_.slot(c->slot).inflight_seal,
                 segment_.slot(c->slot).right_inflight_seal());
        }
        t->commit();
        if (segment_.is_damaged()) return explain(explanation::cause::damaged, p);
        void* const block = view->base + place->offset_bytes;
        *dirty_bytes = place->dirty_bytes();
        if (c != nullptr) {
          std::atomic_ref(segment_.slot(c->slot).inflight_region_1)
              .store(0, std::memory_order_relaxed);
          compiler_fence();
          std::atomic_ref(segment_.slot(c->slot).inflight_seal)
              .store(0, std::memory_order_relaxed);  // so that one word alone says nothing
        }
        return block;
      }
    }
    if (only_slot != any_slot ? !make_room_in(stage, only_slot, size_bytes)
                              : !make_room(stage, p, size_bytes))
      break;
  }
  return only_slot != any_slot ? nullptr : explain(explanation::cause::no_fit, p);
}

// Before annex itself writes: an entry of a cache may have been changed into one near the end.
bool requests::has_room_for(const local_region& region, const void* block,
                            u64 bytes) const noexcept {
  const u64 offset = static_cast<u64>(static_cast<const char*>(block) - region.base);
  if (bytes <= region.length_bytes && offset <= region.length_bytes - bytes) return true;
  segment_.mark_damaged("a block reaches beyond its region");
  return false;
}

bool requests::zero_if_asked(void* block, const placement& p, bool clean) noexcept {
  if (!p.zeroed || clean) return true;  // what is known to be zero is memory the CPU may touch
  const local_region* region = region_of(block);
  if (region == nullptr || region->access == touch::none ||
      !has_room_for(*region, block, p.size_bytes))
    return false;
  std::memset(block, 0, p.size_bytes);
  return true;
}

void* requests::allocate_large(const placement& p) noexcept {
  if (void* const kept = take_kept_block(p)) return kept;
  u64 dirty_bytes = 0;
  void* const block = allocate_extent(p, p.size_bytes, &dirty_bytes);
  // Asked for zeroed memory, only regions the CPU may touch were looked at.
  if (block != nullptr && p.zeroed) std::memset(block, 0, std::min(dirty_bytes, p.size_bytes));
  return block;
}

void* requests::allocate(u64 size_bytes) noexcept {
  if (size_bytes > limits::largest_slab_block_bytes)
    if (void* const kept = take_kept_block(size_bytes)) return kept;
  placement p;
  p.size_bytes = size_bytes;
  p.align_bytes = 16;
  if (!is_size(size_bytes)) return explain(explanation::cause::bad_request, p);
  if (size_bytes > limits::largest_slab_block_bytes) return allocate_large(p);
  bool clean = false;
  return allocate_class(class_of(size_bytes), p, &clean);
}

size_t requests::allocate_bulk(u64 size_bytes, std::span<void*> blocks) noexcept {
  const bool small = size_bytes != 0 && size_bytes <= limits::largest_slab_block_bytes;
  const u32 size_class = small ? class_of(size_bytes) : 0;
  size_t filled = 0;
  while (filled < blocks.size()) {
    if (thread_cache* c = small ? cache_of(heap_.index) : nullptr) {
      busy_scope busy(*c);
      if (busy.entered()) {
        magazine& m = c->magazines[size_class];
        const u32 n = m.count.load(std::memory_order_relaxed);
        const u32 most = static_cast<u32>(std::min<size_t>(n, blocks.size() - filled));
        u32 taken = 0;
        for (; taken < most; ++taken) {
          const u64 entry = m.entries[n - 1 - taken];
          if (!leads_somewhere(views_.bases(), entry)) break;  // allocate() says so
          blocks[filled + taken] = block_of(views_.bases(), entry);
        }
        compiler_fence();
        m.count.store(n - taken, std::memory_order_relaxed);  // commit
        filled += taken;
      }
    }
    if (filled == blocks.size()) break;
    void* block = allocate(size_bytes);
    if (block == nullptr) break;
    blocks[filled++] = block;
  }
  return filled;
}

}  // namespace annex::detail
