// shared/heap_lock.hpp - the one lock of a heap, which outlives its holder, and the transactions
// under it.
//
// Everything that takes more than one store to change (extents, slab lists, tables) is changed
// inside a transaction:
//
//   put(word, value):  entry[n] = {where, old};  fence;  n = n + 1;  fence;  word = value
//   commit:            fence;  n = 0                        <- this store commits
//   unlock:            lock = 0
//   steal:             lock: dead → me;  for i = n-1 … 0: word_i = old_i;  fence;  n = 0
//
//   killed between …            then
//   lock and first put          n = 0: nothing to undo
//   entry and n + 1             the entry does not count; nothing changed yet
//   n + 1 and word = value      undo writes the old value over itself
//   two puts                    undone in reverse: as before the transaction
//   last put and n = 0          undone: it never happened; its caller is dead
//   n = 0 and unlock            it happened; the next one steals a clean lock
//   inside undo                 n is unchanged until the end; undo is idempotent: the next stealer
//                               repeats it
//
// The fences are for the compiler only (base/shared_word.hpp). A waiter never waits for the dead:
// it asks the kernel whether the holder lives before it sleeps, and every few milliseconds after. A
// holder that is stopped (SIGSTOP, a frozen container) in the microsecond it holds the lock is
// alive: taking it over would let it write into what is others' when it goes on. Whoever needs the
// lock waits for it, and says so in the log; hits of the caches go on.
//
//   waiters   the lock's top bit: somebody may sleep; unlock wakes one, and whoever has slept takes
//             the lock with the bit set
//
// Of 10,000 threads one is woken at a time. A wake is lost when the one it went to dies, or is
// stopped: the lock is free then, and the others, who look again by themselves (2 ms, times the
// waiters of the process), take it and pass the bit on. A process knows which of its threads ask
// for a lock or have it: a word that names another of its slots is damaged, and is taken over like
// a dead holder's.
//
// One lock, so there is no lock order; no callback and no O(bytes) work under it. System calls are
// made under it where there is no other place: the file of a region that goes is unlinked, the
// segment grows or gets holes (shared/arena.cpp), a line is logged. tests/under_the_lock_test.cpp
// has the list, with a reason for each. What takes long (the slabs of a
// dead thread) lets others in.
#pragma once
#include <cstring>

#include "shared/liveness.hpp"

namespace annex {

/// Undoes the transaction that a dead holder left open, if any. For the one who has the lock, or is
/// alone with the segment. Entries that no transaction makes are left out; false: there were some,
/// and the segment is marked as damaged.
bool undo_journal(const segment& s) noexcept;

/// The same where this process has a private copy of the segment: nobody else sees it.
bool undo_journal_in_copy(const segment& s) noexcept;

/// Who takes the lock: a thread slot of this process's member.
struct lock_identity {
  u16 slot;
  u32 member;
};

/// Whether this thread has the lock of any heap: for tests of what is done under it.
bool has_heap_lock() noexcept;

class transaction {
 public:
  /// Waits for the lock. stole() tells whether the last holder was dead.
  transaction(const segment& s, lock_identity who) noexcept;
  ~transaction();
  transaction(const transaction&) = delete;
  transaction& operator=(const transaction&) = delete;

  /// Changes a word of the segment, to be undone if this process dies before commit().
  template <class T>
  void put(T& word, std::type_identity_t<T> value) noexcept {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    if (!log(word)) return;
    // sync(published): as below; readers without the lock take plain words by an atomic_ref.
    __atomic_store(&word, &value, __ATOMIC_RELEASE);
    compiler_fence();
  }
  /// The same of a word that others change without the lock; false: it is not as expected.
  template <class T>
  bool put_if(T& word, std::type_identity_t<T> expected, std::type_identity_t<T> value) noexcept {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    if (!log(word)) return false;
    // sync(published): as in put().
    const bool is_done = __atomic_compare_exchange(&word, &expected, &value, false,
                                                   __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    compiler_fence();
    return is_done;
  }
  template <class T>
  void put(shared_word<T>& word, std::type_identity_t<T> value) noexcept {
    if (!log(word.value)) return;
    // sync(published): readers without the lock acquire it.
    word.store(value, std::memory_order_release);
  }
  /// Everything put so far has happened. The lock is kept; a new transaction begins.
  void commit() noexcept;
  /// Everything put since the last commit has not happened.
  void roll_back() noexcept;
  /// Commits, and lets those who wait have the lock first, if there are any. True: anything may
  /// have changed, and stole() tells about the new holding.
  bool let_others_in() noexcept;
  bool stole() const noexcept { return stole_; }
  const segment& seg() const noexcept { return segment_; }
  u16 slot() const noexcept { return who_.slot; }
  u32 member() const noexcept { return who_.member; }

 private:
  struct waiter;
  void acquire() noexcept;
  void wait_and_take(u32 mine, u32 seen) noexcept;
  bool is_gone(u32 member) const noexcept;
  void complain_if_long(waiter& w, u32 member) const noexcept;
  void sleep(waiter& w) const noexcept;
  void begin() noexcept;
  void release() noexcept;
  void forget() noexcept;
  template <class T>
  bool log(const T& word) noexcept {
    // Of a spare chunk, or of nobody's entry: nobody ever reads it.
    if (!segment_.contains(&word, sizeof word)) return false;
    // Only what can't be is so long: all of it is undone.
    if (puts_ >= limits::journal_entries) [[unlikely]] {
      segment_.mark_damaged("a transaction is longer than any can be");
      return false;
    }
    u64 old = 0;
    std::memcpy(&old, &word, sizeof word);
    journal_.entries[puts_] = {segment_.offset_of(&word) << 4 | sizeof word, old};
    compiler_fence();
    ++puts_;
    journal_.count.store(puts_, std::memory_order_relaxed);
    compiler_fence();
    return true;
  }
  bool take_from_nobody(u32 seen, u32 mine) noexcept;
  const segment& segment_;
  journal& journal_;
  const transaction* outer_ = nullptr;  // of the same thread, on another heap
  lock_identity who_;
  bool stole_ = false;
  u64 forks_ = 0;
  // Since the last commit: the count in the segment is for those who find it after our death.
  u32 puts_ = 0;
};

}  // namespace annex
