// shared/segment.hpp - the mapping of a segment in this process.
//
//   file: heap.annex   |header|tables|journal|arena …|            (sparse, grows at its end)
//   here: base ────────┴───────────────────────────────┈┈┈┈┈┈┈┈┈  (reserve_bytes of address space,
//                                                                  mapped once, never moves)
#pragma once
#include <algorithm>
#include <atomic>
#include <bit>
#include <iterator>
#include <string_view>

#include <annex/error.hpp>

#include "platform/kept_file.hpp"
#include "shared/layout.hpp"

namespace annex {

/// Where the tables lie and how many entries they have. A process copies it once, after it has
/// checked it, and never reads those words of the header again: whoever changes them there changes
/// nothing for the others.
struct segment_geometry {
  u64 members_at = 0, threads_at = 0, regions_at = 0, zone_buckets_at = 0, journal_at = 0,
      arena_at = 0, reserve_bytes = 0;
  u32 member_limit = 0, thread_limit = 0, region_limit = 0, zone_limit = 0;
  segment_geometry() = default;
  explicit segment_geometry(const segment_header& h) noexcept
      : members_at(h.members_at),
        threads_at(h.threads_at),
        regions_at(h.regions_at),
        zone_buckets_at(h.zone_buckets_at),
        journal_at(h.journal_at),
        arena_at(h.arena_at),
        reserve_bytes(h.reserve_bytes),
        member_limit(h.member_limit),
        thread_limit(h.thread_limit),
        region_limit(h.region_limit),
        zone_limit(h.zone_limit) {}
  bool operator==(const segment_geometry&) const = default;
};

/// The segment as this process has it mapped. Nothing that is read from it is used as a bound: the
/// bounds are the geometry above, the bytes that are mapped here, and the length that the file
/// really has.
///
///   chunk<T>(ref)         a chunk by its number. One that can't be (outside the arena, or of the
///                         file) leads to a spare chunk of zeros that belongs to nobody, and the
///                         segment is marked as damaged: links in it end every list, counts in it
///                         are 0, and what is written there is lost. Whoever changes anything asks
///                         is_damaged() at its end.
///   find_chunk<T>(ref,n)  null instead, and no mark: for whoever looks without the heap lock,
///                         where things move meanwhile.
class segment;
/// The file is longer than the arena's top by at least so much: a reader that a damaged count or
/// length leads a little behind the last chunk meets zeros, not the end of the file or of the
/// mapping.
inline constexpr u64 spare_file_bytes = 768 * KiB;

/// What a segment asks of the library that keeps its bounds.
struct segment_guard {
  u64 (*file_bytes)(const segment&);
  void* (*spare)(const segment&, u64 ref, u64 bytes);
};

class segment {
 public:
  segment() = default;
  /// For tests that look at a segment by its inside: believes the header, and keeps no bounds.
  segment(void* base, int fd, bool writable) noexcept
      : base_(static_cast<char*>(base)),
        fd_(fd),
        writable_(writable),
        geometry_(header()),
        mapped_bytes_(geometry_.reserve_bytes) {}
  segment(void* base, const os::kept_file* file, const os::kept_file* life, bool writable,
          const segment_geometry& geometry, u64 mapped_bytes) noexcept;

  segment_header& header() const noexcept { return *reinterpret_cast<segment_header*>(base_); }
  char* base() const noexcept { return base_; }
  int fd() const noexcept { return file_ != nullptr ? file_->get() : fd_; }
  /// The file in which members lock their bytes; -1: it can't be reached, or there is none.
  int life_fd() const noexcept { return life_ != nullptr ? life_->get() : -1; }
  bool has_life_file() const noexcept { return life_ != nullptr; }
  bool writable() const noexcept { return writable_; }
  const segment_geometry& geometry() const noexcept { return geometry_; }
  u32 member_limit() const noexcept { return geometry_.member_limit; }
  u32 thread_limit() const noexcept { return geometry_.thread_limit; }
  u32 region_limit() const noexcept { return geometry_.region_limit; }
  u64 mapped_bytes() const noexcept { return mapped_bytes_; }
  /// How much of the file there is to read and write: asked anew when `wanted` lies behind what is
  /// known.
  u64 file_bytes(u64 wanted = ~u64{0}) const noexcept { return known_bytes(wanted); }

