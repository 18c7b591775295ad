// shared/heap_lock.cpp - see heap_lock.hpp.
#include "shared/heap_lock.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>

#include "base/bounded.hpp"
#include "base/race_checker.hpp"
#include "platform/cpu.hpp"
#include "platform/files.hpp"
#include "platform/processes.hpp"
#include "platform/report.hpp"
#include "platform/waiting.hpp"

namespace annex {
namespace {

constexpr int spins_before_sleep = 200;
constexpr u64 look_again_ns = 2'000'000;
constexpr u64 longest_look_again_ns = 250'000'000;
constexpr u64 time_for_others_ns = 50'000;        // a woken waiter has to come first
constexpr u64 complain_after_ns = 1'000'000'000;  // nobody alive and running holds it so long

// For each thread slot of this process's members, by the segment's place and the slot's number: how
// many threads are between asking for the lock and giving it back, or being_taken. Two heaps may
// share a word; then it says too much, which is safe.
constexpr u32 being_taken = 1u << 31;
std::atomic<u32> asking_here[65536];

std::atomic<u32>& asking(const segment& s, u32 slot) noexcept {
  return asking_here[(slot ^ (reinterpret_cast<u64>(s.base()) >> 21)) & 0xffff];
}

// A forked child has none of the threads that were asking, nor the one that was taking a lock from
// nobody. Its first thread that asks clears the words; others wait until that is done, or theirs
// would be cleared too. Twice the forks it was cleared for; odd: it is being cleared.
std::atomic<u64> asking_since_fork{0};
void forget_threads_of_the_parent() noexcept {
  const u64 now = os::fork_count() * 2;
  u64 seen = asking_since_fork.load(std::memory_order_acquire);  // sync(cleared)
  if (seen == now) [[likely]]
    return;
  if (seen != now + 1 &&
      asking_since_fork.compare_exchange_strong(seen, now + 1, std::memory_order_relaxed)) {
    for (std::atomic<u32>& word : asking_here)
      if (word.load(std::memory_order_relaxed) != 0) word.store(0, std::memory_order_relaxed);
    // sync(cleared): whoever asks now finds zeros.
    asking_since_fork.store(now, std::memory_order_release);
  } else {
    while (asking_since_fork.load(std::memory_order_acquire) != now)
      os::yield();  // sync(cleared)
  }
}

void begin_asking(std::atomic<u32>& word) noexcept {
  forget_threads_of_the_parent();
  // sync(asking): before the lock is tried.
  while ((word.fetch_add(1, std::memory_order_seq_cst) & being_taken) != 0) {
    word.fetch_sub(1, std::memory_order_relaxed);
    os::yield();
  }
}

// The transactions this thread is in, innermost first: of different heaps, so a list of one or two.
constinit thread_local const transaction* innermost = nullptr;

// How many threads of this process wait for a lock. Each looks again the more seldom the more there
// are, so that together they ask as often as one would alone. A forked child may begin with too
// high a number: hence the longest wait.
std::atomic<u32> waiting_here{0};

u64 wait_ns() noexcept {
  return std::min(look_again_ns * std::max(1u, waiting_here.load(std::memory_order_relaxed)),
                  longest_look_again_ns);
}

}  // namespace

namespace {

// Where a transaction may change a word: the tables and the arena, and of the header what it lists
// and counts. Never its limits, the places of its tables, its state or the lock: nothing that
// bounds anything is put back from a journal.
bool may_be_journaled(const segment& s, u64 offset, u64 bytes) noexcept {
  constexpr u64 first = offsetof(segment_header, region_epoch), behind = sizeof(segment_header);
  const segment_geometry& g = s.geometry();
  u64 end = 0;
  if (bytes == 0 || bytes > 8 || add_overflows(offset, bytes, &end)) return false;
  if (offset >= first && end <= behind) return true;
  if (offset >= g.members_at && end <= g.journal_at) return true;
  return offset >= g.arena_at && end <= s.file_bytes(end);
}

// What was cut from the arena and written without a log is handed out again, and must be zero then.
// The file may reach further than file_bytes says: growing it is not undone.
void clear_above(const segment& s, u64 top) noexcept {
  const u64 end = s.file_bytes();
  if (top < s.geometry().arena_at || top >= end) return;
  if (os::punch_hole(s.fd(), top, end - top) != 0) std::memset(s.base() + top, 0, end - top);
}

// The last `count` entries of the journal, put back in reverse.
bool put_back(const segment& s, u32 count) noexcept {
  const journal& j = s.log();
  bool all = true;
  while (count-- > 0) {
    const journal_entry e = j.entries[count];
    const u64 bytes = e.offset_and_bytes & 15, offset = e.offset_and_bytes >> 4;
    if (may_be_journaled(s, offset, bytes))
      std::memcpy(s.base() + offset, &e.old_value, bytes);
    else
      all = false;
    compiler_fence();
  }
  return all;
}

// The member whose thread slot the lock names; 0: of no one, or of no slot.
u32 member_of_holder(const segment& s, u32 holder) noexcept {
  const bool known = holder - 1 < s.thread_limit();
  // sync(slot): the record of the member that it names is seen.
  return known ? member_of_state(s.slot(holder - 1).state.load(std::memory_order_acquire)) : 0;
}

}  // namespace

bool undo_journal(const segment& s) noexcept {
  journal& j = s.log();
  const u32 n = j.count.load(std::memory_order_relaxed);
  bool all = n <= limits::journal_entries && put_back(s, n);
  if (n != 0) clear_above(s, s.header().arena.top);
  compiler_fence();
  j.count.store(0, std::memory_order_relaxed);
  compiler_fence();
  if (!all) s.mark_damaged("its journal has entries that no transaction makes");
  return all;
}

bool undo_journal_in_copy(const segment& s) noexcept {
  const u32 n = s.log().count.load(std::memory_order_relaxed);
  const bool all = n <= limits::journal_entries && put_back(s, n);
  s.log().count.store(0, std::memory_order_relaxed);
  return all;
}

transaction::transaction(const segment& s, lock_identity who) noexcept
    : segment_(s), journal_(s.log()), who_(who) {
  acquire();
}
transaction::~transaction() {
  release();
}

// The lock names a slot of this process, and no thread of that slot asks for it or has it: the word
// is damaged. Takes it. Nobody can begin to ask in that slot's name in between.
bool transaction::take_from_nobody(u32 seen, u32 mine) noexcept {
  const u32 holder = seen & ~lock_waiters;
  if (holder != mine) {
    std::atomic<u32>& word = asking(segment_, holder - 1);
    u32 nobody = &word == &asking(segment_, mine - 1) ? 1 : 0;
    const u32 before = nobody;
    // sync(asking).
    if (!word.compare_exchange_strong(nobody, before | being_taken, std::memory_order_seq_cst))
      return false;
    const bool taken = segment_.header().lock.compare_exchange(seen, mine | lock_waiters,
                                                               std::memory_order_acquire);
    word.fetch_and(~being_taken, std::memory_order_seq_cst);
    return taken;
  }
  // This thread asks in its slot's name alone, and knows what it has.
  for (const transaction* held = innermost; held != nullptr; held = held->outer_)
    if (held->segment_.base() == segment_.base())
      stop_program("annex: a thread waits for the heap lock that it has\n");
  // sync(heap lock): acquire, as in waiter::take.
  return segment_.header().lock.compare_exchange(seen, mine | lock_waiters,
                                                 std::memory_order_acquire);
}

// One who waits for the lock, and what it has seen.
struct transaction::waiter {
  u32 mine = 0;  // what the lock says when it is this one's
  u32 seen = 0;  // in the lock, last
  int spins = 0;
  u32 others = 0;  // lock_waiters, once this thread has slept: more may sleep still
  // Since when the same holding is in the way.
  u64 first_look_ns = 0, holding = 0;
  u32 last_holder = 0;
  bool complained = false;

