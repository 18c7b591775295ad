// api/c.cpp - the C face: checks sizes and null pointers, turns zero into defaults, keeps the last refusal per thread.
#include <annex.h>

#include <cstring>

#include <annex/annex.hpp>

#include "base/failure.hpp"

using annex::errc;

struct annex_heap { annex::heap heap; };

namespace {

constinit thread_local annex::error last_error{};
constinit thread_local annex::explanation last_failure{};

int refuse(const annex::error& e) noexcept {
  last_error = e;
  return -static_cast<int>(e.code);
}
int refuse_argument(const char* what) noexcept { return refuse(annex::make_error(errc::invalid_argument, 0, "{}", what)); }

// What is counted from 1 in a struct, so that zero means none: one less, whatever it is.
int minus_one(int number) noexcept { return static_cast<int>(static_cast<unsigned>(number) - 1u); }

// Copies as much of the caller's struct as the caller knows; the rest is zero, which means default.
template <class T>
bool take(const T* in, T* out) noexcept {
  *out = {};
  if (in == nullptr) return true;
  if (in->struct_bytes < sizeof(size_t)) return false;
  std::memcpy(out, in, in->struct_bytes < sizeof(T) ? in->struct_bytes : sizeof(T));
  return true;
}
// Fills as much of the caller's struct as the caller has room for; false: it has none.
template <class T>
bool give(T from, T* out) noexcept {
  if (out->struct_bytes < sizeof(size_t)) return false;
  const size_t bytes = out->struct_bytes < sizeof(T) ? out->struct_bytes : sizeof(T);
  from.struct_bytes = out->struct_bytes;
  std::memcpy(out, &from, bytes);
  return true;
}
constexpr const char* no_struct_bytes = "struct_bytes is not set: set it to sizeof the struct";

template <class R>
int done(const R& r) noexcept { return r ? 0 : refuse(r.error()); }

bool make_placement(const annex_placement* in, annex::placement* out) noexcept {
  annex_placement p;
  if (in == nullptr || !take(in, &p)) return false;
  *out = {.size_bytes = p.size_bytes, .align_bytes = p.align_bytes != 0 ? p.align_bytes : 64, .boundary_bytes = p.boundary_bytes,
          .iova_contiguous = (p.flags & ANNEX_IOVA_CONTIGUOUS) != 0, .zeroed = (p.flags & ANNEX_ZEROED) != 0, .numa_node = minus_one(p.numa_node_plus_1)};
  return true;
}

int give_zone(const annex::result<annex::zone>& z, annex_zone* out) noexcept {
  if (!z) return refuse(z.error());
  if (out == nullptr) return 0;
  return give({0, z->address, z->size_bytes, static_cast<uint64_t>(z->where), static_cast<uint64_t>(z->bus_address)}, out) ? 0 : refuse_argument(no_struct_bytes);
}

int give_heap(annex::result<annex::heap> h, annex_heap** out) noexcept {
  if (!h) return refuse(h.error());
  *out = new annex_heap{std::move(*h)};
  return 0;
}

}  // namespace

