// shared/segment.hpp - the mapping of a segment in this process.
//
//   file: heap.annex   |header|tables|journal|arena …|            (sparse, grows at its end)
//   here: base ────────┴───────────────────────────────┈┈┈┈┈┈┈┈┈  (reserve_bytes of address space, mapped once, never moves)
#pragma once
#include <vector>

#include <annex/error.hpp>

#include "shared/layout.hpp"

namespace annex {

class segment {
 public:
  segment() = default;
  segment(void* base, int fd, bool writable) noexcept : base_(static_cast<char*>(base)), fd_(fd), writable_(writable) {}

  segment_header& header() const noexcept { return *reinterpret_cast<segment_header*>(base_); }
  char* base() const noexcept { return base_; }
  int fd() const noexcept { return fd_; }
  bool writable() const noexcept { return writable_; }

  template <class T>
  T* at(u64 offset_bytes) const noexcept { return reinterpret_cast<T*>(base_ + offset_bytes); }
  template <class T>
  T* chunk(chunk_ref ref) const noexcept { return reinterpret_cast<T*>(base_ + u64{ref} * chunk_unit_bytes); }
  chunk_ref ref_of(const void* p) const noexcept {
    return static_cast<chunk_ref>(static_cast<u64>(static_cast<const char*>(p) - base_) / chunk_unit_bytes);
  }
  u64 offset_of(const void* p) const noexcept { return static_cast<u64>(static_cast<const char*>(p) - base_); }

  member_record& member(u32 id) const noexcept { return at<member_record>(header().members_at)[id - 1]; }
  thread_slot& slot(u32 index) const noexcept { return at<thread_slot>(header().threads_at)[index]; }
  journal& log() const noexcept { return *at<journal>(header().journal_at); }
  u32* zone_buckets() const noexcept { return at<u32>(header().zone_buckets_at); }

 private:
  char* base_ = nullptr;
  int fd_ = -1;
  bool writable_ = false;
};

/// Makes sure that these bytes of the segment can be written: false when the file system is full. About 1 µs.
bool back_pages(const segment& s, u64 offset_bytes, u64 bytes) noexcept;

/// Calls visit for every hash chain of zones that may not be empty. Pages of buckets that were never written stay untouched.
template <class Visit>
void for_each_zone_bucket(const segment& s, Visit visit) {
  constexpr u32 buckets_per_page = limits::zone_buckets / 64;
  for (u64 pages = s.header().zone_pages.load(std::memory_order_acquire); pages != 0; pages &= pages - 1) {
    const u32 first = static_cast<u32>(std::countr_zero(pages)) * buckets_per_page;
    for (u32 bucket = first; bucket < first + buckets_per_page; ++bucket)
      if (s.zone_buckets()[bucket] != 0) visit(s.zone_buckets()[bucket]);
  }
}
/// The head of a bucket's chain; 0: empty.
inline chunk_ref zone_chain(const segment& s, u32 bucket) noexcept {
  const u64 page = u64{1} << (bucket / (limits::zone_buckets / 64));
  return (s.header().zone_pages.load(std::memory_order_acquire) & page) != 0 ? s.zone_buckets()[bucket] : 0;
}

/// How many words of the bitmaps of regions can have a bit.
inline u32 region_words(const segment_header& h) noexcept {
  const u32 words = (std::atomic_ref(const_cast<u32&>(h.region_slots_used)).load(std::memory_order_relaxed) + 63) / 64;
  return words < limits::region_slots / 64 ? words : limits::region_slots / 64;
}
/// Slots of the regions that exist, in order. Without the heap lock: as of now.
std::vector<u32> used_region_slots(const segment& s);

/// Where the tables lie, from the limits; the bytes up to the arena.
struct table_plan { u64 members_at, threads_at, regions_at, zone_buckets_at, journal_at, arena_at; };
table_plan plan_tables(u32 member_limit, u32 thread_limit, u32 region_limit) noexcept;

/// A number that changes whenever a struct of the segment does.
u64 layout_hash() noexcept;

}  // namespace annex