  u32 holder() const noexcept { return seen & ~lock_waiters; }
  // sync(heap lock): acquire pairs with the release in the destructor, or with the kernel's exit
  // path of a dead holder.
  bool take(shared_word<u32>& lock) noexcept {
    return lock.compare_exchange(seen, mine | (seen & lock_waiters) | others,
                                 std::memory_order_acquire);
  }
};

// What is not taken is looked at again, by spinning first, then asleep.
void transaction::wait_and_take(u32 mine, u32 seen) noexcept {
  shared_word<u32>& lock = segment_.header().lock;
  waiter w{.mine = mine, .seen = seen};
  for (;;) {
    if (w.holder() == 0) {
      if (w.take(lock)) return;
      continue;
    }
    if (++w.spins < spins_before_sleep) {
      cpu::pause();
      w.seen = lock.load(std::memory_order_relaxed);
      continue;
    }
    const u32 member = member_of_holder(segment_, w.holder());
    stole_ = member == who_.member && take_from_nobody(w.seen, mine);
    if (stole_) {
      annex::log(log_level::error,
                 "the lock of heap {} named thread slot {} of this process, which does not have "
                 "it: its segment is being damaged",
                 segment_.header().name, w.holder() - 1);
      return;
    }
    if (is_gone(member)) {
      stole_ = w.take(lock);
      if (stole_) return;
      continue;
    }
    complain_if_long(w, member);
    sleep(w);
  }
}

// By the byte alone: a member that is closing has given its record up, but not yet the lock.
bool transaction::is_gone(u32 member) const noexcept {
  return member == 0 || member > segment_.member_limit() ||
         (member != who_.member && !is_member_alive(segment_, member));
}

// The sequence tells one holding from the next, by the same thread too: a second is counted of one
// of them.
void transaction::complain_if_long(waiter& w, u32 member) const noexcept {
  const u64 now = segment_.header().lock_sequence.load(std::memory_order_relaxed);
  if (w.first_look_ns == 0 || w.holder() != w.last_holder || now != w.holding) {
    w.first_look_ns = os::now_ns();
    w.last_holder = w.holder();
    w.holding = now;
  } else if (!w.complained && os::now_ns() - w.first_look_ns > complain_after_ns) {
    w.complained = true;
    annex::log(log_level::warn,
               "process {} (member {}) has held the lock of heap {} for a second: it is "
               "stopped, or starved; continue or kill it",
               segment_.member(member).process_id, member, segment_.header().name);
  }
}

// Says in the lock that somebody sleeps, and sleeps until it is woken or it is time to look again.
void transaction::sleep(waiter& w) const noexcept {
  shared_word<u32>& lock = segment_.header().lock;
  if ((w.seen & lock_waiters) == 0 &&
      !lock.compare_exchange(w.seen, w.seen | lock_waiters, std::memory_order_relaxed))
    return;
  waiting_here.fetch_add(1, std::memory_order_relaxed);
  os::wait_on(&lock.value, w.holder() | lock_waiters, wait_ns());
  waiting_here.fetch_sub(1, std::memory_order_relaxed);
  w.others = lock_waiters;
  w.seen = lock.load(std::memory_order_relaxed);
}

// The lock is this thread's: what a dead holder left open is undone.
void transaction::begin() noexcept {
  const segment& s = segment_;
  outer_ = innermost;
  innermost = this;
  race_checker::lock_taken(s.header().heap_id);
  shared_word<u64>& sequence = s.header().lock_sequence;
  sequence.store(sequence.load(std::memory_order_relaxed) | 1, std::memory_order_relaxed);
  // sync(sequence): readers see it odd before any change.
  std::atomic_thread_fence(std::memory_order_release);
  forks_ = os::fork_count();
  puts_ = 0;
  // No death left it.
  if (!stole_ && journal_.count.load(std::memory_order_relaxed) != 0)
    journal_.count.store(0, std::memory_order_relaxed);
  if (stole_) {
    (void)undo_journal(s);
    s.header().lock_steals.fetch_add(1, std::memory_order_relaxed);
    annex::log(log_level::info, "took the heap lock over from a dead member");
  }
}

void transaction::acquire() noexcept {
  const u32 mine = u32{who_.slot} + 1;
  stole_ = false;
  u32 seen = 0;
  begin_asking(asking(segment_, who_.slot));
  // sync(heap lock): acquire, as in waiter::take.
  if (!segment_.header().lock.compare_exchange(seen, mine, std::memory_order_acquire))
    wait_and_take(mine, seen);
  begin();
}

bool has_heap_lock() noexcept {
  return innermost != nullptr;
}

// This thread is in it no more.
void transaction::forget() noexcept {
  for (const transaction** held = &innermost; *held != nullptr;
       held = &const_cast<transaction*>(*held)->outer_)
    if (*held == this) {
      *held = outer_;
      return;
    }
}

void transaction::release() noexcept {
  // A child that was forked meanwhile: the lock is its parent's.
  if (forks_ != os::fork_count()) return forget();
  commit();
  shared_word<u64>& sequence = segment_.header().lock_sequence;
  // sync(sequence): even again.
  sequence.store(sequence.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  race_checker::lock_given_back(segment_.header().heap_id);
  // sync(heap lock): release: the next holder sees all of it. One waiter is woken: it leaves the
  // mark for those behind it. If it dies first, another looks again soon.
  const u32 was = segment_.header().lock.exchange(0, std::memory_order_release);
  forget();
  if ((was & lock_waiters) != 0) os::wake_one(&segment_.header().lock.value);
  // sync(asking): after the lock is given back.
  asking(segment_, who_.slot).fetch_sub(1, std::memory_order_seq_cst);
}

bool transaction::let_others_in() noexcept {
  commit();
  if ((segment_.header().lock.load(std::memory_order_relaxed) & lock_waiters) == 0) return false;
  release();
  os::sleep_ns(time_for_others_ns);
  acquire();
  return true;
}

// What met a number that can't be has not happened: it is undone, and the caller finds the segment
// marked as damaged.
void transaction::commit() noexcept {
  if (has_been_at_nobodys()) [[unlikely]]
    segment_.mark_damaged("a link or length in it leads outside its table");
  if (puts_ == 0) return;
  if (segment_.is_damaged()) [[unlikely]] {
    (void)put_back(segment_, puts_);
    clear_above(segment_, segment_.header().arena.top);
  }
  compiler_fence();
  journal_.count.store(0, std::memory_order_relaxed);
  compiler_fence();
  puts_ = 0;
}

void transaction::roll_back() noexcept {
  if (puts_ == 0) return;
  (void)put_back(segment_, puts_);
  clear_above(segment_, segment_.header().arena.top);
  commit();
}

}  // namespace annex
