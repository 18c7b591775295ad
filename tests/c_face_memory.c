/* tests/c_face_memory.c - the C face from C: memory that annex brings, and observers made of
 * functions. */
#define _GNU_SOURCE /* memfd_create */
#include "c_face.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

struct counted {
  uint64_t calls, last_done, total;
};
static void count_progress(void* context, uint64_t done_bytes, uint64_t total_bytes) {
  struct counted* c = context;
  ++c->calls;
  c->last_done = done_bytes;
  c->total = total_bytes;
}

struct shortage {
  annex_heap* heap;
  int calls, brings;
};
static int grow(void* context, size_t size_bytes) {
  struct shortage* s = context;
  ++s->calls;
  struct annex_memory_source more = {.struct_bytes = sizeof more,
                                     .from = ANNEX_MEMORY_anonymous,
                                     .length_bytes = size_bytes + (1u << 20)};
  more.length_bytes &= ~(size_t)4095;
  return s->brings && annex_bring_memory(s->heap, &more, NULL) == 0;
}

struct draining {
  annex_heap* heap;
  uint32_t region;
  int code;
};
static void* drain(void* context) {
  struct draining* d = context;
  d->code = annex_heap_drain_memory(d->heap, d->region, 60000000000u);
  return NULL;
}
static int is_draining(void* context, const struct annex_region_summary* region) {
  int* found = context;
  *found = *found || region->draining;
  return 0;
}

static int is_never_huge(void* context, const struct annex_region_summary* region) {
  uint32_t* seen = context;
  if (region->huge == ANNEX_HUGE_never) *seen = region->id;
  return 0;
}
static void check_huge_pages(annex_heap* heap) {
  struct annex_memory_source source = {.struct_bytes = sizeof source,
                                       .flags = ANNEX_PREFAULT,
                                       .length_bytes = 4u << 20,
                                       .huge = ANNEX_HUGE_never};
  uint32_t region = 0, seen = 0;
  CHECK(annex_bring_memory(heap, &source, &region) == 0);
  CHECK(annex_for_each_region(heap, is_never_huge, &seen) == 0 && seen == region);
  uint64_t bytes = 1;
  CHECK(annex_huge_bytes(heap, region, &bytes) == 0 && bytes == 0);
  CHECK(annex_huge_bytes(heap, 99, &bytes) == ANNEX_E_no_such_region);
  CHECK(annex_huge_bytes(heap, region, NULL) == ANNEX_E_invalid_argument);
  source.huge = 4;
  CHECK(annex_bring_memory(heap, &source, NULL) == ANNEX_E_invalid_argument);
  CHECK(annex_heap_remove_memory(heap, region) == 0);
}

