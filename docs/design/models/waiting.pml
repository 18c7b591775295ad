/* docs/design/models/waiting.pml - a waiter and whoever adds: no wake-up is lost (src/shared/waiting.hpp).
 *
 * Two add one item each, one waiter wants both. Memory is as on x86: a store goes into its processor's buffer (here: of the one
 * item word) and reaches memory later, or at a full barrier. An adder of a ring commits by a locked instruction (a barrier); an
 * adder of a pool by a plain store, and the waiter's process barrier empties everybody's buffers.
 * The waiter never looks again by itself here: that is for deaths, and would hide a lost wake-up.
 *
 * Checked: no end state in which the waiter sleeps although something is there that it has not taken (assert at the end).
 *
 *   NO_BARRIER   the waiter has no process barrier                    -> must fail
 *   LOOK_FIRST   the waiter looks, then sets the mark and sleeps      -> must fail
 */
byte items = 0;              /* in memory: added and not taken */
byte buffered[2] = 0;        /* in the store buffer of adder i */
byte count = 0;              /* the signal: count, and the mark */
bool mark = false;
bool asleep = false;
byte finished = 0, taken = 0;

inline drain(i) { atomic { items = items + buffered[i]; buffered[i] = 0 } }
inline tell() {
  if
  :: atomic { mark -> mark = false; count++ };      /* A3 */
     asleep = false                                  /* A4 */
  :: else
  fi
}

active proctype ring_adder() {
  atomic { items++ };                                /* A1: locked */
  tell();                                            /* A2 reads the mark where it tests it */
  finished++
}

active proctype pool_adder() {
  buffered[1] = 1;                                   /* A1: into the buffer */
  tell();
  finished++
}

/* The processor empties its buffer when it likes, or never before the others need it. */
active proctype processor() {
  if
  :: buffered[1] != 0 -> drain(1)
  :: finished == 2 -> drain(1)
  fi;
  finished++
}

inline look() {
  atomic { if :: items != 0 -> items--; taken++; found = true :: else -> found = false fi }
}

active proctype waiter() {
  bool found = false;
  byte seen;
  do
  :: taken == 2 -> break
  :: taken < 2 ->
#ifdef LOOK_FIRST
     look();
     atomic { mark = true; seen = count };
#else
     atomic { mark = true; seen = count };           /* W1 */
#ifndef NO_BARRIER
     drain(1);                                       /* W2 */
#endif
     look();                                         /* W3 */
#endif
     if
     :: found -> skip
     :: else ->
        atomic { if :: count == seen && mark -> asleep = true :: else fi };   /* W4: the kernel compares and queues in one step */
        do
        :: !asleep -> break
        :: atomic { asleep && finished == 3 && items != 0 -> assert(false) }  /* nobody is left to wake it */
        :: atomic { asleep && finished == 3 && items == 0 -> break }
        od
     fi;
     if :: finished == 3 && items == 0 && taken == 2 -> break :: else fi
  od
}
