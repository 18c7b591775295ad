// named/pool_rebuild.cpp - the pools of a damaged segment (pool_rules.hpp).
//
// An object is in the pool only if its bit is set and no member holds it; else it is kept for a
// member. A death in the middle: repair again.
#include <algorithm>
#include <bit>

#include "named/pool_rules.hpp"
#include "shared/member_rules.hpp"

namespace annex::detail {
namespace {

// How many objects a pool has whose table has so many bytes; 0: none could.
u32 objects_of_table(u64 table_bytes, u32 thread_limit) noexcept {
  u32 low = 0, high = u32{1} << 30;
  while (low < high) {
    const u32 middle = low + (high - low + 1) / 2;
    if (pool_table_bytes(middle, thread_limit) <= table_bytes)
      low = middle;
    else
      high = middle - 1;
  }
  return pool_table_bytes(low, thread_limit) == table_bytes ? low : 0;
}

class pool_rebuild {
 public:
  pool_rebuild(rebuilding& rb, zone_record& z)
      : rb_(rb),
        z_(z),
        table_(*rb.s.chunk<pool_table>(z.table)),
        name_(fmt::format("pool \"{}\"", name_of(z))) {}

  // False: its table can't be believed.
  bool run() {
    if (!mend_table()) return false;
    pool_ = sane_pool(rb_.s, z_);
    if (!pool_) return false;
    table_.only_member = several_members;  // slower, and never wrong
    rebuild_generations();
    const bool had_caches = empty_caches();
    rebuild_objects();
    if (!had_caches) rb_.fix(table_.in_bits, in_bits_, name_ + ": the count of objects in it");
    table_.in_bits.value = in_bits_;
    if (table_.first_word > first_word_)
      rb_.fix(table_.first_word, first_word_, name_ + ": the first word with objects");
    table_.first_word = first_word_;
    return true;
  }

 private:
  bool fits() const { return table_.seal == table_.right_seal(); }

  // By its seal; else by the bytes of its table and of its memory, which is its objects, one behind
  // the other.
  bool mend_table() {
    if (fits()) return true;
    const u32 objects = objects_of_table(z_.table_bytes, rb_.s.thread_limit());
    if (objects == 0) return false;
    table_.object_count = objects;
    table_.words = static_cast<u32>(divide_up(objects, 64));
    table_.object_bytes = z_.size_bytes / objects;
    for (u32 cached = 0; cached <= pool_cache_slots && !fits(); ++cached)
      table_.cache_objects = cached;
    if (fits()) {
      rb_.say("{}: its table is right again, by its seal", name_);
      return true;
    }
    table_.cache_objects = 0;
    rb_.doubt(
        "{}: its table does not fit its seal; it has {} objects of {} bytes, by the bytes of its "
        "table and of its memory",
        name_, objects, table_.object_bytes);
    table_.seal = table_.right_seal();
    return true;
  }

  void rebuild_generations() {
    if (table_.generations == 0) return;
    const known_region* region = rb_.notes<regions_known>().find(z_.region_slot);
    if (region != nullptr && z_.granule >= region->granule_count) region = nullptr;
    if (region != nullptr && take_words(rb_, *region, table_.generations, pool_.object_count))
      return;
    rb_.doubt("{}: its generations are impossible: handles of its objects are stale", name_);
    table_.generations = 0;
    if (region == nullptr) return;
    forget_generations(*region, z_.granule);
    extent_entry& e = region->extents[z_.granule];
    e.seal = seal_of_extent(e, granule_zone, z_.granule, region->id);
  }

  // Returns whether any kept something.
  bool empty_caches() {
    bool had_some = false;
    for (u32 i = 0; i < rb_.s.thread_limit(); ++i) {
      chunk_ref& ref = pool_.caches()[i];
      if (ref == 0) continue;
      if (!rb_.take(ref, sizeof(pool_cache))) {
        rb_.doubt(
            "{}: thread {} had a cache that is not where it should be: what it kept stays with its "
            "member",
            name_, i);
        ref = 0;
        continue;
      }
      had_some |= empty_cache(*rb_.s.chunk<pool_cache>(ref), i);
    }
    return had_some;
  }

  bool empty_cache(pool_cache& cache, u32 thread) {
    cache.capacity = pool_cache_slots;
    const u32 n = cache.count.value;
    if (rb_.caches_are_believed)
      for (u32 at = 0; at < std::min(n, pool_cache_slots); ++at)
        put_back(cache.entries[at] / pool_.object_bytes);
    else if (n != 0)
      rb_.doubt(
          "{}: thread {} kept {} objects, which nothing vouches for: they stay with its member",
          name_, thread, n);
    cache.count.value = 0;
    return n != 0;
  }

  void put_back(u64 object) {
    if (object >= pool_.object_count) return;
    pool_.bits()[object / 64] |= u64{1} << (object % 64);
    pool_.holders(rb_.s.thread_limit())[object] = 0;
  }

  void rebuild_objects() {
    first_word_ = pool_.words;
    for (u32 w = 0; w < pool_.words; ++w) {
      u64& word = pool_.bits()[w];
      word &= low_bits(std::min<u32>(64, pool_.object_count - w * 64));
      for (u32 bit = 0; bit < 64 && w * 64 + bit < pool_.object_count; ++bit)
        rebuild_object(word, u64{1} << bit, w * 64 + bit);
      in_bits_ += static_cast<u32>(std::popcount(word));
      if (word != 0) first_word_ = std::min(first_word_, w);
    }
  }

  void rebuild_object(u64& word, u64 bit, u32 object) {
    u16& holder = pool_.holders(rb_.s.thread_limit())[object];
    const bool is_in = (word & bit) != 0;
    if (is_in && holder == 0) return;
    if (is_in || !is_member(rb_.s, holder)) {
      const u32 keeper = is_member(rb_.s, holder) ? holder : nobody_known(rb_);
      if (is_in)
        rb_.doubt(
            "{}: object {} is in it by its bit, and with member {} by its holder: it is kept for "
            "member {}",
            name_, object, holder, keeper);
      else
        rb_.doubt(
            "{}: object {} is not in it, and member {} does not exist: it is kept for member {}",
            name_, object, holder, keeper);
      word &= ~bit;
      holder = static_cast<u16>(keeper);
    }
    if (const u32 keeper = holder; is_member(rb_.s, keeper)) ++held_by(rb_, keeper).objects;
  }

  rebuilding& rb_;
  zone_record& z_;
  pool_table& table_;
  const std::string name_;
  known_pool pool_;
  u32 in_bits_ = 0, first_word_ = 0;
};

// A list that leads astray ends there; what was behind is free metadata.
void rebuild_spares(rebuilding& rb) {
  for (chunk_ref* link = &rb.h.spare_pools; *link != 0;
       link = &rb.s.chunk<zone_record>(*link)->next)
    if (!is_sane_spare_pool(rb.s, *link) || !rb.take(*link, sizeof(zone_record))) {
      rb.fix(*link, 0, "the list of released pools' records");
      break;
    }
}

bool rebuild(rebuilding& rb, zone_record& z) {
  return pool_rebuild(rb, z).run();
}
shared_word<u64>* number_of(const segment&, zone_record& z) {
  return &z.incarnation;
}
void renumber(const segment&, zone_record& z) {
  z.seal = seal_of_zone(z);
}

}  // namespace

void find_pools(rebuilding& rb) {
  rb.notes<zones_rebuilt>().kinds.push_back({zone_type::pool, sizeof(pool_table), rebuild,
                                             keep_as_plain, number_of, renumber, rebuild_spares,
                                             nullptr});
}

}  // namespace annex::detail
