// heap/claims.cpp - what this member says of each region: attached, watched, leased, by which
// descriptor.
//
// A table of the member's in the segment, made on first use; it ends with the member.
#include "attached/locked.hpp"
#include "heap/membership.hpp"
#include "shared/arena.hpp"

namespace annex::detail {

// What this member has said of the view's region; null: nothing. Takes no lock: also for whoever
// has it, and for readers.
region_claim* membership::claim_here(const local_region& view) noexcept {
  if (self() == 0 || is_read_only()) return nullptr;
  region_claim* const mine = claims_of(segment_, segment_.member(self()));
  return mine != nullptr && mine[view.slot].region.load(std::memory_order_relaxed) == view.id
             ? mine + view.slot
             : nullptr;
}

// Made on first use.
region_claim* membership::claims() noexcept {
  member_record& m = segment_.member(self());
  if (m.region_claims == 0) {
    locked t(heap_);
    if (m.region_claims == 0) {
      const chunk_ref ref =
          allocate_chunk(*t, u64{segment_.region_limit()} * sizeof(region_claim), backing::sparse);
      if (ref == 0 || !back_pages(segment_, u64{ref} * chunk_unit_bytes, sizeof(region_claim))) {
        t->roll_back();
        return nullptr;
      }
      t->put(m.region_claims, ref);
    }
  }
  return claims_of(segment_, m);
}

// This member's claim on the region. Null: no metadata left for it.
region_claim* membership::claim_on(u32 slot) noexcept {
  region_claim* const mine = claims();
  return mine != nullptr &&
                 back_pages(segment_, segment_.offset_of(mine + slot), sizeof(region_claim))
             ? mine + slot
             : nullptr;
}

void begin_claim(region_claim& claim, u32 id, int fd, u16 bits) noexcept {
  claim.leases.store(0, std::memory_order_relaxed);
  claim.fd_plus_1.store(static_cast<u32>(fd + 1), std::memory_order_relaxed);
  claim.attached.store(bits, std::memory_order_relaxed);
  // sync(claim): what it says of the region comes before.
  claim.region.store(id, std::memory_order_release);
}

void end_claim(region_claim& claim) noexcept {
  // sync(observed): the observers are done with the region.
  claim.attached.store(0, std::memory_order_release);
  claim.fd_plus_1.store(0, std::memory_order_relaxed);
  // sync(claim): nobody here uses the region any more.
  claim.region.store(0, std::memory_order_release);
}

}  // namespace annex::detail
