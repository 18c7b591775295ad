/* docs/design/models/cache_recall.pml - a thread's cache is recalled while the thread uses it, and anybody may die.
 *
 * One block. It lies in the owner's magazine (count = 1), or in the slab's bitmap, or the owner has it, or another thread has.
 * The owner takes it and gives it back without a lock; its stores wait in a buffer (x86: first in, first out) until some
 * later moment. Two freezers recall the cache under the heap lock; the second takes over from the first if that one dies.
 * The owner and the first freezer may die between any two of their steps; a death empties the store buffer.
 *
 * Checked in every state: the block is never in two hands, never free and in a hand, and never nowhere.
 *
 *   NO_BARRIER   without the process barrier  -> must fail
 *   READS_FIRST  the owner reads the count before it asks whether it is frozen -> must fail
 *   BUSY_DECIDES whoever takes over asks `busy` instead of `frozen == held` whether to repair -> must fail
 */
#define NO 0
#define ASKED 1
#define HELD 2
#define BUSY 0
#define COUNT 1

byte busy = 0, count = 1, bitmap = 0, frozen = NO;
byte lock = 0;                 /* 0 free, 1 and 2 the freezers, 3 the owner */
bool owner_lives = true, first_lives = true, recovered = false;
bool owner_has = false, other_has = false;
byte frees_waiting = 0;        /* count = 1 in the store buffer: the block is on its way back */
chan stores = [6] of { byte, byte };

#define FREE (count == 1 || bitmap == 1)
#define SOMEWHERE (FREE || owner_has || other_has || frees_waiting > 0)

inline reach_memory() {        /* the oldest store of the owner becomes visible */
  byte where, what;
  stores ? where, what;
  if
  :: where == BUSY -> busy = what
  :: where == COUNT -> count = what;
     if :: what == 1 -> frees_waiting-- :: else fi
  fi;
  where = 0; what = 0
}

active proctype store_buffer() {
end:
  do
  :: atomic { nempty(stores) -> reach_memory() }
  od
}

inline drain() { do :: nempty(stores) -> reach_memory() :: empty(stores) -> break od }

/* its own store forwards: after its last round it knows the count unless somebody stood in meanwhile */
inline look_at_count() { atomic { if :: nempty(stores) && frees_waiting > 0 -> n = 1 :: else -> n = count fi } }

active proctype owner() provided (owner_lives) {
  byte rounds = 0, n;
  do
  :: rounds == 3 -> break
  :: rounds < 3 ->
     stores ! BUSY, 1;
#ifdef READS_FIRST
     look_at_count();
#endif
     if
     :: frozen != NO ->
        stores ! BUSY, 0;
        atomic { lock == 0 -> drain(); lock = 3 };   /* taking a lock is a full barrier */
        lock = 0
     :: frozen == NO ->
        if
        :: !owner_has ->
#ifndef READS_FIRST
           look_at_count();
#endif
           if
           :: n == 1 -> atomic { stores ! COUNT, 0; owner_has = true }
           :: else
           fi
        :: owner_has -> atomic { owner_has = false; frees_waiting++; stores ! COUNT, 1 }
        fi;
        stores ! BUSY, 0
     fi;
     rounds++
  od
}

inline move_to_slab() {        /* rule R2: first into the new place, then out of the old */
  if
  :: count == 1 -> bitmap = 1; count = 0
  :: else
  fi
}

inline recall(me) {
  bool stole = false;
  do
  :: atomic { lock == 0 -> lock = me; break }
  :: atomic { (lock == 1 && !first_lives) || (lock == 3 && !owner_lives) -> lock = me; stole = true; break }
  od;
  if
  :: stole ->
#ifdef BUSY_DECIDES
     if :: frozen != NO && busy == 0 -> move_to_slab() :: else fi;
#else
     if :: frozen == HELD -> move_to_slab() :: else fi;
#endif
     frozen = NO
  :: else
  fi;
  if
  :: !owner_lives -> if :: !recovered -> move_to_slab(); recovered = true :: else fi
  :: owner_lives ->
     frozen = ASKED;
#ifndef NO_BARRIER
     atomic { drain() };
#endif
     do
     :: busy == 0 ->
        frozen = HELD;
        move_to_slab();
        break
     :: busy != 0 -> break     /* patience is over: it may be stopped */
     od;
     frozen = NO
  fi;
  if
  :: atomic { bitmap == 1 && count == 0 -> bitmap = 0; other_has = true }   /* the slab goes on to another thread */
  :: else
  fi;
  lock = 0
}

active proctype first_freezer() provided (first_lives) { recall(1) }
active proctype second_freezer() { recall(2) }

active proctype death() {
  if :: atomic { drain(); owner_lives = false } :: true fi;
  if :: first_lives = false :: true fi
}

active proctype watcher() {
end:
  do
  :: atomic { (owner_has && other_has) -> assert(false) }
  :: atomic { (other_has && FREE && frees_waiting == 0 && empty(stores)) -> assert(false) }
  :: atomic { (owner_has && bitmap == 1) -> assert(false) }
  :: atomic { !SOMEWHERE -> assert(false) }
  od
}
