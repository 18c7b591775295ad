/* tests/c_face.c - the C face from C, against the shared library. Prints the first thing that is wrong. */
#include <annex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int rmdir_is_empty(const char* path) { return rmdir(path) == 0; }

#define CHECK(condition)                                                                              \
  do {                                                                                                \
    if (!(condition)) {                                                                               \
      fprintf(stderr, "c_face.c:%d: %s (%s)\n", __LINE__, #condition, annex_last_error_text());       \
      exit(1);                                                                                        \
    }                                                                                                 \
  } while (0)

int main(void) {
  char directory[] = "/dev/shm/annex-c-XXXXXX";
  CHECK(mkdtemp(directory) != NULL);
  setenv("ANNEX_DIR", directory, 1);

  annex_heap* heap = NULL;
  struct annex_heap_options options = {.struct_bytes = sizeof options, .flags = ANNEX_REFUSE_MISUSE, .zone_limit = 2};
  CHECK(annex_heap_create("c", &options, &heap) == 0);
  annex_heap* again = NULL;
  CHECK(annex_heap_create("c", NULL, &again) == ANNEX_E_name_taken);
  CHECK(strstr(annex_last_error_text(), "\"c\"") != NULL);
  CHECK(annex_heap_create("c", NULL, NULL) == ANNEX_E_invalid_argument);
  struct annex_heap_options unset = {0};
  CHECK(annex_heap_create("d", &unset, &again) == ANNEX_E_invalid_argument);
  CHECK(annex_heap_create("bad/name", NULL, &again) == ANNEX_E_invalid_name);
  CHECK(annex_heap_attach("nobody", NULL, &again) == ANNEX_E_no_such_heap);
  struct annex_attach_options trusting = {.struct_bytes = sizeof trusting, .flags = ANNEX_FOREIGN_MEMORY};
  CHECK(annex_heap_attach("c", &trusting, &again) == 0);
  annex_heap_close(again);
  CHECK(strcmp(annex_strerror(ANNEX_E_no_such_heap), "no heap has this name") == 0);
  CHECK(strcmp(annex_strerror(0), "no error") == 0);

  enum { pages = 256 };
  const size_t length = pages * 4096;
  void* memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uint64_t iovas[pages];
  const uint64_t phase = (uintptr_t)memory % 8192;  /* a block aligned to 8192 is so here and on the bus */
  for (int i = 0; i < pages; ++i) iovas[i] = 0x100000000u + phase + (uint64_t)i * 4096;
  struct annex_memory_range range = {.struct_bytes = sizeof range, .base = memory, .length_bytes = length, .page_iovas = iovas, .page_iova_count = pages - 1};
  uint32_t region = 0;
  CHECK(annex_heap_add_memory(heap, &range, &region) == ANNEX_E_bad_iova);
  range.page_iova_count = pages;
  memset(memory, 7, length);
  range.flags = ANNEX_ZERO_ON_ADD;
  CHECK(annex_heap_add_memory(heap, &range, &region) == 0 && region != 0);
  CHECK(((char*)memory)[length - 1] == 0);

  char* block = annex_allocate(heap, 100);
  CHECK(block != NULL && annex_usable_size(block) >= 100);
  struct annex_location where = {.struct_bytes = sizeof where};
  CHECK(annex_locate(block, &where) == 0 && where.region == region && where.iova == iovas[0] + where.offset_bytes);
  CHECK(annex_locate(&where, &where) == ANNEX_E_foreign_handle);
  CHECK(annex_address_of(heap, where.iova) == block && annex_address_of(heap, 1) == NULL);
  void* resolved = NULL;
  CHECK(annex_resolve(heap, annex_handle_of(heap, block), &resolved) == 0 && resolved == block);
  CHECK(annex_resolve(heap, 0, &resolved) == ANNEX_E_foreign_handle);
  struct annex_placement placed = {.struct_bytes = sizeof placed, .size_bytes = 8192, .align_bytes = 8192, .flags = ANNEX_IOVA_CONTIGUOUS | ANNEX_ZEROED};
  void* aligned = annex_allocate_placed(heap, &placed);
  CHECK(aligned != NULL && (uintptr_t)aligned % 8192 == 0);
  placed.size_bytes = 1u << 30;
  CHECK(annex_allocate_placed(heap, &placed) == NULL && strlen(annex_last_failure_text()) > 20);
  const uint64_t before = annex_handle_of(heap, block);
  CHECK((block = annex_reallocate(heap, block, 5000)) != NULL);
  CHECK(annex_resolve(heap, before, &resolved) == ANNEX_E_stale_handle);
  CHECK(annex_allocate(heap, 0) == NULL && strlen(annex_last_failure_text()) > 20);
  placed.size_bytes = 12288;
  placed.flags = ANNEX_IOVA_CONTIGUOUS;
  CHECK((aligned = annex_reallocate_placed(heap, aligned, &placed)) != NULL && (uintptr_t)aligned % 8192 == 0);
  CHECK(annex_reallocate_placed(heap, aligned, NULL) == NULL);
  void* many[32];
  CHECK(annex_allocate_bulk(heap, 64, many, 32) == 32);
  annex_free_bulk(many, 32);

  struct annex_zone zone = {.struct_bytes = sizeof zone};
  placed.size_bytes = 4096;
  CHECK(annex_zone_reserve(heap, "z", &placed, &zone) == 0 && zone.size_bytes == 4096);
  CHECK(annex_zone_reserve(heap, "z", &placed, &zone) == ANNEX_E_zone_exists);
  struct annex_zone found = {.struct_bytes = sizeof found};
  CHECK(annex_zone_find(heap, "z", &found) == 0 && found.address == zone.address && found.handle == zone.handle);
  CHECK(annex_zone_find(heap, "y", &found) == ANNEX_E_no_such_zone);
  CHECK(annex_heap_remove_memory(heap, region) == ANNEX_E_blocks_live);
  CHECK(annex_zone_release(heap, "z") == 0 && annex_zone_release(heap, "z") == ANNEX_E_no_such_zone);

  annex_free(block);
  annex_free(aligned);
  annex_free(aligned);  /* a mistake: counted, logged, refused */
  struct annex_stats stats = {.struct_bytes = sizeof stats};
  CHECK(annex_heap_stats(heap, &stats) == 0 && stats.total_bytes == length && stats.live_blocks == 0 && stats.region_count == 1);
  struct { size_t struct_bytes; uint64_t total_bytes; uint64_t canary; } old = {.struct_bytes = 16, .canary = 42};
  CHECK(annex_heap_stats(heap, (struct annex_stats*)(void*)&old) == 0 && old.total_bytes == length && old.canary == 42);
  CHECK(annex_heap_audit(heap) == 0);

  CHECK(annex_heap_detach_memory(heap, region) == 0);
  CHECK(annex_heap_detach_memory(heap, region) == ANNEX_E_not_attached);
  CHECK(annex_heap_attach_memory(heap, region, NULL) == ANNEX_E_cannot_attach);
  CHECK(annex_heap_attach_memory(heap, region, memory) == 0);
  CHECK(annex_heap_attach_memory(heap, region, memory) == ANNEX_E_already_attached);
  CHECK(annex_heap_drain_memory(heap, region, 1000000) == 0);
  CHECK(annex_heap_drain_memory(heap, region, 1000000) == ANNEX_E_no_such_region);
  CHECK(annex_heap_destroy("c") == ANNEX_E_heap_in_use);
  annex_heap_close(heap);
  CHECK(annex_heap_destroy("c") == 0);
  CHECK(rmdir_is_empty(directory));
  puts("1 passed, 0 failed");
  return 0;
}
