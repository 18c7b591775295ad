/* tests/c_face.h - what the parts of the C face's test share: every function of
 * annex.h from plain C, refusals included. */
#ifndef ANNEX_TESTS_C_FACE_H
#define ANNEX_TESTS_C_FACE_H
#include <annex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Prints the first thing that is wrong, and ends. */
#define CHECK(condition)                                                                \
  do {                                                                                  \
    if (!(condition)) {                                                                 \
      fprintf(stderr, "%s:%d: %s (last refusal: %s)\n", __FILE__, __LINE__, #condition, \
              annex_last_error_text());                                                 \
      exit(1);                                                                          \
    }                                                                                   \
  } while (0)

void check_errors(void);
void check_memory(void);
void check_observers(void);
void check_seeing(void);
void check_the_dead(void);
void check_repair(void);
void check_snapshots(void);
void check_pools(void);
void check_rings(void);

#endif
