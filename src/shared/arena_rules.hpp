// shared/arena_rules.hpp - the rules of the arena: no byte belongs to two, none to nobody.
//
// Invariants (audit):
//   A1  no byte belongs to two chunks, every chunk lies below the top
//   A2  every byte below the top belongs to somebody, or to a free list
//
// Truth is what the other structures occupy: a repair makes the rest free.
#pragma once
#include "shared/inspection.hpp"
#include "shared/rebuilding.hpp"

namespace annex::detail {

/// A1, of the free lists and of the run that small chunks are cut from.
void check_arena(inspection& in);
/// A1 and A2, when every other structure has said which bytes are its own.
void check_tiling(inspection& in);

/// The top, before anything is looked for below it.
void find_arena_top(rebuilding& rb);
/// The free lists, when every other structure has taken what is its own.
void rebuild_arena(rebuilding& rb);

/// A file that was cut behind the arena's top gets the spare bytes back that no chunk is without.
/// Nothing of a chunk is made up.
void lengthen_behind_the_arena(const segment& s);

}  // namespace annex::detail
