// api/c_views.cpp - the C face: pools and rings, and waiting for them. A null one answers as one
// that was released.
#include "api/c_face.hpp"

using namespace annex::c_face;

struct annex_pool {
  annex::raw_pool pool;
};
struct annex_ring {
  annex::ring ring;
};
struct annex_ready_event {
  annex::ready_event event;
};

namespace annex::c_face {
namespace {

// Three arguments that every opening has; out may point to anything.
int check_opening(const annex_heap* heap, const char* name, const void* out) noexcept {
  return heap != nullptr && name != nullptr && out != nullptr
             ? 0
             : refuse_argument("heap, name or out is null");
}
constexpr int nothing_to_release = 1;
int check_release(const annex_heap* heap, const char* name) noexcept {
  return check_opening(heap, name, &nothing_to_release);
}

static_assert(sizeof(handle) == sizeof(std::uint64_t) && alignof(handle) == alignof(std::uint64_t));
std::span<handle> room_of(std::uint64_t* handles, std::size_t count) noexcept {
  return {reinterpret_cast<handle*>(handles), handles != nullptr ? count : 0};
}

}  // namespace
}  // namespace annex::c_face

int annex_pool_create(annex_heap* heap, const char* name, const annex_pool_options* options,
                      annex_pool** out) {
  annex_pool_options o;
  if (const int why = check_opening(heap, name, out); why != 0) return why;
  if (options == nullptr)
    return refuse_argument("options are null: a pool needs object_bytes and object_count");
  if (const int why = take(options, &o); why != 0) return why;
  if (const int why =
          check_flags(o.flags, std::uint32_t{ANNEX_POOL_NO_CACHE} | ANNEX_IOVA_CONTIGUOUS,
                      "annex_pool_options");
      why != 0)
    return why;
  annex::pool_options full;
  full.object_bytes = o.object_bytes;
  full.object_count = o.object_count;
  if (o.align_bytes != 0) full.align_bytes = o.align_bytes;
  if (o.cache_objects != 0) full.cache_objects = o.cache_objects;
  if ((o.flags & ANNEX_POOL_NO_CACHE) != 0) full.cache_objects = 0;
  full.iova_contiguous = (o.flags & ANNEX_IOVA_CONTIGUOUS) != 0;
  full.numa_node = minus_one(o.numa_node_plus_1);
  full.boundary_bytes = o.boundary_bytes;
  if (o.highest_iova != 0) full.highest_iova = annex::iova{o.highest_iova};
  return give_new(annex::raw_pool::create(heap->heap, name, full), out);
}
int annex_pool_open(annex_heap* heap, const char* name, annex_pool** out) {
  if (const int why = check_opening(heap, name, out); why != 0) return why;
  return give_new(annex::raw_pool::open(heap->heap, name), out);
}
void annex_pool_close(annex_pool* pool) {
  delete pool;
}
int annex_pool_release(annex_heap* heap, const char* name) {
  if (const int why = check_release(heap, name); why != 0) return why;
  return done(annex::raw_pool::release(heap->heap, name));
}
int annex_pool_is_open(const annex_pool* pool) {
  return pool != nullptr && pool->pool.is_open() ? 1 : 0;
}
void* annex_pool_take(annex_pool* pool) {
  return pool != nullptr ? pool->pool.take() : nullptr;
}
size_t annex_pool_take_bulk(annex_pool* pool, void** objects, size_t count) {
  return pool != nullptr && objects != nullptr ? pool->pool.take_bulk({objects, count}) : 0;
}
void annex_pool_give(annex_pool* pool, void* object) {
  if (pool != nullptr) pool->pool.give(object);
}
void annex_pool_give_bulk(annex_pool* pool, void* const* objects, size_t count) {
  if (pool != nullptr && objects != nullptr) pool->pool.give_bulk({objects, count});
}
uint32_t annex_pool_object_count(const annex_pool* pool) {
  return pool != nullptr ? pool->pool.object_count() : 0;
}
size_t annex_pool_object_bytes(const annex_pool* pool) {
  return pool != nullptr ? pool->pool.object_bytes() : 0;
}
uint32_t annex_pool_free_count(const annex_pool* pool) {
  return pool != nullptr ? pool->pool.free_count() : 0;
}

int annex_pool_take_before(annex_pool* pool, uint64_t deadline_ns, void** out) {
  if (pool == nullptr || out == nullptr) return refuse_argument("pool or out is null");
  const auto object = pool->pool.take(as_wait(deadline_ns));
  if (!object) return refuse(object.error());
  *out = *object;
  return 0;
}
int annex_pool_wait_for_object(const annex_pool* pool, uint64_t deadline_ns) {
  return pool != nullptr ? done(pool->pool.wait_for_object(as_wait(deadline_ns)))
                         : refuse_argument("pool is null");
}
int annex_pool_watch_objects(const annex_pool* pool, annex_ready_event** out) {
  if (pool == nullptr || out == nullptr) return refuse_argument("pool or out is null");
  return give_new(pool->pool.watch_objects(), out);
}

