/* tests/c_face.c - the C face from C, against the shared library: heaps, blocks, addresses, zones,
 * and errors. */
#include "c_face.h"

#include <sys/mman.h>
#include <unistd.h>

static int rmdir_is_empty(const char* path) {
  return rmdir(path) == 0;
}

static void check_heaps_and_blocks(void) {
  annex_heap* heap = NULL;
  struct annex_heap_options options = {
      .struct_bytes = sizeof options, .flags = ANNEX_REFUSE_MISUSE, .zone_limit = 2};
  CHECK(annex_heap_create("c", &options, &heap) == 0);
  annex_heap* again = NULL;
  CHECK(annex_heap_create("c", NULL, &again) == ANNEX_E_name_taken);
  CHECK(strstr(annex_last_error_text(), "\"c\"") != NULL);
  CHECK(annex_heap_create("c", NULL, NULL) == ANNEX_E_invalid_argument);
  struct annex_heap_options unset = {0};
  CHECK(annex_heap_create("d", &unset, &again) == ANNEX_E_invalid_argument);
  CHECK(annex_heap_create("bad/name", NULL, &again) == ANNEX_E_invalid_name);
  CHECK(annex_heap_attach("nobody", NULL, &again) == ANNEX_E_no_such_heap);
  options.flags = 1u << 31;
  CHECK(annex_heap_create("d", &options, &again) == ANNEX_E_invalid_argument);
  CHECK(strstr(annex_last_error_text(), "0x80000000") != NULL);
  struct {
    struct annex_heap_options known;
    uint64_t later;
  } newer = {.known = {.struct_bytes = sizeof newer}, .later = 1};
  CHECK(annex_heap_create("d", &newer.known, &again) == ANNEX_E_not_supported);
  newer.later = 0;
  newer.known.flags = ANNEX_EPHEMERAL | ANNEX_CHECKED | ANNEX_RECLAIM_DEAD;
  CHECK(annex_heap_create("d", &newer.known, &again) == 0);
  annex_heap_close(again);
  CHECK(annex_heap_destroy("d") == 0 && annex_heap_destroy("d") == ANNEX_E_no_such_heap &&
        annex_heap_destroy(NULL) == ANNEX_E_invalid_argument);
  CHECK(annex_heap_create(NULL, NULL, &again) == 0 && strcmp(annex_heap_name(again), "") == 0);
  annex_heap_close(again);
  annex_heap_close(NULL);

  int is_new = 2;
  CHECK(annex_open("c", NULL, &again, &is_new) == 0 && is_new == 0);
  annex_heap_close(again);
  CHECK(annex_open("e", NULL, &again, &is_new) == 0 && is_new == 1);
  annex_heap_close(again);
  CHECK(annex_open("e", NULL, &again, NULL) == 0);
  CHECK(strcmp(annex_heap_name(again), "e") == 0 && annex_heap_id(again) != 0 &&
        annex_heap_self(again) != 0);
  CHECK(annex_heap_id(again) != annex_heap_id(heap) && annex_heap_id(NULL) == 0 &&
        annex_heap_self(NULL) == 0);
  annex_heap_close(again);
  CHECK(annex_open("bad/name", NULL, &again, NULL) == ANNEX_E_invalid_name);
  CHECK(annex_open(NULL, NULL, &again, NULL) == ANNEX_E_invalid_argument);
  CHECK(annex_heap_destroy("e") == 0);
  struct annex_attach_options trusting = {.struct_bytes = sizeof trusting,
                                          .flags = ANNEX_FOREIGN_MEMORY};
  CHECK(annex_heap_attach("c", &trusting, &again) == 0);
  annex_heap_close(again);
  CHECK(strcmp(annex_strerror(ANNEX_E_no_such_heap), "no heap has this name") == 0);
  CHECK(strcmp(annex_strerror(0), "no error") == 0);

  enum { pages = 256 };
  const size_t length = pages * 4096;
  void* memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uint64_t iovas[pages];
  const uint64_t phase =
      (uintptr_t)memory % 8192; /* a block aligned to 8192 is so here and on the bus */
  for (int i = 0; i < pages; ++i)
    iovas[i] = 0x100000000u + phase + (uint64_t)i * 4096;
  struct annex_memory_range range = {.struct_bytes = sizeof range,
                                     .base = memory,
                                     .length_bytes = length,
                                     .page_iovas = iovas,
                                     .page_iova_count = pages - 1};
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
  CHECK(annex_locate(block, &where) == 0 && where.region == region &&
        where.iova == iovas[0] + where.offset_bytes);
  CHECK(annex_locate(&where, &where) == ANNEX_E_foreign_handle);
  CHECK(annex_address_of(heap, where.iova) == block && annex_address_of(heap, 1) == NULL);
  void* resolved = NULL;
  CHECK(annex_resolve(heap, annex_handle_of(heap, block), &resolved) == 0 && resolved == block);
  CHECK(annex_resolve(heap, 0, &resolved) == ANNEX_E_foreign_handle);
  CHECK((annex_remote_address(annex_handle_of(heap, block), length) & (length - 1)) ==
        where.offset_bytes);
  CHECK(annex_handle_of(NULL, block) == 0 && annex_address_of(NULL, where.iova) == NULL);
  CHECK(annex_allocate(NULL, 100) == NULL && strcmp(annex_last_error_text(), "heap is null") == 0);
  CHECK(annex_reallocate(NULL, block, 100) == NULL && annex_allocate_bulk(NULL, 64, NULL, 1) == 0);
  struct annex_placement placed = {.struct_bytes = sizeof placed,
                                   .size_bytes = 8192,
                                   .align_bytes = 8192,
                                   .flags = ANNEX_IOVA_CONTIGUOUS | ANNEX_ZEROED};
  void* aligned = annex_allocate_placed(heap, &placed);
  CHECK(aligned != NULL && (uintptr_t)aligned % 8192 == 0);
  placed.size_bytes = 1u << 30;
  CHECK(annex_allocate_placed(heap, &placed) == NULL && strlen(annex_last_failure_text()) > 20);
  struct annex_explanation why = {.struct_bytes = sizeof why};
  CHECK(annex_last_failure(&why) == 0 && why.requested_bytes == 1u << 30 &&
        why.why == ANNEX_CAUSE_contiguity);
  CHECK(why.free_bytes != 0 && strcmp(why.text, annex_last_failure_text()) == 0);
  struct annex_placement reached = {.struct_bytes = sizeof reached,
                                    .size_bytes = 64,
                                    .iova_align_bytes = 256,
                                    .highest_iova = UINT64_MAX};
  void* low = annex_allocate_placed(heap, &reached);
  CHECK(low != NULL && annex_locate(low, &where) == 0 && where.iova % 256 == 0);
  annex_free(low);
  reached.highest_iova = 1;
  CHECK(annex_allocate_placed(heap, &reached) == NULL);
  CHECK(annex_locate(block, &where) == 0);
  placed.flags = ANNEX_PIN;
  CHECK(annex_allocate_placed(heap, &placed) == NULL &&
        strstr(annex_last_error_text(), "annex_placement") != NULL);
  placed.flags = ANNEX_IOVA_CONTIGUOUS | ANNEX_ZEROED;
  const uint64_t before = annex_handle_of(heap, block);
  CHECK((block = annex_reallocate(heap, block, 5000)) != NULL);
  CHECK(annex_resolve(heap, before, &resolved) == ANNEX_E_stale_handle);
  CHECK(annex_allocate(heap, 0) == NULL && strlen(annex_last_failure_text()) > 20);
  placed.size_bytes = 12288;
  placed.flags = ANNEX_IOVA_CONTIGUOUS;
  CHECK((aligned = annex_reallocate_placed(heap, aligned, &placed)) != NULL &&
        (uintptr_t)aligned % 8192 == 0);
  CHECK(annex_reallocate_placed(heap, aligned, NULL) == NULL);
  void* many[32];
  CHECK(annex_allocate_bulk(heap, 64, many, 32) == 32);
  annex_free_bulk(many, 32);

  struct annex_zone zone = {.struct_bytes = sizeof zone};
  placed.size_bytes = 4096;
  CHECK(annex_zone_reserve(heap, "z", &placed, &zone) == 0 && zone.size_bytes == 4096);
  CHECK(annex_zone_reserve(heap, "z", &placed, &zone) == ANNEX_E_zone_exists);
  struct annex_zone found = {.struct_bytes = sizeof found};
  CHECK(annex_zone_find(heap, "z", &found) == 0 && found.address == zone.address &&
        found.handle == zone.handle);
  CHECK(found.region == region);
  CHECK(annex_zone_release(heap, "z") == 0);
  placed.flags |= ANNEX_ON_COMMIT;
  CHECK(annex_allocate_placed(heap, &placed) == NULL &&
        annex_zone_reserve(heap, "z", &placed, &zone) == 0);
  CHECK(annex_zone_find(heap, "z", &found) == ANNEX_E_not_committed &&
        annex_zone_wait(heap, "z", 1000, 0, &found) == ANNEX_E_deadline_passed);
  const uint64_t right = zone.generation;
  zone.generation += 1;
  CHECK(annex_zone_commit(heap, "z", &zone) == ANNEX_E_no_such_zone &&
        annex_zone_commit(heap, "z", NULL) == ANNEX_E_invalid_argument);
  zone.generation = right;
  CHECK(annex_zone_commit(heap, "z", &zone) == 0 &&
        annex_zone_wait(heap, "z", UINT64_MAX, 0, &found) == 0);
  CHECK(found.generation == right && found.address == zone.address);
  CHECK(annex_zone_wait(heap, "z", 1000, right, &found) == ANNEX_E_deadline_passed &&
        annex_zone_wait(NULL, "z", 0, 0, &found) == ANNEX_E_invalid_argument);
  placed.flags &= ~(uint32_t)ANNEX_ON_COMMIT;
  CHECK(annex_zone_find(heap, "y", &found) == ANNEX_E_no_such_zone);
  CHECK(annex_heap_remove_memory(heap, region) == ANNEX_E_blocks_live);
  CHECK(annex_zone_release(heap, "z") == 0 &&
        annex_zone_release(heap, "z") == ANNEX_E_no_such_zone);

  annex_free(block);
  annex_free(aligned);
  annex_free(aligned); /* a mistake: counted, logged, refused */
  struct annex_stats stats = {.struct_bytes = sizeof stats};
  CHECK(annex_heap_stats(heap, &stats) == 0 && stats.total_bytes == length &&
        stats.live_blocks == 0 && stats.region_count == 1);
  struct {
    size_t struct_bytes;
    uint64_t total_bytes;
    uint64_t canary;
  } old = {.struct_bytes = 16, .canary = 42};
  CHECK(annex_heap_stats(heap, (struct annex_stats*)(void*)&old) == 0 &&
        old.total_bytes == length && old.canary == 42);
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
}

