// named/pool_rules.cpp - see pool_rules.hpp: what an audit asks of pools.
#include "named/pool_rules.hpp"

#include <bit>

#include "shared/member_rules.hpp"

namespace annex::detail {

known_pool sane_pool(const segment& s, const zone_record& z) noexcept {
  const u64 table_bytes = z.table_bytes;
  const known_pool pool = look_for_pool_table(s, z.table, table_bytes);
  const bool is_sane = pool &&
                       table_bytes == pool_table_bytes(pool.object_count, s.thread_limit()) &&
                       pool.object_bytes <= z.size_bytes / pool.object_count &&
                       pool.table->cache_objects <= pool_cache_slots;
  return is_sane ? pool : known_pool{};
}

bool is_sane_spare_pool(const segment& s, chunk_ref ref) noexcept {
  return lies_in_arena(s, ref, sizeof(zone_record)) &&
         s.chunk<zone_record>(ref)->incarnation.value == 0;
}

namespace {

class pool_check {
 public:
  pool_check(inspection& in, const zone_record& z)
      : in_(in), z_(z), pool_(sane_pool(in.s, z)), table_(pool_.table) {}

  void run() {
    if (!check_table() || !check_generations()) return;
    kept_.resize(pool_.object_count);
    check_bits();
    if (!check_caches()) return;
    check_free_objects();
    check_holders();
    if (in_.is_exact() && in_bits_ + in_caches_ + out_ != pool_.object_count)
      in_.broken(
          "Z2: pool \"{}\": {} objects are in it, {} in caches and {} with members; together they "
          "are not {}",
          z_.name, in_bits_, in_caches_, out_, pool_.object_count);
  }

 private:
  bool is_in_bits(u32 object) const {
    return (pool_.bits()[object / 64] >> (object % 64) & 1) != 0;
  }

  bool check_table() {
    if (!pool_ || table_->first_word > pool_.words) {
      in_.broken("Z1: pool \"{}\" has an impossible table", z_.name);
      return false;
    }
    if (!in_.locked) return true;
    if (z_.incarnation.value == 0 || z_.incarnation.value > in_.h.incarnations)
      in_.broken("Z1: pool \"{}\" has number {}, and {} were made", z_.name, z_.incarnation.value,
                 in_.h.incarnations);
    if (table_->seal == table_->right_seal()) return true;
    in_.broken("Z4: the table of pool \"{}\" does not fit its seal", z_.name);
    return false;
  }

  bool check_generations() {
    const chunk_ref words = table_->generations;
    const known_region* const region = in_.notes<regions_known>().find(z_.region_slot);
    if (words == 0 || region == nullptr) return true;
    if (!in_.take(words, u64{pool_.object_count} * sizeof(u32), "generations")) return false;
    check_words(in_, *region, in_.s.chunk<u32>(words), pool_.object_count, "pool");
    if (in_.locked && table_->only_member != several_members)
      in_.broken("H2: pool \"{}\" has generations, but gives go past them", z_.name);
    return true;
  }

  void check_bits() {
    for (u32 w = 0; w < pool_.words; ++w) {
      const u64 bits = pool_.bits()[w];
      in_bits_ += static_cast<u64>(std::popcount(bits));
      if (in_.locked && w < table_->first_word && bits != 0)
        in_.broken("Z1: pool \"{}\" has objects before the first word that is looked at", z_.name);
      if ((bits & ~low_bits(std::min<u32>(64, pool_.object_count - w * 64))) != 0)
        in_.broken("Z1: pool \"{}\" has objects beyond its last", z_.name);
    }
    if (in_.locked && in_bits_ != table_->in_bits.value)
      in_.broken("Z1: pool \"{}\" has {} objects in it, its table says {}", z_.name, in_bits_,
                 table_->in_bits.value);
  }

