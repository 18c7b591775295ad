// views/pool_giving.cpp - objects back into a pool, see annex/pool.hpp: several at once, each
// looked at, or one that is another member's, or a mistake.
//
//   give_bulk    nobody else ever took one: all are ours     one store commits, nothing locked
//   give_each    this member's: into the cache               one store commits, nothing locked;
//                a full cache: a part of it into the bits    heap lock, one transaction
//   give_odd     another member's: into the bits             heap lock, one transaction
//
// If the process dies here: what had not been given yet is the dead member's until it is reaped;
// what its cache keeps, recovery gives back. Waiters whom it has not woken look again by
// themselves (shared/waiting.hpp).
#include <annex/pool.hpp>

#include <algorithm>

#include "attached/misuse.hpp"
#include "named/pool_caches.hpp"
#include "platform/report.hpp"
#include "views/pool_access.hpp"

namespace annex {
namespace {

// Offsets of objects whose size is a power of two, written to entries; false: one of them is none.
// All of them are looked at before anything is said, so that the compiler can do several at once.
[[gnu::always_inline]] inline bool put_all(u64* __restrict entries, void* const* __restrict objects,
                                           size_t count, const char* base, u64 stride,
                                           u64 bytes) noexcept {
  u64 offsets = 0, distances = 0;  // to the last byte; the top bit shows what lies before or behind
#pragma GCC unroll 4
  for (size_t i = 0; i < count; ++i) {
    const u64 offset = static_cast<u64>(static_cast<const char*>(objects[i]) - base);
    offsets |= offset;
    distances |= bytes - 1 - offset;
    entries[i] = offset;
  }
  return ((offsets & (stride - 1)) | ((offsets | distances) >> 63)) == 0;
}

}  // namespace

void raw_pool::give_bulk(std::span<void* const> objects) noexcept {
  bool is_given = false;
  if (this_thread.pool_number == number_ && !objects.empty()) [[likely]] {
    thread_cache& thread = *this_thread.pool_thread;
    pool_cache& cache = *this_thread.pool;
    busy_scope busy(thread);
    const u32 n = count_in(cache);
    u64* const top = cache.entries + n;
    const u64 first = static_cast<u64>(static_cast<const char*>(objects[0]) - base_);
    // Nobody else ever took one: every object that is out is ours.
    const bool is_easy = busy.entered() && n + objects.size() <= capacity_ &&
                         (n == 0 || top[-1] != first) && has_single_bit_ &&
                         pool_access::table(*this).only_member == thread.member;
    if (is_easy && put_all(top, objects.data(), objects.size(), base_, stride_, bytes_))
        [[likely]] {
      compiler_fence();
      cache.count.store(n + static_cast<u32>(objects.size()), std::memory_order_relaxed);  // commit
      compiler_fence();
      // sync(signal): relaxed: the waiter's process barrier orders it after the commit
      if ((pool_access::table(*this).object_signal.load(std::memory_order_relaxed) &
           somebody_waits) == 0) [[likely]]
        return;
      is_given = true;
    }
  }
  if (is_given) [[unlikely]]
    return pool_access::wake(*this);
  give_each(objects);
}

void raw_pool::give_each(std::span<void* const> objects) noexcept {
  if (objects.empty()) return;
  pool_cache* const found = pool_access::find(*this);
  if (found == nullptr) {
    for (const void* object : objects)
      give_odd(object, false);
    return;
  }
  pool_cache& cache = *found;
  const u64 me = heap_->here.self.member, reciprocal = reciprocal_, count = count_;
  const u16* const holders = pool_access::holders(*this);
  const char* const base = base_;
  while (!objects.empty()) {
    size_t given = 0;
    bool is_odd = false, entered = false, is_full = false;
    if (busy_scope busy(*this_thread.pool_thread); busy.entered()) {
      entered = true;
      if (!pool_access::is_current(*this)) break;
      const u32 n = entries_in(cache);
      const size_t room = std::min<size_t>(objects.size(), pool_cache_slots - n);
      if (pool_access::table(*this).generations != 0) [[unlikely]]
        pool_access::forget(*this, objects.first(room));
      u64* const top = cache.entries + n;
      u64 last = n != 0 ? top[-1] : ~u64{0};
      for (; given < room; ++given) {
        const u64 offset = static_cast<u64>(static_cast<const char*>(objects[given]) - base);
        // One multiplication says which object it is and, by its lower half, whether it is one's
        // beginning.
        const unsigned __int128 product = static_cast<unsigned __int128>(offset) * reciprocal;
        const u64 object = static_cast<u64>(product >> 64);
        is_odd = static_cast<u64>(product) >= reciprocal || object >= count ||
                 holders[object] != me || offset == last;
        if (is_odd) [[unlikely]]
          break;
        top[given] = last = offset;
      }
      compiler_fence();
      cache.count.store(n + static_cast<u32>(given), std::memory_order_relaxed);  // commit
      compiler_fence();
      // sync(signal): as above.
      if (given != 0) tell_waiters(pool_access::table(*this).object_signal);
      is_full = n + given >= capacity_;
    }
    if (!entered) pool_access::wait(*this);
    objects = objects.subspan(given);
    if (is_odd) {
      give_odd(objects.front(), true);
      objects = objects.subspan(1);
    }
    if (is_full) {
      detail::locked t(heap_->here);
      if (!pool_access::is_current(*this)) break;
      *t->doubles_of(this_thread.pool_thread->member) += flush_pool_cache(
          *t, pool_access::known(*this), cache, this_thread.pool_thread->member, capacity_ / 3);
    }
  }
  for (const void* object : objects)
    give_odd(object, true);  // released meanwhile
}

// Another member's object goes straight into the pool, so that the other's count is right, and so
// does any where this thread can have no cache; or it is no object at all.
void raw_pool::give_odd(const void* address, bool has_cache) noexcept {
  if (heap_ == nullptr)
    stop_program("annex: an object was given to a pool that was never opened\n");
  if (!heap_->blocks.may_free(address, address_index::find(address))) return;
  const u64 offset = static_cast<u64>(static_cast<const char*>(address) - base_),
            object = offset / stride_;
  std::string_view wrong = "given to a pool: no object of it, or one that is in it already";
  {
    detail::locked t(heap_->here);
    if (!pool_access::is_current(*this)) {
      wrong = "given to a pool that has been released";
    } else if (object < count_ && object * stride_ == offset) {
      const u16 holder = pool_access::holders(*this)[object];
      if (holder != 0 && (holder != heap_->here.self.member || reciprocal_ == 0 || !has_cache)) {
        void* const given = base_ + offset;
        pool_access::forget(*this, {&given, 1});
        return take_pool_object_back(*t, pool_access::known(*this), static_cast<u32>(object));
      }
    }
  }
  detail::report_misuse(heap_->here, wrong, address, address_index::find(address));
}

void raw_pool::give(void* object) noexcept {
  give_bulk({&object, 1});
}

}  // namespace annex
