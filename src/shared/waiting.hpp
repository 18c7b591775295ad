// shared/waiting.hpp - sleeping until another process adds something, without a wake-up that is
// lost.
//
// A place where something is waited for (a handle in a ring, room in it, an object in a pool) has a
// signal, one word:
//
//   count << 1 | somebody waits
//
//   waiter                                        whoever adds
//     W1 set the mark: signal |= 1                  A1 add: one store or compare-and-swap (commit)
//     W2 make that seen by all (see below)          A2 look at the signal: without a mark, done
//     W3 look: is there something? then take it     A3 one compare-and-swap: count up, no mark
//     W4 sleep while signal == what W1 left         A4 wake all
//
// No wake-up is lost: if W3 misses the addition, A1 comes after W3, so A2 comes after W1 and, W2
// between them, sees the mark; A3 then changes the word, and W4 is not entered (the kernel
// compares), or A4 ends it. What orders A1 before A2 and W1 before W3:
//   ring   A1 is a locked instruction (lock cmpxchg16b), a full barrier as it is, and so is W1. A2
//          is one plain load.
//   pool   A1 is a plain store into the thread's own cache. W2 is a process barrier (membarrier):
//          every thread that runs has either stored before it, and the waiter's look recalls all
//          caches, or looks at the signal after it. A2 is one plain load again. Where the kernel
//          has no membarrier, a waiter looks again every 10 ms.
//
// If a process dies
//   a waiter, after W1      the mark stays: whoever adds next wakes nobody, once, and clears it.
//                           Nothing is counted that a death would leave too high
//   whoever adds, after A1  waiters sleep on until they look again by themselves (look_again_ns)
//   whoever adds, after A3  the same: the word has changed, so nobody new goes to sleep on the old
//                           one
//   everybody else          a waiter that looks again finds that (openers below,
//                           membership::has_living_others) and says so
// A waiter that is stopped between W1 and W4 finds the word changed when it goes on. What a damaged
// or hostile word contains makes a waiter look more often or less, never longer than its deadline:
// nothing is waited for but by the clock.
//
// docs/design/models/waiting.pml has the protocol for spin; docs/design/0015-waiting.md has the
// choices.
#pragma once
#include "shared/layout.hpp"

namespace annex {

/// Whoever was to wake a waiter may have died before it did: a waiter looks again by itself after
/// so long.
inline constexpr u64 waiter_looks_again_ns = 100'000'000;

inline constexpr u32 somebody_waits = 1;

/// W1. What to sleep on: signal as it is with the mark.
inline u32 begin_waiting(shared_word<u32>& signal) noexcept {
  // sync(signal): seq_cst, a locked instruction: the mark is there before anything is looked at
  return signal.fetch_or(somebody_waits, std::memory_order_seq_cst) | somebody_waits;
}

/// A3 and A4, out of the way of whoever adds.
void wake_waiters(shared_word<u32>& signal) noexcept;

/// A2, after a commit that is a full barrier, or whose waiters use a process barrier.
[[gnu::always_inline]] inline void tell_waiters(shared_word<u32>& signal) noexcept {
  // relaxed: what orders it after the commit is said above
  if ((signal.load(std::memory_order_relaxed) & somebody_waits) != 0) [[unlikely]]
    wake_waiters(signal);
}

/// Who has opened a ring or a pool: changes rises whenever somebody does who was not the last.
/// Changed under the heap lock. A view compares it with what it found when it was opened: then it
/// knows whether another process ever had it meanwhile. Only a notice: whoever dies between the
/// stores has opened it for nobody.
struct openers {
  u32 last;  // member
  shared_word<u32> changes;
  /// Enters a member. True: somebody else had opened it before.
  bool enter(u32 member) noexcept {
    if (last != member) {
      std::atomic_ref(last).store(member, std::memory_order_relaxed);
      changes.store(changes.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }
    return changes.load(std::memory_order_relaxed) > 1;
  }
};
static_assert(sizeof(openers) == 8);

}  // namespace annex
