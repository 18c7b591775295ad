// cache/still.hpp - holding every thread's cache still for a moment (rule C1), without waiting for
// anybody's leave.
//
//   frozen = asked ──▶ process barrier ──▶ wait until not busy, 20 ms at most ──▶ held ──▶ … ──▶ no
//
// Everything here runs under the heap lock. A thread that is stopped in the middle of an operation
// is not still: it is counted, and its cache left alone. If the holder dies while caches are held,
// the one who takes the lock over completes what was done in their names (repair_frozen).
#pragma once
#include "cache/thread_cache.hpp"
#include "region/tenure.hpp"

namespace annex {

/// The caches that one holder of the heap lock holds still. Kept nowhere but in the words of the
/// caches: there may be as many as threads, and nothing is allocated to list them.
class frozen_caches {
 public:
  /// None.
  frozen_caches() = default;

  u32 not_still = 0;
  bool somebody_died = false;

  /// The cache of this slot; null: it is not held.
  thread_cache* of(u32 slot) const noexcept;
  /// Lets all of them go.
  void thaw() noexcept;

  class iterator {
   public:
    iterator(const frozen_caches& frozen, u32 slot) noexcept : frozen_(frozen), slot_(slot) {
      skip_others();
    }
    thread_cache* operator*() const noexcept { return cache_; }
    iterator& operator++() noexcept {
      ++slot_;
      skip_others();
      return *this;
    }
    bool operator==(const iterator& other) const noexcept { return slot_ == other.slot_; }

   private:
    void skip_others() noexcept {
      while (slot_ < frozen_.slots_ && (cache_ = frozen_.of(slot_)) == nullptr)
        ++slot_;
    }
    const frozen_caches& frozen_;
    thread_cache* cache_ = nullptr;
    u32 slot_;
  };
  iterator begin() const noexcept { return {*this, 0}; }
  iterator end() const noexcept { return {*this, slots_}; }

 private:
  friend frozen_caches freeze_all(transaction& t, u32 only_member) noexcept;
  frozen_caches(const transaction& t, u32 only_member) noexcept
      : segment_(&t.seg()),
        holder_(t.slot()),
        only_member_(only_member),
        slots_(t.seg().slots_used()) {}
  /// The cache of this slot, if it has been started and counts; null: there is none.
  thread_cache* started(u32 slot) const noexcept;

  const segment* segment_ = nullptr;
  u32 holder_ = no_owner;  // whose cache, if it has one, is still as long as it does this
  u32 only_member_ = 0, slots_ = 0;
};

/// only_member: the caches of its threads; 0: all.
frozen_caches freeze_all(transaction& t, u32 only_member = 0) noexcept;
/// Every thread takes a slow path next, and forgets which pool it used last.
void make_all_look(const segment& s) noexcept;

/// Of a cache that nobody holds still any more: whatever was done in its name is completed.
void take_back(tenure& t, thread_cache& c) noexcept;
/// The freezer died: take_back() for every cache, and slabs without owner are counted anew.
void repair_frozen(tenure& t) noexcept;
/// From the truth (lanes, bitmaps, magazines) to the indexes (counts, partial lists), and every
/// magazine emptied.
void repair_cache(tenure& t, thread_cache& c) noexcept;

}  // namespace annex
