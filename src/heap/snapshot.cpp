// heap/snapshot.cpp - the whole heap in one look, which nobody has to stand still for and which
// waits for nobody.
//
//   sequence even? ──▶ regions, extents ──▶ caches ──▶ holders ──▶ zones ──▶ members
//        ▲                                                                      │
//        │ no, and a try is left                                                ▼
//        └────────────────────────────────────────── sequence the same? figures the same?
//
// The heap lock's sequence is odd while somebody has the lock and grows with every holding: tables
// that were read between two looks at the same even number are as one transaction left them. Blocks
// come and go without the lock, so what the caches and bitmaps said is compared with what they say
// at the end. Whatever comes out, it is returned after a few tries: with `changed`, when it is of
// more than one moment.
//
// Processes: takes no lock of the heap and writes nothing into it (care/look.hpp), so a member that
// is stopped with the lock in its hand, a dead one, or a segment that may only be read make no
// difference. A torn or damaged word leads to `changed` or `problem`.
#include <fmt/format.h>

#include <algorithm>

#include "care/look.hpp"
#include "heap/caretaker.hpp"
#include "platform/waiting.hpp"

namespace annex::detail {
namespace {

// Longer than a transaction: the next try has a good chance.
constexpr u64 pause_between_tries_ns = 50'000;
constexpr u32 most_tries = 100;

// Who has the heap lock; 0: nobody, or nobody who is known.
u32 holder_of_lock(const segment& s) noexcept {
  const u32 holder = s.header().lock.load(std::memory_order_relaxed) & ~lock_waiters;
  return holder != 0 && holder - 1 < s.slots_used()
             ? member_of_state(s.slot(holder - 1).state.load(std::memory_order_relaxed))
             : 0;
}

}  // namespace

heap_snapshot caretaker::snapshot(const snapshot_options& options) {
  const shared_word<u64>& sequence = segment_.header().lock_sequence;
  heap_snapshot out;
  for (u32 tries = 1;; ++tries) {
    out = {};
    out.tries = tries;
    // sync(sequence): what was changed before is seen.
    const u64 before = sequence.load(std::memory_order_acquire);
    const u32 had_it = holder_of_lock(segment_);
    look now(segment_, views_, self(), options, &out);
    now.take();
    const bool moved = now.has_moved();
    // sync(sequence): if a change was seen, so is its odd number.
    std::atomic_thread_fence(std::memory_order_acquire);
    const u64 after = sequence.load(std::memory_order_relaxed);
    const bool is_held = before % 2 != 0, is_still = before == after;
    out.sequence = after;
    out.changed = is_held || !is_still || moved;
    if (is_held && is_still && holder_of_lock(segment_) == had_it)
      out.lock_holder = member_id{had_it};
    if (segment_.is_damaged() || (now.is_torn() && is_still && !is_held && out.complete))
      out.problem = fmt::format(
          "\"{}\" has words that can't be; close it everywhere, then `annex check --repair` it",
          name_);
    else if (!out.complete)
      out.problem = fmt::format(
          "\"{}\" has more than {} extents; the figures are those of the first ones. Ask with a "
          "higher limit (most_extents)",
          name_, options.most_extents);
    out.changed = out.changed || now.is_torn();
    // A few tries and no more: a holder that is stopped may have the lock for ever.
    if (!out.changed || tries >= std::clamp(options.tries, 1u, most_tries)) break;
    os::sleep_ns(pause_between_tries_ns);
  }
  out.taken_ns = os::now_ns();
  return out;
}

}  // namespace annex::detail
