/* tests/c_face_seeing.c - the C face from C: lists, figures, snapshots, what the dead left, and
 * repair. */
#include "c_face.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { pages = 256 };

struct seen {
  uint64_t regions, zones, blocks, pieces, members, sentences, heaps;
  uint64_t block_bytes, piece_bytes, held_blocks, problems;
  int stops;
};
static int see_region(void* context, const struct annex_region_summary* r) {
  struct seen* s = context;
  CHECK(r->struct_bytes >= sizeof *r && r->length_bytes == pages * 4096 && r->base != NULL &&
        r->backing[0] == '/');
  CHECK(r->first_iova == UINT64_MAX && r->iova_runs == 0 && r->numa_node == -1 &&
        r->no_cpu_access == 0);
  ++s->regions;
  return s->stops;
}
static int see_zone(void* context, const struct annex_zone_summary* z) {
  struct seen* s = context;
  CHECK(strcmp(z->name, "pool") == 0 ? strcmp(z->kind, "pool") == 0
                                     : strcmp(z->name, "z") == 0 && strcmp(z->kind, "zone") == 0);
  CHECK(z->handle != 0 && z->size_bytes != 0);
  ++s->zones;
  return s->stops;
}
static int see_block(void* context, const struct annex_block_summary* b) {
  struct seen* s = context;
  CHECK(b->address != NULL && b->kind <= ANNEX_BLOCK_pool_object && b->handle != 0);
  ++s->blocks;
  s->block_bytes += b->size_bytes;
  return s->stops;
}
static int see_piece(void* context, const struct annex_map_piece* p) {
  struct seen* s = context;
  CHECK(p->use <= ANNEX_MAP_slab && p->region != 0);
  CHECK(p->use != ANNEX_MAP_free || p->live_bytes == 0);
  ++s->pieces;
  s->piece_bytes += p->length_bytes;
  return s->stops;
}
static int see_member(void* context, const struct annex_member_summary* m) {
  struct seen* s = context;
  CHECK(m->id != 0 && m->process_id != 0 && m->program[0] != '\0');
  ++s->members;
  s->held_blocks += m->held_blocks;
  return s->stops;
}
static int see_sentence(void* context, const char* sentence) {
  struct seen* s = context;
  s->sentences += sentence[0] != '\0';
  return s->stops;
}
static int see_heap(void* context, const struct annex_heap_summary* h) {
  struct seen* s = context;
  ++s->heaps;
  CHECK(strcmp(h->name, "seen") == 0 && h->id != 0 && h->metadata_bytes != 0);
  s->problems += h->problem[0] != '\0';
  return s->stops;
}

static annex_heap* a_heap(void) {
  annex_heap* heap = NULL;
  struct annex_memory_source source = {.struct_bytes = sizeof source, .length_bytes = pages * 4096};
  CHECK(annex_heap_create("seen", NULL, &heap) == 0 &&
        annex_bring_memory(heap, &source, NULL) == 0);
  return heap;
}

