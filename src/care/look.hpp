// care/look.hpp - one look at a heap without its lock: regions, extents, caches, holders, zones,
// members.
//
// Processes: takes no lock of the heap and writes nothing into it. Nothing that is read is
// believed: regions are looked at through views of this look's own, whose tables were compared with
// the file; chunks are looked for (find_chunk); every list, together with all others, ends after a
// number of steps that the caller's limit gives. A torn or damaged word leads to a wrong figure and
// to is_torn(), nowhere else. Whether what was seen is of one moment is the caller's to find out
// (heap/snapshot.cpp).
#pragma once
#include <deque>
#include <utility>
#include <vector>

#include <annex/types.hpp>

#include "named/zone_record.hpp"
#include "region/region_views.hpp"

namespace annex {

struct slab_record;

/// A slab's numbers, read once and found possible: what is counted afterwards stays within them.
struct slab_seen {
  const slab_record* record = nullptr;
  u32 words = 0, capacity = 0, size_class = 0;
  u32 member = 0;
  chunk_ref holdings = 0;

  explicit operator bool() const noexcept { return record != nullptr; }
  u64 live_bits(u32 w) const noexcept;
  /// Those that caches keep included.
  u32 live_blocks() const noexcept;
};

struct piece_seen {
  map_piece piece;
  slab_seen slab;
  u32 live = 0;    // blocks of a slab, those in caches included
  u32 cached = 0;  // in caches
};

/// A word as it is now.
template <class T>
T seen(const T& word) noexcept {
  T value;
  // Relaxed: the sequence of the heap lock tells whether it may be relied on.
  __atomic_load(&word, &value, __ATOMIC_RELAXED);
  return value;
}

/// One look. Everything that it finds is its own; the segment is only read.
class look {
 public:
  look(const segment& s, region_views& views, u32 self, const snapshot_options& options,
       heap_snapshot* out)
      : segment_(s),
        views_(views),
        self_(self),
        options_(options),
        out_(*out),
        links_left_(4 * u64{options.most_extents} + 65536) {}

  void take();
  /// Blocks came or went since take() began. Not every one that came and went again.
  bool has_moved();
  bool is_torn() const noexcept { return is_torn_; }

 private:
  // Objects and caches of all pools together: twice what one may have.
  static constexpr u64 most_pool_steps = u64{1} << 31;

  // ---- look.cpp
  void read_caches(std::vector<u64>* digests);
  void find_region(u32 slot);
  void walk(const local_region& region);
  void add_piece(const local_region& region, u32 granule, u32 length);
  piece_seen* piece_at(u32 slot, u64 offset);
  void count_caches();
  void count_slabs();
  void sum_up(const local_region& region);
  // ---- look_members.cpp
  void find_members();
  void find_zones();
  void add_zone(const zone_record& z);
  void count_pool(const zone_record& z);
  void give_members();
  void sum_up_heap();

  member_summary* of(u32 id) noexcept {
    return id < index_.size() && index_[id] < out_.members.size() ? &out_.members[index_[id]]
                                                                  : nullptr;
  }
  void hold(u32 member, u64 blocks, u64 bytes) noexcept {
    if (member == 0 || member >= held_blocks_.size()) return;
    held_blocks_[member] += blocks;
    held_bytes_[member] += bytes;
  }
  // Links of all lists together: a damaged one may lead in circles.
  bool may_go_on() noexcept {
    if (links_left_ == 0) {
      out_.complete = false;
      return false;
    }
    --links_left_;
    return true;
  }

  const segment& segment_;
  region_views& views_;
  const u32 self_;
  const snapshot_options& options_;
  heap_snapshot& out_;
  u64 links_left_, pool_steps_left_ = most_pool_steps;
  bool is_torn_ = false;
  std::deque<local_region> own_views_;
  std::vector<const local_region*> regions_, by_slot_;  // the first by id
  std::vector<piece_seen> pieces_;
  std::vector<std::pair<u32, u32>> pieces_of_;  // by slot: first, behind the last
  std::vector<u64> caches_before_;
  std::vector<u32> index_;  // of a member in out_.members
  std::vector<u64> held_blocks_, held_bytes_;
};

}  // namespace annex
