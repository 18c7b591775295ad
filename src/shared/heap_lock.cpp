// shared/heap_lock.cpp - see heap_lock.hpp.
#include "shared/heap_lock.hpp"

#include <cstring>

#include "platform/os.hpp"
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace annex {
namespace {

// ThreadSanitizer takes the two mappings of two members in one process for two locks: both are given one name.
#if defined(__SANITIZE_THREAD__)
char lock_names[64];
void seen_as_locked(u64 heap) noexcept { __tsan_acquire(&lock_names[heap % sizeof lock_names]); }
void seen_as_unlocked(u64 heap) noexcept { __tsan_release(&lock_names[heap % sizeof lock_names]); }
#else
void seen_as_locked(u64) noexcept {}
void seen_as_unlocked(u64) noexcept {}
#endif

constexpr int spins_before_sleep = 200;
constexpr u64 look_again_ns = 2'000'000;
constexpr u64 time_for_others_ns = 50'000;        // a woken waiter has to come first
constexpr u64 complain_after_ns = 1'000'000'000;  // nobody alive and running holds it so long

}  // namespace

// Old values back in reverse. Bounds are checked: a damaged journal must not write elsewhere.
void undo_journal(const segment& s) noexcept {
  journal& j = s.log();
  u32 n = j.count.load(std::memory_order_relaxed);
  if (n > limits::journal_entries) n = 0;
  while (n-- > 0) {
    const journal_entry& e = j.entries[n];
    const u64 bytes = e.offset_and_bytes & 15, offset = e.offset_and_bytes >> 4;
    if (bytes <= 8 && offset + bytes <= s.header().arena.file_bytes) std::memcpy(s.base() + offset, &e.old_value, bytes);
    compiler_fence();
  }
  // What was cut from the arena and written without a log is handed out again, and must be zero then. The file may reach
  // further than file_bytes says: growing it is not undone.
  const arena_lists& a = s.header().arena;
  os::file_identity file;
  if (j.count.load(std::memory_order_relaxed) != 0 && os::identify(s.fd(), &file) == 0 && a.top < file.length_bytes &&
      os::punch_hole(s.fd(), a.top, file.length_bytes - a.top) != 0)
    std::memset(s.base() + a.top, 0, file.length_bytes - a.top);
  compiler_fence();
  j.count.store(0, std::memory_order_relaxed);
  compiler_fence();
}

transaction::transaction(const segment& s, lock_identity who) noexcept : segment_(s), journal_(s.log()), who_(who) { acquire(); }
transaction::~transaction() { release(); }

void transaction::acquire() noexcept {
  const segment& s = segment_;
  shared_word<u32>& lock = s.header().lock;
  const u32 mine = u32{who_.slot} + 1;
  stole_ = false;
  u32 seen = 0;
  // sync(heap lock): acquire pairs with the release in the destructor, or with the kernel's exit path of a dead holder
  if (!lock.compare_exchange(seen, mine, std::memory_order_acquire)) {
    u64 first_look_ns = 0;
    bool complained = false;
    for (int spins = 0;;) {
      const u32 holder = seen & ~lock_waiters;
      if (holder == 0) {
        if (lock.compare_exchange(seen, mine | (seen & lock_waiters), std::memory_order_acquire)) break;
        continue;
      }
      if (++spins < spins_before_sleep) {
        __builtin_ia32_pause();
        seen = lock.load(std::memory_order_relaxed);
        continue;
      }
      const bool known = holder - 1 < s.header().thread_limit;
      const u32 member = known ? member_of_state(s.slot(holder - 1).state.load(std::memory_order_acquire)) : 0;
      // By the byte alone: a member that is closing has given its record up, but not yet the lock.
      const bool gone = member == 0 || member > s.header().member_limit || (member != who_.member && !os::is_byte_locked(s.fd(), member_lock_position + member));
      if (gone) {
        if (lock.compare_exchange(seen, mine | (seen & lock_waiters), std::memory_order_acquire)) {
          stole_ = true;
          break;
        }
        continue;
      }
      if (first_look_ns == 0) first_look_ns = os::now_ns();
      if (!complained && os::now_ns() - first_look_ns > complain_after_ns) {
        complained = true;
        annex::log(log_level::warn, "process {} (member {}) has held the lock of heap {} for a second: it is stopped, or starved; continue or kill it", s.member(member).process_id, member, s.header().name);
      }
      if ((seen & lock_waiters) == 0 && !lock.compare_exchange(seen, seen | lock_waiters, std::memory_order_relaxed)) continue;
      os::wait_on(&lock.value, holder | lock_waiters, look_again_ns);
      seen = lock.load(std::memory_order_relaxed);
    }
  }
  seen_as_locked(s.header().heap_id);
  shared_word<u64>& sequence = s.header().lock_sequence;
  sequence.store(sequence.load(std::memory_order_relaxed) | 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);  // sync(sequence): readers see it odd before any change
  if (stole_) {
    undo_journal(s);
    s.header().lock_steals.fetch_add(1, std::memory_order_relaxed);
    annex::log(log_level::info, "took the heap lock over from a dead member");
  }
}

void transaction::release() noexcept {
  commit();
  shared_word<u64>& sequence = segment_.header().lock_sequence;
  sequence.store(sequence.load(std::memory_order_relaxed) + 1, std::memory_order_release);  // sync(sequence): even again
  seen_as_unlocked(segment_.header().heap_id);
  // sync(heap lock): release: the next holder sees all of it
  if ((segment_.header().lock.exchange(0, std::memory_order_release) & lock_waiters) != 0) os::wake_all(&segment_.header().lock.value);
}

bool transaction::let_others_in() noexcept {
  commit();
  if ((segment_.header().lock.load(std::memory_order_relaxed) & lock_waiters) == 0) return false;
  release();
  os::sleep_ns(time_for_others_ns);
  acquire();
  return true;
}

void transaction::commit() noexcept {
  compiler_fence();
  journal_.count.store(0, std::memory_order_relaxed);
  compiler_fence();
}

void transaction::roll_back() noexcept { undo_journal(segment_); }

}  // namespace annex
