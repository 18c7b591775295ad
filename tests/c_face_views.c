/* tests/c_face_views.c - the C face from C: pools and rings. */
#include "c_face.h"

#include <poll.h>

static annex_heap* a_heap(void) {
  annex_heap* heap = NULL;
  struct annex_memory_source source = {.struct_bytes = sizeof source, .length_bytes = 4u << 20};
  CHECK(annex_heap_create("views", NULL, &heap) == 0 &&
        annex_bring_memory(heap, &source, NULL) == 0);
  return heap;
}

static int is_readable(annex_ready_event* event, int wait_ms) {
  struct pollfd p = {.fd = annex_ready_event_fd(event), .events = POLLIN};
  return poll(&p, 1, wait_ms);
}

void check_pools(void) {
  annex_heap* heap = a_heap();
  annex_pool *pool = NULL, *again = NULL;
  struct annex_pool_options options = {.struct_bytes = sizeof options,
                                       .object_bytes = 200,
                                       .object_count = 100,
                                       .align_bytes = 256,
                                       .flags = ANNEX_POOL_NO_CACHE};
  CHECK(annex_pool_create(heap, "p", &options, &pool) == 0 && annex_pool_is_open(pool) == 1);
  CHECK(annex_pool_create(heap, "p", &options, &again) == ANNEX_E_zone_exists);
  CHECK(annex_pool_create(heap, "q", NULL, &again) == ANNEX_E_invalid_argument);
  options.boundary_bytes = 100;
  CHECK(annex_pool_create(heap, "q", &options, &again) == ANNEX_E_invalid_argument);
  options.boundary_bytes = 0;
  options.object_count = 0;
  CHECK(annex_pool_create(heap, "q", &options, &again) == ANNEX_E_invalid_argument);
  options.flags = ANNEX_PIN;
  CHECK(annex_pool_create(heap, "q", &options, &again) == ANNEX_E_invalid_argument &&
        annex_pool_create(NULL, "q", &options, &again) == ANNEX_E_invalid_argument);
  CHECK(annex_pool_object_count(pool) == 100 && annex_pool_object_bytes(pool) >= 200 &&
        annex_pool_free_count(pool) == 100);
  char* const one = annex_pool_take(pool);
  CHECK(one != NULL && (size_t)one % 256 == 0);
  memset(one, 1, 200);
  void* others[200];
  CHECK(annex_pool_take_bulk(pool, others, 200) == 99 && annex_pool_take(pool) == NULL &&
        annex_pool_free_count(pool) == 0);
  CHECK(annex_pool_release(heap, "p") == ANNEX_E_blocks_live);
  void* waited = NULL;
  CHECK(annex_pool_take_before(pool, 1000, &waited) == ANNEX_E_deadline_passed &&
        annex_pool_wait_for_object(pool, 0) == ANNEX_E_deadline_passed);
  annex_ready_event* event = NULL;
  CHECK(annex_pool_watch_objects(pool, &event) == 0 && is_readable(event, 0) == 0);
  annex_pool_give(pool, one);
  CHECK(is_readable(event, 60000) == 1 && annex_pool_wait_for_object(pool, 0) == 0);
  annex_ready_event_end(event);
  CHECK(annex_pool_take_before(pool, UINT64_MAX, &waited) == 0 && waited == one);
  annex_pool_give(pool, waited);
  CHECK(annex_pool_take_before(NULL, 0, &waited) == ANNEX_E_invalid_argument &&
        annex_pool_wait_for_object(NULL, 0) == ANNEX_E_invalid_argument);
  CHECK(annex_pool_watch_objects(NULL, &event) == ANNEX_E_invalid_argument);
  annex_pool_give_bulk(pool, others, 99);
  CHECK(annex_pool_free_count(pool) == 100);
  CHECK(annex_pool_open(heap, "p", &again) == 0 &&
        annex_pool_open(heap, "q", &(annex_pool*){NULL}) == ANNEX_E_no_such_zone);
  CHECK(annex_pool_release(heap, "p") == 0 &&
        annex_pool_release(heap, "p") == ANNEX_E_no_such_zone &&
        annex_pool_release(heap, NULL) == ANNEX_E_invalid_argument);
  CHECK(annex_pool_is_open(pool) == 0 && annex_pool_is_open(again) == 0 &&
        annex_pool_take(again) == NULL);
  annex_pool_close(pool);
  annex_pool_close(again);
  annex_pool_close(NULL);
  CHECK(annex_pool_take(NULL) == NULL && annex_pool_is_open(NULL) == 0 &&
        annex_pool_free_count(NULL) == 0);
  CHECK(annex_pool_object_count(NULL) == 0 && annex_pool_object_bytes(NULL) == 0 &&
        annex_pool_take_bulk(NULL, others, 1) == 0);
  annex_heap_close(heap);
  CHECK(annex_heap_destroy("views") == 0);
}