extern "C" {

int annex_heap_create(const char* name, const annex_heap_options* options, annex_heap** out) {
  annex_heap_options o;
  if (out == nullptr) return refuse_argument("out is null");
  if (!take(options, &o)) return refuse_argument(no_struct_bytes);
  annex::heap_options full;
  full.checked = (o.flags & ANNEX_CHECKED) != 0;
  full.reclaim_dead = (o.flags & ANNEX_RECLAIM_DEAD) != 0;
  full.on_misuse = (o.flags & ANNEX_REFUSE_MISUSE) != 0 ? annex::misuse_policy::refuse : annex::misuse_policy::stop;
  if (o.file_mode != 0) full.file_mode = o.file_mode;
  if (o.metadata_limit_bytes != 0) full.metadata_limit_bytes = o.metadata_limit_bytes;
  if (o.member_limit != 0) full.member_limit = o.member_limit;
  if (o.thread_limit != 0) full.thread_limit = o.thread_limit;
  if (o.region_limit != 0) full.region_limit = o.region_limit;
  if (o.zone_limit != 0) full.zone_limit = o.zone_limit;
  return give_heap(name != nullptr ? annex::heap::create(name, full) : annex::heap::create_private(full), out);
}

int annex_heap_attach(const char* name, const annex_attach_options* options, annex_heap** out) {
  annex_attach_options o;
  if (out == nullptr || name == nullptr) return refuse_argument("name or out is null");
  if (!take(options, &o)) return refuse_argument(no_struct_bytes);
  return give_heap(annex::heap::attach(name, {.read_only = (o.flags & ANNEX_READ_ONLY) != 0,
                                              .regions = (o.flags & ANNEX_MANUAL_REGIONS) != 0 ? annex::attach_policy::manual : annex::attach_policy::automatic,
                                              .verify = (o.flags & ANNEX_VERIFY) != 0,
                                              .foreign_memory = (o.flags & ANNEX_FOREIGN_MEMORY) != 0}), out);
}

void annex_heap_close(annex_heap* heap) { delete heap; }
int annex_heap_destroy(const char* name) { return name != nullptr ? done(annex::heap::destroy(name)) : refuse_argument("name is null"); }

int annex_heap_add_memory(annex_heap* heap, const annex_memory_range* range, uint32_t* region) {
  annex_memory_range m;
  if (heap == nullptr || range == nullptr) return refuse_argument("heap or range is null");
  if (!take(range, &m)) return refuse_argument(no_struct_bytes);
  if (m.page_iovas == nullptr && m.page_iova_count != 0) return refuse(annex::make_error(errc::bad_iova, 0, "{} IOVAs are announced, but page_iovas is null", m.page_iova_count));
  annex::memory_range full;
  full.base = m.base;
  full.length_bytes = m.length_bytes;
  if (m.page_bytes != 0) full.page_bytes = m.page_bytes;
  if (m.page_iovas != nullptr) {
    if (m.page_iova_count == 0) return refuse(annex::make_error(errc::bad_iova, 0, "page_iovas is given, but page_iova_count is 0"));
    full.page_iovas = {reinterpret_cast<const annex::iova*>(m.page_iovas), m.page_iova_count};
  }
  full.fd = minus_one(m.fd_plus_1);
  full.fd_offset = m.fd_offset;
  full.numa_node = minus_one(m.numa_node_plus_1);
  full.access = (m.flags & ANNEX_NO_CPU_ACCESS) != 0 ? annex::touch::none : annex::touch::read_write;
  full.contents = (m.flags & ANNEX_ZERO_ON_ADD) != 0 ? annex::fill::zero : (m.flags & ANNEX_IS_ZERO) != 0 ? annex::fill::is_zero : annex::fill::keep;
  full.pin = (m.flags & ANNEX_PIN) != 0;
  const auto added = heap->heap.add_memory(full);
  if (!added) return refuse(added.error());
  if (region != nullptr) *region = static_cast<uint32_t>(*added);
  return 0;
}

int annex_heap_remove_memory(annex_heap* heap, uint32_t region) { return heap != nullptr ? done(heap->heap.remove_memory(annex::region_id{region})) : refuse_argument("heap is null"); }
int annex_heap_drain_memory(annex_heap* heap, uint32_t region, uint64_t deadline_ns) {
  if (heap == nullptr) return refuse_argument("heap is null");
  const uint64_t longest = static_cast<uint64_t>(std::chrono::nanoseconds(std::chrono::hours(24 * 365)).count());
  return done(heap->heap.drain_memory(annex::region_id{region}, std::chrono::nanoseconds(static_cast<int64_t>(deadline_ns < longest ? deadline_ns : longest))));
}
int annex_heap_attach_memory(annex_heap* heap, uint32_t region, void* base) {
  if (heap == nullptr) return refuse_argument("heap is null");
  return done(base != nullptr ? heap->heap.attach_memory(annex::region_id{region}, base) : heap->heap.attach_memory(annex::region_id{region}));
}
int annex_heap_detach_memory(annex_heap* heap, uint32_t region) { return heap != nullptr ? done(heap->heap.detach_memory(annex::region_id{region})) : refuse_argument("heap is null"); }

void* annex_allocate(annex_heap* heap, size_t size_bytes) { return heap->heap.allocate(size_bytes); }
void* annex_allocate_placed(annex_heap* heap, const annex_placement* placement) {
  annex::placement p;
  if (make_placement(placement, &p)) return heap->heap.allocate(p);
  (void)refuse_argument(no_struct_bytes);
  return nullptr;
}
size_t annex_allocate_bulk(annex_heap* heap, size_t size_bytes, void** blocks, size_t count) { return blocks != nullptr ? heap->heap.allocate_bulk(size_bytes, {blocks, count}) : 0; }
void* annex_reallocate(annex_heap* heap, void* block, size_t size_bytes) { return heap->heap.reallocate(block, size_bytes); }
void* annex_reallocate_placed(annex_heap* heap, void* block, const annex_placement* placement) {
  annex::placement p;
  if (make_placement(placement, &p)) return heap->heap.reallocate(block, p);
  (void)refuse_argument(no_struct_bytes);
  return nullptr;
}
void annex_free(void* block) { annex::heap::free(block); }
void annex_free_bulk(void* const* blocks, size_t count) { annex::heap::free_bulk({blocks, blocks != nullptr ? count : 0}); }
size_t annex_usable_size(const void* block) { return annex::heap::usable_size(block); }

int annex_locate(const void* address, annex_location* out) {
  if (out == nullptr) return refuse_argument("out is null");
  const auto l = annex::heap::locate(address);
  if (!l) return refuse(annex::make_error(errc::foreign_handle, 0, "address {} is in no region of any heap in this process", address));
  return give({0, static_cast<uint64_t>(l->heap), static_cast<uint32_t>(l->region), 0, l->offset_bytes, l->bus_address ? static_cast<uint64_t>(*l->bus_address) : UINT64_MAX, l->contiguous_bytes}, out) ? 0 : refuse_argument(no_struct_bytes);
}
void* annex_address_of(annex_heap* heap, uint64_t address) { return heap->heap.address_of(annex::iova{address}); }
uint64_t annex_handle_of(annex_heap* heap, const void* address) { return static_cast<uint64_t>(heap->heap.handle_of(address)); }
int annex_resolve(annex_heap* heap, uint64_t handle, void** out) {
  if (heap == nullptr || out == nullptr) return refuse_argument("heap or out is null");
  const auto address = heap->heap.resolve(annex::handle{handle});
  if (!address) return refuse(address.error());
  *out = *address;
  return 0;
}

int annex_zone_reserve(annex_heap* heap, const char* name, const annex_placement* placement, annex_zone* out) {
  annex::placement p;
  if (heap == nullptr || name == nullptr) return refuse_argument("heap or name is null");
  if (!make_placement(placement, &p) || (out != nullptr && out->struct_bytes < sizeof(size_t))) return refuse_argument(no_struct_bytes);
  return give_zone(heap->heap.reserve_zone(name, p), out);
}
int annex_zone_find(annex_heap* heap, const char* name, annex_zone* out) { return heap != nullptr && name != nullptr ? give_zone(heap->heap.find_zone(name), out) : refuse_argument("heap or name is null"); }
int annex_zone_release(annex_heap* heap, const char* name) { return heap != nullptr && name != nullptr ? done(heap->heap.release_zone(name)) : refuse_argument("heap or name is null"); }

int annex_heap_stats(annex_heap* heap, annex_stats* out) {
  if (heap == nullptr || out == nullptr) return refuse_argument("heap or out is null");
  const annex::heap_stats s = heap->heap.stats();
  return give({0, s.total_bytes, s.used_bytes, s.cached_bytes, s.free_bytes, s.largest_free_bytes, s.live_blocks, s.region_count, s.member_count, s.metadata_bytes}, out) ? 0 : refuse_argument(no_struct_bytes);
}
int annex_heap_audit(annex_heap* heap) {
  if (heap == nullptr) return refuse_argument("heap is null");
  const auto report = heap->heap.audit();
  if (!report) return refuse(report.error());
  return report->holds() ? 0 : refuse(annex::make_error(errc::corrupt, 0, "{} invariants are broken; the first: {}", report->broken.size(), report->broken.front()));
}

const char* annex_strerror(int code) { return annex::describe(static_cast<errc>(static_cast<int>(0u - static_cast<unsigned>(code)))).data(); }
const char* annex_last_error_text(void) { return last_error.text; }
const char* annex_last_failure_text(void) {
  last_failure = annex::heap::last_failure();
  return last_failure.text;
}

}  // extern "C"