  // False: a cache lies nowhere.
  bool check_caches() {
    for (u32 i = 0; i < in_.s.thread_limit(); ++i) {
      const chunk_ref ref = pool_.caches()[i];
      if (ref == 0) continue;
      if (!in_.take(ref, sizeof(pool_cache), "pool cache")) return false;
      check_cache(*in_.s.chunk<pool_cache>(ref), i);
    }
    return true;
  }

  void check_cache(const pool_cache& cache, u32 thread) {
    const u32 count = cache.count.load(std::memory_order_relaxed);
    if (count > pool_cache_slots || cache.capacity > pool_cache_slots)
      return in_.broken("Z1: pool \"{}\": the cache of thread {} is impossible", z_.name, thread);
    for (u32 n = 0; n < count; ++n) {
      const u64 at = __atomic_load_n(&cache.entries[n], __ATOMIC_RELAXED);
      if (at / pool_.object_bytes >= pool_.object_count || at % pool_.object_bytes != 0)
        return in_.broken("Z1: pool \"{}\": thread {} keeps {:#x}, which is no object", z_.name,
                          thread, at);
      kept_[at / pool_.object_bytes] = true;
    }
  }

  // One that was given twice may lie in two places until it leaves a cache: the program's mistake,
  // said then.
  void check_free_objects() {
    for (u32 i = 0; i < pool_.object_count; ++i)
      in_caches_ += kept_[i] && !is_in_bits(i);
    if (in_.locked && in_bits_ + in_caches_ > pool_.object_count)
      in_.broken("Z1: pool \"{}\" has {} free objects of {}", z_.name, in_bits_ + in_caches_,
                 pool_.object_count);
  }

  void check_holders() {
    const u16* const holders = pool_.holders(in_.s.thread_limit());
    for (u32 i = 0; i < pool_.object_count; ++i) {
      const u16 holder = __atomic_load_n(&holders[i], __ATOMIC_RELAXED);
      const bool in_pool = is_in_bits(i);
      if (!check_holder(i, holder, in_pool)) return;
      if (holder == 0 || in_pool || kept_[i]) continue;
      ++out_;
      ++held_by(in_, holder).objects;
    }
  }

  // False: the others are not looked at.
  bool check_holder(u32 i, u16 holder, bool in_pool) {
    const u16 only = table_->only_member;
    if (in_.locked && in_pool && holder != 0)
      in_.broken("Z2: pool \"{}\": object {} is in it, and with member {}", z_.name, i, holder);
    else if (in_.locked && !in_pool && holder == 0)
      in_.broken("Z2: pool \"{}\": object {} is neither in it nor with a member", z_.name, i);
    else if (in_.locked && holder != 0 && only != several_members && only != holder)
      in_.broken("Z1: pool \"{}\" was said to be used by member {} alone, but {} has objects",
                 z_.name, only, holder);
    else if (holder > (in_.locked ? in_.s.members_used() : in_.s.member_limit()))
      in_.broken("Z1: pool \"{}\": object {} is held by member {}, who is nobody", z_.name, i,
                 holder);
    else
      return true;
    return false;
  }

  inspection& in_;
  const zone_record& z_;
  const known_pool pool_;
  const pool_table* const table_;
  std::vector<bool> kept_;  // by object: a cache has it
  u64 in_bits_ = 0, in_caches_ = 0, out_ = 0;
};

void check_spares(inspection& in) {
  const u64 most = in.h.arena.top / chunk_unit_bytes;
  u64 steps = 0;
  for (chunk_ref ref = in.h.spare_pools; ref != 0; ref = in.s.chunk<zone_record>(ref)->next) {
    if (!is_sane_spare_pool(in.s, ref) || ++steps > most)
      return in.broken("Z3: the list of released pools' records leads to something else");
    in.take(ref, sizeof(zone_record), "spare zone record");
  }
}

}  // namespace

void check_pools(inspection& in) {
  for (const zone_record& z : in.notes<zones_seen>().views)
    if (z.type == zone_type::pool && take_table(in, z, sizeof(pool_table))) pool_check(in, z).run();
  if (in.locked) check_spares(in);
}

}  // namespace annex::detail
