// slab/slab_record.cpp - see slab_record.hpp.
#include "slab/slab_record.hpp"

#include <algorithm>

#include "base/race_checker.hpp"

namespace annex {

namespace {
constexpr u64 usual_huge_page_bytes = 2 * MiB;
}

slab_record* make_slab(transaction& t, const local_region& region, u32 size_class, u64 wanted_bytes,
                       u16 owner, u32 member) noexcept {
  const segment& s = t.seg();
  const u64 granule_bytes = u64{1} << region.granule_shift;
  const u32 block = class_bytes[size_class];
  extents space(region);
  extent_request request;
  request.kind = granule_slab;
  std::optional<extent_place> place;
  // A crowded or tiny region may have no room for a full slab: take a shorter one as long as it
  // holds a block.
  for (u64 bytes = wanted_bytes; !place && bytes >= granule_bytes && bytes >= block; bytes /= 2) {
    request.size_bytes = bytes;
    // So that blocks which may not cross a page come from slabs too.
    const u64 page = std::max(region.record->page_bytes, usual_huge_page_bytes);
    request.wished_boundary_bytes = bytes <= page && is_power_of_two(page) ? page : 0;
    place = space.allocate(t, request);
    if (place || bytes == granule_bytes) break;
  }
  // The region's last granule may be cut short.
  if (!place && block <= region.region_bytes % granule_bytes) {
    request.size_bytes = region.region_bytes % granule_bytes;
    place = space.allocate(t, request);
  }
  if (!place) return nullptr;
  const u64 usable = space.end_of(place->granule) - place->offset_bytes;
  const u64 blocks = usable / block;
  const u32 capacity =
      static_cast<u32>(blocks < limits::slab_blocks ? blocks : limits::slab_blocks);
  const u32 words = static_cast<u32>(divide_up(capacity, 64));
  const chunk_ref ref = allocate_chunk(t, slab_record_bytes(words));
  if (ref == 0) {
    t.roll_back();
    return nullptr;
  }
  // Fresh: reachable only once the transaction commits, so no log.
  auto* slab = s.chunk<slab_record>(ref);
  slab->owner = owner;
  slab->size_class = static_cast<u8>(size_class);
  slab->words = static_cast<u16>(words);
  slab->granule = place->granule;
  slab->region = static_cast<u16>(region.slot);
  slab->member = static_cast<u16>(member);
  slab->capacity = slab->free_count = capacity;
  slab->set_first_clean(
      static_cast<u32>(std::min<u64>(divide_up(place->dirty_bytes(), block), capacity)));
  for (u32 w = 0; w < words; ++w) {
    slab->free_words()[w] = slab->valid_bits(w);
    slab->taken_words()[w] = ~slab->valid_bits(w);
    slab->remote_words()[u64{2} * w].value = slab->remote_words()[u64{2} * w + 1].value = no_remote;
  }
  slab->summary = low_bits(words);
  slab->seal = slab->right_seal();
  t.put(region.extents[place->granule].record, ref);
  space.seal(t, place->granule);
  set_owner(t, region, slab, owner, false);
  return slab;
}

namespace {

// The granules of a slab; what can't be is cut off, and told.
u32 granules_of(const segment& s, const local_region& region, const slab_record& slab) noexcept {
  const u32 length = length_at(region, slab.granule);
  if (length <= limits::slab_granules) return length;
  s.mark_damaged("a slab is longer than any can be");
  return 0;
}

}  // namespace

void release_slab(transaction& t, const local_region& region, slab_record* slab,
                  chunk_ref* list_head) noexcept {
  unlink_slab(t, list_head, slab);
  const u32 length = granules_of(t.seg(), region, *slab);
  for (u32 i = 0; i < length; ++i)
    t.put(region.granules[slab->granule + i], granule_entry{no_owner, granule_inside, 0, 0, 0});
  const u32 granule = slab->granule;
  extent_entry& extent = region.extents[granule];
  if (const chunk_ref generations = extent.generations; generations != 0) {
    const generations_of_region& all = region.generations;
    const u32 highest = generation_above(
        *region.record, all, first_generation(extent), slab->capacity, [&](u64 block) {
          return generation_word(t.seg(), extent, *slab, static_cast<u32>(block));
        });
    raise_floor(t, *region.record, all, u64{granule} << region.granule_shift,
                extents(region).end_of(granule), highest);
    t.put(extent.generations, 0);
    free_chunk(t, generations, u64{slab->capacity} * sizeof(u32));
  }
  free_chunk(t, t.seg().ref_of(slab), slab_record_bytes(slab->words));
  extents(region).free(t, granule);
}

void link_slab(transaction& t, chunk_ref* list_head, slab_record* slab) noexcept {
  const chunk_ref ref = t.seg().ref_of(slab), head = *list_head;
  t.put(slab->lane_previous, 0);
  t.put(slab->lane_next, head);
  if (head != 0) t.put(t.seg().chunk<slab_record>(head)->lane_previous, ref);
  t.put(*list_head, ref);
}

void unlink_slab(transaction& t, chunk_ref* list_head, slab_record* slab) noexcept {
  const chunk_ref next = slab->lane_next, previous = slab->lane_previous;
  if (next != 0) t.put(t.seg().chunk<slab_record>(next)->lane_previous, previous);
  if (previous != 0)
    t.put(t.seg().chunk<slab_record>(previous)->lane_next, next);
  else
    t.put(*list_head, next);
}

u32* generation_word(const segment& s, const extent_entry& extent, const slab_record& slab,
                     u32 block) noexcept {
  // sync(published).
  const chunk_ref ref =
      std::atomic_ref(const_cast<chunk_ref&>(extent.generations)).load(std::memory_order_acquire);
  if (ref == 0 || block >= slab.capacity) return nullptr;
  u32* const table = s.find_chunk<u32>(ref, u64{slab.capacity} * sizeof(u32));
  return table != nullptr ? table + block : nullptr;
}

bool make_generations(transaction& t, const local_region& region, slab_record* slab) noexcept {
  chunk_ref& generations = extent_of(region, *slab).generations;
  if (generations != 0) return true;
  if (slab->capacity == 0) return false;  // what can't be reads as 0
  // Zeros: every block as it began.
  const chunk_ref ref = allocate_chunk(t, u64{slab->capacity} * sizeof(u32));
  if (ref == 0) {
    t.roll_back();
    return false;
  }
  t.put(generations, ref);
  extents(region).seal(t, slab->granule);
  set_owner(t, region, slab, slab->owner, true);
  t.commit();
  return true;
}

granule_entry slab_granule(const slab_record& slab, u32 index, u16 owner, u8 kind,
                           u32 granule_shift) noexcept {
  const u64 end = u64{slab.capacity} * class_bytes[slab.size_class],
            begin = u64{index} << granule_shift, granule = u64{1} << granule_shift;
  const u64 here = end <= begin ? 0 : end - begin < granule ? end - begin : granule;
  return {owner, kind, slab.size_class, static_cast<u16>(index),
          static_cast<u16>(here / blocks_end_unit)};
}

void set_owner(transaction& t, const local_region& region, slab_record* slab, u16 owner,
               bool held) noexcept {
  const u32 length = granules_of(t.seg(), region, *slab);
  const bool has_generations = owner != no_owner && extent_of(region, *slab).generations != 0;
  const u8 kind = held || has_generations ? granule_slab_held : granule_slab;
  for (u32 i = 0; i < length; ++i)
    t.put(region.granules[slab->granule + i],
          slab_granule(*slab, i, owner, kind, region.granule_shift));
  t.put(slab->owner, owner);
}

bool add_holding(transaction& t, slab_record* slab) noexcept {
  const segment& s = t.seg();
  const chunk_ref ref = allocate_chunk(t, holding_record_bytes(slab->words));
  if (ref == 0) return false;
  auto* holding = s.chunk<holding_record>(ref);
  holding->member = slab->member;
  holding->words = slab->words;
  for (u32 w = 0; w < slab->words; ++w) {
    holding->bits()[w] =
        slab->valid_bits(w) & ~slab->free_bits(w) & ~slab->remote_bits(w) & ~held_bits(s, slab, w);
    holding->gone_words()[w] = ~holding->bits()[w];
  }
  holding->seal = holding->right_seal(s.ref_of(slab));
  holding->next = slab->holdings;
  t.put(slab->holdings, ref);
  t.put(s.member(slab->member).holdings, s.member(slab->member).holdings + 1);
  return true;
}

bool drop_empty_holdings(transaction& t, slab_record* slab) noexcept {
  constexpr u32 drops_per_transaction = 64;  // four puts each
  const segment& s = t.seg();
  list_walk walk(s);
  u32 dropped = 0;
  for (chunk_ref* link = &slab->holdings; *link != 0 && walk.goes_on();) {
    const chunk_ref ref = *link;
    auto* holding = s.chunk<holding_record>(ref);
    u64 any = 0;
    for (u32 w = 0; w < holding->words; ++w)
      any |= holding->held_bits(w);
    if (any != 0) {
      link = &holding->next;
      continue;
    }
    if (dropped++ == drops_per_transaction) {
      t.commit();
      dropped = 1;
    }
    t.put(*link, holding->next);
    t.put(s.member(holding->member).holdings, s.member(holding->member).holdings - 1);
    free_chunk(t, ref, holding_record_bytes(holding->words));
  }
  return slab->holdings == 0;
}

void clear_holders(const segment& s, slab_record* slab, u32 word, u64 bits) noexcept {
  list_walk walk(s);
  for (chunk_ref ref = slab->holdings; ref != 0 && walk.goes_on();) {
    holding_record& holding = *s.chunk<holding_record>(ref);
    if ((holding.bits()[word] & bits) != 0) drop_held(holding, word, bits);
    ref = holding.next;
  }
}

u64 held_bits(const segment& s, slab_record* slab, u32 word) noexcept {
  u64 held = 0;
  list_walk walk(s);
  for (chunk_ref ref = slab->holdings; ref != 0 && walk.goes_on();) {
    holding_record& holding = *s.chunk<holding_record>(ref);
    held |= holding.held_bits(word);
    ref = holding.next;
  }
  return held;
}

u32 collect(const segment& s, slab_record* slab, u32* doubles) noexcept {
  u32 collected = 0;
  // Whoever began to move this word died: what has arrived has not been taken away yet.
  if (slab->moving != 0) {
    if (const u32 w = slab->moving - 1; w < slab->words)
      clear_remote(*slab, w, slab->remote_bits(w) & slab->free_bits(w));
    compiler_fence();
    store_word(slab->moving, 0);
  }
  for (u32 w = 0; w < slab->words; ++w) {
    const u64 bits = slab->remote_bits(w);
    if (bits == 0) continue;
    race_checker::taken_over(s.header().heap_id, s.ref_of(slab));
    if (slab->holdings != 0) clear_holders(s, slab, w, bits);
    const u64 already = slab->free_bits(w) & bits;
    *doubles += static_cast<u32>(std::popcount(already));
    store_word(slab->moving, w + 1);
    compiler_fence();           // holders are forgotten before the block can be someone else's
    mark_free(*slab, w, bits);  // now in both: the union counts (rule R2)
    slab->summary |= u64{1} << w;
    collected += static_cast<u32>(std::popcount(bits & ~already));
    compiler_fence();
    clear_remote(*slab, w, bits);
    compiler_fence();
    store_word(slab->moving, 0);
  }
  slab->free_count += collected;
  return collected;
}

void recount(const segment& s, slab_record* slab) noexcept {
  u32 count = 0;
  u64 summary = 0;
  for (u32 w = 0; w < slab->words; ++w) {
    u64& taken = slab->taken_words()[w];
    if (const u64 right = taken | ~slab->free_words()[w]; right != taken) store_word(taken, right);
    const u64 bits = slab->free_bits(w);
    count += static_cast<u32>(std::popcount(bits));
    if (bits != 0) summary |= u64{1} << w;
  }
  list_walk walk(s);
  for (chunk_ref ref = slab->holdings; ref != 0 && walk.goes_on();
       ref = s.chunk<holding_record>(ref)->next) {
    holding_record& holding = *s.chunk<holding_record>(ref);
    for (u32 w = 0; w < holding.words; ++w)
      drop_held(holding, w, ~holding.bits()[w]);
  }
  slab->free_count = count;
  slab->summary = summary;
}

slab_record* slab_of(const segment& s, const local_region& region, u32 granule) noexcept {
  const chunk_ref ref =
      std::atomic_ref(region.extents[granule].record).load(std::memory_order_relaxed);
  if (ref == 0 || u64{ref} * chunk_unit_bytes + sizeof(slab_record) > s.header().arena.top)
    return nullptr;
  auto* slab = s.chunk<slab_record>(ref);
  const bool sane =
      slab->size_class != 0 && slab->size_class < class_count &&
      slab->words == divide_up(slab->capacity, 64) && slab->capacity <= limits::slab_blocks &&
      u64{ref} * chunk_unit_bytes + slab_record_bytes(slab->words) <= s.header().arena.top;
  return sane ? slab : nullptr;
}

u32 live_blocks(slab_record* slab) noexcept {
  u32 free = 0;
  for (u32 w = 0; w < slab->words; ++w)
    free += static_cast<u32>(
        std::popcount((slab->free_words()[w] | slab->remote_bits(w)) & slab->valid_bits(w)));
  return slab->capacity - free;
}

}  // namespace annex
