// views/pool.cpp - see annex/pool.hpp; the protocol is in heap/pool_table.hpp.
#include <annex/pool.hpp>

#include <algorithm>

#include "heap/local_heap.hpp"
#include "heap/pool_table.hpp"

namespace annex {

// The thread's cache of one pool; null: no room for one.
struct pool_access {
  static pool_cache* find(const raw_pool& p) noexcept { return this_thread.pool_number == p.number_ ? this_thread.pool : find_slowly(p); }
  [[gnu::noinline]] static pool_cache* find_slowly(const raw_pool& p) noexcept {
    detail::local_heap& heap = *p.heap_;
    thread_cache* thread = cache_of(heap.index());
    if (thread == nullptr) thread = heap.make_cache();
    if (thread == nullptr) return nullptr;
    chunk_ref& mine = table(p).caches()[thread->slot];
    if (mine == 0) {
      detail::local_heap::locked t(heap);
      const chunk_ref ref = allocate_chunk(*t, sizeof(pool_cache));
      if (ref == 0) return nullptr;
      heap.seg().chunk<pool_cache>(ref)->capacity = pool_cache_slots;
      t->put(mine, ref);
    }
    this_thread.pool_number = p.number_;
    this_thread.pool = heap.seg().chunk<pool_cache>(mine);
    this_thread.pool_thread = thread;
    return this_thread.pool;
  }
  static pool_table& table(const raw_pool& p) noexcept { return *static_cast<pool_table*>(p.table_); }
  static u16* holders(const raw_pool& p) noexcept { return table(p).holders(p.heap_->seg().header().thread_limit); }
  // While the caches are being recalled.
  [[gnu::noinline]] static void wait(const raw_pool& p) noexcept { detail::local_heap::locked wait_for_the_freezer(*p.heap_); }
};

namespace {

// What the cache has: one addition each, in vectors like those that put_all() stored.
[[gnu::always_inline]] inline u32 take_from(pool_cache& cache, char* base, void** __restrict objects, size_t wanted) noexcept {
  const u32 n = cache.count.load(std::memory_order_relaxed);
  const u32 now = static_cast<u32>(std::min<size_t>(n, wanted));
  const u64* const __restrict top = cache.entries + n - now;
#pragma GCC unroll 4
  for (u32 i = 0; i < now; ++i) objects[i] = base + top[i];
  compiler_fence();
  cache.count.store(n - now, std::memory_order_relaxed);  // commit
  return now;
}

// Offsets of objects whose size is a power of two, written to entries; false: one of them is none. All of them are looked at
// before anything is said, so that the compiler can do several at once.
[[gnu::always_inline]] inline bool put_all(u64* __restrict entries, void* const* __restrict objects, size_t count, const char* base, u64 stride, u64 bytes) noexcept {
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
  if (o.object_bytes == 0 || o.object_count == 0 || o.object_count > (1u << 30) || o.cache_objects > pool_cache_slots || !is_power_of_two(o.align_bytes))
    return refuse(errc::invalid_argument, "{} objects of {} bytes aligned to {}, {} per cache: use 1 to 2^30 objects of 1 byte or more, a power of two, and up to {} per cache",
                  o.object_count, o.object_bytes, o.align_bytes, o.cache_objects, pool_cache_slots);
  detail::local_heap& heap = *h.internal();
  const u64 stride = align_up(o.object_bytes, o.align_bytes);
  u64 bytes = 0;
  if (stride == 1) return refuse(errc::invalid_argument, "objects of 1 byte: use 2 bytes or more, or an alignment of 2");
  if (multiply_overflows(stride, o.object_count, &bytes)) return refuse(errc::invalid_argument, "{} objects of {} bytes are more than an address can reach", o.object_count, stride);
  placement p{.size_bytes = bytes, .align_bytes = o.align_bytes, .iova_contiguous = o.iova_contiguous, .numa_node = o.numa_node};
  const u64 table_bytes = pool_table_bytes(o.object_count, heap.seg().header().thread_limit);
  auto made = heap.reserve_zone(name, p, {zone_type::pool, table_bytes}, nullptr, [&](transaction&, zone_record&, void* chunk) {
    auto* table = static_cast<pool_table*>(chunk);  // fresh: nobody sees it before the transaction commits
    table->object_bytes = stride;
    table->object_count = o.object_count;
    table->words = static_cast<u32>(divide_up(o.object_count, 64));
    table->cache_objects = heap.has_option(option_checked) ? 0 : o.cache_objects;  // every object given is looked at in the bits
    table->in_bits.value = o.object_count;
    for (u32 w = 0; w < table->words; ++w) table->bits()[w] = low_bits(std::min<u32>(64, o.object_count - w * 64));
  });
  if (!made) return std::unexpected(made.error());
  return open(h, name);
}

result<raw_pool> raw_pool::open(heap& h, std::string_view name) {
  detail::local_heap& heap = *h.internal();
  if (heap.is_read_only()) return refuse(errc::read_only, "\"{}\" is attached read-only; a pool needs a writable attach", heap.name());
  auto zone = heap.find_zone(name, zone_type::pool);
  if (!zone) return std::unexpected(zone.error());
  auto record = heap.find_zone_record(name, zone_type::pool);
  if (!record) return std::unexpected(record.error());
  static std::atomic<u64> numbers{0};
  raw_pool p;
  p.number_ = numbers.fetch_add(1, std::memory_order_relaxed) + 1;
  p.heap_ = &heap;
  auto* table = heap.seg().chunk<pool_table>((*record)->table);
  p.table_ = table;
  p.base_ = static_cast<char*>(zone->address);
  p.stride_ = table->object_bytes;
  p.count_ = table->object_count;
  // 2^64 / stride rounded up: exact while offset * (its excess) stays below 2^64. Beyond that, objects go the slow way.
  p.reciprocal_ = ~u64{0} / p.stride_ + 1;
  if (u64 product = 0; multiply_overflows(p.reciprocal_ * p.stride_, u64{p.count_} * p.stride_, &product)) p.reciprocal_ = 0;
  p.capacity_ = std::min(pool_cache_slots, table->cache_objects + table->cache_objects / 2);
  p.bytes_ = u64{p.count_} * p.stride_;
  p.has_single_bit_ = is_power_of_two(p.stride_);
  return p;
}

result<void> raw_pool::release(heap& h, std::string_view name) {
  return h.internal()->release_zone(name, zone_type::pool);
}

size_t raw_pool::take_bulk(std::span<void*> objects) noexcept {
  if (this_thread.pool_number == number_) [[likely]] {
    thread_cache& thread = *this_thread.pool_thread;
    pool_cache& cache = *this_thread.pool;
    if (busy_scope busy(thread); busy.entered() && cache.count.load(std::memory_order_relaxed) >= objects.size()) [[likely]]
      return take_from(cache, base_, objects.data(), objects.size());
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
    if (busy_scope busy(*this_thread.pool_thread); busy.entered()) taken += take_from(cache, base_, objects.data() + taken, objects.size() - taken);
    if (taken == objects.size()) break;
    u32 got = 0;
    {
      detail::local_heap::locked t(*heap_);  // nobody freezes while we hold it
      const u32 wanted = std::max<u32>(static_cast<u32>(std::min<size_t>(objects.size() - taken, pool_cache_slots / 2)), std::max(1u, table.cache_objects / 2));
      got = cache.count.load(std::memory_order_relaxed);
      if (got == 0) got = refill_pool_cache(*t, table, cache, wanted);
    }
    if (got == 0) {
      if (attempt++ != 0) break;
      heap_->recall_pool(table);  // others' caches, the dead's too
    }
  }
  return taken;
}

void* raw_pool::take() noexcept {
  void* object = nullptr;
  return take_bulk({&object, 1}) == 1 ? object : nullptr;
}

void raw_pool::give_bulk(std::span<void* const> objects) noexcept {
  if (this_thread.pool_number == number_ && !objects.empty()) [[likely]] {
    thread_cache& thread = *this_thread.pool_thread;
    pool_cache& cache = *this_thread.pool;
    busy_scope busy(thread);
    const u32 n = cache.count.load(std::memory_order_relaxed);
    u64* const top = cache.entries + n;
    const u64 first = static_cast<u64>(static_cast<const char*>(objects[0]) - base_);
    // Nobody else ever took one: every object that is out is ours.
    const bool is_easy = n + objects.size() <= capacity_ && busy.entered() && (n == 0 || top[-1] != first) && has_single_bit_ &&
                         pool_access::table(*this).only_member == thread.member;
    if (is_easy && put_all(top, objects.data(), objects.size(), base_, stride_, bytes_)) [[likely]] {
      compiler_fence();
      cache.count.store(n + static_cast<u32>(objects.size()), std::memory_order_relaxed);  // commit
      return;
    }
  }
  give_each(objects);
}

void raw_pool::give_each(std::span<void* const> objects) noexcept {
  pool_cache* const found = objects.empty() ? nullptr : pool_access::find(*this);
  if (found == nullptr) return;
  pool_cache& cache = *found;
  const u64 me = heap_->self(), reciprocal = reciprocal_, count = count_;
  const u16* const holders = pool_access::holders(*this);
  const char* const base = base_;
  while (!objects.empty()) {
    size_t given = 0;
    bool is_odd = false, entered = false;
    if (busy_scope busy(*this_thread.pool_thread); busy.entered()) {
      entered = true;
      const u32 n = cache.count.load(std::memory_order_relaxed);
      const size_t room = std::min<size_t>(objects.size(), pool_cache_slots - n);
      u64* const top = cache.entries + n;
      u64 last = n != 0 ? top[-1] : ~u64{0};
      for (; given < room; ++given) {
        const u64 offset = static_cast<u64>(static_cast<const char*>(objects[given]) - base);
        // One multiplication says which object it is and, by its lower half, whether it is one's beginning.
        const unsigned __int128 product = static_cast<unsigned __int128>(offset) * reciprocal;
        const u64 object = static_cast<u64>(product >> 64);
        is_odd = static_cast<u64>(product) >= reciprocal || object >= count || holders[object] != me || offset == last;
        if (is_odd) [[unlikely]] break;
        top[given] = last = offset;
      }
      compiler_fence();
      cache.count.store(n + static_cast<u32>(given), std::memory_order_relaxed);  // commit
    }
    if (!entered) pool_access::wait(*this);
    objects = objects.subspan(given);
    if (is_odd) {
      give_odd(objects.front());
      objects = objects.subspan(1);
    }
    if (cache.count.load(std::memory_order_relaxed) >= capacity_) {
      u32 doubles = 0;
      {
        detail::local_heap::locked t(*heap_);
        doubles = flush_pool_cache(*t, pool_access::table(*this), cache, capacity_ / 3);
      }
      heap_->count_doubles(doubles);
    }
  }
}

// Another member's object goes straight into the pool, so that the other's count is right; or it is no object at all.
void raw_pool::give_odd(const void* address) noexcept {
  const u16* const holders = pool_access::holders(*this);
  const u64 offset = static_cast<u64>(static_cast<const char*>(address) - base_), object = offset / stride_;
  if (object < count_ && object * stride_ == offset && holders[object] != 0 && (holders[object] != heap_->self() || reciprocal_ == 0)) {
    detail::local_heap::locked t(*heap_);
    if (holders[object] != 0) return heap_->take_pool_object_back(*t, pool_access::table(*this), static_cast<u32>(object));
  }
  heap_->report_misuse("given to a pool: no object of it, or one that is in it already", address, address_index::find(address));
}

void raw_pool::give(void* object) noexcept { give_bulk({&object, 1}); }

std::uint32_t raw_pool::object_count() const noexcept { return count_; }
std::size_t raw_pool::object_bytes() const noexcept { return stride_; }

std::uint32_t raw_pool::free_count() const noexcept {
  auto& table = *static_cast<pool_table*>(table_);
  u32 free = table.in_bits.load(std::memory_order_relaxed);
  for (u32 i = 0; i < heap_->seg().header().thread_slots_used.load(std::memory_order_relaxed); ++i)
    if (const chunk_ref ref = table.caches()[i]; ref != 0) free += heap_->seg().chunk<pool_cache>(ref)->count.load(std::memory_order_relaxed);
  return free;
}

}  // namespace annex
