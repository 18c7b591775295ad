// views/pool_access.hpp - what taking from a pool and giving to it both ask first: is it there
// still, and where does this thread keep its objects.
//
// Released pools (docs/design/0011): what a thread remembers of a pool (this_thread.pool) is right
// while its frozen word says nothing: a release makes every thread look, which forgets it.
// Everything else compares the incarnation first, with the busy word set and frozen clear, or under
// the heap lock: nobody releases a pool then.
//
// Threads: any, each with a cache of its own. If the process dies here: a cache that was made is in
// the pool's table, by one transaction, and recovery gives back what it keeps.
#pragma once
#include <annex/pool.hpp>

#include <functional>
#include <span>

#include "heap/local_heap.hpp"
#include "named/pool_table.hpp"
#include "named/zone_record.hpp"
#include "views/waiting.hpp"

namespace annex {

struct pool_access {
  /// The thread's cache of the pool. Null: no room for one, no member, or the pool has been
  /// released.
  static pool_cache* find(const raw_pool& p) noexcept {
    return this_thread.pool_number == p.number_ ? this_thread.pool : find_slowly(p);
  }
  // Not released. Relaxed: whoever releases it has the heap lock and holds every thread still: that
  // orders it before what this thread does, busy and not frozen or with the lock, sync(frozen).
  static bool is_there(const raw_pool& p) noexcept {
    return static_cast<const zone_record*>(p.record_)->incarnation.load(
               std::memory_order_relaxed) == p.incarnation_;
  }
  // Not released, and its table still says what it said when it was opened: its parts lie where
  // they lay. Under the heap lock, or where this thread is busy and has a cache in the pool: else
  // the table may be on its way back to the segment.
  static bool is_current(const raw_pool& p) noexcept {
    if (!is_there(p)) return false;
    const pool_table& t = table(p);
    if (t.object_count == p.count_ && t.object_bytes == p.stride_ &&
        t.words == divide_up(p.count_, 64)) [[likely]]
      return !p.heap_->here.seg.is_damaged();
    p.heap_->here.seg.mark_damaged("the table of a pool has changed its size");
    return false;
  }
  static pool_table& table(const raw_pool& p) noexcept {
    return *static_cast<pool_table*>(p.table_);
  }
  static known_pool known(const raw_pool& p) noexcept { return {&table(p), p.stride_, p.count_}; }
  static u16* holders(const raw_pool& p) noexcept {
    return known(p).holders(p.heap_->here.seg.thread_limit());
  }
  // Before they are given back: their handles are stale from now on. What is no object is left to
  // whoever finds that out.
  [[gnu::noinline]] static void forget(const raw_pool& p, std::span<void* const> objects) noexcept;
  // Where an object is waited for; look: says that there is one.
  static detail::waiting_place waiting_at(const raw_pool& p, std::function<bool()> look);
  // After one was given: those who wait for it.
  [[gnu::noinline]] static void wake(const raw_pool& p) noexcept;
  static result<void> check_opened(const raw_pool& p) {
    if (p.heap_ != nullptr) return {};
    return refuse(errc::no_such_zone, "the pool was never opened");
  }
  // While the caches are being recalled.
  [[gnu::noinline]] static void wait(const raw_pool& p) noexcept;

 private:
  [[gnu::noinline]] static pool_cache* find_slowly(const raw_pool& p) noexcept;
  static pool_cache* remember(const raw_pool& p, chunk_ref cache, thread_cache* thread) noexcept;
};

}  // namespace annex