void check_errors(void) {
  struct annex_error e = {.struct_bytes = sizeof e};
  CHECK(annex_last_error(&e) == 0 && e.code == 0 && e.text[0] == '\0');
  CHECK(annex_last_error_text()[0] == '\0');
  CHECK(annex_heap_attach("nobody", NULL, &(annex_heap*){NULL}) == ANNEX_E_no_such_heap);
  CHECK(annex_last_error(&e) == 0 && e.code == ANNEX_E_no_such_heap &&
        strcmp(e.text, annex_last_error_text()) == 0);
  CHECK(annex_last_error(NULL) == ANNEX_E_invalid_argument);
  CHECK(strcmp(annex_errc_name(ANNEX_E_region_overlap), "region_overlap") == 0);
  CHECK(strcmp(annex_errc_name(0), "ok") == 0 && strcmp(annex_errc_name(12345), "unknown") == 0);
  CHECK(annex_refuse(ANNEX_E_vetoed, "not this one") == ANNEX_E_vetoed &&
        strcmp(annex_last_error_text(), "not this one") == 0);
  CHECK(annex_refuse(ANNEX_E_vetoed, NULL) == ANNEX_E_vetoed &&
        strcmp(annex_last_error_text(), annex_strerror(ANNEX_E_vetoed)) == 0);
  CHECK(annex_refuse(7, "a positive one") == ANNEX_E_invalid_argument &&
        annex_refuse(-9999, NULL) == ANNEX_E_invalid_argument);
  char text[16] = "";
  CHECK(annex_printable("a\nb", 3, text, sizeof text) == 6 && strcmp(text, "a\\x0ab") == 0);
  CHECK(annex_printable("a\nb", 3, text, 3) == 6 && strcmp(text, "a\\") == 0);
  CHECK(annex_printable(NULL, 3, NULL, 0) == 0);
  int major = -1, minor = -1, patch = -1;
  CHECK(sscanf(annex_version(), "%d.%d.%d", &major, &minor, &patch) == 3);
  CHECK(annex_version_number() == major * 1000000 + minor * 1000 + patch);
  CHECK(strcmp(annex_directory(), getenv("ANNEX_DIR")) == 0);
}

int main(void) {
  char directory[] = "/dev/shm/annex-c-XXXXXX";
  CHECK(mkdtemp(directory) != NULL);
  setenv("ANNEX_DIR", directory, 1);
  check_errors();
  check_heaps_and_blocks();
  check_memory();
  check_observers();
  check_seeing();
  check_the_dead();
  check_repair();
  check_snapshots();
  check_pools();
  check_rings();
  CHECK(rmdir_is_empty(directory));
  puts("10 passed, 0 failed");
  return 0;
}
