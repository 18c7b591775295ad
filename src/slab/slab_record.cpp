// slab/slab_record.cpp - see slab_record.hpp.
#include "slab/slab_record.hpp"

#include <algorithm>

namespace annex {

slab_record* make_slab(transaction& t, const local_region& region, u32 size_class, u64 wanted_bytes, u16 owner, u32 member) noexcept {
  const segment& s = t.seg();
  const u64 granule_bytes = u64{1} << region.record->granule_shift;
  const u32 block = class_bytes[size_class];
  extents space(region);
  extent_request request;
  request.kind = granule_slab;
  std::optional<extent_place> place;
  // A crowded or tiny region may have no room for a full slab: take a shorter one as long as it holds a block.
  for (u64 bytes = wanted_bytes; !place && bytes >= granule_bytes && bytes >= block; bytes /= 2) {
    request.size_bytes = bytes;
    place = space.allocate(t, request);
    if (place || bytes == granule_bytes) break;
  }
  if (!place && block <= region.record->length_bytes % granule_bytes) {  // the region's last granule may be cut short
    request.size_bytes = region.record->length_bytes % granule_bytes;
    place = space.allocate(t, request);
  }
  if (!place) return nullptr;
  const u64 usable = space.end_of(place->granule) - place->offset_bytes;
  const u64 blocks = usable / block;
  const u32 capacity = static_cast<u32>(blocks < limits::slab_blocks ? blocks : limits::slab_blocks);
  const u32 words = static_cast<u32>(divide_up(capacity, 64));
  const chunk_ref ref = allocate_chunk(t, slab_record_bytes(words));
  if (ref == 0) {
    t.roll_back();
    return nullptr;
  }
  auto* slab = s.chunk<slab_record>(ref);  // fresh: reachable only once the transaction commits, so no log
  slab->owner = owner;
  slab->size_class = static_cast<u8>(size_class);
  slab->words = static_cast<u16>(words);
  slab->granule = place->granule;
  slab->region = static_cast<u16>(region.slot);
  slab->member = static_cast<u16>(member);
  slab->capacity = slab->free_count = capacity;
  slab->first_clean = static_cast<u32>(std::min<u64>(divide_up(place->dirty_bytes(), block), capacity));
  for (u32 w = 0; w < words; ++w) slab->free_words()[w] = slab->valid_bits(w);
  slab->summary = low_bits(words);
  t.put(region.extents[place->granule].record, ref);
  set_owner(t, region, slab, owner, false);
  return slab;
}

void release_slab(transaction& t, const local_region& region, slab_record* slab, chunk_ref* list_head) noexcept {
  unlink_slab(t, list_head, slab);
  const u32 length = region.extents[slab->granule].length;
  for (u32 i = 0; i < length; ++i) t.put(region.granules[slab->granule + i], granule_entry{no_owner, granule_inside, 0, 0, 0});
  const u32 granule = slab->granule;
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
  if (previous != 0) t.put(t.seg().chunk<slab_record>(previous)->lane_next, next);
  else t.put(*list_head, next);
}

granule_entry slab_granule(const slab_record& slab, u32 index, u16 owner, u8 kind, u32 granule_shift) noexcept {
  const u64 end = u64{slab.capacity} * class_bytes[slab.size_class], begin = u64{index} << granule_shift, granule = u64{1} << granule_shift;
  const u64 here = end <= begin ? 0 : end - begin < granule ? end - begin : granule;
  return {owner, kind, slab.size_class, static_cast<u16>(index), static_cast<u16>(here / blocks_end_unit)};
}

void set_owner(transaction& t, const local_region& region, slab_record* slab, u16 owner, bool held) noexcept {
  const u32 length = region.extents[slab->granule].length;
  const u8 kind = held ? granule_slab_held : granule_slab;
  for (u32 i = 0; i < length; ++i)
    t.put(region.granules[slab->granule + i], slab_granule(*slab, i, owner, kind, region.granule_shift));
  t.put(slab->owner, owner);
}

bool add_holding(transaction& t, slab_record* slab) noexcept {
  const segment& s = t.seg();
  const chunk_ref ref = allocate_chunk(t, holding_record_bytes(slab->words));
  if (ref == 0) return false;
  auto* holding = s.chunk<holding_record>(ref);
  holding->member = slab->member;
  holding->words = slab->words;
  for (u32 w = 0; w < slab->words; ++w)
    holding->bits()[w] = slab->valid_bits(w) & ~slab->free_words()[w] & ~slab->remote_words()[w].load(std::memory_order_relaxed) & ~held_bits(s, slab, w);
  holding->next = slab->holdings;
  t.put(slab->holdings, ref);
  t.put(s.member(slab->member).holdings, s.member(slab->member).holdings + 1);
  return true;
}

bool drop_empty_holdings(transaction& t, slab_record* slab) noexcept {
  const segment& s = t.seg();
  for (chunk_ref* link = &slab->holdings; *link != 0;) {
    const chunk_ref ref = *link;
    auto* holding = s.chunk<holding_record>(ref);
    u64 any = 0;
    for (u32 w = 0; w < holding->words; ++w) any |= holding->bits()[w];
    if (any != 0) {
      link = &holding->next;
      continue;
    }
    t.put(*link, holding->next);
    t.put(s.member(holding->member).holdings, s.member(holding->member).holdings - 1);
    free_chunk(t, ref, holding_record_bytes(holding->words));
  }
  return slab->holdings == 0;
}

void clear_holders(const segment& s, slab_record* slab, u32 word, u64 bits) noexcept {
  for (chunk_ref ref = slab->holdings; ref != 0; ref = s.chunk<holding_record>(ref)->next) {
    u64& held = s.chunk<holding_record>(ref)->bits()[word];
    if ((held & bits) != 0) store_word(held, held & ~bits);
  }
}

u64 held_bits(const segment& s, slab_record* slab, u32 word) noexcept {
  u64 held = 0;
  for (chunk_ref ref = slab->holdings; ref != 0; ref = s.chunk<holding_record>(ref)->next) held |= s.chunk<holding_record>(ref)->bits()[word];
  return held;
}

u32 collect(const segment& s, slab_record* slab, u32* doubles) noexcept {
  u32 collected = 0;
  u64* const free = slab->free_words();
  for (u32 w = 0; w < slab->words; ++w) {
    shared_word<u64>& remote = slab->remote_words()[w];
    const u64 bits = remote.load(std::memory_order_acquire);  // sync(remote free): the freer's last use of the block is over
    if (bits == 0) continue;
    if (slab->holdings != 0) clear_holders(s, slab, w, bits);
    const u64 already = free[w] & bits;
    *doubles += static_cast<u32>(std::popcount(already));
    compiler_fence();  // holders are forgotten before the block can be someone else's
    store_word(free[w], free[w] | bits);  // now in both: the union counts (rule R2)
    slab->summary |= u64{1} << w;
    collected += static_cast<u32>(std::popcount(bits & ~already));
    compiler_fence();
    remote.fetch_and(~bits, std::memory_order_acq_rel);
  }
  slab->free_count += collected;
  return collected;
}

void recount(slab_record* slab) noexcept {
  u32 count = 0;
  u64 summary = 0;
  for (u32 w = 0; w < slab->words; ++w) {
    count += static_cast<u32>(std::popcount(slab->free_words()[w]));
    if (slab->free_words()[w] != 0) summary |= u64{1} << w;
  }
  slab->free_count = count;
  slab->summary = summary;
}

u32 live_blocks(slab_record* slab) noexcept {
  u32 free = 0;
  for (u32 w = 0; w < slab->words; ++w) free += static_cast<u32>(std::popcount((slab->free_words()[w] | slab->remote_words()[w].load(std::memory_order_relaxed)) & slab->valid_bits(w)));
  return slab->capacity - free;
}

}  // namespace annex
