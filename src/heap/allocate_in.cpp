// heap/allocate_in.cpp - a block in one region or none, for containers, whose parts must not lie
// apart.
//
//   1 magazine's top   if it lies in the region                   nothing locked; one store commits
//   2 own slabs        one that lies there: a bit of its bitmap   nothing locked; one store commits
//   3 orphan or new    adopt a slab that lies there, or cut one   heap lock, one transaction
//   4 more room        recover the dead, recall caches            heap lock, several transactions
//
// So small blocks share slabs as everybody's do: 64 KiB at most for each class, thread and region,
// not for each block. In a heap of one region 1 and 2 are what allocate() does; with several, a
// block comes straight from a slab of the right one. Large blocks are extents of the region. Memory
// is not grown and other regions are not attached: neither would help.
// If the process dies: as in allocate.cpp.
#include "attached/misuse.hpp"
#include "heap/requests.hpp"

namespace annex::detail {

void* requests::allocate_class_in(thread_cache& c, u32 slot, u32 size_class,
                                  const placement& p) noexcept {
  auto take = [&](u32 of_class) -> void* {
    for (;;) {
      u64 entry = ~u64{0};
      u32 doubles = 0;  // of blocks that others freed
      bool entered = false;
      {
        busy_scope busy(c);
        entered = busy.entered();
        if (entered) entry = take_in_region(segment_, views_, c, of_class, slot, &doubles);
      }
      if (doubles != 0) say_doubles(heap_, {0, doubles});
      if (entered && (entry == ~u64{0} || !leads_somewhere(views_.bases(), entry))) return nullptr;
      if (entered) return block_of(views_.bases(), entry);
      locked wait_for_the_freezer(heap_);
    }
  };
  for (u32 stage = 0;;) {
    if (segment_.is_damaged()) return nullptr;
    do {
      if (void* block = take(size_class)) return block;
    } while (!segment_.is_damaged() && add_slab(c, size_class, slot));
    if (segment_.is_damaged() || !make_room_in(stage, slot, class_bytes[size_class])) break;
  }
  // A larger block that is free serves better than none.
  for (u32 larger = size_class + 1;
       larger < class_count && class_bytes[larger] <= 4 * class_bytes[size_class]; ++larger)
    if (class_bytes[larger] % p.align_bytes == 0)
      if (void* block = take(larger)) return block;
  return nullptr;
}

void* requests::allocate_in(region_id region, const placement& p) noexcept {
  char why[256];
  const bool sane = p.size_bytes != 0 && p.size_bytes <= limits::largest_region_bytes &&
                    is_power_of_two(p.align_bytes) && p.align_bytes <= limits::largest_align_bytes;
  if (!sane) return explain(explanation::cause::bad_request, p);
  thread_cache* c = cache_of(heap_.index);
  if (c == nullptr) c = make_cache();
  using cause = explanation::cause;
  if (c == nullptr)
    return explain(is_read_only() ? cause::read_only
                   : heap_.forked ? cause::forked_away
                                  : cause::limit,
                   p);
  const u32 id = static_cast<u32>(region), slot = views_.slot_of(id);
  const region_record* const record = views_.find(id);
  if (record == nullptr)
    return explain_one_region(p, write_sentence(why,
                                                "region {}, where the container's blocks lie, has "
                                                "been removed; make the container anew",
                                                id));
  // Relaxed: find() acquired the record; what has changed since is looked at under the lock.
  if (record->state.load(std::memory_order_relaxed) != region_active)
    return explain_one_region(p, write_sentence(why,
                                                "region {}, where the container's blocks lie, is "
                                                "being drained; make the container in another one",
                                                id));
  if (auto attached = memory_.ensure_attached(slot); !attached)
    return explain_one_region(
        p, write_sentence(why, "region {}, where the container's blocks lie, is not attached: {}",
                          id, attached.error().message()));
  if (memory_.has_news()) memory_.synchronize();
  u64 dirty_bytes = 0;
  const bool from_slab = p.size_bytes <= limits::largest_slab_block_bytes &&
                         p.align_bytes <= limits::smallest_page_bytes;
  void* const block =
      from_slab ? allocate_class_in(*c, slot, class_of_aligned(p.size_bytes, p.align_bytes), p)
                : allocate_extent(p, p.size_bytes, &dirty_bytes, slot);
  if (block != nullptr) return block;
  if (segment_.is_damaged()) return explain(cause::damaged, p);
  return explain_one_region(
      p, write_sentence(why,
                        "region {}, where the container lies, has no room: {} of its {} bytes are "
                        "free, and the container's blocks must lie where it does; "
                        "free some there, or put the container into a larger region",
                        id, u64{record->free_granules} << views_.at(slot).granule_shift,
                        views_.at(slot).region_bytes));
}

}  // namespace annex::detail