  template <class T>
  T* at(u64 offset_bytes) const noexcept {
    return reinterpret_cast<T*>(base_ + offset_bytes);
  }
  /// In the arena, with the spare bytes behind it in the file and in this mapping: what a wrong
  /// count leads to lies there.
  bool has_chunk(chunk_ref ref, u64 bytes) const noexcept {
    const u64 at = u64{ref} * chunk_unit_bytes;
    if (at < geometry_.arena_at || bytes > mapped_bytes_) return false;
    const u64 end = at + bytes + spare_file_bytes;
    return end <= known_bytes(end);
  }
  template <class T>
  T* chunk(chunk_ref ref) const noexcept {
    if (has_chunk(ref, sizeof(T))) [[likely]]
      return reinterpret_cast<T*>(base_ + u64{ref} * chunk_unit_bytes);
    return static_cast<T*>(spare_chunk(ref, sizeof(T)));
  }
  template <class T>
  T* find_chunk(chunk_ref ref, u64 bytes = sizeof(T)) const noexcept {
    return has_chunk(ref, bytes) ? reinterpret_cast<T*>(base_ + u64{ref} * chunk_unit_bytes)
                                 : nullptr;
  }
  chunk_ref ref_of(const void* p) const noexcept {
    return static_cast<chunk_ref>(static_cast<u64>(static_cast<const char*>(p) - base_) /
                                  chunk_unit_bytes);
  }
  u64 offset_of(const void* p) const noexcept {
    return static_cast<u64>(static_cast<const char*>(p) - base_);
  }
  /// Whether these bytes lie in the segment, and not in a spare chunk.
  bool contains(const void* p, u64 bytes) const noexcept {
    return offset_of(p) <= mapped_bytes_ && bytes <= mapped_bytes_ - offset_of(p);
  }

  /// An entry of a table; one behind its end leads to a spare one, as a chunk does.
  template <class T>
  T& entry(u64 table_at, u64 index, u64 count) const noexcept {
    if (index < count) [[likely]]
      return at<T>(table_at)[index];
    return *static_cast<T*>(spare_chunk(index, sizeof(T)));
  }
  member_record& member(u32 id) const noexcept {
    return entry<member_record>(geometry_.members_at, u64{id} - 1, geometry_.member_limit);
  }
  thread_slot& slot(u32 index) const noexcept {
    return entry<thread_slot>(geometry_.threads_at, index, geometry_.thread_limit);
  }
  journal& log() const noexcept { return *at<journal>(geometry_.journal_at); }
  u32* zone_buckets() const noexcept { return at<u32>(geometry_.zone_buckets_at); }
  u32 members_used() const noexcept {
    return std::min(header().member_records_used.load(std::memory_order_relaxed),
                    geometry_.member_limit);
  }
  u32 slots_used() const noexcept {
    return std::min(header().thread_slots_used.load(std::memory_order_relaxed),
                    geometry_.thread_limit);
  }

  /// Something in it can't be. Said once in the log, kept in the segment for whoever attaches next,
  /// and for this process in is_damaged().
  void mark_damaged(std::string_view what) const noexcept;
  bool is_damaged() const noexcept {
    return damage_ != nullptr && damage_->load(std::memory_order_relaxed) != 0;
  }
  /// Where the mark of this process is kept: of the local heap, so that copies of this object share
  /// it.
  void keep_damage_in(std::atomic<u32>* mark) noexcept { damage_ = mark; }

 private:
  u64 known_bytes(u64 wanted) const noexcept {
    if (guard_ == nullptr) [[unlikely]]
      return mapped_bytes_;
    // Relaxed: a file only grows, and is asked when it is too short.
    const u64 known = __atomic_load_n(&known_bytes_, __ATOMIC_RELAXED);
    return wanted <= known ? known : guard_->file_bytes(*this);
  }
  void* spare_chunk(u64 ref, u64 bytes) const noexcept {
    return guard_ != nullptr ? guard_->spare(*this, ref, bytes) : nullptr;
  }
  static u64 ask_file_bytes(const segment& s) noexcept;
  static void* spare_of(const segment& s, u64 ref, u64 bytes) noexcept;
  static const segment_guard guard_of_the_library;