void check_seeing(void) {
  struct seen s = {0};
  CHECK(annex_list(see_heap, &s) == 0 && s.heaps == 0);
  annex_heap* heap = a_heap();
  struct annex_placement p = {.struct_bytes = sizeof p, .size_bytes = 10000};
  CHECK(annex_zone_reserve(heap, "z", &p, NULL) == 0);
  void* blocks[10];
  CHECK(annex_allocate_bulk(heap, 1000, blocks, 10) == 10);
  CHECK(annex_list(see_heap, &s) == 0 && s.heaps == 1 && s.problems == 0);
  CHECK(annex_list(NULL, NULL) == ANNEX_E_invalid_argument);
  CHECK(annex_for_each_region(heap, see_region, &s) == 0 && s.regions == 1);
  CHECK(annex_for_each_zone(heap, see_zone, &s) == 0 && s.zones == 1);
  CHECK(annex_for_each_block(heap, see_block, &s) == 0 && s.blocks == 11 && s.block_bytes >= 20000);
  CHECK(annex_for_each_map_piece(heap, see_piece, &s) == 0 && s.pieces >= 3 &&
        s.piece_bytes == pages * 4096);
  CHECK(annex_for_each_member(heap, see_member, &s) == 0 && s.members == 1 && s.held_blocks == 10);
  s = (struct seen){.stops = 1};
  CHECK(annex_for_each_block(heap, see_block, &s) == 0 && s.blocks == 1);
  CHECK(annex_for_each_map_piece(heap, see_piece, &s) == 0 && s.pieces == 1);
  CHECK(annex_for_each_region(heap, NULL, &s) == ANNEX_E_invalid_argument &&
        annex_for_each_region(NULL, see_region, &s) == ANNEX_E_invalid_argument);
  CHECK(annex_for_each_zone(NULL, see_zone, &s) == ANNEX_E_invalid_argument &&
        annex_for_each_block(NULL, see_block, &s) == ANNEX_E_invalid_argument);
  CHECK(annex_for_each_map_piece(NULL, see_piece, &s) == ANNEX_E_invalid_argument &&
        annex_for_each_member(NULL, see_member, &s) == ANNEX_E_invalid_argument);

  struct annex_stats stats = {.struct_bytes = sizeof stats};
  CHECK(annex_heap_stats(heap, &stats) == 0 && stats.zone_count == 1 && stats.thread_count == 1 &&
        stats.slab_count >= 1 && stats.hole_count >= 1);
  CHECK(stats.live_blocks == 11 && stats.total_bytes == pages * 4096 && stats.misuse_count == 0 &&
        stats.lock_steals == 0 && stats.recovered_threads == 0);
  CHECK(annex_heap_stats(heap, NULL) == ANNEX_E_invalid_argument &&
        annex_heap_stats(NULL, &stats) == ANNEX_E_invalid_argument);
  struct annex_audit_report report = {.struct_bytes = sizeof report};
  CHECK(annex_heap_audit_report(heap, &report, see_sentence, &s) == 0 && report.checked != 0 &&
        report.broken == 0 && report.exact == 1 && s.sentences == 0);
  CHECK(annex_heap_audit(heap) == 0 && annex_heap_audit(NULL) == ANNEX_E_invalid_argument);

  annex_heap* reader = NULL;
  struct annex_attach_options look = {.struct_bytes = sizeof look, .flags = ANNEX_READ_ONLY};
  CHECK(annex_heap_attach("seen", &look, &reader) == 0);
  CHECK(annex_for_each_block(reader, see_block, &s) == ANNEX_E_read_only);
  CHECK(annex_heap_audit_report(reader, &report, NULL, NULL) == 0 && report.exact == 0);
  annex_heap_close(reader);
  annex_free_bulk(blocks, 10);
  CHECK(annex_zone_release(heap, "z") == 0);
  annex_heap_close(heap);
  CHECK(annex_heap_destroy("seen") == 0);
}

static enum annex_reap_choice look_at(void* context, const struct annex_block_summary* block) {
  int* shown = context;
  CHECK(block->size_bytes >= 500);
  return (*shown)++ < 3 ? ANNEX_REAP_keep : ANNEX_REAP_free;
}

