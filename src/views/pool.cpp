// views/pool.cpp - a pool's life, see annex/pool.hpp: made, opened, released; how many are free.
// The protocol is in named/pool_table.hpp; pool_taking.cpp and pool_giving.cpp have what happens to
// its objects.
//
// If the process dies here: a pool is there once the transaction that names its zone has committed,
// with all of its objects free, and gone by the one that releases the zone (heap/zones.cpp).
#include <annex/pool.hpp>

#include <algorithm>
#include <bit>

#include "views/pool_access.hpp"

namespace annex {

namespace {

// How a pool's objects follow each other.
struct pool_layout {
  u64 stride, bytes;
  u64 unit_bytes;  // that lie as asked each by itself; 0: the whole pool does
};
result<pool_layout> lay_out(const pool_options& o, bool apart) {
  const u64 tight = align_up(o.object_bytes, o.align_bytes);
  pool_layout l{apart ? std::bit_ceil(tight) : tight, 0, 0};
  l.unit_bytes = apart ? std::max<u64>(l.stride, 64) : 0;  // of small ones, several
  if (multiply_overflows(l.stride, o.object_count, &l.bytes) ||
      l.bytes > limits::largest_region_bytes)
    return refuse(errc::invalid_argument,
                  "{} objects of {} bytes are more than a region may have ({} bytes)",
                  o.object_count, l.stride, limits::largest_region_bytes);
  return l;
}

bool may_lie_in_one_run(detail::local_heap& heap, u64 bytes) {
  for (const u32 slot : used_region_slots(heap.here.seg))
    if (heap.here.views.record(slot).longest_run_bytes >= bytes) return true;
  return false;
}

result<zone> make_pool(detail::local_heap& heap, std::string_view name, const pool_options& o,
                       const pool_layout& l) {
  const placement p{.size_bytes = l.bytes,
                    .align_bytes = o.align_bytes,
                    .boundary_bytes = o.boundary_bytes,
                    .iova_contiguous = o.iova_contiguous,
                    .numa_node = o.numa_node,
                    .highest_iova = o.highest_iova};
  const u64 table_bytes = pool_table_bytes(o.object_count, heap.here.seg.thread_limit());
  const detail::zones::zone_table zone_of_pool{
      .type = zone_type::pool, .bytes = table_bytes, .unit_bytes = l.unit_bytes};
  return heap.zones.reserve_zone(
      name, p, zone_of_pool, [&](transaction&, zone_record&, void* chunk) {
        // Fresh: nobody sees it before the transaction commits.
        auto* table = static_cast<pool_table*>(chunk);
        table->object_bytes = l.stride;
        table->object_count = o.object_count;
        table->words = static_cast<u32>(divide_up(o.object_count, 64));
        // Every object given is looked at in the bits.
        table->cache_objects = heap.here.has_option(option_checked) ? 0 : o.cache_objects;
        table->in_bits.value = o.object_count;
        table->seal = table->right_seal();
        const known_pool pool(table, l.stride, o.object_count);
        for (u32 w = 0; w < pool.words; ++w)
          pool.bits()[w] = low_bits(std::min<u32>(64, o.object_count - w * 64));
      });
}

// So low that rounding up to the alignment can't wrap.
result<void> check_options(const pool_options& o) {
  if (o.object_bytes == 0 || o.object_bytes > limits::largest_region_bytes || o.object_count == 0 ||
      o.object_count > limits::largest_pool || o.cache_objects > pool_cache_slots ||
      !is_power_of_two(o.align_bytes) || o.align_bytes > limits::largest_align_bytes)
    return refuse(errc::invalid_argument,
                  "{} objects of {} bytes aligned to {}, {} per cache: use 1 to {} objects of 1 "
                  "byte to 16 TiB, a power of two up to 1 TiB, and up to {} per cache",
                  o.object_count, o.object_bytes, o.align_bytes, o.cache_objects,
                  limits::largest_pool, pool_cache_slots);
  const u64 tight = align_up(o.object_bytes, o.align_bytes);
  if (tight == 1)
    return refuse(errc::invalid_argument,
                  "objects of 1 byte: use 2 bytes or more, or an alignment of 2");
  if (o.boundary_bytes != 0 && (!is_power_of_two(o.boundary_bytes) || o.boundary_bytes < tight))
    return refuse(errc::invalid_argument,
                  "boundary {} is no power of two that is at least an object's {} bytes; give a "
                  "higher one, or 0",
                  o.boundary_bytes, tight);
  return {};
}

}  // namespace

result<raw_pool> raw_pool::create(heap& h, std::string_view name, const pool_options& o) {
  ANNEX_TRY(check_options(o));
  detail::local_heap& heap = *h.internal();
  const bool by_iova = o.iova_contiguous || o.highest_iova != no_iova;
  // Apart: no object crosses what none may cross, but the pool does.
  auto layout = lay_out(o, false);
  if (!layout) return std::unexpected(layout.error());
  const bool apart = o.boundary_bytes != 0 || (by_iova && !may_lie_in_one_run(heap, layout->bytes));
  if (apart) layout = lay_out(o, true);
  if (!layout) return std::unexpected(layout.error());
  auto made = make_pool(heap, name, o, *layout);
  if (!made && made.error().code == errc::out_of_memory && by_iova && !apart)
    if (const auto other = lay_out(o, true)) made = make_pool(heap, name, o, *other);
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

bool raw_pool::is_open() const noexcept {
  if (heap_ == nullptr) return false;
  if (pool_access::is_there(*this)) return true;
  if (!heap_->membership.ensure_member()) return false;
  detail::locked t(heap_->here);  // whoever was releasing it may have died, and be undone
  return pool_access::is_current(*this);
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