  const segment_guard* guard_ = nullptr;
  char* base_ = nullptr;
  int fd_ = -1;
  const os::kept_file* file_ = nullptr;
  const os::kept_file* life_ = nullptr;
  bool writable_ = false;
  segment_geometry geometry_;
  u64 mapped_bytes_ = 0;
  mutable u64 known_bytes_ = 0;
  std::atomic<u32>* damage_ = nullptr;
};

/// What a member says of regions; null: nothing, or it lies where it can't.
inline region_claim* claims_of(const segment& s, const member_record& m) noexcept {
  // sync(published): the table was zeros before it was the member's.
  const chunk_ref ref =
      std::atomic_ref(const_cast<chunk_ref&>(m.region_claims)).load(std::memory_order_acquire);
  return ref != 0 ? s.find_chunk<region_claim>(ref, u64{s.region_limit()} * sizeof(region_claim))
                  : nullptr;
}

/// For walks along links of the segment: a list longer than the segment has chunks runs in a
/// circle.
class list_walk {
 public:
  explicit list_walk(const segment& s) noexcept : segment_(s) {}
  bool goes_on() noexcept {
    if (segment_.is_damaged()) [[unlikely]]
      return false;
    ++steps_;
    if (steps_ < steps_before_asking || steps_ < segment_.file_bytes() / chunk_unit_bytes)
        [[likely]]
      return true;
    segment_.mark_damaged("a list runs in a circle");
    return false;
  }

 private:
  static constexpr u64 steps_before_asking = 4096;
  const segment& segment_;
  u64 steps_ = 0;
};

/// Makes sure that these bytes of the segment can be written: false when the file system is full.
/// About 1 µs.
bool back_pages(const segment& s, u64 offset_bytes, u64 bytes) noexcept;

/// Calls visit for every hash chain of zones that may not be empty. Pages of buckets that were
/// never written stay untouched.
template <class Visit>
void for_each_zone_bucket(const segment& s, Visit visit) {
  constexpr u32 buckets_per_page = limits::zone_buckets / 64;
  // sync(published): the page of the buckets was backed before it got its bit.
  for (u64 pages = s.header().zone_pages.load(std::memory_order_acquire); pages != 0;
       pages &= pages - 1) {
    const u32 first = static_cast<u32>(std::countr_zero(pages)) * buckets_per_page;
    for (u32 bucket = first; bucket < first + buckets_per_page; ++bucket)
      if (s.zone_buckets()[bucket] != 0) visit(s.zone_buckets()[bucket]);
  }
}
/// The head of a bucket's chain; 0: empty.
inline chunk_ref zone_chain(const segment& s, u32 bucket) noexcept {
  const u64 page = u64{1} << (bucket / (limits::zone_buckets / 64));
  // sync(published): as above.
  return (s.header().zone_pages.load(std::memory_order_acquire) & page) != 0
             ? s.zone_buckets()[bucket]
             : 0;
}

/// How many words of the bitmaps of regions can have a bit.
inline u32 region_words(const segment_header& h) noexcept {
  const u32 words =
      (std::atomic_ref(const_cast<u32&>(h.region_slots_used)).load(std::memory_order_relaxed) +
       63) /
      64;
  return words < limits::region_slots / 64 ? words : limits::region_slots / 64;
}
/// Slots of the regions that exist, in order: for (const u32 slot : used_region_slots(s)). Without
/// the heap lock: as of now, 64 slots at a time.
class used_region_slots {
 public:
  explicit used_region_slots(const segment& s) noexcept
      : bitmap_(s.header().used_regions),
        words_(region_words(s.header())),
        limit_(s.region_limit()) {}

  class iterator {
   public:
    explicit iterator(const used_region_slots& slots) noexcept : slots_(slots) {
      read();
      skip_empty();
    }
    u32 operator*() const noexcept {
      return word_ * 64 + static_cast<u32>(std::countr_zero(bits_));
    }
    iterator& operator++() noexcept {
      bits_ &= bits_ - 1;
      skip_empty();
      return *this;
    }
    bool operator==(std::default_sentinel_t) const noexcept {
      return word_ >= slots_.words_ || **this >= slots_.limit_;
    }

   private:
    void read() noexcept {
      // sync(published): what was written into the records before is seen.
      if (word_ < slots_.words_)
        bits_ = std::atomic_ref(const_cast<u64&>(slots_.bitmap_[word_]))
                    .load(std::memory_order_acquire);
    }
    void skip_empty() noexcept {
      while (bits_ == 0 && word_ < slots_.words_) {
        ++word_;
        read();
      }
    }
    const used_region_slots& slots_;
    u32 word_ = 0;
    u64 bits_ = 0;
  };
  iterator begin() const noexcept { return iterator(*this); }
  static std::default_sentinel_t end() noexcept { return {}; }

 private:
  const u64* bitmap_;
  u32 words_, limit_;
};

/// Where the tables lie, from the limits; the bytes up to the arena.
struct table_plan {
  u64 members_at, threads_at, regions_at, zone_buckets_at, journal_at, arena_at;
};
table_plan plan_tables(u32 member_limit, u32 thread_limit, u32 region_limit) noexcept;

/// A number that changes whenever a struct of the segment does.
u64 layout_hash() noexcept;

}  // namespace annex