void check_memory(void) {
  annex_heap* heap = NULL;
  CHECK(annex_heap_create("memory", NULL, &heap) == 0);
  check_huge_pages(heap);
  uint32_t region = 0;
  struct counted progress = {0};
  struct annex_memory_source source = {.struct_bytes = sizeof source,
                                       .flags = ANNEX_PREFAULT | ANNEX_RESERVE,
                                       .length_bytes = 4u << 20,
                                       .threads = 2,
                                       .progress = count_progress,
                                       .progress_context = &progress};
  CHECK(annex_bring_memory(heap, &source, &region) == 0 && region != 0);
  CHECK(progress.calls != 0 && progress.last_done == progress.total && progress.total == 4u << 20);
  CHECK(annex_prefault(heap, region, 1, count_progress, &progress) == 0 &&
        annex_prefault(heap, region, 0, NULL, NULL) == 0);
  CHECK(annex_prefault(heap, 999, 0, NULL, NULL) == ANNEX_E_no_such_region &&
        annex_prefault(NULL, 1, 0, NULL, NULL) == ANNEX_E_invalid_argument);

  char path[4096];
  snprintf(path, sizeof path, "%s/file", annex_directory());
  const int fd = memfd_create("mine", MFD_CLOEXEC);
  CHECK(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
  const struct {
    uint32_t from;
    const char* path;
    int fd_plus_1;
    size_t page_bytes;
    uint32_t flags;
    int expected;
  } rows[] = {
      {ANNEX_MEMORY_default, NULL, 0, 4096, ANNEX_OVERCOMMIT, 0},
      {ANNEX_MEMORY_anonymous, NULL, 0, 0, 0, 0},
      {ANNEX_MEMORY_shared, NULL, 0, 0, 0, 0},
      {ANNEX_MEMORY_file, path, 0, 0, 0, 0},
      {ANNEX_MEMORY_descriptor, NULL, fd + 1, 0, 0, 0},
      {ANNEX_MEMORY_descriptor, NULL, 0, 0, 0, ANNEX_E_invalid_argument},
      {ANNEX_MEMORY_device, "/dev/null", 0, 0, 0, ANNEX_E_not_supported},
      {ANNEX_MEMORY_descriptor + 1, NULL, 0, 0, 0, ANNEX_E_invalid_argument},
      {ANNEX_MEMORY_shared, NULL, 0, 12345, 0, ANNEX_E_bad_page_size},
      {ANNEX_MEMORY_shared, NULL, 0, 0, ANNEX_RESERVE | ANNEX_OVERCOMMIT, ANNEX_E_invalid_argument},
      {ANNEX_MEMORY_shared, NULL, 0, 0, ANNEX_ZEROED, ANNEX_E_invalid_argument},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; ++i) {
    struct annex_memory_source s = {.struct_bytes = sizeof s,
                                    .from = rows[i].from,
                                    .flags = rows[i].flags,
                                    .length_bytes = 1u << 20,
                                    .page_bytes = rows[i].page_bytes,
                                    .path = rows[i].path,
                                    .fd_plus_1 = rows[i].fd_plus_1};
    const int code = annex_bring_memory(heap, &s, &region);
    /* what exactly is wrong with a device or descriptor is the C++ face's to say */
    if (rows[i].expected == 0 ? code != 0 : code == 0)
      fprintf(stderr, "row %zu: %s\n", i, annex_errc_name(code));
    CHECK(rows[i].expected == 0 ? code == 0 : code < 0 && strlen(annex_last_error_text()) > 10);
    if (code == 0) CHECK(annex_heap_remove_memory(heap, region) == 0);
  }
  close(fd);
  unlink(path);
  struct annex_memory_source huge = {
      .struct_bytes = sizeof huge, .from = ANNEX_MEMORY_hugetlb, .length_bytes = 2u << 20};
  const int has_hugepages =
      annex_bring_memory(heap, &huge, &region); /* as this machine has them; page_bytes is right */
  CHECK(has_hugepages == 0 ||
        (has_hugepages != ANNEX_E_bad_page_size && has_hugepages != ANNEX_E_bad_length));
  source.page_iova_count = 3;
  CHECK(annex_bring_memory(heap, &source, &region) == ANNEX_E_bad_iova);
  CHECK(annex_bring_memory(NULL, &source, &region) == ANNEX_E_invalid_argument &&
        annex_bring_memory(heap, NULL, NULL) == ANNEX_E_invalid_argument);

  /* Pinned by hand, with its progress. */
  void* const pages =
      mmap(NULL, 64 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct counted pinned = {0};
  struct annex_memory_range range = {.struct_bytes = sizeof range,
                                     .base = pages,
                                     .length_bytes = 64 << 10,
                                     .flags = ANNEX_PIN | ANNEX_SAME_ADDRESS | ANNEX_IS_ZERO,
                                     .threads = 1,
                                     .progress = count_progress,
                                     .progress_context = &pinned};
  const int can_pin = annex_heap_add_memory(heap, &range, &region); /* a machine may forbid it */
  CHECK(can_pin != 0 || (pinned.calls != 0 && pinned.last_done == 64 << 10 &&
                         annex_heap_remove_memory(heap, region) == 0));
  range.flags = ANNEX_PREFAULT;
  CHECK(annex_heap_add_memory(heap, &range, &region) == ANNEX_E_invalid_argument);
  annex_synchronize(heap);
  annex_synchronize(NULL);
  annex_trim(heap);
  annex_trim(NULL);
  annex_heap_close(heap);
  CHECK(annex_heap_destroy("memory") == 0);

  struct shortage s = {NULL, 0, 0};
  CHECK(annex_heap_create(NULL, NULL, &s.heap) == 0);
  CHECK(annex_on_shortage(s.heap, grow, &s) == 0 &&
        annex_on_shortage(NULL, grow, &s) == ANNEX_E_invalid_argument);
  CHECK(annex_allocate(s.heap, 1 << 20) == NULL && s.calls != 0);
  s.brings = 1;
  void* block = annex_allocate(s.heap, 1 << 20);
  CHECK(block != NULL);
  CHECK(annex_on_shortage(s.heap, NULL, NULL) == 0);
  const int calls = s.calls;
  CHECK(annex_allocate(s.heap, 100u << 20) == NULL && s.calls == calls);

  /* A drain that waits for the block, until it is canceled. */
  struct annex_location where = {.struct_bytes = sizeof where};
  CHECK(annex_locate(block, &where) == 0);
  struct draining d = {s.heap, where.region, 1};
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, drain, &d) == 0);
  for (int found = 0; !found; usleep(1000))
    CHECK(annex_for_each_region(s.heap, is_draining, &found) == 0);
  CHECK(annex_cancel_drain(s.heap, where.region) == 0);
  CHECK(pthread_join(thread, NULL) == 0 && d.code == ANNEX_E_canceled);
  CHECK(annex_cancel_drain(s.heap, 999) == ANNEX_E_no_such_region);
  annex_free(block);
  CHECK(annex_heap_drain_memory(s.heap, where.region, UINT64_MAX) == 0);
  annex_heap_close(s.heap);
}

