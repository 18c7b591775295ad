// views/pool.cpp - see annex/pool.hpp; the protocol is in heap/pool_table.hpp.
#include <annex/pool.hpp>

#include <algorithm>

#include "heap/local_heap.hpp"
#include "heap/pool_table.hpp"

namespace annex {

// The thread's cache of one pool, with the right to touch it (rule C1) for as long as this lives.
struct pool_access {
  detail::local_heap& heap;
  pool_table& table;
  thread_cache* thread = nullptr;
  pool_cache* cache = nullptr;

  explicit pool_access(const raw_pool& p) noexcept : heap(*p.heap_), table(*static_cast<pool_table*>(p.table_)) {
    thread = cache_of(heap.index());
    if (thread == nullptr) thread = heap.make_cache();
    if (thread == nullptr) return;
    const chunk_ref ref = table.caches()[thread->slot];
    cache = ref != 0 ? heap.seg().chunk<pool_cache>(ref) : make();
  }
  pool_cache* make() noexcept {
    detail::local_heap::locked t(heap);
    const chunk_ref ref = allocate_chunk(*t, sizeof(pool_cache));
    if (ref == 0) return nullptr;
    auto* made = heap.seg().chunk<pool_cache>(ref);
    made->capacity = pool_cache_slots;
    t->put(table.caches()[thread->slot], ref);
    return made;
  }
  // Runs work with busy set; waits while the caches are being recalled.
  template <class Work>
  void with_cache(Work work) noexcept {
    for (;;) {
      if (busy_scope busy(*thread); busy.entered()) return work();
      detail::local_heap::locked wait_for_the_freezer(heap);
    }
  }
  u16* holders() noexcept { return table.holders(heap.seg().header().thread_limit); }
};

result<raw_pool> raw_pool::create(heap& h, std::string_view name, const pool_options& o) {
  if (o.object_bytes == 0 || o.object_count == 0 || o.object_count > (1u << 30) || o.cache_objects > pool_cache_slots || !is_power_of_two(o.align_bytes))
    return refuse(errc::invalid_argument, "{} objects of {} bytes aligned to {}, {} per cache: use 1 to 2^30 objects of 1 byte or more, a power of two, and up to {} per cache",
                  o.object_count, o.object_bytes, o.align_bytes, o.cache_objects, pool_cache_slots);
  detail::local_heap& heap = *h.internal();
  const u64 stride = align_up(o.object_bytes, o.align_bytes);
  u64 bytes = 0;
  if (multiply_overflows(stride, o.object_count, &bytes)) return refuse(errc::invalid_argument, "{} objects of {} bytes are more than an address can reach", o.object_count, stride);
  placement p{.size_bytes = bytes, .align_bytes = o.align_bytes, .iova_contiguous = o.iova_contiguous, .numa_node = o.numa_node};
  const u64 table_bytes = pool_table_bytes(o.object_count, heap.seg().header().thread_limit);
  auto made = heap.reserve_zone(name, p, {zone_type::pool, table_bytes}, nullptr, [&](transaction&, zone_record&, void* chunk) {
    auto* table = static_cast<pool_table*>(chunk);  // fresh: nobody sees it before the transaction commits
    table->object_bytes = stride;
    table->object_count = o.object_count;
    table->words = static_cast<u32>(divide_up(o.object_count, 64));
    table->cache_objects = o.cache_objects;
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
  raw_pool p;
  p.heap_ = &heap;
  auto* table = heap.seg().chunk<pool_table>((*record)->table);
  p.table_ = table;
  p.base_ = static_cast<char*>(zone->address);
  p.stride_ = table->object_bytes;
  p.count_ = table->object_count;
  return p;
}

result<void> raw_pool::release(heap& h, std::string_view name) {
  return h.internal()->release_zone(name, zone_type::pool);
}

size_t raw_pool::take_bulk(std::span<void*> objects) noexcept {
  pool_access access(*this);
  if (access.cache == nullptr) return 0;
  pool_table& table = access.table;
  const u16 me = static_cast<u16>(heap_->self());
  u16* const holders = access.holders();
  size_t taken = 0;
  for (int attempt = 0; taken < objects.size();) {
    access.with_cache([&] {
      pool_cache& cache = *access.cache;
      u32 n = cache.count.load(std::memory_order_relaxed);
      const u32 now = static_cast<u32>(std::min<size_t>(n, objects.size() - taken));
      for (u32 i = 0; i < now; ++i) {
        const u32 object = cache.entries[n - 1 - i];
        holders[object] = me;
        objects[taken + i] = base_ + u64{object} * stride_;
      }
      compiler_fence();
      cache.count.store(n - now, std::memory_order_relaxed);  // commit
      taken += now;
    });
    if (taken == objects.size()) break;
    u32 got = 0;
    {
      detail::local_heap::locked t(*heap_);  // nobody freezes while we hold it
      const u32 wanted = std::max<u32>(static_cast<u32>(std::min<size_t>(objects.size() - taken, pool_cache_slots / 2)), std::max(1u, table.cache_objects / 2));
      got = refill_pool_cache(*t, table, *access.cache, std::min(wanted, pool_cache_slots - access.cache->count.load(std::memory_order_relaxed)));
    }
    if (got != 0) continue;
    if (attempt++ != 0) break;
    heap_->recall_pool(table);  // others' caches, the dead's too
  }
  return taken;
}

void* raw_pool::take() noexcept {
  void* object = nullptr;
  return take_bulk({&object, 1}) == 1 ? object : nullptr;
}

void raw_pool::give_bulk(std::span<void* const> objects) noexcept {
  pool_access access(*this);
  if (access.cache == nullptr) return;
  pool_table& table = access.table;
  const u16 me = static_cast<u16>(heap_->self());
  u16* const holders = access.holders();
  const u32 capacity = std::min(pool_cache_slots, table.cache_objects + table.cache_objects / 2);
  for (size_t given = 0; given < objects.size();) {
    const void* wrong = nullptr;
    u32 foreign = count_;
    access.with_cache([&] {
      pool_cache& cache = *access.cache;
      const u32 before = cache.count.load(std::memory_order_relaxed);
      u32 n = before;
      for (; given < objects.size() && n < pool_cache_slots; ++given) {
        const u64 offset = static_cast<u64>(static_cast<const char*>(objects[given]) - base_);
        const u64 object = offset / stride_;
        if (object >= count_ || object * stride_ != offset || holders[object] == 0 || std::find(cache.entries + before, cache.entries + n, object) != cache.entries + n) {
          wrong = objects[given++];
          break;
        }
        if (holders[object] != me) {
          foreign = static_cast<u32>(object);
          ++given;
          break;
        }
        cache.entries[n++] = static_cast<u32>(object);
      }
      compiler_fence();
      cache.count.store(n, std::memory_order_relaxed);  // commit
      compiler_fence();
      for (u32 i = before; i < n; ++i) holders[cache.entries[i]] = 0;
    });
    if (wrong != nullptr) heap_->report_misuse("given to a pool: no object of it, or one that is in it already", wrong, address_index::find(wrong));
    if (foreign != count_) {  // taken by another process: straight into the pool, so that its count of what it holds is right
      detail::local_heap::locked t(*heap_);
      if (holders[foreign] != 0) heap_->take_pool_object_back(*t, table, foreign);
    }
    if (access.cache->count.load(std::memory_order_relaxed) >= capacity) {
      detail::local_heap::locked t(*heap_);
      flush_pool_cache(*t, table, *access.cache, table.cache_objects / 2);
    }
  }
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
