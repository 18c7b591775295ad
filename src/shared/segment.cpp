// shared/segment.cpp - where the tables lie, and the number that tells layouts apart.
#include "shared/segment.hpp"

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <iterator>

#include "platform/files.hpp"
#include "platform/report.hpp"

namespace annex {

table_plan plan_tables(u32 member_limit, u32 thread_limit, u32 region_limit) noexcept {
  constexpr u64 region_record_bytes = 2048;  // asserted in region/region_record.hpp
  constexpr u64 page = 4 * KiB;
  table_plan plan{};
  plan.members_at = align_up(sizeof(segment_header), page);
  plan.threads_at = align_up(plan.members_at + u64{member_limit} * sizeof(member_record), page);
  plan.regions_at = align_up(plan.threads_at + u64{thread_limit} * sizeof(thread_slot), page);
  plan.zone_buckets_at = align_up(plan.regions_at + u64{region_limit} * region_record_bytes, page);
  plan.journal_at = align_up(plan.zone_buckets_at + u64{limits::zone_buckets} * sizeof(u32), page);
  plan.arena_at = align_up(plan.journal_at + sizeof(journal), page);
  return plan;
}

segment::segment(void* base, const os::kept_file* file, const os::kept_file* life, bool writable,
                 const segment_geometry& geometry, u64 mapped_bytes) noexcept
    : guard_(&guard_of_the_library),
      base_(static_cast<char*>(base)),
      file_(file),
      life_(life),
      writable_(writable),
      geometry_(geometry),
      mapped_bytes_(mapped_bytes) {}

const segment_guard segment::guard_of_the_library{&segment::ask_file_bytes, &segment::spare_of};

u64 segment::ask_file_bytes(const segment& s) noexcept {
  os::file_identity file;
  const int descriptor = s.fd();
  // Where the system does not say, the header is asked; at worst what it leads to is the file's
  // end.
  const bool is_told = descriptor >= 0 && os::identify(descriptor, &file) == 0;
  const u64 there =
      std::min(is_told ? file.length_bytes : s.header().arena.file_bytes, s.mapped_bytes_);
  __atomic_store_n(&s.known_bytes_, there, __ATOMIC_RELAXED);
  return there;
}

void segment::mark_damaged(std::string_view what) const noexcept {
  if (writable_) header().damaged.store(1, std::memory_order_relaxed);
  if (damage_ != nullptr && damage_->exchange(1, std::memory_order_relaxed) != 0) return;
  annex::log(log_level::error,
             "a heap is damaged: {}; its changes are refused from now on: close it everywhere, "
             "then `annex check --repair`",
             what);
}

void* segment::spare_of(const segment& s, u64 ref, u64 bytes) noexcept {
  // Shared by every thread that meets damage: nothing in it is ever relied on.
  alignas(4096) static char spare[128 * KiB + spare_file_bytes];
  ANNEX_ENSURE(bytes <= sizeof spare - spare_file_bytes);
  std::memset(spare, 0, bytes);
  char text[96];
  s.mark_damaged(
      write_sentence(text, "record or chunk {} of {} bytes lies outside its table", ref, bytes));
  return spare;
}

bool back_pages(const segment& s, u64 offset, u64 bytes) noexcept {
  const int why = os::allocate_range(s.fd(), offset, bytes);
  // Others: a file system that can't say.
  return why != ENOSPC && why != ENOMEM && why != EDQUOT && why != EIO;
}

std::vector<u32> used_region_slots(const segment& s) {
  std::vector<u32> slots;
  const segment_header& h = s.header();
  for (u32 word = 0; word < region_words(h); ++word)
    // sync(published): what was written into the records before is seen.
    for (u64 bits = std::atomic_ref(const_cast<u64&>(h.used_regions[word]))
                        .load(std::memory_order_acquire);
         bits != 0; bits &= bits - 1)
      if (const u32 slot = word * 64 + static_cast<u32>(std::countr_zero(bits));
          slot < s.region_limit())
        slots.push_back(slot);
  return slots;
}

u64 layout_hash() noexcept {
  u64 hash = 0xcbf29ce484222325;  // FNV-1a over what a change of layout changes
  auto mix = [&](u64 value) { hash = (hash ^ value) * 0x100000001b3; };
  for (u64 value :
       {u64{layout_major}, u64{sizeof(segment_header)}, u64{offsetof(segment_header, lock)},
        u64{offsetof(segment_header, arena)}, u64{offsetof(segment_header, orphans)},
        u64{sizeof(member_record)}, u64{sizeof(thread_slot)}, u64{sizeof(journal)},
        u64{sizeof(region_claim)}, u64{limits::lanes}, u64{limits::region_slots},
        u64{limits::zone_buckets}, u64{limits::granule_shift}, u64{limits::slab_blocks},
        u64{limits::largest_slab_block_bytes}})
    mix(value);
  return hash;
}

}  // namespace annex
