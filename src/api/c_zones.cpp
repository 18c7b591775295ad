// api/c_zones.cpp - the C face: blocks with a name.
#include "api/c_face.hpp"

using namespace annex::c_face;

namespace annex::c_face {
namespace {

int give_zone(const result<zone>& z, annex_zone* out) noexcept {
  if (!z) return refuse(z.error());
  if (out == nullptr) return 0;
  annex_zone full{};
  full.address = z->address;
  full.size_bytes = z->size_bytes;
  full.handle = static_cast<std::uint64_t>(z->where);
  full.iova = static_cast<std::uint64_t>(z->bus_address);
  full.region = static_cast<std::uint32_t>(z->region);
  full.generation = z->generation;
  return give(full, out);
}

int check_names(annex_heap* heap, const char* name, annex_zone* out) noexcept {
  if (heap == nullptr || name == nullptr) return refuse_argument("heap or name is null");
  return out != nullptr ? check_out(out) : 0;
}

}  // namespace
}  // namespace annex::c_face

int annex_zone_reserve(annex_heap* heap, const char* name, const annex_placement* placement,
                       annex_zone* out) {
  annex::placement p;
  if (const int why = check_names(heap, name, out); why != 0) return why;
  constexpr uint32_t flags = ANNEX_ZEROED | ANNEX_IOVA_CONTIGUOUS | ANNEX_ON_COMMIT;
  if (const int why = take_placement(placement, &p, flags); why != 0) return why;
  uint32_t asked = 0;
  std::memcpy(&asked, &placement->flags,
              placement->struct_bytes >= offsetof(annex_placement, flags) + sizeof asked
                  ? sizeof asked
                  : 0);
  const auto seen =
      (asked & ANNEX_ON_COMMIT) != 0 ? annex::visibility::on_commit : annex::visibility::at_once;
  return give_zone(heap->heap.reserve_zone(name, p, seen), out);
}
int annex_zone_commit(annex_heap* heap, const char* name, const annex_zone* filled) {
  annex_zone z;
  if (const int why = check_names(heap, name, nullptr); why != 0) return why;
  if (filled == nullptr)
    return refuse_argument("filled is null: it is what annex_zone_reserve gave");
  if (const int why = take(filled, &z); why != 0) return why;
  annex::zone full;
  full.address = z.address;
  full.size_bytes = z.size_bytes;
  full.where = annex::handle{z.handle};
  full.region = annex::region_id{z.region};
  full.generation = z.generation;
  return done(heap->heap.commit_zone(name, full));
}
int annex_zone_wait(annex_heap* heap, const char* name, uint64_t deadline_ns,
                    uint64_t after_generation, annex_zone* out) {
  if (const int why = check_names(heap, name, out); why != 0) return why;
  return give_zone(heap->heap.wait_zone(name, as_wait(deadline_ns), after_generation), out);
}
int annex_zone_find(annex_heap* heap, const char* name, annex_zone* out) {
  if (const int why = check_names(heap, name, out); why != 0) return why;
  return give_zone(heap->heap.find_zone(name), out);
}
int annex_zone_release(annex_heap* heap, const char* name) {
  if (const int why = check_names(heap, name, nullptr); why != 0) return why;
  return done(heap->heap.release_zone(name));
}