int annex_ring_create(annex_heap* heap, const char* name, uint64_t capacity, annex_ring** out) {
  if (const int why = check_opening(heap, name, out); why != 0) return why;
  return give_new(annex::ring::create(heap->heap, name, capacity), out);
}
int annex_ring_open(annex_heap* heap, const char* name, annex_ring** out) {
  if (const int why = check_opening(heap, name, out); why != 0) return why;
  return give_new(annex::ring::open(heap->heap, name), out);
}
void annex_ring_close(annex_ring* ring) {
  delete ring;
}
int annex_ring_release(annex_heap* heap, const char* name) {
  if (const int why = check_release(heap, name); why != 0) return why;
  return done(annex::ring::release(heap->heap, name));
}
int annex_ring_is_open(const annex_ring* ring) {
  return ring != nullptr && ring->ring.is_open() ? 1 : 0;
}
int annex_ring_put(annex_ring* ring, uint64_t handle) {
  return ring != nullptr && ring->ring.put(annex::handle{handle}) ? 1 : 0;
}
size_t annex_ring_put_bulk(annex_ring* ring, const uint64_t* handles, size_t count) {
  if (ring == nullptr || handles == nullptr) return 0;
  return ring->ring.put(std::span(reinterpret_cast<const annex::handle*>(handles), count));
}
uint64_t annex_ring_take(annex_ring* ring) {
  return ring != nullptr ? static_cast<uint64_t>(ring->ring.take()) : 0;
}
size_t annex_ring_take_bulk(annex_ring* ring, uint64_t* handles, size_t count) {
  return ring != nullptr ? ring->ring.take(room_of(handles, count)) : 0;
}
size_t annex_ring_take_in_hand(annex_ring* ring, uint64_t* handles, size_t count) {
  return ring != nullptr ? ring->ring.take_in_hand(room_of(handles, count)) : 0;
}
void annex_ring_settle(annex_ring* ring) {
  if (ring != nullptr) ring->ring.settle();
}
size_t annex_ring_recover_in_hand(annex_ring* ring, uint64_t* handles, size_t count) {
  return ring != nullptr ? ring->ring.recover_in_hand(room_of(handles, count)) : 0;
}
uint64_t annex_ring_capacity(const annex_ring* ring) {
  return ring != nullptr ? ring->ring.capacity() : 0;
}
uint64_t annex_ring_count(const annex_ring* ring) {
  return ring != nullptr ? ring->ring.count() : 0;
}
int annex_ring_take_before(annex_ring* ring, uint64_t deadline_ns, uint64_t* out) {
  if (ring == nullptr || out == nullptr) return refuse_argument("ring or out is null");
  const auto taken = ring->ring.take(as_wait(deadline_ns));
  if (!taken) return refuse(taken.error());
  *out = static_cast<uint64_t>(*taken);
  return 0;
}
int annex_ring_put_before(annex_ring* ring, uint64_t handle, uint64_t deadline_ns) {
  return ring != nullptr ? done(ring->ring.put(annex::handle{handle}, as_wait(deadline_ns)))
                         : refuse_argument("ring is null");
}
int annex_ring_wait_for_handle(const annex_ring* ring, uint64_t deadline_ns) {
  return ring != nullptr ? done(ring->ring.wait_for_handle(as_wait(deadline_ns)))
                         : refuse_argument("ring is null");
}
int annex_ring_wait_for_room(const annex_ring* ring, uint64_t deadline_ns) {
  return ring != nullptr ? done(ring->ring.wait_for_room(as_wait(deadline_ns)))
                         : refuse_argument("ring is null");
}
int annex_ring_watch_handles(const annex_ring* ring, annex_ready_event** out) {
  if (ring == nullptr || out == nullptr) return refuse_argument("ring or out is null");
  return give_new(ring->ring.watch_handles(), out);
}
int annex_ring_watch_room(const annex_ring* ring, annex_ready_event** out) {
  if (ring == nullptr || out == nullptr) return refuse_argument("ring or out is null");
  return give_new(ring->ring.watch_room(), out);
}

int annex_ready_event_fd(const annex_ready_event* event) {
  return event != nullptr ? event->event.fd() : -1;
}
void annex_ready_event_rearm(annex_ready_event* event) {
  if (event != nullptr) event->event.rearm();
}
void annex_ready_event_end(annex_ready_event* event) {
  delete event;
}