void check_the_dead(void) {
  annex_heap* heap = a_heap();
  const pid_t child = fork();
  if (child == 0) {
    for (int i = 0; i < 8; ++i)
      if (annex_allocate(heap, 500) == NULL) _exit(1);
    raise(SIGKILL);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
  uint64_t dead = 0, freed = 0;
  CHECK(annex_recover(heap, &dead) == 0 && dead == 1);
  CHECK(annex_recover(heap, NULL) == 0 && annex_recover(NULL, &dead) == ANNEX_E_invalid_argument);
  const uint32_t member = annex_heap_self(heap) == 1 ? 2 : 1;
  int shown = 0;
  CHECK(annex_reap(heap, annex_heap_self(heap), NULL, NULL, &freed) == ANNEX_E_invalid_argument);
  CHECK(annex_reap(heap, member, look_at, &shown, &freed) == 0 && shown == 8 && freed == 5);
  CHECK(annex_reap(heap, member, NULL, NULL, &freed) == 0 && freed == 3);
  CHECK(annex_reap(NULL, member, NULL, NULL, &freed) == ANNEX_E_invalid_argument);
  annex_heap_close(heap);
  CHECK(annex_heap_destroy("seen") == 0);
}

struct said {
  uint64_t parts[4];
};
static int hear(void* context, enum annex_repair_part part, const char* sentence) {
  struct said* s = context;
  CHECK(part <= ANNEX_REPAIR_broken_still && sentence[0] != '\0');
  ++s->parts[part];
  return 0;
}

void check_repair(void) {
  annex_heap* heap = a_heap();
  struct annex_repair_report report = {.struct_bytes = sizeof report};
  struct said s = {{0}};
  CHECK(annex_heap_repair("nobody", &report, hear, &s) == ANNEX_E_no_such_heap);
  CHECK(annex_heap_repair("seen", &report, hear, &s) == ANNEX_E_heap_in_use);
  CHECK(annex_heap_repair(NULL, &report, hear, &s) == ANNEX_E_invalid_argument);
  void* const block = annex_allocate(heap, 100);
  const uint64_t handle = annex_handle_of(heap, block);
  annex_heap_close(heap);
  CHECK(annex_heap_repair("seen", &report, hear, &s) == 0 && report.broken_still == 0);
  CHECK(s.parts[ANNEX_REPAIR_found] == report.found &&
        s.parts[ANNEX_REPAIR_changed] == report.changed &&
        s.parts[ANNEX_REPAIR_uncertain] == report.uncertain);
  CHECK(annex_heap_repair("seen", NULL, NULL, NULL) == 0);
  CHECK(annex_heap_attach("seen", NULL, &heap) == 0);
  void* found = NULL;
  CHECK(annex_resolve(heap, handle, &found) == 0);
  annex_free(found);
  annex_heap_close(heap);
  CHECK(annex_heap_destroy("seen") == 0);
}

void check_snapshots(void) {
  annex_heap* heap = a_heap();
  struct annex_placement p = {.struct_bytes = sizeof p, .size_bytes = 10000};
  CHECK(annex_zone_reserve(heap, "z", &p, NULL) == 0);
  void* const block = annex_allocate(heap, 100);
  annex_snapshot* snapshot = NULL;
  CHECK(annex_snapshot_take(heap, NULL, &snapshot) == 0);
  struct annex_snapshot_facts facts = {.struct_bytes = sizeof facts};
  CHECK(annex_snapshot_facts_of(snapshot, &facts) == 0 && facts.changed == 0 &&
        facts.complete == 1 && facts.problem[0] == '\0');
  CHECK(facts.region_count == 1 && facts.zone_count == 1 && facts.member_count == 1 &&
        facts.map_piece_count >= 3 && facts.tries == 1 && facts.lock_holder == 0);
  struct annex_stats now = {.struct_bytes = sizeof now}, then = {.struct_bytes = sizeof then};
  CHECK(annex_heap_stats(heap, &now) == 0 && annex_snapshot_stats(snapshot, &then) == 0 &&
        memcmp(&now, &then, sizeof now) == 0);
  CHECK(annex_zone_release(heap, "z") == 0);
  annex_free(block);
  annex_heap_close(heap);

  /* All of it outlives the heap. */
  struct seen s = {0};
  uint64_t live_bytes = 0;
  for (uint64_t i = 0; i < facts.map_piece_count; ++i) {
    CHECK(see_piece(&s, annex_snapshot_map_piece(snapshot, i)) == 0);
    live_bytes += annex_snapshot_map_piece(snapshot, i)->live_bytes;
  }
  CHECK(s.piece_bytes == pages * 4096 && live_bytes == then.used_bytes);
  CHECK(see_region(&s, annex_snapshot_region(snapshot, 0)) == 0 &&
        annex_snapshot_region(snapshot, 1) == NULL);
  CHECK(see_zone(&s, annex_snapshot_zone(snapshot, 0)) == 0 &&
        annex_snapshot_zone(snapshot, 1) == NULL);
  CHECK(see_member(&s, annex_snapshot_member(snapshot, 0)) == 0 &&
        annex_snapshot_member(snapshot, 1) == NULL && s.held_blocks == 1);
  CHECK(annex_snapshot_map_piece(snapshot, facts.map_piece_count) == NULL &&
        annex_snapshot_map_piece(NULL, 0) == NULL);
  CHECK(annex_snapshot_facts_of(NULL, &facts) == ANNEX_E_invalid_argument &&
        annex_snapshot_stats(NULL, &now) == ANNEX_E_invalid_argument);
  annex_snapshot_free(snapshot);
  annex_snapshot_free(NULL);

  struct annex_attach_options look = {.struct_bytes = sizeof look, .flags = ANNEX_READ_ONLY};
  CHECK(annex_heap_attach("seen", &look, &heap) == 0);
  struct annex_snapshot_options options = {.struct_bytes = sizeof options,
                                           .flags = ANNEX_SNAPSHOT_NO_MAP,
                                           .most_extents = 1,
                                           .tries = 1};
  CHECK(annex_snapshot_take(heap, &options, &snapshot) == 0 &&
        annex_snapshot_facts_of(snapshot, &facts) == 0);
  CHECK(facts.map_piece_count == 0 && facts.region_count == 1 && facts.zone_count == 0);
  annex_snapshot_free(snapshot);
  options.flags = 2;
  CHECK(annex_snapshot_take(heap, &options, &snapshot) == ANNEX_E_invalid_argument &&
        annex_snapshot_take(NULL, NULL, &snapshot) == ANNEX_E_invalid_argument);
  annex_heap_close(heap);
  CHECK(annex_heap_destroy("seen") == 0);
}
