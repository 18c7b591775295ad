/* docs/design/models/remote_free.pml - a block is freed by a stranger while the owner of its slab dies.
 *
 * The stranger sets the block's bit among the remote frees (commit), then leaves a hint with the owner, whoever that is by
 * then. The owner collects hinted frees: bitmap first, then it clears the remote bit; it may die between any two steps.
 * A first and a second recoverer take its slab over (the first may die too) and make it an orphan; an adopter takes it.
 * The stranger may die too.
 *
 * Checked: a block is never handed out while its remote bit is set (a later collect would free it under its new holder's
 * feet), and never handed out before it was freed; and when everybody is done, a freed block is free: in the bitmap, or among
 * the remote frees of a slab somebody owns (found at the next full look), or with its new holder.
 *
 *   CLEAR_FIRST  the remote bit is cleared before the bitmap has the block (against rule R2) -> must fail
 */
#define NOBODY 0
#define OWNER 1
#define ADOPTER 2

bool remote = false, bitmap = false, freed = false, handed_out = false;
byte slab_owner = OWNER, lock = 0;       /* 0 free, 1 first recoverer, 2 second, 3 adopter */
bool hint_owner = false, hint_adopter = false;
bool owner_lives = true, first_lives = true, stranger_lives = true, recovered = false;
byte finished = 0;

inline collect() {
  if
#ifdef CLEAR_FIRST
  :: remote -> remote = false; bitmap = true
#else
  :: remote -> bitmap = true; remote = false
#endif
  :: else
  fi
}
inline hand_out() {
  if
  :: atomic { bitmap -> assert(freed); assert(!remote); bitmap = false; handed_out = true }
  :: else
  fi
}

active proctype stranger() provided (stranger_lives) {
  byte seen, again;
  atomic { freed = true; remote = true };     /* the commit: one atomic OR */
  seen = slab_owner;
  do
  :: seen == NOBODY -> break
  :: else ->
     if
     :: seen == OWNER -> hint_owner = true
     :: seen == ADOPTER -> hint_adopter = true
     fi;
     again = slab_owner;
     if :: again == seen -> break :: else -> seen = again fi
  od;
  finished++
}

active proctype owner() provided (owner_lives) {
  byte rounds = 0;
  do
  :: rounds == 2 -> break
  :: rounds < 2 ->
     if
     :: atomic { hint_owner -> hint_owner = false }; collect(); hand_out()
     :: true
     fi;
     rounds++
  od
}

inline recover(me) {
  do
  :: atomic { lock == 0 -> lock = me; break }
  :: atomic { lock == 1 && !first_lives -> lock = me; break }
  od;
  if
  :: !owner_lives && !recovered ->
     collect();
     hint_owner = false;
     atomic { slab_owner = NOBODY; recovered = true }   /* one transaction: undone or done */
  :: else
  fi;
  lock = 0
}
active proctype first_recoverer() provided (first_lives) { recover(1) }
active proctype second_recoverer() { recover(2); finished++ }

active proctype adopter() {
  do
  :: atomic { lock == 0 -> lock = 3; break }
  :: atomic { lock == 1 && !first_lives -> lock = 3; break }
  od;
  if
  :: slab_owner == NOBODY ->
     collect();
     slab_owner = ADOPTER
  :: else
  fi;
  lock = 0;
  if
  :: slab_owner == ADOPTER ->
     if :: atomic { hint_adopter -> hint_adopter = false }; collect() :: true fi;
     hand_out()
  :: else
  fi;
  finished++
}

active proctype death() {
  if :: owner_lives = false :: true fi;
  if :: first_lives = false :: true fi;
  if :: stranger_lives = false :: true fi
}

/* Once everybody who can finish has finished: nothing that was freed is lost. */
active proctype at_the_end() {
  (finished == 3 || (finished == 2 && !stranger_lives));
  assert(!freed || remote || bitmap || handed_out)
}
