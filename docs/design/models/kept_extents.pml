/* docs/design/models/kept_extents.pml - a thread keeps a large block that it frees, and hands it out again, without the lock.
 *
 * One extent. Its granule says large (somebody has it), kept (the owner keeps it) or free (in its region); the owner's list has
 * an entry of it, or not. The owner frees and allocates without a lock; its stores wait in a buffer (x86: first in, first out)
 * until some later moment, and a compare-and-swap empties the buffer first. Two freezers take the extent out of the owner's
 * cache under the heap lock, and give it to somebody else; the second takes over from the first if that one dies. The owner
 * and the first freezer may die between any two of their steps. A mistaken program may free the block at the same time, under
 * the lock.
 *
 * Checked: the extent is never in two hands; it is never free and in a hand but by that mistake; it is freed once; and when
 * the owner's cache has been taken from it, nothing is kept that its list does not have.
 *
 *   NO_BARRIER      without the process barrier -> must fail
 *   LIST_LATE       the entry is written after the granule -> must fail
 *   TAKEN_OUT_FIRST the entry goes before the granule is stored -> must fail
 *   NO_CLAIM        the one under the lock stores the granule without a compare-and-swap -> must fail
 */
#define NO 0
#define ASKED 1
#define HELD 2
#define BUSY 0
#define GRANULE 1
#define LIST 2
#define LARGE 0
#define KEPT 1
#define FREE 2
#define LEAVING 3

byte busy = 0, granule = LARGE, list = 0, frozen = NO;
byte lock = 0;                 /* 0 free, 1 and 2 the freezers, 3 the owner, 4 the mistaken one */
bool owner_lives = true, first_lives = true;
bool owner_has = true, other_has = false, mistaken = false;
byte frees = 0, handed_out = 1; /* how often it was freed, and given to somebody */
chan stores = [8] of { byte, byte };

inline reach_memory() {
  byte where, what;
  stores ? where, what;
  if
  :: where == BUSY -> busy = what
  :: where == GRANULE -> granule = what
  :: where == LIST -> list = what
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

active proctype owner() provided (owner_lives) {
  byte rounds = 0;
  bool seen_large;
  do
  :: rounds == 3 -> break
  :: rounds < 3 ->
     stores ! BUSY, 1;
     if
     :: frozen != NO ->
        stores ! BUSY, 0;
        atomic { lock == 0 -> drain(); lock = 3 };   /* taking a lock is a full barrier */
        lock = 0
     :: frozen == NO ->
        if
        :: owner_has ->
#ifndef LIST_LATE
           stores ! LIST, 1;
#endif
           atomic {                                  /* the compare-and-swap */
             drain();
             owner_has = false;
             if
             :: granule == LARGE -> granule = KEPT; frees++
             :: else -> stores ! LIST, 0             /* told: somebody freed it */
             fi
           };
#ifdef LIST_LATE
           stores ! LIST, 1;
#endif
        :: !owner_has ->
           /* its own stores are behind it: the last round ended with a compare-and-swap, or with what it has */
           atomic { if :: empty(stores) && list == 1 && granule == KEPT -> seen_large = true :: else -> seen_large = false fi };
           if
           :: seen_large ->
#ifdef TAKEN_OUT_FIRST
              stores ! LIST, 0;
              atomic { stores ! GRANULE, LARGE; owner_has = true; handed_out++ }
#else
              atomic { stores ! GRANULE, LARGE; owner_has = true; handed_out++ };
              stores ! LIST, 0
#endif
           :: else
           fi
        fi;
        stores ! BUSY, 0
     fi;
     rounds++
  od
}

inline give_back() {           /* a transaction, then the entry */
  if
  :: list == 1 && granule == KEPT -> granule = FREE; list = 0
  :: list == 1 && granule != KEPT -> list = 0
  :: else
  fi;
  assert(granule != KEPT)      /* nothing is kept that the list does not have */
}

inline recall(me) {
  do
  :: atomic { lock == 0 -> lock = me; break }
  :: atomic { (lock == 1 && !first_lives) || (lock == 3 && !owner_lives) -> lock = me; frozen = NO; break }
  od;
  if
  :: !owner_lives -> give_back()
  :: owner_lives ->
     frozen = ASKED;
#ifndef NO_BARRIER
     atomic { drain() };
#endif
     do
     :: busy == 0 -> frozen = HELD; give_back(); break
     :: busy != 0 -> break     /* patience is over: it may be stopped */
     od;
     frozen = NO
  fi;
  if
  :: atomic { granule == FREE && !other_has -> granule = LARGE; other_has = true; handed_out++ }
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

#ifdef MISTAKE
active proctype mistaken_free() {
  bool is_large;
  atomic { lock == 0 -> lock = 4 };
  mistaken = owner_has;
#ifdef NO_CLAIM
  is_large = (granule == LARGE && !other_has);
  if :: is_large -> granule = FREE; frees++ :: else fi;
#else
  if
  :: atomic { granule == LARGE && !other_has -> granule = LEAVING; frees++ }
  :: else
  fi;
  if :: granule == LEAVING -> granule = FREE :: else fi;
#endif
  lock = 0
}
#endif

active proctype watcher() {
end:
  do
  :: atomic { frees > handed_out -> assert(false) }
#ifndef MISTAKE
  :: atomic { owner_has && other_has -> assert(false) }
  :: atomic { owner_has && granule == FREE -> assert(false) }
#endif
  od
}