struct told {
  int added, begun, finished, refuses;
  uint64_t deadline_ns, bytes, first_iova;
  size_t runs;
};
static int on_add(void* context, const struct annex_region_view* region) {
  struct told* t = context;
  CHECK(region->struct_bytes >= sizeof *region && region->base != NULL && region->fd >= -1);
  if (t->refuses == 1) return annex_refuse(ANNEX_E_vetoed, "the device has no room for it");
  if (t->refuses == 2) return ANNEX_E_limit_reached;
  ++t->added;
  t->bytes += region->length_bytes;
  t->runs = region->run_count;
  t->first_iova = region->run_count != 0 ? region->runs[0].iova : 0;
  return 0;
}
static enum annex_quiesce begin_remove(void* context, const struct annex_region_view* region) {
  struct told* t = context;
  t->begun += region->region != 0;
  return ANNEX_QUIESCE_pending;
}
static int finish_remove(void* context, const struct annex_region_view* region,
                         uint64_t deadline_ns) {
  struct told* t = context;
  t->finished += region->region != 0;
  t->deadline_ns = deadline_ns;
  return 0;
}

void check_observers(void) {
  annex_heap* heap = NULL;
  CHECK(annex_heap_create("observed", NULL, &heap) == 0);
  struct annex_memory_source source = {.struct_bytes = sizeof source, .length_bytes = 1u << 20};
  uint32_t region = 0, second = 0;
  CHECK(annex_bring_memory(heap, &source, &region) == 0);
  struct told t = {0};
  struct annex_observer who = {.struct_bytes = sizeof who,
                               .name = "device",
                               .on_add = on_add,
                               .begin_remove = begin_remove,
                               .finish_remove = finish_remove};
  annex_observation* watching = NULL;
  CHECK(annex_observe(heap, &who, &t, &watching) == 0 && t.added == 1 && t.bytes == 1u << 20);
  uint64_t iovas[256];
  for (uint64_t i = 0; i < 256; ++i)
    iovas[i] = (1u << 30) + i * 4096;
  source.page_iovas = iovas;
  source.page_iova_count = 256;
  CHECK(annex_bring_memory(heap, &source, &second) == 0 && t.added == 2 && t.runs == 1 &&
        t.first_iova == 1u << 30);
  CHECK(annex_heap_remove_memory(heap, second) == 0 && t.begun == 1 && t.finished == 1 &&
        t.deadline_ns != 0);
  source.page_iovas = NULL;
  source.page_iova_count = 0;
  t.refuses = 1;
  CHECK(annex_bring_memory(heap, &source, &second) == ANNEX_E_vetoed);
  CHECK(strstr(annex_last_error_text(), "the device has no room for it") != NULL);
  t.refuses = 2;
  CHECK(annex_bring_memory(heap, &source, &second) == ANNEX_E_vetoed);
  CHECK(strstr(annex_last_error_text(), "a limit of the heap is reached") != NULL);
  t.refuses = 0;

  annex_lease* lease = NULL;
  CHECK(annex_hold(heap, region, &lease) == 0 &&
        annex_hold(heap, 999, &(annex_lease*){NULL}) == ANNEX_E_no_such_region);
  CHECK(annex_heap_remove_memory(heap, region) == ANNEX_E_leased);
  annex_lease_end(lease);
  annex_lease_end(NULL);
  CHECK(annex_hold(NULL, region, &lease) == ANNEX_E_invalid_argument);

  who.on_add = NULL;
  CHECK(annex_observe(heap, &who, &t, &(annex_observation*){NULL}) == ANNEX_E_invalid_argument);
  who.on_add = on_add;
  who.begin_remove = NULL;
  t.refuses = 1;
  CHECK(annex_observe(heap, &who, &t, &(annex_observation*){NULL}) == ANNEX_E_vetoed);
  const int finished = t.finished;
  annex_observation_end(watching);
  CHECK(t.finished == finished + 1);
  annex_observation_end(NULL);
  CHECK(annex_heap_remove_memory(heap, region) == 0 && t.finished == finished + 1);
  annex_heap_close(heap);
  CHECK(annex_heap_destroy("observed") == 0);
}
