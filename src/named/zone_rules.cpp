// named/zone_rules.cpp - see zone_rules.hpp: what an audit asks of zones.
#include "named/zone_rules.hpp"

#include <cstring>

namespace annex::detail {

bool is_sane_zone(const zone_record& z) noexcept {
  return std::memchr(z.name, 0, sizeof z.name) != nullptr && z.type >= zone_type::plain &&
         z.type <= zone_type::ring &&
         (z.type != zone_type::plain || (z.table == 0 && z.table_bytes == 0)) &&
         (z.state.load(std::memory_order_relaxed) == zone_committed ||
          (z.state.load(std::memory_order_relaxed) == zone_being_filled &&
           z.type == zone_type::plain));
}

std::string name_of(const zone_record& z) {
  return std::string(z.name, ::strnlen(z.name, sizeof z.name));
}

namespace {

class chain_check {
 public:
  explicit chain_check(inspection& in)
      : in_(in),
        regions_(in.notes<regions_known>()),
        backed_(in.notes<extents_seen>().zones),
        views_(in.notes<zones_seen>().views) {}

  void run() {
    for_each_zone_bucket(in_.s, [&](chunk_ref chain) { check_chain(chain); });
    if (!in_.locked) return;
    const segment_header& h = in_.h;
    if (count_ != h.zone_count)
      in_.broken("Z1: {} zones exist, the header counts {}", count_, h.zone_count);
    if (h.zone_generations != h.zone_generations_again)
      in_.broken("Z6: {} zones were ever reserved by one count, {} by the other",
                 h.zone_generations, h.zone_generations_again);
    if (!backed_.empty())
      in_.broken("Z1: {} extents belong to zones that are not there", backed_.size());
  }

 private:
  void check_chain(chunk_ref chain) {
    for (chunk_ref ref = chain; ref != 0;) {
      if (!in_.take(ref, sizeof(zone_record), "zone record")) return;
      const zone_record z = *in_.s.chunk<zone_record>(ref);  // what is compared is what is used
      if (!check_record(z, chain) || !check_place(z, ref)) return;
      if (z.type != zone_type::plain) views_.push_back(z);
      ref = z.next;
    }
  }

  // False, here and below: the rest of the chain is not looked at.
  bool check_record(const zone_record& z, chunk_ref chain) {
    const segment_header& h = in_.h;
    in_.count_one();
    if (++count_ > h.zone_count + (in_.locked ? 0 : 1000))
      in_.broken("Z1: more zones than the {} the header counts", h.zone_count);
    else if (!is_sane_zone(z))
      in_.broken("Z1: a zone record is impossible");
    else if (in_.locked && z.seal != seal_of_zone(z))
      in_.broken("Z4: the record of zone \"{}\" does not fit its seal", z.name);
    else if (in_.locked && (z.generation == 0 || z.generation > h.zone_generations))
      in_.broken("Z6: zone \"{}\" is of generation {}, and {} were reserved", z.name, z.generation,
                 h.zone_generations);
    else if (in_.locked && zone_chain(in_.s, zone_bucket_of(z.name)) != chain)
      in_.broken("Z1: zone \"{}\" is not in the chain of its name", z.name);
    else
      return true;
    return false;
  }

  bool check_place(const zone_record& z, chunk_ref ref) {
    if (z.region_slot != no_region) {
      if (is_backed(z, ref)) return true;
      in_.broken("Z1: zone \"{}\" is not backed by an extent of its size", z.name);
      return false;
    }
    if (z.type == zone_type::ring) return true;
    in_.broken("Z1: zone \"{}\" has no memory", z.name);
    return false;
  }

  // Only granules that an extent of a zone begins at are looked at.
  bool is_backed(const zone_record& z, chunk_ref ref) {
    const known_region* const r = regions_.find(z.region_slot);
    if (r == nullptr || backed_.erase(extents_seen::zone_place(z.region_slot, z.granule)) != 1)
      return false;
    const extent_entry& e = r->extents[z.granule];
    return e.record == ref && z.offset_bytes >> r->granule_shift == z.granule &&
           z.offset_bytes + z.size_bytes <= r->length_bytes &&
           z.offset_bytes + z.size_bytes <= u64{z.granule + e.length} << r->granule_shift;
  }

  inspection& in_;
  const regions_known& regions_;
  std::unordered_set<u64>& backed_;
  std::vector<zone_record>& views_;
  u32 count_ = 0;
};

}  // namespace

void check_zones(inspection& in) {
  chain_check(in).run();
}

bool take_table(inspection& in, const zone_record& z, u64 smallest_bytes) {
  if (in.take(z.table, z.table_bytes, "table") && z.table_bytes >= smallest_bytes) return true;
  in.broken("Z1: \"{}\" has an impossible table", z.name);
  return false;
}

void count_zones(counting& c) {
  c.out.zone_count = c.s.header().zone_count;
}

}  // namespace annex::detail
