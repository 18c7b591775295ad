// views/pool_access.cpp - see pool_access.hpp.
#include "views/pool_access.hpp"

#include "platform/processes.hpp"

namespace annex {

pool_cache* pool_access::find_slowly(const raw_pool& p) noexcept {
  if (p.heap_ == nullptr) return nullptr;
  detail::local_heap& heap = *p.heap_;
  thread_cache* thread = cache_of(heap.here.index);
  if (thread == nullptr) thread = heap.blocks.make_cache();
  if (thread == nullptr || heap.here.seg.is_damaged()) return nullptr;
  // Without barrier nobody can tell that we are in here.
  if (heap.here.seg.header().no_barrier.load(std::memory_order_relaxed) == 0)
    if (busy_scope busy(*thread); busy.entered() && is_there(p))
      if (const chunk_ref mine = known(p).caches()[thread->slot]; mine != 0)
        return remember(p, mine, thread);
  detail::locked t(heap.here);
  if (!is_current(p)) return nullptr;
  chunk_ref& mine = known(p).caches()[thread->slot];
  if (mine == 0) {
    const chunk_ref ref = allocate_chunk(*t, sizeof(pool_cache));
    if (ref == 0) return nullptr;
    heap.here.seg.chunk<pool_cache>(ref)->capacity = pool_cache_slots;
    t->put(mine, ref);
  }
  return remember(p, mine, thread);
}

pool_cache* pool_access::remember(const raw_pool& p, chunk_ref cache,
                                  thread_cache* thread) noexcept {
  this_thread.pool_number = p.number_;
  this_thread.pool = p.heap_->here.seg.chunk<pool_cache>(cache);
  this_thread.pool_thread = thread;
  return this_thread.pool;
}

// Before they are given back: their handles are stale from now on. What is no object is left to
// whoever finds that out.
void pool_access::forget(const raw_pool& p, std::span<void* const> objects) noexcept {
  const local_region* const region = address_index::find(p.base_);
  if (region == nullptr) return;
  const u64 first_granule = static_cast<u64>(p.base_ - region->base) >> region->granule_shift;
  const u32 zone_generation = count_in(region->extents[first_granule].name);
  for (const void* object : objects) {
    const u64 offset = static_cast<u64>(static_cast<const char*>(object) - p.base_),
              index = offset / p.stride_;
    if (index < p.count_ && index * p.stride_ == offset)
      forget_object(p.heap_->here.seg, *region, known(p), zone_generation, index);
  }
}

// W1 under the heap lock: nobody releases the pool then, and its table is a pool's still. W2: a
// process barrier, since whoever gives has none.
detail::waiting_place pool_access::waiting_at(const raw_pool& p, std::function<bool()> look) {
  return {.heap = p.heap_,
          .signal = &table(p).object_signal,
          .changes = &table(p).opened.changes,
          .changes_at_open = p.changes_at_open_,
          .had_others = p.had_others_,
          .begin = [p]() -> result<u32> {
            u32 word = 0;
            {
              detail::locked t(p.heap_->here);
              ANNEX_TRY(p.heap_->here.refuse_if_damaged());
              if (!is_current(p)) return refuse(errc::no_such_zone, "the pool has been released");
              word = begin_waiting(table(p).object_signal);
            }
            (void)os::process_barrier();  // sync(signal)
            return word;
          },
          .look = std::move(look)};
}

// Under the lock, since the table is a pool's only as long as this one is not released.
void pool_access::wake(const raw_pool& p) noexcept {
  detail::locked t(p.heap_->here);
  if (is_current(p)) wake_waiters(table(p).object_signal);
}

// The freezer has the heap lock.
void pool_access::wait(const raw_pool& p) noexcept {
  detail::locked wait_for_the_freezer(p.heap_->here);
}

}  // namespace annex
