// views/pool.cpp - see annex/pool.hpp; the protocol is in named/pool_table.hpp.
#include <annex/pool.hpp>

#include <algorithm>

#include "attached/misuse.hpp"
#include "heap/local_heap.hpp"
#include "named/pool_caches.hpp"
#include "named/pool_table.hpp"
#include "platform/processes.hpp"
#include "platform/report.hpp"
#include "views/waiting.hpp"

namespace annex {

// Released pools (docs/design/0011): what a thread remembers of a pool (this_thread.pool) is right
// while its frozen word says nothing: a release makes every thread look, which forgets it.
// Everything else compares the incarnation first, with the busy word set and frozen clear, or under
// the heap lock: nobody releases a pool then.
struct pool_access {
  /// The thread's cache of the pool. Null: no room for one, no member, or the pool has been
  /// released.
  static pool_cache* find(const raw_pool& p) noexcept {
    return this_thread.pool_number == p.number_ ? this_thread.pool : find_slowly(p);
  }
  [[gnu::noinline]] static pool_cache* find_slowly(const raw_pool& p) noexcept {
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
  static pool_cache* remember(const raw_pool& p, chunk_ref cache, thread_cache* thread) noexcept {
    this_thread.pool_number = p.number_;
    this_thread.pool = p.heap_->here.seg.chunk<pool_cache>(cache);
    this_thread.pool_thread = thread;
    return this_thread.pool;
  }
  // Not released.
  static bool is_there(const raw_pool& p) noexcept {
    return static_cast<const zone_record*>(p.record_)->incarnation.load(
               std::memory_order_acquire) == p.incarnation_;
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
  // who finds that out.
  [[gnu::noinline]] static void forget(const raw_pool& p, std::span<void* const> objects) noexcept {
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
  // process barrier, since who gives has none.
  static detail::waiting_place waiting_at(const raw_pool& p, std::function<bool()> look) {
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
  [[gnu::noinline]] static void wake(const raw_pool& p) noexcept {
    detail::locked t(p.heap_->here);
    if (is_current(p)) wake_waiters(table(p).object_signal);
  }
  static result<void> check_opened(const raw_pool& p) {
    if (p.heap_ != nullptr) return {};
    return refuse(errc::no_such_zone, "the pool was never opened");
  }
  // While the caches are being recalled.
  [[gnu::noinline]] static void wait(const raw_pool& p) noexcept {
    detail::locked wait_for_the_freezer(p.heap_->here);
  }
};

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

result<raw_pool> raw_pool::create(heap& h, std::string_view name, const pool_options& o) {
  // So low that rounding up to the alignment can't wrap.
  if (o.object_bytes == 0 || o.object_bytes > limits::largest_region_bytes || o.object_count == 0 ||
      o.object_count > limits::largest_pool || o.cache_objects > pool_cache_slots ||
      !is_power_of_two(o.align_bytes) || o.align_bytes > limits::largest_align_bytes)
    return refuse(errc::invalid_argument,
                  "{} objects of {} bytes aligned to {}, {} per cache: use 1 to {} objects of 1 "
                  "byte to 16 TiB, a power of two up to 1 TiB, and up to {} per cache",
                  o.object_count, o.object_bytes, o.align_bytes, o.cache_objects,
                  limits::largest_pool, pool_cache_slots);
  detail::local_heap& heap = *h.internal();
  const u64 stride = align_up(o.object_bytes, o.align_bytes);
  u64 bytes = 0;
  if (stride == 1)
    return refuse(errc::invalid_argument,
                  "objects of 1 byte: use 2 bytes or more, or an alignment of 2");
  if (multiply_overflows(stride, o.object_count, &bytes) || bytes > limits::largest_region_bytes)
    return refuse(errc::invalid_argument,
                  "{} objects of {} bytes are more than a region may have ({} bytes)",
                  o.object_count, stride, limits::largest_region_bytes);
  placement p{.size_bytes = bytes,
              .align_bytes = o.align_bytes,
              .iova_contiguous = o.iova_contiguous,
              .numa_node = o.numa_node};
  const u64 table_bytes = pool_table_bytes(o.object_count, heap.here.seg.thread_limit());
  auto made = heap.zones.reserve_zone(
      name, p, {zone_type::pool, table_bytes}, [&](transaction&, zone_record&, void* chunk) {
        // Fresh: nobody sees it before the transaction commits.
        auto* table = static_cast<pool_table*>(chunk);
        table->object_bytes = stride;
        table->object_count = o.object_count;
        table->words = static_cast<u32>(divide_up(o.object_count, 64));
        // Every object given is looked at in the bits.
        table->cache_objects = heap.here.has_option(option_checked) ? 0 : o.cache_objects;
        table->in_bits.value = o.object_count;
        table->seal = table->right_seal();
        const known_pool pool(table, stride, o.object_count);
        for (u32 w = 0; w < pool.words; ++w)
          pool.bits()[w] = low_bits(std::min<u32>(64, o.object_count - w * 64));
      });
  if (!made) return std::unexpected(made.error());
  return open(h, name);
}

result<raw_pool> raw_pool::open(heap& h, std::string_view name) {
  detail::local_heap& heap = *h.internal();
  if (heap.here.is_read_only())
    return refuse(errc::read_only, "\"{}\" is attached read-only; a pool needs a writable attach",
                  heap.here.name);
  if (!heap.membership.ensure_member())
    return refuse(errc::forked_away, "a private heap can't be used in a forked child");
  if (auto attached = heap.zones.find_zone(name, zone_type::pool); !attached)
    return std::unexpected(attached.error());
  const bool has_living_others = heap.membership.has_living_others();
  detail::locked t(heap.here);
  auto record = heap.zones.find_record(name, zone_type::pool);
  if (!record) return std::unexpected(record.error());
  static std::atomic<u64> numbers{0};
  raw_pool p;
  p.number_ = numbers.fetch_add(1, std::memory_order_relaxed) + 1;
  const zone memory = zone_of(heap.here.seg, heap.here.views, **record);
  if (memory.address == nullptr)
    return refuse(errc::cannot_attach,
                  "pool \"{}\" was released and made anew meanwhile; open it again", name);
  p.heap_ = &heap;
  p.record_ = *record;
  p.incarnation_ = (*record)->incarnation.load(std::memory_order_relaxed);
  const known_pool pool = find_pool_table(heap.here.seg, (*record)->table, (*record)->table_bytes);
  if (!pool) return std::unexpected(heap.here.refuse_if_damaged().error());
  p.table_ = pool.table;
  p.base_ = static_cast<char*>(memory.address);
  p.stride_ = pool.object_bytes;
  p.count_ = pool.object_count;
  // 2^64 / stride rounded up: exact while offset * (its excess) stays below 2^64. Beyond that,
  // objects go the slow way.
  p.reciprocal_ = ~u64{0} / p.stride_ + 1;
  if (u64 product = 0;
      multiply_overflows(p.reciprocal_ * p.stride_, u64{p.count_} * p.stride_, &product))
    p.reciprocal_ = 0;
  const u32 cached = std::min(pool.table->cache_objects, pool_cache_slots);
  p.capacity_ = std::min(pool_cache_slots, cached + cached / 2);
  p.bytes_ = u64{p.count_} * p.stride_;
  if (p.bytes_ > memory.size_bytes) {
    heap.here.seg.mark_damaged("a pool is longer than its memory");
    return std::unexpected(heap.here.refuse_if_damaged().error());
  }
  p.has_single_bit_ = is_power_of_two(p.stride_);
  p.had_others_ = pool.table->opened.enter(heap.here.self.member) && has_living_others;
  p.changes_at_open_ = pool.table->opened.changes.load(std::memory_order_relaxed);
  return p;
}

result<void> raw_pool::release(heap& h, std::string_view name) {
  return h.internal()->zones.release_zone(name, zone_type::pool);
}

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

bool raw_pool::is_open() const noexcept {
  if (heap_ == nullptr) return false;
  if (pool_access::is_there(*this)) return true;
  detail::locked t(heap_->here);  // whoever was releasing it may have died, and be undone
  return pool_access::is_current(*this);
}

void raw_pool::give(void* object) noexcept {
  give_bulk({&object, 1});
}

std::uint32_t raw_pool::object_count() const noexcept {
  return count_;
}
std::size_t raw_pool::object_bytes() const noexcept {
  return stride_;
}

std::uint32_t raw_pool::free_count() const noexcept {
  if (heap_ == nullptr || !heap_->membership.ensure_member()) return 0;
  detail::locked t(heap_->here);
  if (!pool_access::is_current(*this)) return 0;
  const known_pool pool = pool_access::known(*this);
  u32 free = pool.table->in_bits.load(std::memory_order_relaxed);
  for (u32 i = 0; i < heap_->here.seg.slots_used(); ++i)
    if (const chunk_ref ref = pool.caches()[i]; ref != 0)
      free += heap_->here.seg.chunk<pool_cache>(ref)->count.load(std::memory_order_relaxed);
  return std::min(free, count_);  // one that was given twice lies there twice
}

}  // namespace annex
