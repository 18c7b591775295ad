// named/naming.cpp - see naming.hpp.
#include "named/naming.hpp"

namespace annex {

// Where the name of the byte at offset is written, and what the first one there was.
naming naming_of(const segment& s, const live_block& b, u64 offset) noexcept {
  const local_region& region = *b.region;
  // Not by the slab's record, which may be on its way back.
  extent_entry& e = region.extents[b.granule];
  if (b.kind == block_kind::slab_block)
    return {generation_word(s, e, *b.slab, b.index), first_generation(e)};
  naming own{&e.name, 0, word_is_name};
  if (b.kind != block_kind::zone || offset < b.offset_bytes) return own;
  // sync(published): what the zone's record says is seen.
  const auto* z =
      s.find_chunk<zone_record>(std::atomic_ref(e.record).load(std::memory_order_acquire));
  if (z == nullptr || z->type != zone_type::pool) return own;
  const known_pool pool = look_for_pool_table(s, z->table, z->table_bytes);
  if (!pool) return own;
  const u64 object = (offset - b.offset_bytes) / pool.object_bytes;
  if (object >= pool.object_count) return own;
  const u32 first = region.generations.behind(count_in(e.name), 1);
  return {generation_word(s, pool, object), first, 0, pool, object, &e.name};
}

handle where_is(const segment& s, const live_block& b) noexcept {
  const naming n = b.kind == block_kind::zone ? naming{&b.region->extents[b.granule].name}
                                              : naming_of(s, b, b.offset_bytes);
  return handle_by(*b.region, b.offset_bytes, n.first, n.word);
}

handle where_is(const segment& s, const local_region& region, const zone_record& z,
                const known_pool& pool, u64 object) noexcept {
  const u32 first = region.generations.behind(count_in(region.extents[z.granule].name), 1);
  return handle_by(region, z.offset_bytes + object * pool.object_bytes, first,
                   generation_word(s, pool, object));
}

}  // namespace annex