void check_rings(void) {
  annex_heap* heap = a_heap();
  annex_ring *ring = NULL, *again = NULL;
  CHECK(annex_ring_create(heap, "r", 8, &ring) == 0 && annex_ring_capacity(ring) == 8 &&
        annex_ring_count(ring) == 0);
  CHECK(annex_ring_create(heap, "r", 8, &again) == ANNEX_E_zone_exists &&
        annex_ring_create(heap, "s", 7, &again) == ANNEX_E_invalid_argument);
  CHECK(annex_ring_open(heap, "r", &again) == 0 &&
        annex_ring_open(heap, "s", &(annex_ring*){NULL}) == ANNEX_E_no_such_zone);
  uint64_t handles[16], taken[16];
  for (uint64_t i = 0; i < 16; ++i)
    handles[i] = i + 1;
  CHECK(annex_ring_put(ring, 100) == 1 && annex_ring_put_bulk(ring, handles, 16) == 7 &&
        annex_ring_put(ring, 101) == 0);
  CHECK(annex_ring_count(again) == 8 && annex_ring_take(again) == 100);
  CHECK(annex_ring_take_bulk(again, taken, 3) == 3 && taken[0] == 1 && taken[2] == 3);
  CHECK(annex_ring_take_in_hand(ring, taken, 16) == 4 && taken[0] == 4 && taken[3] == 7);
  annex_ring_settle(ring);
  uint64_t waited = 0;
  CHECK(annex_ring_take_before(ring, 1000, &waited) == ANNEX_E_deadline_passed &&
        annex_ring_wait_for_handle(ring, 0) == ANNEX_E_deadline_passed);
  annex_ready_event *handles_there = NULL, *room_there = NULL;
  CHECK(annex_ring_watch_handles(ring, &handles_there) == 0 &&
        annex_ring_watch_room(ring, &room_there) == 0);
  CHECK(is_readable(handles_there, 0) == 0 && is_readable(room_there, 60000) == 1 &&
        annex_ring_wait_for_room(ring, 0) == 0);
  CHECK(annex_ring_put_before(ring, 77, UINT64_MAX) == 0 &&
        is_readable(handles_there, 60000) == 1 && annex_ring_wait_for_handle(ring, 0) == 0);
  CHECK(annex_ring_take_before(ring, UINT64_MAX, &waited) == 0 && waited == 77);
  annex_ready_event_rearm(handles_there);
  CHECK(is_readable(handles_there, 0) == 0);
  annex_ready_event_rearm(NULL);
  annex_ready_event_end(handles_there);
  annex_ready_event_end(room_there);
  annex_ready_event_end(NULL);
  CHECK(annex_ready_event_fd(NULL) == -1);
  CHECK(annex_ring_put_bulk(ring, handles, 8) == 8 &&
        annex_ring_put_before(ring, 9, 1000) == ANNEX_E_deadline_passed &&
        annex_ring_wait_for_room(ring, 0) == ANNEX_E_deadline_passed);
  CHECK(annex_ring_take_bulk(ring, taken, 8) == 8);
  CHECK(annex_ring_take_before(NULL, 0, &waited) == ANNEX_E_invalid_argument &&
        annex_ring_put_before(NULL, 1, 0) == ANNEX_E_invalid_argument);
  CHECK(annex_ring_wait_for_handle(NULL, 0) == ANNEX_E_invalid_argument &&
        annex_ring_wait_for_room(NULL, 0) == ANNEX_E_invalid_argument);
  CHECK(annex_ring_watch_handles(NULL, &room_there) == ANNEX_E_invalid_argument &&
        annex_ring_watch_room(NULL, &room_there) == ANNEX_E_invalid_argument);
  CHECK(annex_ring_recover_in_hand(ring, taken, 16) == 0 && annex_ring_take(ring) == 0);
  CHECK(annex_ring_release(heap, "s") == ANNEX_E_no_such_zone &&
        annex_ring_release(NULL, "r") == ANNEX_E_invalid_argument);
  CHECK(annex_pool_release(heap, "r") == ANNEX_E_wrong_kind && annex_ring_release(heap, "r") == 0);
  CHECK(annex_ring_is_open(ring) == 0 && annex_ring_put(again, 1) == 0 &&
        annex_ring_take(again) == 0);
  annex_ring_close(ring);
  annex_ring_close(again);
  annex_ring_close(NULL);
  CHECK(annex_ring_is_open(NULL) == 0 && annex_ring_put(NULL, 1) == 0 &&
        annex_ring_put_bulk(NULL, handles, 1) == 0);
  CHECK(annex_ring_take(NULL) == 0 && annex_ring_take_bulk(NULL, taken, 1) == 0 &&
        annex_ring_take_in_hand(NULL, taken, 1) == 0);
  CHECK(annex_ring_recover_in_hand(NULL, taken, 1) == 0 && annex_ring_capacity(NULL) == 0 &&
        annex_ring_count(NULL) == 0);
  annex_ring_settle(NULL);
  annex_heap_close(heap);
  CHECK(annex_heap_destroy("views") == 0);
}
