// views/pool_taking.cpp - objects out of a pool, see annex/pool.hpp: from this thread's cache, from
// the pool, from others' caches, or when somebody gives one back.
//
//   cache        one store commits                         nothing locked
//   refill       from the pool's bits into the cache       heap lock, one transaction
//   recall       others' caches, the dead's too            heap lock, several transactions
//
// If the process dies here: what left the cache is the dead member's until it is reaped; what did
// not, recovery gives back.
#include <annex/pool.hpp>

#include <algorithm>

#include "views/pool_access.hpp"

namespace annex {
namespace {

// What take_from() says where an entry leads outside of the pool: entries lie in the segment, and
// anybody may have been there.
constexpr u32 led_outside = ~u32{0};

[[gnu::noinline]] bool lie_below(u64 bytes, const u64* offsets, u32 count) noexcept {
  return std::all_of(offsets, offsets + count, [bytes](u64 offset) { return offset < bytes; });
}

// What the cache has: one addition each, in vectors like those that put_all() stored. All are
// looked at before anything is said.
[[gnu::always_inline]] inline u32 take_from(pool_cache& cache, char* base, u64 bytes,
                                            void** __restrict objects, size_t wanted) noexcept {
  const u32 n = count_in(cache);
  const u32 now = static_cast<u32>(std::min<size_t>(n, wanted));
  const u64* const __restrict top = cache.entries + n - now;
  u64 offsets = 0;  // all bits that any has: below the pool's length, no offset is above it
#pragma GCC unroll 4
  for (u32 i = 0; i < now; ++i) {
    objects[i] = base + top[i];
    offsets |= top[i];
  }
  if (offsets >= bytes && !lie_below(bytes, top, now)) [[unlikely]]
    return led_outside;
  compiler_fence();
  cache.count.store(n - now, std::memory_order_relaxed);  // commit
  return now;
}

}  // namespace

size_t raw_pool::take_bulk(std::span<void*> objects) noexcept {
  if (this_thread.pool_number == number_) [[likely]] {
    thread_cache& thread = *this_thread.pool_thread;
    pool_cache& cache = *this_thread.pool;
    if (busy_scope busy(thread); busy.entered() && count_in(cache) >= objects.size()) [[likely]]
      if (const u32 taken = take_from(cache, base_, bytes_, objects.data(), objects.size());
          taken != led_outside) [[likely]]
        return taken;
  }
  return take_more(objects);
}

size_t raw_pool::take_more(std::span<void*> objects) noexcept {
  pool_cache* const found = pool_access::find(*this);
  if (found == nullptr) return 0;
  size_t taken = 0;
  pool_table& table = pool_access::table(*this);
  pool_cache& cache = *found;
  for (int attempt = 0;;) {
    if (busy_scope busy(*this_thread.pool_thread);
        busy.entered() && pool_access::is_current(*this)) {
      const u32 more =
          take_from(cache, base_, bytes_, objects.data() + taken, objects.size() - taken);
      if (more == led_outside) {
        cache.count.store(0, std::memory_order_relaxed);
        heap_->here.seg.mark_damaged("a thread's cache of a pool keeps what is no object of it");
        break;
      }
      taken += more;
    }
    if (taken == objects.size()) break;
    u32 got = 0;
    {
      detail::locked t(heap_->here);  // nobody freezes while we hold it
      if (!pool_access::is_current(*this)) break;
      const u32 wanted = std::max<u32>(
          static_cast<u32>(std::min<size_t>(objects.size() - taken, pool_cache_slots / 2)),
          std::max(1u, table.cache_objects / 2));
      got = count_in(cache);
      if (got == 0) got = refill_pool_cache(*t, pool_access::known(*this), cache, wanted);
    }
    if (got == 0) {
      if (attempt++ != 0) break;
      // Others' caches, the dead's too.
      heap_->care.recall_pool(*static_cast<const zone_record*>(record_), incarnation_);
    }
  }
  return taken;
}

void* raw_pool::take() noexcept {
  void* object = nullptr;
  return take_bulk({&object, 1}) == 1 ? object : nullptr;
}

result<void*> raw_pool::take(std::chrono::nanoseconds deadline) {
  ANNEX_TRY(pool_access::check_opened(*this));
  void* taken = take();
  if (taken != nullptr) return taken;
  if (is_open() && pool_access::find(*this) == nullptr)
    return refuse(errc::limit_reached,
                  "this thread can have no cache of the pool: every thread slot of heap \"{}\" is "
                  "taken, or no metadata is left",
                  heap_->here.name);
  ANNEX_TRY(detail::wait_at(
      pool_access::waiting_at(*this, [this, &taken] { return (taken = take()) != nullptr; }),
      deadline, nullptr));
  return taken;
}

result<void> raw_pool::wait_for_object(std::chrono::nanoseconds deadline) const {
  ANNEX_TRY(pool_access::check_opened(*this));
  return detail::wait_at(pool_access::waiting_at(*this, [this] { return free_count() != 0; }),
                         deadline, nullptr);
}

result<ready_event> raw_pool::watch_objects() const {
  ANNEX_TRY(pool_access::check_opened(*this));
  return detail::watch_at(
      pool_access::waiting_at(*this, [own = *this] { return own.free_count() != 0; }));
}

}  // namespace annex
